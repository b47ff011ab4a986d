//! Small JSON records by namespace and key: webhooks, deliveries, cursors, model definitions.

use serde_json::Value;

use crate::Timestamp;

#[derive(Clone, Debug, PartialEq)]
pub struct Record {
    pub key: String,
    pub value: Value,
    /// Rises with each write of this record, from 1.
    pub version: u64,
}

/// One change among those that commit together.
#[derive(Clone, Debug, PartialEq)]
pub struct RecordWrite {
    pub namespace: &'static str,
    pub key: String,
    /// `None` deletes.
    pub value: Option<Value>,
    pub expect: Expect,
    /// Gone, as if deleted, from this time on.
    pub expires_at: Option<Timestamp>,
}

/// What must be true of the stored record for the write to happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expect {
    Anything,
    Absent,
    Version(u64),
}

impl RecordWrite {
    pub fn put(namespace: &'static str, key: impl Into<String>, value: Value) -> Self {
        Self {
            namespace,
            key: key.into(),
            value: Some(value),
            expect: Expect::Anything,
            expires_at: None,
        }
    }

    pub fn delete(namespace: &'static str, key: impl Into<String>) -> Self {
        Self {
            namespace,
            key: key.into(),
            value: None,
            expect: Expect::Anything,
            expires_at: None,
        }
    }

    pub fn expecting(mut self, expect: Expect) -> Self {
        self.expect = expect;
        self
    }

    pub fn expiring(mut self, at: Timestamp) -> Self {
        self.expires_at = Some(at);
        self
    }
}
