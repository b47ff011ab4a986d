//! `fusiond child -- COMMAND`: somebody else's server as a child of ours. It ends when the server does, by whatever signal, as our
//! own engines do by themselves.

use std::{
    env,
    ffi::OsString,
    io::{self, Read},
    os::unix::process::{CommandExt, ExitStatusExt},
    process::{ExitCode, ExitStatus, Stdio},
    thread,
};

use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};
use rustix::process::{Signal, getpgrp, getpid, kill_process_group};
use tokio::signal::unix::{SignalKind, signal};

pub(super) const NAME: &str = "child";
const INNER: &str = "inner";
const COMMAND: &str = "command";
/// As shells have it: the command couldn't be run.
const NOT_RUN: u8 = 127;

pub(super) fn command() -> Command {
    Command::new(NAME)
        .about("run a command that ends when standard input does (for the server)")
        .hide(true)
        .arg(
            Arg::new(INNER)
                .long(INNER)
                .action(ArgAction::SetTrue)
                .hide(true),
        )
        .arg(
            Arg::new(COMMAND)
                .num_args(1..)
                .required(true)
                .last(true)
                .value_parser(value_parser!(OsString)),
        )
}

pub(super) fn run(arguments: &ArgMatches) -> ExitCode {
    let words: Vec<OsString> = arguments
        .get_many(COMMAND)
        .into_iter()
        .flatten()
        .cloned()
        .collect();
    let outcome = if arguments.get_flag(INNER) {
        become_command(&words)
    } else {
        keep(&words)
    };
    outcome.unwrap_or_else(|error| {
        tell(&format!(
            "can't run {}: {error}",
            words[0].to_string_lossy()
        ));
        ExitCode::from(NOT_RUN)
    })
}

#[expect(
    clippy::print_stderr,
    reason = "the server keeps what its children say"
)]
fn tell(what: &str) {
    eprintln!("{what}");
}

/// Starts the command through another run of this executable, which asks the kernel to end it with this process, and waits.
fn keep(words: &[OsString]) -> io::Result<ExitCode> {
    end_with_parent()?;
    thread::Builder::new()
        .name("parent".to_owned())
        .spawn(end_group_at_end_of_input)?;
    // The kernel takes the thread that starts a process for its parent: this one, which stays until the end.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        // Sent to the whole group: the command tidies up, and this process waits for it.
        let _terminate = signal(SignalKind::terminate())?;
        let mut child = tokio::process::Command::new(env::current_exe()?)
            .args([NAME, "--inner", "--"])
            .args(words)
            .stdin(Stdio::null())
            .spawn()?;
        child.wait().await.map(exit_code)
    })
}

/// Becomes the command, which the kernel ends when the process that keeps it ends.
fn become_command(words: &[OsString]) -> io::Result<ExitCode> {
    end_with_parent()?;
    if is_orphan() {
        return Err(io::Error::other("the process that started it is gone"));
    }
    let (program, arguments) = words.split_first().ok_or(io::ErrorKind::InvalidInput)?;
    // Returns only where it failed.
    Err(std::process::Command::new(program).args(arguments).exec())
}

#[cfg(target_os = "linux")]
fn end_with_parent() -> io::Result<()> {
    Ok(rustix::process::set_parent_process_death_signal(Some(
        Signal::KILL,
    ))?)
}

#[cfg(not(target_os = "linux"))]
fn end_with_parent() -> io::Result<()> {
    Ok(())
}

/// Whether the process that keeps the command ended before the kernel was asked to watch it.
fn is_orphan() -> bool {
    rustix::process::getppid().is_none_or(|parent| parent.is_init())
}

/// Standard input is a pipe that the server holds: at its end everything in this process's group ends, this process included.
#[expect(
    clippy::disallowed_methods,
    reason = "nothing is left to drain: the only client is gone"
)]
fn end_group_at_end_of_input() {
    let mut input = io::stdin().lock();
    let mut buffer = [0; 64];
    loop {
        match input.read(&mut buffer) {
            Ok(0) => break,
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => break,
        }
    }
    // Started by hand it has no group of its own, and then ends alone: the command ends with it.
    if getpgrp() == getpid() {
        let _ = kill_process_group(getpgrp(), Signal::KILL);
    }
    std::process::exit(0);
}

fn exit_code(status: ExitStatus) -> ExitCode {
    let code = status.code().or(status.signal().map(|signal| 128 + signal));
    ExitCode::from(code.and_then(|code| u8::try_from(code).ok()).unwrap_or(1))
}
