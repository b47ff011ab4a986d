//! From a request to a job that can be kept: everything that can be refused is refused here.

use std::{cmp::max, ops::RangeInclusive, time::Duration};

use fusion_types::{
    Call, Error, Result,
    id::JobId,
    job::{Idempotency, NewJob, handicap},
};
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

use super::{Config, Forecast, Parts, SubmitRequest, Work};

const MOST_ATTEMPTS: u32 = 20;
const MOST_DEPENDENCIES: usize = 100;
const LONGEST_KEY: usize = 255;
const LONGEST_METADATA: usize = 16 * 1024;
const FURTHEST: Duration = Duration::from_secs(366 * 24 * 3600);

/// The job to keep, and what is expected of it.
pub(super) fn check(
    parts: &Parts,
    call: &Call,
    request: SubmitRequest,
    header_key: Option<String>,
) -> Result<(NewJob, Forecast)> {
    let config = &parts.config;
    check_bounds(&request, config)?;
    if let Some(url) = &request.callback_url {
        parts
            .outgoing
            .check(url)
            .map_err(|error| error.with_param("callback_url"))?;
    }
    let idempotency = idempotency(&request, header_key)?;
    let now = (parts.clock)();
    let run_at = request.run_at.unwrap_or(now);
    if run_at.since(now) > FURTHEST {
        return Err(Error::invalid("run_at", "run_at must be within a year"));
    }
    let work = Work {
        operation: request.operation,
        model_id: request.model_id,
        input: request.input,
    };
    let forecast = parts.operations.check(&work)?;
    let id = JobId::generate();
    let input = match &config.seal {
        Some(seal) => seal.close(&id, work.input)?,
        None => work.input,
    };
    let new = NewJob {
        id,
        tenant: call.tenant.clone(),
        request_id: call.request_id.clone(),
        operation: work.operation,
        model_id: work.model_id,
        input,
        priority: request.priority,
        metadata: request.metadata,
        callback_url: request.callback_url,
        idempotency,
        created_at: now,
        run_at: max(run_at, now),
        sort_key: if run_at > now {
            // Its turn is a matter of that time, not of the tenant's jobs of now.
            run_at
                .as_millis()
                .saturating_add(handicap(request.priority))
        } else {
            parts.turns.place(&call.tenant, request.priority, now)
        },
        timeout: request
            .timeout_ms
            .map_or(config.default_timeout, Duration::from_millis),
        max_attempts: request.max_attempts.unwrap_or(config.max_attempts),
        ttl: request
            .ttl_seconds
            .map_or(config.job_ttl, Duration::from_secs),
        group: request.group,
        depends_on: request
            .depends_on
            .iter()
            .map(|id| JobId::from_text(id))
            .collect(),
    };
    Ok((new, forecast))
}

fn check_bounds(request: &SubmitRequest, config: &Config) -> Result<()> {
    if request.depends_on.len() > MOST_DEPENDENCIES {
        let message = format!("a job depends on {MOST_DEPENDENCIES} others at most");
        return Err(Error::invalid("depends_on", message));
    }
    let longest_timeout = u64::try_from(config.longest_timeout.as_millis()).unwrap_or(u64::MAX);
    within("timeout_ms", request.timeout_ms, 1..=longest_timeout)?;
    within(
        "max_attempts",
        request.max_attempts.map(u64::from),
        1..=u64::from(MOST_ATTEMPTS),
    )?;
    within(
        "ttl_seconds",
        request.ttl_seconds,
        1..=config.job_ttl.as_secs(),
    )?;
    shorter("group", request.group.as_deref())?;
    shorter("model_id", request.model_id.as_deref())?;
    let size = |value| serde_json::to_vec(value).map_or(usize::MAX, |bytes| bytes.len());
    if size(&request.input) > config.max_input_bytes {
        return Err(Error::invalid(
            "input",
            format!("the input is larger than {} bytes", config.max_input_bytes),
        ));
    }
    if size(&Value::Object(request.metadata.clone())) > LONGEST_METADATA {
        return Err(Error::invalid(
            "metadata",
            format!("the metadata is larger than {LONGEST_METADATA} bytes"),
        ));
    }
    Ok(())
}

