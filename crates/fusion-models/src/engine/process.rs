//! One thread that starts every child and lives as long as any of them may.
//!
//! Children ask the kernel to be killed when their parent dies, and to the kernel the parent is the thread that started
//! them: a child started from a pool's thread would die with that thread.

use std::{io, sync::mpsc, thread};

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::{
    process::{Child, Command},
    runtime::Handle,
    sync::oneshot,
};

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
                // A child that nobody waits for any more is killed as it is dropped.
                let _ = reply.send(command.spawn());
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
