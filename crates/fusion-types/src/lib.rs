//! The vocabulary that the sibling crates share, and the traits by which they meet.
//!
//! No I/O and no runtime: `fusion-models`, `fusion-orchestrator` and `fusion-storage` see each other only through what
//! stands here. A type belongs here when two siblings need it, and not before.

pub mod blob;
mod bounds;
pub mod call;
pub mod chat;
mod chat_body;
pub mod completion;
mod completion_body;
pub mod document;
pub mod embedding;
pub mod engine;
pub mod error;
pub mod id;
pub mod inference;
pub mod job;
pub mod json;
pub mod model;
pub mod model_ref;
pub mod outgoing;
pub mod page;
pub mod projector;
pub mod record;
pub mod rerank;
pub mod store;
pub mod time;

pub use call::{Call, Class, Tenant};
pub use error::{Error, ErrorCode, Result};
pub use time::Timestamp;
