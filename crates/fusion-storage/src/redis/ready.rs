//! The ready set: jobs by their place in the queue.

use std::sync::LazyLock;

use fusion_types::{id::JobId, job::Claim};
use redis::{RedisResult, Script, aio::MultiplexedConnection};

use crate::queue::Ready;

/// Takes out the first jobs that could run here, those of held models before the others. Of a long queue only the beginning is
/// looked at. KEYS: the set. ARGV: how many, how many held models there are, these, and all models that can run here.
const TAKE: &str = r"
local wanted, count = tonumber(ARGV[1]), tonumber(ARGV[2])
local held, known = {}, { [''] = true }
for i = 3, 2 + count do held[ARGV[i]] = true end
for i = 3 + count, #ARGV do known[ARGV[i]] = true end
local first = redis.call('ZRANGE', KEYS[1], 0, math.max(wanted, 200) - 1)
local taken = {}
local function take(models)
    for i, member in ipairs(first) do
        if #taken >= wanted then return end
        local id, model = string.match(member, '^(%S+) (.*)$')
        if id and models[model] then
            taken[#taken + 1] = id
            redis.call('ZREM', KEYS[1], member)
            first[i] = ''
        end
    end
end
take(held)
take(known)
return taken
";

/// Longer than a queue gets before anybody would wait for its end; what doesn't fit comes in as places get free.
const LONGEST: isize = 100_000;

static TAKE_SCRIPT: LazyLock<Script> = LazyLock::new(|| Script::new(TAKE));

pub(super) async fn take(
    connection: &mut MultiplexedConnection,
    key: &str,
    claim: &Claim,
) -> RedisResult<Vec<JobId>> {
    let mut call = TAKE_SCRIPT.key(key);
    call.arg(claim.limit).arg(claim.held_models.len());
    for model in claim.held_models.iter().chain(&claim.known_models) {
        call.arg(model);
    }
    let taken: Vec<String> = call.invoke_async(connection).await?;
    Ok(taken.iter().map(|id| JobId::from_text(id)).collect())
}

pub(super) async fn put(
    connection: &mut MultiplexedConnection,
    key: &str,
    ready: &[Ready],
) -> RedisResult<()> {
    let mut together = redis::pipe();
    let mut add = redis::cmd("ZADD");
    add.arg(key);
    for job in ready {
        add.arg(job.sort_key).arg(member(job));
    }
    together.add_command(add).ignore();
    together
        .cmd("ZREMRANGEBYRANK")
        .arg(key)
        .arg(LONGEST)
        .arg(-1)
        .ignore();
    together.query_async(connection).await
}

/// Ids have no spaces in them.
fn member(job: &Ready) -> String {
    let model = job.model_id.as_deref().unwrap_or_default();
    format!("{} {model}", job.job_id)
}
