//! `fusiond migrate`: the data folder's store moves into MongoDB.

use std::{
    io::{self, Write},
    sync::Mutex,
    time::{Duration, Instant},
};

use clap::Command;
use fusion_storage::Migrated;
use fusion_types::{Error, Result};
use serde_json::json;

use super::Output;
use crate::{app, config::Config};

const TOLD_EVERY: Duration = Duration::from_secs(2);
/// What each server keeps for itself, and what says which servers run.
const OWN: [&[&str]; 2] = [&fusion_models::RECORDS, &["leaders", "nodes"]];

pub(super) fn command() -> Command {
    Command::new("migrate").about(
        "move the store of the data folder into MongoDB; the server must not run, and the folder stays as it is",
    )
}

pub(super) fn heeds(key: &str) -> bool {
    matches!(key, "paths.data" | "state.mongo_uri" | "state.mongo_db")
}

pub(super) async fn run(config: &Config, output: &Output) -> Result<()> {
    let Some(mongo) = &config.state.mongo else {
        let message = "say where to move the store to: --mongo-uri mongodb://… (MONGO_URI)";
        return Err(Error::invalid("state.mongo_uri", message));
    };
    let storage = app::storage_config(config);
    let told = Mutex::new(Instant::now());
    let moved = fusion_storage::migrate(&storage, mongo, &OWN.concat(), &|moved| {
        tell(&told, &moved);
    })
    .await?;
    if output.json {
        let Migrated {
            files,
            records,
            collections,
            documents,
            jobs,
            changes,
        } = moved;
        output.json(&json!({
            "database": mongo.database, "files": files, "records": records, "collections": collections,
            "documents": documents, "jobs": jobs, "changes": changes,
        }));
        return Ok(());
    }
    output.text(&format!("moved to {}: {}", mongo.database, amounts(&moved)));
    Ok(())
}

/// Now and then, on standard error.
fn tell(told: &Mutex<Instant>, moved: &Migrated) {
    let Ok(mut last) = told.lock() else { return };
    if last.elapsed() >= TOLD_EVERY {
        *last = Instant::now();
        // Nobody may be left to read it.
        let _ = writeln!(io::stderr(), "moved so far: {}", amounts(moved));
    }
}

fn amounts(moved: &Migrated) -> String {
    format!(
        "{} files, {} records, {} collections with {} documents, {} jobs with {} changes",
        moved.files, moved.records, moved.collections, moved.documents, moved.jobs, moved.changes
    )
}
