//! `[limits]`.

use std::time::Duration;

use fusion_storage::Rate;

use super::Reader;

const MINUTE: Duration = Duration::from_secs(60);

/// How often a client may ask; `None` where there is no limit.
pub(super) fn rate(reader: &mut Reader) -> Option<Rate> {
    let per_minute: u32 = reader.take("limits.requests_per_minute");
    let burst: u32 = reader.take("limits.burst");
    if burst == 0 {
        reader.problem("limits.burst", "must be at least 1");
    }
    let interval = MINUTE.checked_div(per_minute)?;
    Some(Rate { interval, burst })
}