fn within(param: &str, value: Option<u64>, range: RangeInclusive<u64>) -> Result<()> {
    match value {
        Some(value) if !range.contains(&value) => Err(Error::invalid(
            param,
            format!("{param} must be from {} to {}", range.start(), range.end()),
        )),
        _ => Ok(()),
    }
}

fn shorter(param: &str, value: Option<&str>) -> Result<()> {
    match value {
        Some(text) if text.is_empty() || text.len() > LONGEST_KEY => Err(Error::invalid(
            param,
            format!("{param} must have from 1 to {LONGEST_KEY} bytes"),
        )),
        _ => Ok(()),
    }
}

fn idempotency(request: &SubmitRequest, header: Option<String>) -> Result<Option<Idempotency>> {
    let key = match (&request.idempotency_key, header) {
        (Some(body), Some(header)) if *body != header => {
            return Err(Error::invalid(
                "idempotency_key",
                "the body's idempotency key differs from the header's",
            ));
        }
        (body, header) => header.or_else(|| body.clone()),
    };
    shorter("idempotency_key", key.as_deref())?;
    key.map(|key| {
        Ok(Idempotency {
            key,
            body_hash: body_hash(request)?,
        })
    })
    .transpose()
}

/// Over the request without its key, so that the order of fields, and defaults written out, make no difference.
fn body_hash(request: &SubmitRequest) -> Result<String> {
    let value =
        serde_json::to_value(request).map_err(|error| Error::internal(error.to_string()))?;
    Ok(hex::encode(Sha256::digest(sorted(value).to_string())))
}

/// The same value with the fields of every object in order, whatever order the map type keeps.
fn sorted(value: Value) -> Value {
    match value {
        Value::Object(fields) => {
            let mut fields: Vec<_> = fields
                .into_iter()
                .map(|(name, value)| (name, sorted(value)))
                .collect();
            fields.sort_by(|(a, _), (b, _)| a.cmp(b));
            Value::Object(Map::from_iter(fields))
        }
        Value::Array(items) => Value::Array(items.into_iter().map(sorted).collect()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use fusion_types::job::Operation;
    use serde_json::json;

    use super::*;

    fn request(value: Value) -> SubmitRequest {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn the_hash_ignores_order_defaults_and_the_key() {
        let one = json!({"operation": "embed", "model_id": "m", "input": {"a": 1, "b": [2]}, "idempotency_key": "k"});
        let same = json!({"input": {"b": [2], "a": 1}, "priority": "normal", "model_id": "m", "operation": "embed"});
        let other = json!({"operation": "embed", "model_id": "m", "input": {"a": 1, "b": [3]}});
        let hash = |value| body_hash(&request(value)).unwrap();
        assert_eq!(hash(one.clone()), hash(same));
        assert_ne!(hash(one), hash(other));
    }

    #[test]
    fn bounds_are_kept() {
        let refused = |change: fn(&mut SubmitRequest)| {
            let mut request = SubmitRequest::new(Operation::Chat, json!({}));
            change(&mut request);
            check_bounds(&request, &Config::default())
                .unwrap_err()
                .param
                .unwrap()
        };
        assert_eq!(
            refused(|request| request.timeout_ms = Some(0)),
            "timeout_ms"
        );
        assert_eq!(
            refused(|request| request.max_attempts = Some(21)),
            "max_attempts"
        );
        assert_eq!(
            refused(|request| request.ttl_seconds = Some(u64::MAX)),
            "ttl_seconds"
        );
        assert_eq!(
            refused(|request| request.group = Some(String::new())),
            "group"
        );
        assert_eq!(
            refused(|request| request.depends_on = vec!["job-1".to_owned(); 101]),
            "depends_on"
        );
        assert_eq!(
            refused(|request| request.input = Value::from("x".repeat(10_000_000))),
            "input"
        );
    }

    #[test]
    fn two_different_keys_are_refused() {
        let mut request = SubmitRequest::new(Operation::Chat, json!({}));
        request.idempotency_key = Some("a".to_owned());
        assert!(idempotency(&request, Some("b".to_owned())).is_err());
        assert_eq!(
            idempotency(&request, Some("a".to_owned()))
                .unwrap()
                .unwrap()
                .key,
            "a"
        );
    }
}
