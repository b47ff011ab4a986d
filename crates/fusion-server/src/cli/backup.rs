//! `fusiond backup` and `fusiond restore`: the data folder copied, and put back.

use std::path::{Path, PathBuf};

use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};
use fusion_storage::Copied;
use fusion_types::{Error, Result};
use serde_json::json;

use super::Output;
use crate::config::Config;

pub(super) fn commands() -> [Command; 2] {
    let folder = |name: &'static str, value: &'static str| {
        Arg::new(name)
            .required(true)
            .value_name(value)
            .value_parser(value_parser!(PathBuf))
    };
    [
        Command::new("backup")
            .about("copy the store to a new folder; the server may run")
            .arg(folder("to", "FOLDER")),
        Command::new("restore")
            .about("put a backup in place; the server must not run")
            .arg(folder("from", "FOLDER"))
            .arg(
                Arg::new("force")
                    .long("force")
                    .action(ArgAction::SetTrue)
                    .help("set a store that is there aside"),
            ),
    ]
}

pub(super) fn backup(arguments: &ArgMatches, config: &Config, output: &Output) -> Result<()> {
    let data_dir = folder_with_state(config)?;
    let to = path(arguments, "to");
    let copied = fusion_storage::backup(data_dir, &to)?;
    tell(output, &to, &copied);
    Ok(())
}

pub(super) fn restore(arguments: &ArgMatches, config: &Config, output: &Output) -> Result<()> {
    let data_dir = folder_with_state(config)?;
    let from = path(arguments, "from");
    let copied = fusion_storage::restore(&from, data_dir, arguments.get_flag("force"))?;
    tell(output, data_dir, &copied);
    Ok(())
}

fn folder_with_state(config: &Config) -> Result<&Path> {
    if config.state.mongo.is_some() {
        let message = "the state is in MongoDB: mongodump and mongorestore copy it; leave state.mongo_uri (MONGO_URI) out to \
                       copy what this server keeps for itself";
        return Err(Error::invalid("state.mongo_uri", message));
    }
    Ok(&config.data_dir)
}

fn path(arguments: &ArgMatches, name: &str) -> PathBuf {
    arguments
        .get_one::<PathBuf>(name)
        .cloned()
        .unwrap_or_default()
}

fn tell(output: &Output, to: &Path, copied: &Copied) {
    let Copied {
        files,
        bytes,
        set_aside,
    } = copied;
    if output.json {
        output.json(&json!({ "path": to, "files": files, "bytes": bytes, "set_aside": set_aside }));
        return;
    }
    output.text(&format!("{}: {files} files, {bytes} bytes", to.display()));
    if let Some(aside) = set_aside {
        output.text(&format!("what was there is in {}", aside.display()));
    }
}
