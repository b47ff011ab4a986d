//! One child from its start to its end. There is one way to end it, and it is always waited for.

use std::{
    io,
    net::SocketAddr,
    path::PathBuf,
    pin::pin,
    process::ExitStatus,
    sync::{Arc, atomic::AtomicU32},
    time::Duration,
};

use fusion_types::{
    Error, ErrorCode, Result,
    engine::{DIALECT, EngineCard, Hello, HelloOutcome},
    model::ModelId,
};
use futures::{FutureExt, future::FusedFuture};
use rustix::process::Signal;
use tokio::{
    io::BufReader,
    process::{Child, ChildStderr, ChildStdout, Command},
    sync::{oneshot, watch},
    time::timeout,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    Client, Launch, LogRing, Spawner,
    client::Peculiar,
    foreign,
    log_ring::next_line,
    predict::refusal,
    process::signal_group,
    wire::{Address, Wire},
};

/// How long a child has between being asked to end and being killed.
const GRACE: Duration = Duration::from_secs(5);
/// How long the last output is read for once the child is gone.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// A child that is ready, on a handle that can be cloned behind an [`Arc`].
#[derive(Debug)]
pub(crate) struct Engine {
    pub(crate) card: EngineCard,
    pub(crate) client: Client,
    pub(crate) pid: u32,
    pub(crate) life: Life,
    /// CPU threads that it was last told to use.
    pub(crate) threads: AtomicU32,
}

/// The two ends of a child's life: the wish that it ends, and the fact.
#[derive(Clone, Debug)]
pub(crate) struct Life {
    stop: Arc<watch::Sender<Option<Stop>>>,
    end: watch::Receiver<Option<End>>,
}

/// Why a child is told to end.
#[derive(Clone, Debug)]
pub(crate) enum Stop {
    /// Nothing uses it: it may tidy up.
    Unload,
    /// At once, whatever it does.
    Force,
    /// It said nothing for so long.
    Silent(Duration),
}

/// How a child ended.
#[derive(Clone, Debug)]
pub(crate) struct End {
    /// What those hear who were using it.
    pub(crate) error: Error,
    /// Whether it died, instead of being told to end.
    pub(crate) crashed: bool,
}

impl Life {
    /// Asks for the end; the first reason counts, except that force overrides patience.
    pub(crate) fn stop(&self, why: Stop) {
        self.stop.send_if_modified(|current| {
            let overrides = match current {
                None => true,
                Some(Stop::Unload) => !matches!(why, Stop::Unload),
                Some(Stop::Force | Stop::Silent(_)) => false,
            };
            if overrides {
                *current = Some(why);
            }
            overrides
        });
    }

    /// Whether the child is gone, or told to go.
    pub(crate) fn is_over(&self) -> bool {
        self.end.borrow().is_some() || self.stop.borrow().is_some()
    }

    /// Whether the child was told to go because it said nothing any more.
    pub(crate) fn was_silent(&self) -> bool {
        matches!(*self.stop.borrow(), Some(Stop::Silent(_)))
    }

    /// Returns when the child is gone and was waited for.
    pub(crate) async fn ended(&self) -> End {
        let mut end = self.end.clone();
        let known = end
            .wait_for(Option::is_some)
            .await
            .ok()
            .and_then(|end| end.clone());
        known.unwrap_or_else(|| End {
            error: died("nobody looks after it any more"),
            crashed: true,
        })
    }
}

/// Why a child never became ready.
#[derive(Debug)]
pub(crate) struct StartError {
    pub(crate) error: Error,
    /// Whether it died or said nothing, instead of refusing in good order.
    pub(crate) crashed: bool,
}

pub(crate) struct Start {
    pub(crate) model: ModelId,
    pub(crate) launch: Launch,
    pub(crate) socket: PathBuf,
    pub(crate) load_timeout: Duration,
    pub(crate) hang_timeout: Duration,
    pub(crate) log: LogRing,
}

