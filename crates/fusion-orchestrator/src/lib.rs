//! What is built on models and stores: workflows, retrieval, jobs, files, batches and webhooks. Knows neither HTTP nor a database.

pub mod batch;
pub mod choices;
pub mod files;
pub mod jobs;
mod newest_first;
pub mod rag;
pub mod webhook;
pub mod workflow;
