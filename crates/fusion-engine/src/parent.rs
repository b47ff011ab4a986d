//! Ends the process when its parent is gone, so that no engine outlives the server.

use std::{
    io::{self, Read},
    thread,
};

/// Standard input is a pipe that the server holds and never writes to: its end means that the server has ended, by
/// whatever signal. A plain thread watches it, so that an engine stuck in its computation ends as well.
///
/// # Errors
/// When the thread can't be started.
pub(crate) fn watch() -> io::Result<()> {
    ask_for_signal();
    thread::Builder::new()
        .name("parent".to_owned())
        .spawn(exit_at_end_of_input)?;
    Ok(())
}

#[expect(
    clippy::disallowed_methods,
    reason = "nothing is left to drain: the only client is gone"
)]
fn exit_at_end_of_input() {
    let mut input = io::stdin().lock();
    let mut buffer = [0; 64];
    loop {
        match input.read(&mut buffer) {
            Ok(0) => std::process::exit(0),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => std::process::exit(0),
        }
    }
}

/// The kernel's own guard, for a process that is stopped or starved and never gets to read.
#[cfg(target_os = "linux")]
fn ask_for_signal() {
    use rustix::process::{Signal, getppid, set_parent_process_death_signal};

    let asked = set_parent_process_death_signal(Some(Signal::KILL));
    if let Err(error) = asked {
        tracing::warn!(%error, "can't ask for a signal at the parent's death");
    }
    // The parent may have died before the request: then nobody would ever signal.
    if getppid().is_none_or(|parent| parent.is_init()) {
        tracing::warn!("started without a parent that could end this process");
    }
}

#[cfg(not(target_os = "linux"))]
fn ask_for_signal() {}
