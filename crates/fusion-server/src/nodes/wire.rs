//! What servers that share a store say to each other when one runs a model for another.

use std::time::{Duration, Instant};

use fusion_types::{
    Call, Class, Tenant, chat::ChatEvent, error::ErrorBody, id::RequestId, model::ModelId,
};
use reqwest::header::HeaderName;
use serde::{Deserialize, Serialize};

/// Each way to run a model has its own path below.
pub(crate) const PATH: &str = "/internal/inference";
/// Which server asks, and its token.
pub(crate) const SIGN: HeaderName = HeaderName::from_static("x-fusion-node");

/// The body of a request: a request to a model, and the call that it belongs to.
#[derive(Serialize, Deserialize)]
pub(crate) struct Asked<R> {
    request_id: RequestId,
    tenant: Tenant,
    class: Class,
    /// What was left until the deadline when it was sent.
    deadline_ms: Option<u64>,
    depth: u8,
    request: R,
}

impl<R> Asked<R> {
    pub(super) fn new(call: &Call, request: R) -> Self {
        let left = |deadline: Instant| {
            let left = deadline.saturating_duration_since(Instant::now());
            u64::try_from(left.as_millis()).unwrap_or(u64::MAX)
        };
        Self {
            request_id: call.request_id.clone(),
            tenant: call.tenant.clone(),
            class: call.class,
            deadline_ms: call.deadline.map(left),
            depth: call.depth,
            request,
        }
    }

    pub(crate) fn into_parts(self) -> (Call, R) {
        let left = self.deadline_ms.map(Duration::from_millis);
        let call = Call {
            request_id: self.request_id,
            tenant: self.tenant,
            class: self.class,
            deadline: left.and_then(|left| Instant::now().checked_add(left)),
            depth: self.depth,
        };
        (call, self.request)
    }
}

/// The request for tokens.
#[derive(Serialize, Deserialize)]
pub(crate) struct Tokenize {
    pub(crate) model: String,
    pub(crate) texts: Vec<String>,
}

/// A line of the answer of a generation.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Said {
    /// The first one.
    Began {
        model: ModelId,
        route: Option<String>,
    },
    Event(ChatEvent),
    /// The last one.
    Failed(ErrorBody),
    /// The last one.
    Ended,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_arrives_as_it_was() {
        let call = Call::interactive(RequestId::from_text("r"), Tenant::new("t"))
            .with_class(Class::Ingest);
        let call = call.with_deadline(Instant::now() + Duration::from_secs(60));
        let text = serde_json::to_string(&Asked::new(&call, 7)).unwrap();
        let (there, request) = serde_json::from_str::<Asked<u8>>(&text)
            .unwrap()
            .into_parts();
        assert_eq!(request, 7);
        assert_eq!(
            (there.request_id, there.tenant, there.class, there.depth),
            (call.request_id, call.tenant, call.class, call.depth)
        );
        let off = call.deadline.unwrap() - there.deadline.unwrap();
        assert!(off < Duration::from_secs(5), "{off:?}");
    }
}
