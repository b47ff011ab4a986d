//! Schedules that servers share (see `crate::rate`), by Redis' own clock.

use std::{sync::LazyLock, time::Duration};

use redis::{RedisResult, Script, aio::MultiplexedConnection};

use crate::rate::Rate;

/// KEYS: the client's. ARGV: interval and tolerance. Answers how long to wait; all in microseconds.
const ADMIT: &str = r"
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local interval, tolerance = tonumber(ARGV[1]), tonumber(ARGV[2])
local on_schedule = math.max(tonumber(redis.call('GET', KEYS[1]) or 0), now)
local early = on_schedule - now
if early > tolerance then return early - tolerance end
local value = string.format('%d', on_schedule + interval)
redis.call('SET', KEYS[1], value, 'PX', math.ceil((early + interval) / 1000))
return 0
";

static ADMIT_SCRIPT: LazyLock<Script> = LazyLock::new(|| Script::new(ADMIT));

pub(super) async fn admit(
    connection: &mut MultiplexedConnection,
    key: &str,
    rate: Rate,
) -> RedisResult<Result<(), Duration>> {
    let micros = |duration: Duration| u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
    let mut call = ADMIT_SCRIPT.key(key);
    call.arg(micros(rate.interval))
        .arg(micros(rate.tolerance()));
    let wait: u64 = call.invoke_async(connection).await?;
    Ok(match wait {
        0 => Ok(()),
        micros => Err(Duration::from_micros(micros)),
    })
}
