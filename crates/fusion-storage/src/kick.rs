//! A word that something may have changed: a hint, never the truth.

use tokio::sync::watch;

#[derive(Clone)]
pub(crate) struct Kick {
    here: watch::Sender<()>,
    elsewhere: watch::Sender<()>,
}

/// Hears of what happens from its making on.
pub(crate) struct Listener {
    here: watch::Receiver<()>,
    elsewhere: watch::Receiver<()>,
}

impl Default for Kick {
    fn default() -> Self {
        Self {
            here: watch::Sender::new(()),
            elsewhere: watch::Sender::new(()),
        }
    }
}

impl Kick {
    /// This server has written something.
    pub(crate) fn written_here(&self) {
        self.here.send_replace(());
    }

    /// Another server says that it has.
    pub(crate) fn written_elsewhere(&self) {
        self.elsewhere.send_replace(());
    }

    pub(crate) fn listen(&self) -> Listener {
        Listener {
            here: self.here.subscribe(),
            elsewhere: self.elsewhere.subscribe(),
        }
    }

    /// Hears of what this server writes alone.
    pub(crate) fn listen_here(&self) -> watch::Receiver<()> {
        self.here.subscribe()
    }
}

impl Listener {
    /// What was heard so far is forgotten.
    pub(crate) fn forget(&mut self) {
        self.here.mark_unchanged();
        self.elsewhere.mark_unchanged();
    }

    pub(crate) async fn hear(&mut self) {
        tokio::select! {
            _ = self.here.changed() => {}
            _ = self.elsewhere.changed() => {}
        }
    }
}
