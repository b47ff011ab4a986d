//! How well documents answer a query, by a model that reads both together.
//!
//! A model with a classification head scores a pair by it (`pairs` makes them, [`crate::embed`] computes them). Any other model that
//! chats is asked whether the document fits, and the score is the probability of "yes" against "no" (`question` words it, `judge`
//! computes it, the part that all documents have in common only once).

mod engine;
mod judge;
mod pairs;
mod question;

pub use engine::Reranker;
