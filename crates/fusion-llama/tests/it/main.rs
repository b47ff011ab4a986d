#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stderr,
    reason = "test code"
)]

mod adapter_file;
mod adapters;
mod bad_files;
mod batching;
mod chat;
mod classes;
mod completion;
mod embed;
mod limits;
mod logprobs;
mod media;
mod model;
mod options;
mod prefix;
mod quantize;
mod reasoning;
mod rerank;
mod shared;
mod speculation;
mod speed;
mod structured;
mod support;
mod tools;
