//! Who asks, how urgently, and until when.

use std::{sync::Arc, time::Instant};

use serde::{Deserialize, Serialize};

use crate::{Error, ErrorCode, Result, id::RequestId};

/// The owner of jobs, documents and webhooks. Without authentication everything belongs to [`Tenant::default`].
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Tenant(Arc<str>);

impl Tenant {
    pub fn new(name: &str) -> Self {
        Self(name.into())
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Default for Tenant {
    fn default() -> Self {
        Self::new("default")
    }
}

/// How urgent a piece of work is: a person waits, a job waits, or nobody does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Class {
    Interactive,
    Job,
    Ingest,
}

impl Class {
    pub const ALL: [Self; 3] = [Self::Interactive, Self::Job, Self::Ingest];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Interactive => "interactive",
            Self::Job => "job",
            Self::Ingest => "ingest",
        }
    }

    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|class| class.as_str() == text)
    }
}

/// What travels with every call from the edge down to the engine. Dropping the call's future or stream cancels it.
#[derive(Clone, Debug)]
pub struct Call {
    pub request_id: RequestId,
    pub tenant: Tenant,
    pub class: Class,
    /// No part of the call may wait past this moment.
    pub deadline: Option<Instant>,
    /// How many workflows this call is nested in.
    pub depth: u8,
}

impl Call {
    pub fn interactive(request_id: RequestId, tenant: Tenant) -> Self {
        Self {
            request_id,
            tenant,
            class: Class::Interactive,
            deadline: None,
            depth: 0,
        }
    }

    pub fn with_class(mut self, class: Class) -> Self {
        self.class = class;
        self
    }

    pub fn with_deadline(mut self, deadline: Instant) -> Self {
        self.deadline = Some(deadline);
        self
    }

    /// # Errors
    /// `timeout` once the deadline has passed.
    pub fn check_deadline(&self) -> Result<()> {
        match self.deadline {
            Some(deadline) if Instant::now() >= deadline => Err(Error::new(
                ErrorCode::Timeout,
                "the request's deadline has passed",
            )),
            _ => Ok(()),
        }
    }
}
