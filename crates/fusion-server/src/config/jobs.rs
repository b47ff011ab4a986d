//! `[jobs]`.

use std::{fmt, time::Duration};

use fusion_storage::Inputs;
use serde::Deserialize;

use super::{Reader, days, hours, seconds, text};
use crate::payload_key;

#[derive(Clone)]
pub(crate) struct Jobs {
    pub(crate) ttl: Duration,
    pub(crate) max_queued: u64,
    pub(crate) parallel: u32,
    pub(crate) timeout: Duration,
    pub(crate) max_attempts: u32,
    pub(crate) payloads: Payloads,
    pub(crate) payload_key: Option<[u8; 32]>,
    /// A failed job's input is kept for this long.
    pub(crate) failed_payload: Duration,
}

/// What becomes of the inputs of jobs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Payloads {
    #[default]
    UntilDone,
    Keep,
    /// As `UntilDone`, and nobody can read them in the store.
    Encrypted,
}

impl fmt::Debug for Jobs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Jobs")
            .field("payloads", &self.payloads)
            .finish_non_exhaustive()
    }
}

impl Jobs {
    pub(super) fn take(reader: &mut Reader, is_shared: bool) -> Self {
        let payloads = reader.take("jobs.payloads");
        let key = text(reader, "jobs.payload_key");
        let payload_key = key.as_deref().and_then(payload_key::parse);
        if key.is_some() && payload_key.is_none() {
            reader.problem("jobs.payload_key", "must be 32 bytes in base64");
        }
        if payloads == Payloads::Encrypted && is_shared && key.is_none() {
            let problem = "must be set: servers that share a store need the same key (openssl rand -base64 32)";
            reader.problem("jobs.payload_key", problem);
        }
        Self {
            ttl: days(reader, "jobs.ttl_days"),
            max_queued: reader.take("jobs.max_queued"),
            parallel: reader.take("jobs.parallel"),
            timeout: seconds(reader, "jobs.timeout_seconds"),
            max_attempts: reader.take("jobs.max_attempts"),
            payloads,
            payload_key,
            failed_payload: hours(reader, "jobs.failed_payload_hours"),
        }
    }

    pub(crate) fn inputs(&self) -> Inputs {
        match self.payloads {
            Payloads::UntilDone | Payloads::Encrypted => Inputs::UntilDone {
                after_failure: self.failed_payload,
            },
            Payloads::Keep => Inputs::Keep,
        }
    }
}
