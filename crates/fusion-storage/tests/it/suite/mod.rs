//! What every backend must do: one suite a trait.

pub(crate) mod blobs;
pub(crate) mod documents;
pub(crate) mod indexes;
pub(crate) mod job_ends;
pub(crate) mod job_groups;
pub(crate) mod job_views;
pub(crate) mod jobs;
pub(crate) mod records;
