//! From the command line to the last request.

use std::{
    fmt,
    io::{self, Write},
    process::ExitCode,
    sync::Arc,
};

use axum::serve::ListenerExt;
use fusion_types::{
    Error, ErrorCode, Result,
    engine::{DIALECT, EngineCard, Hello, HelloError, HelloOutcome},
};
use serde::Serialize;
use tokio::{
    net::{TcpListener, UnixListener},
    signal::unix::{SignalKind, signal},
};
use tracing_subscriber::EnvFilter;

use crate::{
    Command, Engine, Launch,
    launch::{Action, Address},
    parent, routes,
    socket::Listener,
};

/// The whole of an engine's `main`. Logs go to standard error, answers to standard output.
pub fn main<E: Engine>() -> ExitCode {
    run::<E>(Command::read())
}

/// The same for an executable that has engines of several kinds, of which the command line says one.
pub fn run<E: Engine>(command: Command) -> ExitCode {
    start_log();
    let outcome = match command.action {
        Action::Serve { address, launch } => serve::<E>(&address, &launch),
        Action::Estimate { launch } => {
            E::estimate(&launch).and_then(|estimate| print_line(&estimate))
        }
    };
    end(outcome)
}

/// For work beside the engines' own: prints its result as one line of JSON. Ends with standard input as engines do.
pub fn once<T: Serialize>(work: impl FnOnce() -> Result<T>) -> ExitCode {
    start_log();
    let watched = parent::watch()
        .map_err(|error| Error::internal(format!("can't watch the parent: {error}")));
    end(watched
        .and_then(|()| work())
        .and_then(|result| print_line(&result)))
}

/// An error is printed in the place of what was asked for.
fn end(outcome: Result<()>) -> ExitCode {
    let Err(error) = outcome else {
        return ExitCode::SUCCESS;
    };
    let hello = HelloOutcome::Error(HelloError {
        code: error.code.as_str().to_owned(),
        message: error.message,
        param: error.param,
    });
    // Nobody listens any more where this fails.
    let _ = print_line(&Hello {
        fusion: DIALECT,
        outcome: hello,
    });
    ExitCode::FAILURE
}

/// Sends the log to standard error, as `FUSIOND_LOG` filters it.
fn start_log() {
    let filter = EnvFilter::try_from_env("FUSIOND_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(false)
        .init();
}

fn serve<E: Engine>(address: &Address, launch: &Launch) -> Result<()> {
    parent::watch().map_err(|error| Error::internal(format!("can't watch the parent: {error}")))?;
    let engine = Arc::new(E::load(launch)?);
    let card = engine.card();
    // One thread carries sockets and text; the computation has threads of its own.
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Error::internal(format!("can't start the runtime: {error}")))?
        .block_on(answer(engine, address, card))
}

async fn answer<E: Engine>(engine: Arc<E>, address: &Address, card: EngineCard) -> Result<()> {
    let ready = || {
        print_line(&Hello {
            fusion: DIALECT,
            outcome: HelloOutcome::Ready(card),
        })
    };
    let router = routes::router(engine);
    match (&address.socket, address.listen) {
        (Some(path), _) => {
            let listener =
                UnixListener::bind(path).map_err(|error| unavailable(path.display(), &error))?;
            ready()?;
            until_terminated(axum::serve(Listener(listener), router)).await
        }
        (None, Some(address)) => {
            let listener = TcpListener::bind(address)
                .await
                .map_err(|error| unavailable(address, &error))?;
            let listener = listener.tap_io(|stream| {
                // Tokens are small and must not wait for each other.
                let _ = stream.set_nodelay(true);
            });
            ready()?;
            until_terminated(axum::serve(listener, router)).await
        }
        (None, None) => Err(Error::invalid(
            "socket",
            "name a socket or an address to listen on",
        )),
    }
}

async fn until_terminated(server: impl IntoFuture<Output = io::Result<()>>) -> Result<()> {
    let failed = |error: io::Error| Error::internal(format!("can't serve: {error}"));
    let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
    tokio::select! {
        served = server.into_future() => served.map_err(failed),
        _ = terminate.recv() => Ok(()),
    }
}

fn unavailable(address: impl fmt::Display, error: &io::Error) -> Error {
    Error::new(
        ErrorCode::EngineUnavailable,
        format!("can't listen on {address}: {error}"),
    )
}

fn print_line(value: &impl Serialize) -> Result<()> {
    let mut line = serde_json::to_vec(value).map_err(|error| Error::internal(error.to_string()))?;
    line.push(b'\n');
    let mut output = io::stdout().lock();
    output
        .write_all(&line)
        .and_then(|()| output.flush())
        .map_err(|error| Error::internal(format!("can't write to standard output: {error}")))
}
