//! How far a job is and what it has said so far, told by its work as it goes.

use tokio::sync::watch;

/// Where an operation says how far it is; cheap to say often.
#[derive(Clone, Debug)]
pub struct Progress {
    part: watch::Sender<f32>,
    partial: watch::Sender<Partial>,
}

/// The output so far; it only grows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Partial {
    pub(crate) content: String,
    pub(crate) reasoning_content: String,
}

/// The other end of a [`Progress`].
pub(crate) struct Reported {
    pub(crate) part: watch::Receiver<f32>,
    pub(crate) partial: watch::Receiver<Partial>,
}

impl Progress {
    pub(crate) fn new() -> (Self, Reported) {
        let (part, told_part) = watch::channel(0.0);
        let (partial, told_partial) = watch::channel(Partial::default());
        let reported = Reported {
            part: told_part,
            partial: told_partial,
        };
        (Self { part, partial }, reported)
    }

    /// From 0 to 1; going back is ignored.
    pub fn set(&self, part: f32) {
        let part = part.clamp(0.0, 1.0);
        self.part.send_if_modified(|now| {
            let further = part > *now;
            if further {
                *now = part;
            }
            further
        });
    }

    /// More of the output.
    pub fn add(&self, content: &str, reasoning_content: &str) {
        if content.is_empty() && reasoning_content.is_empty() {
            return;
        }
        self.partial.send_modify(|partial| {
            partial.content.push_str(content);
            partial.reasoning_content.push_str(reasoning_content);
        });
    }
}
