//! How far a job is, told by its work and written by its runner.

use tokio::sync::watch;

/// Where an operation says how far it is; cheap to say often.
#[derive(Clone, Debug)]
pub struct Progress(watch::Sender<f32>);

impl Progress {
    pub(crate) fn new() -> (Self, watch::Receiver<f32>) {
        let (sender, receiver) = watch::channel(0.0);
        (Self(sender), receiver)
    }

    /// From 0 to 1; going back is ignored.
    pub fn set(&self, part: f32) {
        let part = part.clamp(0.0, 1.0);
        self.0.send_if_modified(|now| {
            let further = part > *now;
            if further {
                *now = part;
            }
            further
        });
    }
}
