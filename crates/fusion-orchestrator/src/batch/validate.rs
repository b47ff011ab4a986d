//! `validating`: every line is read and checked before the first is done. Nothing is kept of it, so that it can begin anew.

use std::collections::HashSet;

use fusion_types::Result;
use sha2::{Digest, Sha256};

use super::{
    Asked, Parts, Status, finish,
    hold::Held,
    line::{self, LineError, Request},
    lines::{Line, Lines, Place},
    record::Batch,
};
use crate::jobs::Work;

/// Errors that are told; reading ends there.
const MOST_ERRORS: usize = 100;
/// Lines between two pauses in which others get the thread.
const AT_ONCE: u64 = 64;

#[derive(Default)]
struct Checked {
    requests: u64,
    errors: Vec<LineError>,
}

pub(super) async fn validate(held: &mut Held) -> Result<()> {
    let (parts, batch) = (held.parts.clone(), held.batch.clone());
    let checked = held.during(check(&parts, &batch)).await?;
    if !checked.errors.is_empty() {
        return finish::fail(held, checked.errors).await;
    }
    held.update(|batch, now| {
        if batch.status == Status::Validating {
            batch.status = Status::InProgress;
            batch.times.in_progress = Some(now);
        }
        batch.total = checked.requests;
    })
    .await
}

async fn check(parts: &Parts, batch: &Batch) -> Result<Checked> {
    let input = parts.files.bytes(&batch.blob, 0).await?;
    let mut lines = Lines::new(input, Place::default(), parts.longest_line());
    let (mut checked, mut seen) = (Checked::default(), HashSet::new());
    while let Some(line) = lines.next().await? {
        if checked.requests == parts.config.most_lines {
            let message = format!(
                "The input has more than {} requests.",
                parts.config.most_lines
            );
            let error = LineError::of_input("too_many_tasks", message);
            checked.errors.push(error);
            return Ok(checked);
        }
        checked.requests += 1;
        if let Err(error) = check_line(parts, batch, &line, &mut seen) {
            checked.errors.push(error);
        }
        if checked.errors.len() == MOST_ERRORS {
            return Ok(checked);
        }
        if checked.requests.is_multiple_of(AT_ONCE) {
            tokio::task::yield_now().await;
        }
    }
    if checked.requests == 0 {
        let message = "The input file is empty.";
        checked
            .errors
            .push(LineError::of_input("empty_file", message));
    }
    Ok(checked)
}

fn check_line(
    parts: &Parts,
    batch: &Batch,
    line: &Line,
    seen: &mut HashSet<[u8; 16]>,
) -> Result<(), LineError> {
    let Request { custom_id, body } = request(batch, line)?;
    if !seen.insert(short_hash(&custom_id)) {
        let message = "The custom_id of this line is another line's as well; each must be unique.";
        let code = "duplicate_custom_id";
        return Err(LineError::new(
            line.number,
            code,
            Some("custom_id"),
            message,
        ));
    }
    let Asked { model, input, .. } = parts
        .dialect
        .read(batch.endpoint, body)
        .map_err(|error| LineError::of_body(line.number, &error))?;
    let work = Work {
        operation: batch.endpoint.operation(),
        model_id: Some(model),
        input,
    };
    parts
        .jobs
        .check(&work)
        .map_err(|error| LineError::of_job(line.number, &error))
}

/// What a line asks for.
pub(super) fn request(batch: &Batch, line: &Line) -> Result<Request, LineError> {
    let Some(bytes) = &line.bytes else {
        let message = "This line is too long.";
        return Err(LineError::new(line.number, "line_too_long", None, message));
    };
    line::read(line.number, bytes, batch.endpoint)
}

/// Enough to tell 50,000 ids apart, in a tenth of their room.
fn short_hash(text: &str) -> [u8; 16] {
    let hash = Sha256::digest(text);
    let mut short = [0; 16];
    short.copy_from_slice(&hash[..16]);
    short
}
