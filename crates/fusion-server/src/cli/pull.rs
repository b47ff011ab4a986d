//! `fusiond pull`: a model from a hub into the models folder.

use std::{
    env,
    io::{self, IsTerminal},
    path::Path,
    sync::Mutex,
};

use clap::{Arg, ArgMatches, Command};
use fusion_models::download::{self, Hub, Progress};
use fusion_types::Result;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::json;

use super::Output;

pub(super) fn command() -> Command {
    let source = Arg::new("source")
        .required(true)
        .value_name("OWNER/NAME[:FILE]");
    Command::new("pull")
        .about("fetch a model from a hub (HF_ENDPOINT, HF_TOKEN) into the models folder")
        .arg(
            source
                .help("a repository, with a file or a quantization where it holds several models"),
        )
}

pub(super) async fn pull(arguments: &ArgMatches, models_dir: &Path, output: &Output) -> Result<()> {
    let source = arguments
        .get_one::<String>("source")
        .map_or("", String::as_str);
    let endpoint = env::var("HF_ENDPOINT").unwrap_or_else(|_| Hub::DEFAULT_ENDPOINT.to_owned());
    let hub = Hub {
        endpoint,
        token: env::var("HF_TOKEN").ok(),
    };
    let bar = Bar::new();
    let pulled = download::pull(source, models_dir, &hub, &|progress| bar.show(progress)).await?;
    bar.end();
    if output.json {
        let files: Vec<_> = pulled
            .verified
            .iter()
            .map(|(path, sha256)| json!({ "path": path, "sha256": sha256 }))
            .collect();
        output.json(&json!({ "model_id": pulled.model_id, "path": pulled.path, "bytes": pulled.bytes, "verified": files }));
    } else {
        let megabytes = pulled.bytes / 1_000_000;
        output.text(&format!(
            "{} is in {} ({megabytes} MB)",
            pulled.model_id,
            pulled.path.display()
        ));
    }
    Ok(())
}

/// A bar on a terminal, nothing elsewhere: a log wants the end, not the way.
struct Bar {
    bar: ProgressBar,
    file: Mutex<String>,
}

impl Bar {
    fn new() -> Self {
        let target = if io::stderr().is_terminal() {
            ProgressDrawTarget::stderr()
        } else {
            ProgressDrawTarget::hidden()
        };
        let template = "{msg} {bar:30} {bytes}/{total_bytes} {bytes_per_sec} {eta}";
        let style =
            ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
        Self {
            bar: ProgressBar::with_draw_target(None, target).with_style(style),
            file: Mutex::default(),
        }
    }

    fn show(&self, progress: Progress) {
        let Ok(mut file) = self.file.lock() else {
            return;
        };
        if *file != progress.file {
            self.bar.set_message(progress.file.clone());
            self.bar.reset();
            *file = progress.file;
        }
        if let Some(total) = progress.total_bytes {
            self.bar.set_length(total);
        }
        self.bar.set_position(progress.bytes);
    }

    fn end(&self) {
        self.bar.finish_and_clear();
    }
}
