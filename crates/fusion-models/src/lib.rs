//! Models as child processes in one memory budget: what can be loaded, what is, who may use it, and what has to go.
//!
//! [`Models`] is a cheap handle on the registry, one task that owns everything that changes. What the registry does is decided
//! by a pure scheduler; what it costs is charged by predicted bytes and corrected by measured ones. Engines are children that
//! speak the dialect of `fusion_types::engine` over a Unix socket.

mod catalog;
mod config;
#[cfg(feature = "cuda")]
mod cuda;
pub mod download;
mod engine;
mod eviction;
mod gate;
mod inference;
mod lease;
mod machine;
mod memory;
mod memory_reader;
mod models;
mod quantize;
mod registry;
mod report;
mod routing;
mod scheduler;
mod stats;
mod tally;
#[cfg(any(feature = "cuda", test))]
mod visible_devices;

/// The namespaces of the records that a server keeps about its own models.
pub const RECORDS: [&str; 2] = [catalog::REMEMBERED, memory::NAMESPACE];

pub use config::{
    Auto, Concurrency, Config, EvictionPolicy, ForeignEngine, KnownFolders, ModelDefinition,
};
pub use machine::MachineMemory;
pub use memory_reader::{DeviceMemory, MemoryOf, MemoryReader};
pub use models::Models;
pub use quantize::{Quantize, Quantized, quantize};
pub use report::{
    Diagnostics, Eviction, EvictionReason, ForgetReport, LoadPlan, LoadReport, LoadRequest,
    ModelInfo, ModelQueue, ModelStats, Percentiles, QueueStats, RecentError, ReplicaInfo,
    UnloadReport,
};
pub use routing::choose_among;
