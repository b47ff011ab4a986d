//! Work that one of the servers that share a store does for all.
//!
//! Whoever has the record does the work, and writes it again and again. The others look at its version: one that stays the same for
//! long enough, by their own steady clock, belongs to a server that is gone. No two clocks are ever compared.

use std::{sync::Arc, time::Duration};

use fusion_types::{
    ErrorCode, Result,
    record::{Expect, Record, RecordWrite},
    store::RecordStore,
};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

const NAMESPACE: &str = "leaders";
const RENEW_EVERY: Duration = Duration::from_secs(3);
/// A record that wasn't written for so long is anybody's; its owner has stopped by then.
const LAPSES_AFTER: Duration = Duration::from_secs(12);
const STOPS_AFTER: Duration = Duration::from_secs(9);

pub(crate) struct Candidate {
    records: Arc<dyn RecordStore>,
    /// What is led.
    key: &'static str,
    /// This run of this server.
    owner: String,
    /// The version last seen, and since when.
    seen: Option<(u64, Instant)>,
}

impl Candidate {
    pub(crate) fn new(records: Arc<dyn RecordStore>, key: &'static str, owner: String) -> Self {
        Self {
            records,
            key,
            owner,
            seen: None,
        }
    }

    /// Until the token is cancelled: waits for the lead, works while it has it, and hands it over at the end. `work` ends when its
    /// own token is cancelled.
    pub(crate) async fn run<W: Future<Output = ()>>(
        mut self,
        token: CancellationToken,
        work: impl Fn(CancellationToken) -> W,
    ) {
        while !token.is_cancelled() {
            match self.stand().await {
                Ok(Some(version)) => self.lead(version, &token, &work).await,
                Ok(None) => {}
                Err(error) => {
                    tracing::debug!(%error, key = self.key, "the lead can't be looked at")
                }
            }
            token.run_until_cancelled(sleep(RENEW_EVERY)).await;
        }
    }

    /// The record's version where it is this server's now.
    async fn stand(&mut self) -> Result<Option<u64>> {
        let found = self.records.get(NAMESPACE, self.key).await?;
        let Some(expect) = self.may_take(found.as_ref(), Instant::now()) else {
            return Ok(None);
        };
        match self.write(expect).await {
            Ok(version) => Ok(Some(version)),
            Err(error) if error.code == ErrorCode::VersionConflict => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// What the record must still be for this server to take it.
    fn may_take(&mut self, found: Option<&Record>, now: Instant) -> Option<Expect> {
        let Some(found) = found else {
            return Some(Expect::Absent);
        };
        match self.seen {
            Some((version, since)) if version == found.version => {
                let is_lapsed = now.duration_since(since) >= LAPSES_AFTER;
                is_lapsed.then_some(Expect::Version(version))
            }
            _ => {
                self.seen = Some((found.version, now));
                None
            }
        }
    }

    async fn write(&self, expect: Expect) -> Result<u64> {
        let write = RecordWrite::put(NAMESPACE, self.key, self.owner.clone().into());
        self.records.commit(vec![write.expecting(expect)]).await?;
        Ok(match expect {
            Expect::Version(version) => version + 1,
            Expect::Absent | Expect::Anything => 1,
        })
    }

    async fn lead<W: Future<Output = ()>>(
        &mut self,
        mut version: u64,
        token: &CancellationToken,
        work: &impl Fn(CancellationToken) -> W,
    ) {
        tracing::info!(key = self.key, "this server leads");
        let own = token.child_token();
        let keep = async {
            let mut written = Instant::now();
            while written.elapsed() < STOPS_AFTER {
                sleep(RENEW_EVERY).await;
                match self.write(Expect::Version(version)).await {
                    Ok(newer) => (version, written) = (newer, Instant::now()),
                    Err(error) if error.code == ErrorCode::VersionConflict => break,
                    Err(error) => tracing::warn!(%error, key = self.key, "the lead can't be kept"),
                }
            }
            tracing::warn!(key = self.key, "this server leads no more");
            own.cancel();
            std::future::pending::<()>().await;
        };
        tokio::select! {
            () = work(own.clone()) => {}
            () = keep => {}
        }
        self.seen = None;
        let write = RecordWrite::delete(NAMESPACE, self.key).expecting(Expect::Version(version));
        if let Err(error) = self.records.commit(vec![write]).await {
            tracing::debug!(%error, key = self.key, "the lead is not handed over; it lapses");
        }
    }
}

#[cfg(test)]
mod tests {
    use async_trait::async_trait;
    use fusion_types::{Error, Timestamp};

    use super::*;

    struct Nothing;

    #[async_trait]
    impl RecordStore for Nothing {
        async fn get(&self, _: &str, _: &str) -> Result<Option<Record>> {
            Ok(None)
        }

        async fn list(&self, _: &str, _: &str, _: Option<&str>, _: u32) -> Result<Vec<Record>> {
            Ok(Vec::new())
        }

        async fn commit(&self, _: Vec<RecordWrite>) -> Result<()> {
            Err(Error::internal("nothing is kept here"))
        }

        async fn sweep(&self, _: Timestamp) -> Result<u64> {
            Ok(0)
        }
    }

    #[test]
    fn a_lead_is_taken_only_where_its_record_stood_still() {
        let mut candidate = Candidate::new(Arc::new(Nothing), "work", "me".to_owned());
        let record = |version| Record {
            key: "work".to_owned(),
            value: "other".into(),
            version,
        };
        let start = Instant::now();
        let after = |seconds| start + Duration::from_secs(seconds);
        assert_eq!(candidate.may_take(None, start), Some(Expect::Absent));
        assert_eq!(candidate.may_take(Some(&record(4)), start), None);
        assert_eq!(candidate.may_take(Some(&record(4)), after(11)), None);
        assert_eq!(
            candidate.may_take(Some(&record(5)), after(13)),
            None,
            "it was written"
        );
        assert_eq!(candidate.may_take(Some(&record(5)), after(24)), None);
        let lapsed = candidate.may_take(Some(&record(5)), after(25));
        assert_eq!(lapsed, Some(Expect::Version(5)));
    }
}
