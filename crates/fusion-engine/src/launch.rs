//! The command line of every engine.

use std::{net::SocketAddr, path::PathBuf, str::FromStr};

use clap::{Args, Parser, Subcommand};
use fusion_types::{Error, Result, model::ModelType};

/// What the executable was asked to do.
#[derive(Parser)]
#[command(about = "one model in one process, for fusiond", version)]
pub struct Command {
    #[command(subcommand)]
    pub(crate) action: Action,
}

impl Command {
    /// Reads the process's arguments; ends the process where they are wrong.
    pub fn read() -> Self {
        Self::parse()
    }

    /// What the model is to be loaded as.
    pub fn model_type(&self) -> ModelType {
        match &self.action {
            Action::Serve { launch, .. } | Action::Estimate { launch } => launch.model_type,
        }
    }
}

#[derive(Subcommand)]
pub(crate) enum Action {
    /// Load a model and serve it until standard input ends.
    Serve {
        #[command(flatten)]
        address: Address,
        #[command(flatten)]
        launch: Launch,
    },
    /// Print as JSON how many bytes a model would need, without loading it.
    Estimate {
        #[command(flatten)]
        launch: Launch,
    },
}

/// Where requests come from: a Unix socket, or TCP for whoever has no use for one.
#[derive(Args)]
#[group(required = true, multiple = false)]
pub(crate) struct Address {
    /// A Unix socket to make.
    #[arg(long)]
    pub(crate) socket: Option<PathBuf>,
    /// A TCP address, such as 127.0.0.1:9000.
    #[arg(long)]
    pub(crate) listen: Option<SocketAddr>,
}

/// How a model is to be loaded.
#[derive(Args, Clone, Debug)]
pub struct Launch {
    /// A model file or folder.
    #[arg(long)]
    pub model: PathBuf,
    #[arg(long, default_value = "lm", value_parser = ModelType::from_str)]
    pub model_type: ModelType,
    /// Tokens that one slot can hold; without it the model's own length, within reason.
    #[arg(long)]
    pub context_length: Option<u32>,
    /// Requests that run side by side.
    #[arg(long, default_value_t = 4)]
    pub slots: u32,
    /// Computation threads.
    #[arg(long, default_value_t = 1)]
    pub threads: u32,
    /// A folder for what is made of models and can be made again.
    #[arg(long)]
    pub cache_dir: Option<PathBuf>,
    /// An engine's own option.
    #[arg(long = "option", value_name = "KEY=VALUE", value_parser = key_value)]
    pub options: Vec<(String, String)>,
}

impl Launch {
    pub fn option(&self, key: &str) -> Option<&str> {
        self.options
            .iter()
            .rev()
            .find(|(name, _)| name == key)
            .map(|(_, value)| value.as_str())
    }
}

fn key_value(text: &str) -> Result<(String, String)> {
    let (key, value) = text
        .split_once('=')
        .ok_or_else(|| Error::invalid("option", "expected KEY=VALUE"))?;
    Ok((key.to_owned(), value.to_owned()))
}
