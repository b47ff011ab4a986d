//! What every backend must do: one suite a trait.

pub mod documents;
pub mod indexes;
pub mod jobs;
pub mod records;
