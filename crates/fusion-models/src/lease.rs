//! The right to use a model: while one is out, the model stays.

use std::{sync::Arc, time::Instant};

use fusion_types::{Error, model::ModelId};

use crate::{
    engine::Engine,
    registry::{Mailbox, Message},
    scheduler::board::Incarnation,
    stats::Sample,
};

/// One slot of one process. It goes back when this is dropped.
pub(crate) struct Lease {
    pub(crate) model: ModelId,
    pub(crate) engine: Arc<Engine>,
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
        incarnation: Incarnation,
        mailbox: Mailbox,
    ) -> Self {
        Self {
            model,
            engine,
            incarnation,
            since: Instant::now(),
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
        // Without a registry there is nobody left to whom it could matter.
        let _ = self.mailbox.send(Message::Released {
            model: self.model.clone(),
            incarnation: self.incarnation,
            held: self.since.elapsed(),
            sample: self.sample,
            error: self.error.take(),
        });
    }
}
