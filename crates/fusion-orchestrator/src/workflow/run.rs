//! Runs steps one after another and keeps their trace.

use std::{future::Future, time::Instant};

use fusion_types::{Call, Error, ErrorCode, Result, Timestamp, model::ModelId};

use super::request::{RunError, StepError, StepStatus, TraceEntry};

/// A run at work.
pub(super) struct Run<'a> {
    pub(super) call: &'a Call,
    trace: Vec<TraceEntry>,
}

/// What a step made, and with what.
pub(super) struct Made<T> {
    pub(super) value: T,
    pub(super) model: Option<ModelId>,
    /// Tokens read and written.
    pub(super) tokens: Option<u32>,
}

impl<'a> Run<'a> {
    pub(super) fn new(call: &'a Call) -> Self {
        Self {
            call,
            trace: Vec::new(),
        }
    }

    /// A step that the run can't do without.
    ///
    /// # Errors
    /// What the run failed with.
    pub(super) async fn require<T>(
        &mut self,
        step: &str,
        model: Option<&ModelId>,
        work: impl Future<Output = Result<Made<T>>> + Send,
    ) -> Result<T, RunError> {
        self.step(step, model, work)
            .await
            .map_err(|error| RunError {
                code: error.code,
                message: error.message,
                step: step.to_owned(),
            })
    }

    /// A step that the run goes on without: where it fails, the run ends partial.
    pub(super) async fn attempt<T>(
        &mut self,
        step: &str,
        model: Option<&ModelId>,
        work: impl Future<Output = Result<Made<T>>> + Send,
    ) -> Option<T> {
        self.step(step, model, work).await.ok()
    }

    /// An optional step that can't even start.
    pub(super) fn skip(&mut self, step: &str, error: &Error) {
        self.trace.push(TraceEntry {
            step: step.to_owned(),
            model: None,
            status: StepStatus::Skipped,
            duration_ms: 0,
            attempts: 0,
            started_at: Timestamp::now(),
            tokens: None,
            error: Some(StepError {
                code: error.code,
                message: error.message.clone(),
            }),
        });
    }

    pub(super) fn into_trace(self) -> Vec<TraceEntry> {
        self.trace
    }

    async fn step<T>(
        &mut self,
        step: &str,
        model: Option<&ModelId>,
        work: impl Future<Output = Result<Made<T>>> + Send,
    ) -> Result<T> {
        let (started_at, started) = (Timestamp::now(), Instant::now());
        let outcome = self.in_time(work).await;
        let mut entry = TraceEntry {
            step: step.to_owned(),
            model: model.map(ToString::to_string),
            status: StepStatus::Completed,
            duration_ms: u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX),
            attempts: 1,
            started_at,
            tokens: None,
            error: None,
        };
        let value = match outcome {
            Ok(made) => {
                entry.model = made.model.map(|model| model.to_string()).or(entry.model);
                entry.tokens = made.tokens;
                Ok(made.value)
            }
            Err(error) => {
                entry.status = StepStatus::Failed;
                entry.error = Some(StepError {
                    code: error.code,
                    message: error.message.clone(),
                });
                Err(error)
            }
        };
        self.trace.push(entry);
        value
    }

    /// The deadline holds whatever the step does.
    async fn in_time<T>(&self, work: impl Future<Output = Result<T>> + Send) -> Result<T> {
        self.call.check_deadline()?;
        match self.call.deadline {
            None => work.await,
            Some(deadline) => tokio::time::timeout_at(deadline.into(), work)
                .await
                .unwrap_or_else(|_| {
                    Err(Error::new(
                        ErrorCode::Timeout,
                        "the run's time was up during this step",
                    ))
                }),
        }
    }
}
