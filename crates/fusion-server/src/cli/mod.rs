//! The command line: `serve` runs the server, the rest talks to one or works on files.

mod backup;
mod child;
mod client;
mod migrate;
mod output;
mod progress;
mod pull;
mod quantize;

use std::{env, path::PathBuf, process::ExitCode};

use clap::{Arg, ArgAction, ArgMatches, Command};
use fusion_types::{Error, Result};

use crate::{
    app,
    config::{self, Config, SETTINGS, Sources, WITHOUT_EFFECT},
    secret, telemetry,
};
use output::Output;

const USAGE: u8 = 2;

pub(crate) fn run() -> ExitCode {
    let matches = command().get_matches();
    let (name, arguments) = match matches.subcommand() {
        Some((name, arguments)) => (name, arguments),
        None => return ExitCode::from(USAGE),
    };
    if name == child::NAME {
        return child::run(arguments);
    }
    let output = Output::new(arguments.get_flag("json"));
    match dispatch(name, arguments, &output) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            output.error(&error);
            // What an argument can be is sometimes known to an engine only.
            if name == "quantize" && error.param.as_deref() == Some("type") {
                return ExitCode::from(USAGE);
            }
            ExitCode::FAILURE
        }
    }
}

fn command() -> Command {
    let json = Arg::new("json")
        .long("json")
        .global(true)
        .action(ArgAction::SetTrue)
        .help("print JSON");
    Command::new("fusiond")
        .version(env!("CARGO_PKG_VERSION"))
        .about("one endpoint over the models of this machine")
        .subcommand_required(true)
        .arg_required_else_help(true)
        .arg(json)
        .subcommand(with_settings(
            Command::new("serve").about("run the server"),
            |_| true,
        ))
        .subcommand(with_settings(pull::command(), |key| key == "paths.models"))
        .subcommand(child::command())
        .subcommand(with_settings(quantize::command(), |key| {
            key == "paths.engines"
        }))
        .subcommands(
            backup::commands().map(|command| with_settings(command, |key| key == "paths.data")),
        )
        .subcommand(with_settings(migrate::command(), migrate::heeds))
        .subcommands(client::commands())
        .subcommand(
            Command::new("keys")
                .about("secrets of the data folder")
                .subcommand_required(true)
                .subcommand(with_settings(
                    Command::new("webhook-secret")
                        .about("print the secret that signs the calls to a job's callback_url"),
                    |key| matches!(key, "paths.data" | "webhooks.secret"),
                )),
        )
}

/// Adds a flag for each setting that the command heeds.
fn with_settings(command: Command, heeds: fn(&str) -> bool) -> Command {
    let file = Arg::new("config")
        .long("config")
        .value_name("FILE")
        .help("the configuration file [env: FUSIOND_CONFIG]");
    let flags = SETTINGS
        .iter()
        .filter(|setting| heeds(setting.key))
        .map(|setting| {
            let environment = setting
                .environment
                .first()
                .map(|name| format!(" [env: {name}]"))
                .unwrap_or_default();
            let help = format!("{}{environment}", setting.help);
            let flag = Arg::new(setting.key)
                .long(setting.flag)
                .value_name("VALUE")
                .help(help);
            if setting.is_switch {
                flag.num_args(0..=1).default_missing_value("true")
            } else {
                flag
            }
        });
    command.arg(file).args(flags)
}

fn dispatch(name: &str, arguments: &ArgMatches, output: &Output) -> Result<()> {
    match name {
        "serve" => {
            let config = read_config(arguments)?;
            telemetry::start_log(&config.log)
                .map_err(|why| Error::invalid("telemetry.log_level", why))?;
            warn_of_settings_without_effect();
            runtime()?.block_on(app::serve(config))
        }
        "pull" => {
            let config = read_config(arguments)?;
            runtime()?.block_on(pull::pull(arguments, &config.models_dir, output))
        }
        "quantize" => {
            let engine_dirs = app::engine_dirs(&read_config(arguments)?);
            runtime()?.block_on(quantize::run(arguments, &engine_dirs, output))
        }
        "backup" => backup::backup(arguments, &read_config(arguments)?, output),
        "restore" => backup::restore(arguments, &read_config(arguments)?, output),
        "migrate" => runtime()?.block_on(migrate::run(&read_config(arguments)?, output)),
        "keys" => {
            let Some((_, arguments)) = arguments.subcommand() else {
                return Ok(());
            };
            let config = read_config(arguments)?;
            let secret = match config.webhooks.secret {
                Some(secret) => secret,
                None => secret::of_folder(&config.data_dir)?,
            };
            output.value("secret", &secret);
            Ok(())
        }
        _ => runtime()?.block_on(client::run(name, arguments, output)),
    }
}

fn read_config(arguments: &ArgMatches) -> Result<Config> {
    let flags: Vec<_> = SETTINGS
        .iter()
        .filter_map(|setting| {
            let value = arguments
                .try_get_one::<String>(setting.key)
                .ok()
                .flatten()?;
            Some((setting.key, value.clone()))
        })
        .collect();
    let named = arguments
        .get_one::<String>("config")
        .cloned()
        .or_else(|| env::var("FUSIOND_CONFIG").ok());
    let file = named.map(PathBuf::from).or_else(config::default_file);
    let environment = |name: &str| env::var(name).ok().filter(|value| !value.is_empty());
    let sources = Sources {
        flags: &flags,
        environment: &environment,
        file,
    };
    Config::read(&sources).map_err(|invalid| Error::invalid("configuration", invalid.to_string()))
}

fn warn_of_settings_without_effect() {
    for name in WITHOUT_EFFECT
        .iter()
        .filter(|name| env::var_os(name).is_some())
    {
        tracing::warn!(name, "this setting has no effect yet");
    }
}

fn runtime() -> Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| Error::internal(format!("can't start the runtime: {error}")))
}
