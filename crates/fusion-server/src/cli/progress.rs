//! How far a pull is, on standard error: a bar on a terminal, now and then a line elsewhere.

use std::{
    io::{self, IsTerminal, Write},
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use fusion_models::download::Progress;
use indicatif::{ProgressBar, ProgressStyle};

/// What is fetched sooner needs no line.
const LINE_EVERY: Duration = Duration::from_secs(10);

pub(super) struct Display {
    shown: Shown,
    state: Mutex<State>,
}

enum Shown {
    Bar(ProgressBar),
    Lines,
    Nothing,
}

struct State {
    last: Option<Progress>,
    next_line: Instant,
}

impl Display {
    /// Programs that read JSON want the end, not the way.
    pub(super) fn new(json: bool) -> Self {
        let shown = if json {
            Shown::Nothing
        } else if io::stderr().is_terminal() {
            Shown::Bar(bar())
        } else {
            Shown::Lines
        };
        let state = State {
            last: None,
            next_line: Instant::now() + LINE_EVERY,
        };
        Self {
            shown,
            state: Mutex::new(state),
        }
    }

    pub(super) fn show(&self, progress: Progress) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        match &self.shown {
            Shown::Bar(bar) => draw(bar, state.last.as_ref(), &progress),
            Shown::Lines if Instant::now() >= state.next_line => {
                state.next_line = Instant::now() + LINE_EVERY;
                // Nobody is left to tell where standard error is closed.
                let _ = writeln!(io::stderr(), "{}", line(&progress));
            }
            Shown::Lines | Shown::Nothing => {}
        }
        state.last = Some(progress);
    }

    /// Takes the bar away, and says what was shown last.
    pub(super) fn end(self) -> Option<Progress> {
        if let Shown::Bar(bar) = &self.shown {
            bar.finish_and_clear();
        }
        let state = self.state.into_inner();
        state.unwrap_or_else(PoisonError::into_inner).last
    }
}

fn bar() -> ProgressBar {
    let template = "{msg} {bar:30} {bytes}/{total_bytes} {bytes_per_sec} {eta}";
    let style =
        ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::no_length().with_style(style)
}

fn draw(bar: &ProgressBar, last: Option<&Progress>, progress: &Progress) {
    if last.is_none_or(|last| last.file != progress.file) {
        bar.set_message(progress.file.clone());
        bar.reset();
    }
    if let Some(total) = progress.total_bytes {
        bar.set_length(total);
    }
    bar.set_position(progress.bytes);
}

/// Such as `m.gguf: 512 of 1024 MB (50 %)`.
pub(super) fn line(progress: &Progress) -> String {
    let megabytes = |bytes: u64| bytes / 1_000_000;
    let Progress { file, bytes, .. } = progress;
    match progress.total_bytes.filter(|&total| total > 0) {
        Some(total) => format!(
            "{file}: {} of {} MB ({} %)",
            megabytes(*bytes),
            megabytes(total),
            u128::from(*bytes) * 100 / u128::from(total)
        ),
        None => format!("{file}: {} MB", megabytes(*bytes)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_how_far_it_is() {
        let at = |bytes, total_bytes| {
            let file = "m.gguf".to_owned();
            line(&Progress {
                file,
                bytes,
                total_bytes,
            })
        };
        let half = at(512_000_000, Some(1_024_000_000));
        assert_eq!(half, "m.gguf: 512 of 1024 MB (50 %)");
        assert_eq!(at(7_000_000, None), "m.gguf: 7 MB");
        assert_eq!(at(0, Some(0)), "m.gguf: 0 MB");
    }
}
