//! One job as it happens, and all of them without end.

use std::time::Duration;

use fusion_orchestrator::jobs::{JobUpdate, SyncParams};
use fusion_types::{
    ErrorCode, Result,
    id::JobId,
    job::{JobEvent, Seq},
};
use futures::{Stream, StreamExt};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use crate::jobs_setup::{Act, Script, Setup, call};

async fn next(updates: &mut (impl Stream<Item = Result<JobUpdate>> + Unpin)) -> Option<JobUpdate> {
    let waited = tokio::time::timeout(Duration::from_secs(3600), updates.next());
    waited.await.expect("nothing comes").map(Result::unwrap)
}

fn change(update: Option<JobUpdate>) -> (JobEvent, Seq) {
    match update {
        Some(JobUpdate::Changed(change)) => (change.event, change.seq),
        other => panic!("not a change: {other:?}"),
    }
}

fn text(update: Option<JobUpdate>) -> String {
    match update {
        Some(JobUpdate::Delta(delta)) => delta.content,
        other => panic!("not a delta: {other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn a_follower_hears_what_a_job_says_while_it_says_it() {
    let go_on = CancellationToken::new();
    let script = Script::new([Act::Say("Hel", go_on.clone(), "lo")]);
    let setup = Setup::new(script).start();
    let id = setup.submit(json!({})).await;
    let mut updates = Box::pin(setup.jobs.follow(&call(), &id, None).await.unwrap());
    assert_eq!(change(next(&mut updates).await).0, JobEvent::Queued);
    let mut update = next(&mut updates).await;
    if matches!(update, Some(JobUpdate::Changed(_))) {
        assert_eq!(change(update).0, JobEvent::Processing);
        update = next(&mut updates).await;
    }
    assert_eq!(text(update), "Hel");
    go_on.cancel();
    let mut rest = Vec::new();
    while let Some(update) = next(&mut updates).await {
        rest.push(update);
    }
    let (JobUpdate::Changed(last), said) = (rest.pop().unwrap(), rest) else {
        panic!("the last is not a change");
    };
    assert_eq!(last.event, JobEvent::Completed);
    assert_eq!(last.job.result, Some(json!({ "content": "Hello" })));
    let deltas: Vec<String> = said
        .into_iter()
        .filter(|update| matches!(update, JobUpdate::Delta(_)))
        .map(|update| text(Some(update)))
        .collect();
    assert_eq!(deltas, ["lo"]);
    setup.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_follower_who_comes_back_goes_on_where_it_was() {
    let setup = Setup::new(Script::new([])).start();
    let id = setup.submit(json!({})).await;
    setup
        .store
        .reached(&id, fusion_types::job::JobStatus::Completed)
        .await;
    let events = |after| {
        let (jobs, id) = (setup.jobs.clone(), id.clone());
        async move {
            let updates = jobs.follow(&call(), &id, after).await.unwrap();
            let all: Vec<_> = updates.collect().await;
            all.into_iter()
                .map(|update| change(Some(update.unwrap())).0)
                .collect::<Vec<_>>()
        }
    };
    assert_eq!(events(None).await, [JobEvent::Completed]);
    assert_eq!(
        events(Some(Seq(1))).await,
        [JobEvent::Processing, JobEvent::Completed]
    );
    setup.store.forget_changes(Seq(2));
    let gone = setup.jobs.follow(&call(), &id, Some(Seq(1))).await;
    assert_eq!(gone.err().unwrap().code, ErrorCode::CursorExpired);
    let unknown = setup.jobs.follow(&call(), &JobId::generate(), None).await;
    assert_eq!(unknown.err().unwrap().code, ErrorCode::JobNotFound);
    setup.stop().await;
}

#[tokio::test(start_paused = true)]
async fn the_log_as_a_stream_tells_what_was_and_what_comes() {
    let setup = Setup::new(Script::new([]));
    let early = setup.submit(json!({})).await;
    let params = SyncParams {
        since: None,
        limit: Some(1),
    };
    let changes = setup.jobs.sync_stream(&call(), params).await.unwrap();
    let mut changes = Box::pin(changes);
    assert_eq!(changes.next().await.unwrap().unwrap().job.job_id, early);
    let late = setup.submit(json!({})).await;
    assert_eq!(changes.next().await.unwrap().unwrap().job.job_id, late);
}
