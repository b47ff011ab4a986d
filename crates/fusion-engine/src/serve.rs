//! From the command line to the last request.

use std::{
    io::{self, Write},
    path::Path,
    process::ExitCode,
    sync::Arc,
};

use clap::Parser;
use fusion_types::{
    Error, ErrorCode, Result,
    engine::{DIALECT, EngineCard, Hello, HelloError, HelloOutcome},
};
use tokio::{
    net::UnixListener,
    signal::unix::{SignalKind, signal},
};
use tracing_subscriber::EnvFilter;

use crate::{
    Engine, Launch,
    launch::{Action, Command},
    parent, routes,
};

/// The whole of an engine's `main`. Logs go to standard error, answers to standard output.
pub fn main<E: Engine>() -> ExitCode {
    let filter = EnvFilter::try_from_env("FUSIOND_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(false)
        .init();

    let outcome = match Command::parse().action {
        Action::Serve { socket, launch } => serve::<E>(&socket, &launch),
        Action::Estimate { launch } => {
            E::estimate(&launch).and_then(|estimate| print_line(&estimate))
        }
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let hello = HelloOutcome::Error(HelloError {
                code: error.code.as_str().to_owned(),
                message: error.message,
            });
            // Nobody listens any more where this fails.
            let _ = print_line(&Hello {
                fusion: DIALECT,
                outcome: hello,
            });
            ExitCode::FAILURE
        }
    }
}

fn serve<E: Engine>(socket: &Path, launch: &Launch) -> Result<()> {
    parent::watch().map_err(|error| Error::internal(format!("can't watch the parent: {error}")))?;
    let engine = Arc::new(E::load(launch)?);
    let card = engine.card();
    // One thread carries sockets and text; the computation has threads of its own.
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Error::internal(format!("can't start the runtime: {error}")))?
        .block_on(answer(engine, socket, card))
}

async fn answer<E: Engine>(engine: Arc<E>, socket: &Path, card: EngineCard) -> Result<()> {
    let unavailable = |error: io::Error| {
        Error::new(
            ErrorCode::EngineUnavailable,
            format!("can't listen on {}: {error}", socket.display()),
        )
    };
    let listener = UnixListener::bind(socket).map_err(unavailable)?;
    let mut terminate = signal(SignalKind::terminate()).map_err(unavailable)?;
    print_line(&Hello {
        fusion: DIALECT,
        outcome: HelloOutcome::Ready(card),
    })?;
    tokio::select! {
        served = axum::serve(listener, routes::router(engine)) => served.map_err(unavailable),
        _ = terminate.recv() => Ok(()),
    }
}

fn print_line(value: &impl serde::Serialize) -> Result<()> {
    let mut line = serde_json::to_vec(value).map_err(|error| Error::internal(error.to_string()))?;
    line.push(b'\n');
    let mut output = io::stdout().lock();
    output
        .write_all(&line)
        .and_then(|()| output.flush())
        .map_err(|error| Error::internal(format!("can't write to standard output: {error}")))
}
