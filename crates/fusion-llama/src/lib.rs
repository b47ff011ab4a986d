//! One GGUF model in one process, through llama.cpp: several requests at a time in one batch, their prompts read in chunks
//! between the tokens of running streams, and what a slot has read before read only once.
//!
//! `engine` is the way in; `decode` is the thread that computes, with its decisions in `decode::{plan, pace, prefix}`; a
//! `generation` turns the tokens of one request into text and events on that request's own task: what the template calls reasoning
//! and calls is told apart by `reply`, what images and sounds say comes through `media`, and what an answer must look like is a `grammar`, made of a `schema` or by the template.

mod adapters;
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
mod attention;
mod calls;
mod decode;
mod device;
mod embed;
mod engine;
mod generation;
mod gguf;
mod grammar;
mod llama;
mod logprobs;
mod loose;
mod matmul;
mod media;
mod model_file;
mod off_thread;
mod options;
mod prompt;
mod quantize;
mod quantize_command;
mod raw_prompt;
mod repack;
mod reply;
mod rerank;
mod sampler;
mod schema;
mod shape;
mod slots;
mod spans;
mod speculation;
mod text;
mod warmup;
mod word_spans;
mod worker;

pub use embed::Embedder;
pub use engine::Llama;
pub use quantize_command::quantize;
pub use rerank::Reranker;
