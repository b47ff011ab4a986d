//! `fusiond quantize`: a model file made into a smaller one.

use std::{path::PathBuf, thread};

use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};
use fusion_models::{Quantize, quantize};
use fusion_types::{Error, ErrorCode, Result};
use serde_json::json;

use super::{Output, progress::Display};
use crate::drain::asked_to_stop;

pub(super) fn command() -> Command {
    let file = |name: &'static str| {
        Arg::new(name)
            .required(true)
            .value_parser(value_parser!(PathBuf))
    };
    let flag = |name: &'static str| Arg::new(name).long(name).action(ArgAction::SetTrue);
    Command::new("quantize")
        .about("make a GGUF file with tensors of fewer bits")
        .arg(file("input").value_name("IN"))
        .arg(file("output").value_name("OUT"))
        .arg(
            Arg::new("type")
                .long("type")
                .required(true)
                .help("such as Q8_0 or Q4_K_M; an unknown one is answered with all"),
        )
        .arg(flag("force").help("replace OUT"))
        .arg(flag("requantize").help("also quantize tensors that already are; they lose twice"))
        .arg(
            Arg::new("threads")
                .long("threads")
                .value_parser(value_parser!(u32).range(1..))
                .help("computation threads; all cores when not given"),
        )
}

pub(super) async fn run(
    arguments: &ArgMatches,
    engine_dirs: &[PathBuf],
    output: &Output,
) -> Result<()> {
    let path = |name: &str| arguments.get_one::<PathBuf>(name).cloned();
    let cores = || {
        thread::available_parallelism().map_or(1, |count| u32::try_from(count.get()).unwrap_or(1))
    };
    let wanted = Quantize {
        input: path("input").unwrap_or_default(),
        output: path("output").unwrap_or_default(),
        kind: arguments
            .get_one::<String>("type")
            .cloned()
            .unwrap_or_default(),
        force: arguments.get_flag("force"),
        requantize: arguments.get_flag("requantize"),
        threads: arguments.get_one("threads").copied().unwrap_or_else(cores),
    };
    let display = Display::new(output.json);
    let show = |progress| display.show(progress);
    let outcome = tokio::select! {
        outcome = quantize(engine_dirs, &wanted, &show) => outcome,
        () = asked_to_stop() => Err(Error::new(ErrorCode::EngineUnavailable, "stopped; nothing was written")),
    };
    display.end();
    let done = outcome?;
    if output.json {
        output.json(&json!({
            "path": wanted.output,
            "type": wanted.kind,
            "input_bytes": done.input_bytes,
            "output_bytes": done.output_bytes,
        }));
    } else {
        let megabytes = |bytes: u64| bytes / 1_000_000;
        output.text(&format!(
            "{} has {} MB, {} had {} MB",
            wanted.output.display(),
            megabytes(done.output_bytes),
            wanted.input.display(),
            megabytes(done.input_bytes)
        ));
    }
    Ok(())
}
