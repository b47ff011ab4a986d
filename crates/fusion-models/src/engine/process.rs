//! One thread that starts every child and lives as long as any of them may.
//!
//! Children ask the kernel to be killed when their parent dies, and to the kernel the parent is the thread that started
//! them: a child started from a pool's thread would die with that thread.

use std::{fs, io, sync::mpsc, thread};

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::{
    process::{Child, Command},
    runtime::Handle,
    sync::oneshot,
};

/// From -1000, never, to 1000, first.
const OOM_SCORE: &str = "500";

/// Whoever looks after a child holds a clone: the thread ends with the last one.
#[derive(Clone, Debug)]
pub(crate) struct Spawner(mpsc::Sender<Order>);

#[derive(Debug)]
struct Order {
    command: Command,
    reply: oneshot::Sender<io::Result<Child>>,
}

impl Spawner {
    /// Must be called within a tokio runtime, on which the children are waited for.
    pub(crate) fn start() -> io::Result<Self> {
        let runtime = Handle::try_current().map_err(io::Error::other)?;
        let (sender, orders) = mpsc::channel::<Order>();
        let serve = move || {
            let _entered = runtime.enter();
            while let Ok(Order { mut command, reply }) = orders.recv() {
                let child = command.spawn();
                if let Some(pid) = child.as_ref().ok().and_then(Child::id) {
                    offer_to_oom_killer(pid);
                }
                // A child that nobody waits for any more is killed as it is dropped.
                let _ = reply.send(child);
            }
        };
        thread::Builder::new()
            .name("spawner".to_owned())
            .spawn(serve)?;
        Ok(Self(sender))
    }

    pub(crate) async fn spawn(&self, command: Command) -> io::Result<Child> {
        let (reply, answer) = oneshot::channel();
        let gone = || io::Error::other("the thread that starts processes is gone");
        self.0.send(Order { command, reply }).map_err(|_| gone())?;
        answer.await.map_err(|_| gone())?
    }
}

/// When the system runs out of memory it ends an engine, which can be started again, before it ends the server.
fn offer_to_oom_killer(pid: u32) {
    if cfg!(target_os = "linux")
        && let Err(error) = fs::write(format!("/proc/{pid}/oom_score_adj"), OOM_SCORE)
    {
        tracing::debug!(pid, %error, "can't mark an engine for the out-of-memory killer");
    }
}

/// Signals every process of the child's group; one that is gone already is fine.
pub(super) fn signal_group(pid: u32, signal: Signal) {
    let Some(group) = i32::try_from(pid)
        .ok()
        .filter(|pid| *pid > 1)
        .and_then(Pid::from_raw)
    else {
        return;
    };
    if let Err(error) = kill_process_group(group, signal)
        && error != rustix::io::Errno::SRCH
    {
        tracing::warn!(pid, ?signal, %error, "can't signal a process group");
    }
}
