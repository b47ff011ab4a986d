//! `fusiond-llama quantize`: a conversion in a process of its own, so that an abort in C++ ends that and nothing else.

use std::{path::PathBuf, process::ExitCode};

use clap::Parser;
use fusion_engine::types::Result;
use serde_json::json;

use crate::quantize::{Conversion, kind};

#[derive(Parser)]
#[command(
    name = "fusiond-llama quantize",
    about = "store a model's tensors in fewer bits"
)]
struct Arguments {
    input: PathBuf,
    /// Written in place, whole only when this succeeds: the caller renames it.
    output: PathBuf,
    #[arg(long = "type")]
    kind: String,
    /// Also quantize tensors that already are.
    #[arg(long)]
    requantize: bool,
    #[arg(long, default_value_t = 1)]
    threads: u32,
    /// Only say how many bytes the tensors would have.
    #[arg(long)]
    dry_run: bool,
}

/// Reads the process's arguments from the second on. Prints `{"bytes":…}`, or the error as engines print theirs.
pub fn quantize() -> ExitCode {
    let arguments = Arguments::parse_from(std::env::args_os().skip(1));
    fusion_engine::once(|| convert(&arguments).map(|bytes| json!({ "bytes": bytes })))
}

fn convert(arguments: &Arguments) -> Result<u64> {
    let conversion = Conversion {
        kind: kind(&arguments.kind)?,
        requantize: arguments.requantize,
        pure: false,
        threads: arguments.threads.max(1),
    };
    if arguments.dry_run {
        return conversion.predict(&arguments.input);
    }
    conversion.run(&arguments.input, &arguments.output)?;
    let written = arguments.output.metadata();
    Ok(written.map_or(0, |metadata| metadata.len()))
}
