//! `fusiond pull`: a model from a hub into the models folder.

use std::{env, path::Path};

use clap::{Arg, ArgMatches, Command};
use fusion_models::download::{self, Hub, Progress};
use fusion_types::{Error, ErrorCode, Result};
use serde_json::json;

use super::{
    Output,
    progress::{self, Display},
};
use crate::drain::asked_to_stop;

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
    let display = Display::new(output.json);
    let show = |progress| display.show(progress);
    let outcome = until_stopped(download::pull(source, models_dir, &hub, &show)).await;
    let last = display.end();
    let pulled = outcome.unwrap_or_else(|| Err(stopped(last.as_ref())))?;
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

/// Keeps what has come: the same pull goes on from there.
async fn until_stopped<T>(pull: impl Future<Output = Result<T>>) -> Option<Result<T>> {
    tokio::select! {
        outcome = pull => Some(outcome),
        () = asked_to_stop() => None,
    }
}

fn stopped(last: Option<&Progress>) -> Error {
    let reached = last.map_or_else(String::new, |last| format!(" at {}", progress::line(last)));
    Error::new(
        ErrorCode::EngineUnavailable,
        format!("stopped{reached}; what has come is kept, and the same command goes on from there"),
    )
}
