//! Model processes: their start, their end, and the dialect's client side.

mod chat;
mod client;
mod command;
mod footprint;
mod foreign;
mod inline;
mod limiter;
mod log_ring;
mod predict;
mod process;
mod runtime_dir;
mod sse;
mod supervisor;
mod translate;
mod wire;

pub(crate) use chat::ChatEvents;
pub(crate) use client::Client;
pub(crate) use command::{Launch, command, find};
pub(crate) use footprint::{Held, measure, own_bytes, share};
pub(crate) use foreign::{Foreign, PLACES, filled, find_program};
pub(crate) use limiter::{Limiter, Outcome};
pub(crate) use log_ring::LogRing;
pub(crate) use predict::{predict, refusal};
pub(crate) use process::Spawner;
pub(crate) use runtime_dir::RuntimeDir;
pub(crate) use supervisor::{End, Engine, Start, StartError, Stop, start};
