//! What commands print: text for people, or JSON for programs.

use std::io::{self, Write};

use fusion_types::{Error, error::ErrorBody};
use serde_json::{Value, json};

pub(crate) struct Output {
    pub(crate) json: bool,
}

impl Output {
    pub(crate) fn new(json: bool) -> Self {
        Self { json }
    }

    /// One value: alone, or as the only field of an object.
    pub(crate) fn value(&self, name: &str, value: &str) {
        if self.json {
            self.json(&json!({ name: value }))
        } else {
            line(value)
        }
    }

    pub(crate) fn json(&self, value: &Value) {
        line(&value.to_string());
    }

    pub(crate) fn text(&self, text: &str) {
        line(text);
    }

    /// To standard error.
    pub(crate) fn error(&self, error: &Error) {
        let text = if self.json {
            json!(ErrorBody::from(error)).to_string()
        } else {
            format!("error: {error}")
        };
        // Nobody is left to tell where standard error is closed.
        let _ = writeln!(io::stderr(), "{text}");
    }

    /// Rows under headings, the columns as wide as they need to be.
    pub(crate) fn table(&self, headings: &[&str], rows: &[Vec<String>]) {
        let width = |column: usize| {
            let cells = rows
                .iter()
                .filter_map(|row| row.get(column))
                .map(|cell| cell.chars().count());
            cells.chain([headings[column].len()]).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..headings.len()).map(width).collect();
        let print = |cells: &mut dyn Iterator<Item = &str>| {
            let padded: Vec<String> = cells
                .zip(&widths)
                .map(|(cell, &width)| format!("{cell:width$}"))
                .collect();
            line(padded.join("  ").trim_end());
        };
        print(&mut headings.iter().copied());
        for row in rows {
            print(&mut row.iter().map(String::as_str));
        }
    }
}

fn line(text: &str) {
    // A reader that closed the pipe wants no more.
    let _ = writeln!(io::stdout(), "{text}");
}
