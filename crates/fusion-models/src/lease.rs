//! The right to use a model: while one is out, the model stays.

use std::{sync::Arc, time::Instant};

use fusion_types::{Error, model::ModelId};

use crate::{
    engine::Engine,
    gate::Gate,
    registry::{Mailbox, Message},
    scheduler::board::Incarnation,
    stats::Sample,
};

/// One slot of one process. It goes back when this is dropped.
pub(crate) struct Lease {
    pub(crate) model: ModelId,
    pub(crate) engine: Arc<Engine>,
    gate: Arc<Gate>,
    incarnation: Incarnation,
    since: Instant,
    sample: Option<Sample>,
    error: Option<String>,
    mailbox: Mailbox,
}

impl Lease {
    pub(crate) fn new(
        model: ModelId,
        engine: Arc<Engine>,
        gate: Arc<Gate>,
        incarnation: Incarnation,
        mailbox: Mailbox,
        since: Instant,
    ) -> Self {
        Self {
            model,
            engine,
            gate,
            incarnation,
            since,
            sample: None,
            error: None,
            mailbox,
        }
    }

    /// Notes that the request was answered whole.
    pub(crate) fn answered(&mut self, sample: Sample) {
        self.sample = Some(sample);
    }

    /// Notes that the request failed, for the model's statistics. An error of the client's own isn't the model's.
    pub(crate) fn note(&mut self, error: &Error) {
        if error.code.status() >= 500 {
            self.error = Some(error.message.clone());
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let failed = self.error.is_some();
        let matters = self
            .gate
            .leave(self.incarnation, self.since, self.sample, failed);
        let message = match self.error.take() {
            Some(error) => Message::Failed {
                model: self.model.clone(),
                error,
            },
            None if matters => Message::Look,
            None => return,
        };
        // Without a registry there is nobody left to whom it could matter.
        let _ = self.mailbox.send(message);
    }
}