/// Starts a child and waits until it is ready. `abort` ends it; so does every failure, and none returns before the
/// process is gone.
pub(crate) async fn start(
    spawner: &Spawner,
    tasks: &TaskTracker,
    start: Start,
    abort: &CancellationToken,
) -> Result<Engine, StartError> {
    let not_started = |error: io::Error| StartError {
        error: Error::new(
            ErrorCode::EngineUnavailable,
            format!("can't start the engine: {error}"),
        ),
        crashed: false,
    };
    let (command, address) = call(&start).map_err(not_started)?;
    let child = spawner.spawn(command).await.map_err(not_started)?;
    let pid = child.id().unwrap_or(0);
    let (life, hello) = attend(child, spawner.clone(), tasks, &start);
    let wire = Wire::new(address);
    let outcome = tokio::select! {
        outcome = timeout(start.load_timeout, ready(&start, &wire, hello, &life)) => outcome,
        () = abort.cancelled() => Ok(Err(StartError { error: unloaded(), crashed: false })),
    };
    let too_late = || StartError {
        error: Error::new(
            ErrorCode::Timeout,
            format!(
                "the engine wasn't ready after {} s",
                start.load_timeout.as_secs()
            ),
        ),
        crashed: true,
    };
    let ready = outcome.unwrap_or_else(|_| Err(too_late()));
    match ready {
        Ok(card) => Ok(Engine {
            card,
            client: Client::new(wire, start.hang_timeout, life.clone(), peculiar(&start)),
            pid,
            life,
            threads: AtomicU32::new(start.launch.threads),
        }),
        Err(failure) => {
            life.stop(Stop::Force);
            life.ended().await;
            Err(failure)
        }
    }
}

/// How the child is called, and where it will listen.
fn call(start: &Start) -> io::Result<(Command, Address)> {
    let Some(foreign) = &start.launch.foreign else {
        let command = start.launch.serve(&start.socket);
        return Ok((command, Address::Socket(start.socket.clone())));
    };
    let port = foreign::free_port()?;
    let address = Address::Port(SocketAddr::from(([127, 0, 0, 1], port)));
    Ok((foreign.serve(&start.launch, port), address))
}

fn peculiar(start: &Start) -> Option<Peculiar> {
    let foreign = start.launch.foreign.as_ref()?;
    Some(Peculiar {
        health: foreign.engine.health.clone(),
        model: foreign.model_name(&start.launch),
    })
}

/// Ours says so by itself; a foreign engine is asked again and again.
async fn ready(
    start: &Start,
    wire: &Wire,
    hello: oneshot::Receiver<Hello>,
    life: &Life,
) -> Result<EngineCard, StartError> {
    let Some(foreign) = &start.launch.foreign else {
        return greeting(hello, life, &start.log).await;
    };
    tokio::select! {
        () = foreign::healthy(wire, &foreign.engine.health) => {
            let length = foreign::told_length(wire).await;
            Ok(foreign.card(&start.launch, length))
        }
        end = life.ended() => Err(died_loading(end, &start.log)),
    }
}

fn died_loading(end: End, log: &LogRing) -> StartError {
    let mut error = end.error;
    if let Some(line) = log.last() {
        error.message = format!("{} while loading; its last words: {line}", error.message);
    }
    StartError {
        error,
        crashed: true,
    }
}

/// The child's first word, or the news that it died without one.
async fn greeting(
    hello: oneshot::Receiver<Hello>,
    life: &Life,
    log: &LogRing,
) -> Result<EngineCard, StartError> {
    let Ok(hello) = hello.await else {
        return Err(died_loading(life.ended().await, log));
    };
    if hello.fusion != DIALECT {
        let message = format!("the engine speaks dialect {}, not {DIALECT}", hello.fusion);
        return Err(StartError {
            error: Error::new(ErrorCode::EngineUnavailable, message),
            crashed: false,
        });
    }
    match hello.outcome {
        HelloOutcome::Ready(card) => Ok(card),
        HelloOutcome::Error(error) => Err(StartError {
            error: refusal(error),
            crashed: false,
        }),
    }
}

