//! What is built on models and stores: workflows, retrieval, jobs and webhooks. Knows neither HTTP nor a database.

pub mod jobs;
pub mod rag;
pub mod webhook;
pub mod workflow;
