//! Callbacks of groups of jobs: made once all jobs of the group are finished.

use std::collections::HashSet;

use fusion_types::{Call, Error, Result, job::Change, record::RecordWrite};

use super::{
    Parts, Webhooks,
    record::{Delivery, GROUPS, GroupCallback, read, written},
};
use crate::jobs::GroupView;

const LONGEST_GROUP: usize = 255;
/// A callback of a group that never finishes is forgotten after this many times the jobs' own time.
const KEPT_TIMES: u32 = 8;

impl Webhooks {
    /// Calls the address back once, when the group's jobs are finished, signed with the server's own secret. Said before the jobs
    /// are handed in, so that none can be missed.
    ///
    /// # Errors
    /// `url_not_allowed`, `invalid_value`, `store_unavailable`.
    pub async fn call_back(&self, call: &Call, group: &str, url: String) -> Result<()> {
        let checked = self.parts.outgoing.check(&url);
        checked.map_err(|error| error.with_param("callback_url"))?;
        if group.is_empty() || group.len() > LONGEST_GROUP {
            let message = format!("group must have from 1 to {LONGEST_GROUP} bytes");
            return Err(Error::invalid("group", message));
        }
        let callback = GroupCallback {
            tenant: call.tenant.clone(),
            group: group.to_owned(),
            url,
        };
        let key = GroupCallback::key(&callback.tenant, group);
        let expiry = self
            .parts
            .now()
            .plus(self.parts.config.job_ttl * KEPT_TIMES);
        let write = RecordWrite::put(GROUPS, key, written(&callback)?).expiring(expiry);
        self.parts.records.commit(vec![write]).await
    }
}

/// Deliveries to groups of which one of the changes was the last, and the writes that forget their callbacks in the same commit.
pub(super) async fn finished(
    parts: &Parts,
    changes: &[Change],
) -> Result<(Vec<Delivery>, Vec<RecordWrite>)> {
    let (mut made, mut forgotten) = (Vec::new(), Vec::new());
    let mut seen = HashSet::new();
    // The newest change of a group stands for all before it.
    for change in changes.iter().rev() {
        let Some(group) = &change.job.group else {
            continue;
        };
        if !change.job.status.is_terminal() || !seen.insert((&change.tenant, group)) {
            continue;
        }
        let key = GroupCallback::key(&change.tenant, group);
        let Some(record) = parts.records.get(GROUPS, &key).await? else {
            continue;
        };
        let callback: GroupCallback = read(record)?;
        if callback.tenant != change.tenant || callback.group != *group {
            continue;
        }
        let counts = parts.jobs.group(&change.tenant, group).await?;
        if counts.unfinished() > 0 {
            continue;
        }
        let mut delivery = Delivery::new(None, &callback.url, change, parts.now());
        delivery.group = Some(GroupView::new(group, counts));
        made.push(delivery);
        forgotten.push(RecordWrite::delete(GROUPS, key));
    }
    Ok((made, forgotten))
}