/// Puts the child in the care of a task of its own.
fn attend(
    mut child: Child,
    spawner: Spawner,
    tasks: &TaskTracker,
    start: &Start,
) -> (Life, oneshot::Receiver<Hello>) {
    let (stop, stop_wanted) = watch::channel(None);
    let (end_known, end) = watch::channel(None);
    let (greet, hello) = oneshot::channel();
    let (log, model, socket) = (start.log.clone(), start.model.clone(), start.socket.clone());
    let output = read_output(
        child.stdout.take(),
        child.stderr.take(),
        log,
        model.clone(),
        greet,
    );
    tasks.spawn(async move {
        let mut output = pin!(output.fuse());
        let mut life = pin!(live(&mut child, stop_wanted));
        let end = tokio::select! {
            end = &mut life => end,
            () = &mut output => life.await,
        };
        // The child's last lines are in the log before anybody hears of its end.
        if !output.is_terminated() {
            let _ = timeout(LAST_WORDS, output).await;
        }
        let _ = tokio::fs::remove_file(&socket).await;
        tracing::info!(%model, crashed = end.crashed, outcome = %end.error, "engine ended");
        end_known.send_replace(Some(end));
        drop(spawner);
    });
    (
        Life {
            stop: Arc::new(stop),
            end,
        },
        hello,
    )
}

/// The child's life. Once nobody can ask for its end any more, nobody can use it either, and it ends.
async fn live(child: &mut Child, mut stop_wanted: watch::Receiver<Option<Stop>>) -> End {
    let pid = child.id().unwrap_or(0);
    // Its end tells the child that its parent is gone; waiting would close it.
    let input = child.stdin.take();
    let status = tokio::select! {
        status = child.wait() => Some(status),
        _ = stop_wanted.wait_for(Option::is_some) => None,
    };
    drop(input);
    let end = match status {
        Some(Ok(status)) => End {
            error: died_of(status),
            crashed: true,
        },
        Some(Err(error)) => End {
            error: died(&error.to_string()),
            crashed: true,
        },
        None => end(child, pid, stop_wanted).await,
    };
    // Whatever the child started goes with it.
    signal_group(pid, Signal::KILL);
    end
}

/// The one way to end a child: its input is closed already; TERM, a deadline, KILL, and it is waited for.
async fn end(child: &mut Child, pid: u32, mut stop_wanted: watch::Receiver<Option<Stop>>) -> End {
    let patient = |stop: &Option<Stop>| matches!(stop, Some(Stop::Unload));
    if patient(&stop_wanted.borrow_and_update()) {
        signal_group(pid, Signal::TERM);
        tokio::select! {
            _ = child.wait() => {}
            _ = stop_wanted.wait_for(|stop| !patient(stop)) => {}
            () = tokio::time::sleep(GRACE) => tracing::warn!(pid, "the engine doesn't end by itself"),
        }
    }
    signal_group(pid, Signal::KILL);
    if let Err(error) = child.wait().await {
        tracing::warn!(pid, %error, "can't wait for an engine");
    }
    let why = stop_wanted.borrow().clone();
    match why {
        Some(Stop::Silent(limit)) => {
            let message = format!(
                "the engine said nothing for {} s and was ended",
                limit.as_secs_f32()
            );
            End {
                error: Error::new(ErrorCode::EngineCrashed, message),
                crashed: true,
            }
        }
        _ => End {
            error: unloaded(),
            crashed: false,
        },
    }
}

/// Reads everything that the child prints: the greeting is handed over, all else is log.
async fn read_output(
    stdout: Option<ChildStdout>,
    stderr: Option<ChildStderr>,
    log: LogRing,
    model: ModelId,
    greet: oneshot::Sender<Hello>,
) {
    let keep = |line: &str| {
        tracing::debug!(%model, line, "engine");
        log.push(line);
    };
    let out = async {
        let mut greet = Some(greet);
        let Some(mut reader) = stdout.map(BufReader::new) else {
            return;
        };
        while let Some(line) = next_line(&mut reader).await {
            match (greet.take(), serde_json::from_str::<Hello>(&line)) {
                // Nobody waits for the greeting of a start that was given up.
                (Some(greet), Ok(hello)) => drop(greet.send(hello)),
                (unused, _) => {
                    greet = unused;
                    keep(&line);
                }
            }
        }
    };
    let errors = async {
        let Some(mut reader) = stderr.map(BufReader::new) else {
            return;
        };
        while let Some(line) = next_line(&mut reader).await {
            keep(&line);
        }
    };
    tokio::join!(out, errors);
}

fn died_of(status: ExitStatus) -> Error {
    died(&status.to_string())
}

fn died(how: &str) -> Error {
    Error::new(ErrorCode::EngineCrashed, format!("the engine died: {how}"))
}

fn unloaded() -> Error {
    Error::new(ErrorCode::EngineUnavailable, "the model was unloaded")
}
