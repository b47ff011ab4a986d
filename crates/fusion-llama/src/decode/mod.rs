//! The decode thread: it alone owns the context, and runs all slots together, one batch a step.
//!
//! It never waits for a client and never formats: it sends token ids into bounded channels, and takes a slot whose channel is
//! full out of the batch. It parks when there is nothing to compute; whoever changes that wakes it.

mod cache;
mod crowd;
mod decoder;
mod draft;
mod idle;
mod job;
mod ledger;
mod likely;
mod mixes;
mod pace;
mod piece;
mod plan;
mod prefix;
mod see;
mod shared;
mod slot;
mod stowed;
mod thread;
mod turns;

pub(crate) use draft::{MOST_STREAMS, differs};
pub(crate) use job::{Job, OUTPUTS, Output};
pub(crate) use likely::Likely;
pub(crate) use piece::{Piece, Pieces, Places};
pub(crate) use thread::{DecodeThread, Waker};
