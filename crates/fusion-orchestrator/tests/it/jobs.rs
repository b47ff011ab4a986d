//! The promises of jobs, on a store in memory and a clock that stands still while nobody waits.

use std::{sync::atomic::Ordering, time::Duration};

use fusion_orchestrator::jobs::{self, SubmitRequest, SyncParams};
use fusion_types::{
    Call, Error, ErrorCode, Tenant,
    id::RequestId,
    job::{JobEvent, JobStatus, Operation, Seq},
};
use futures::StreamExt;
use serde_json::{Value, json};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::jobs_setup::{Act, Script, Setup, call};

const COMPLETED: &[JobEvent] = &[JobEvent::Queued, JobEvent::Processing, JobEvent::Completed];

fn terminal(events: &[JobEvent]) -> usize {
    let is_terminal = |event: &&JobEvent| {
        matches!(
            event,
            JobEvent::Completed | JobEvent::Failed | JobEvent::Cancelled
        )
    };
    events.iter().filter(is_terminal).count()
}

#[tokio::test(start_paused = true)]
async fn a_job_runs_and_a_long_poll_sees_its_end() {
    let finish = CancellationToken::new();
    let script = Script::new([Act::AnswerAfter(
        finish.clone(),
        json!({"content": "Paris"}),
    )]);
    let setup = Setup::new(script.clone()).start();
    let id = setup.submit(json!({})).await;
    let (jobs, polled) = (setup.jobs.clone(), id.clone());
    let poll = setup.tasks.spawn(async move {
        jobs.get(&call(), &polled, Some(Duration::from_secs(60)))
            .await
    });
    script.running(1).await;
    finish.cancel();
    let view = poll.await.unwrap().unwrap();
    assert_eq!(view.job.status, JobStatus::Completed);
    assert_eq!(view.job.result, Some(json!({"content": "Paris"})));
    assert_eq!(setup.store.events(&id), COMPLETED);
    setup.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_long_poll_ends_in_time() {
    let setup = Setup::new(Script::new([]));
    let id = setup.submit(json!({})).await;
    let started = Instant::now();
    let view = setup
        .jobs
        .get(&call(), &id, Some(Duration::from_secs(3)))
        .await
        .unwrap();
    assert_eq!(view.job.status, JobStatus::Queued);
    assert_eq!(started.elapsed().as_secs(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_running_job_is_cancelled_at_once_and_ends_only_once() {
    let script = Script::new([Act::Hang]);
    let setup = Setup::new(script.clone()).start();
    let id = setup.submit(json!({})).await;
    script.running(1).await;
    let started = Instant::now();
    let cancelled = setup.jobs.cancel(&call(), &id).await.unwrap();
    assert_eq!(cancelled.status, JobStatus::Cancelled);
    assert!(cancelled.cancelled_at.is_some());
    script.running(0).await;
    assert!(
        started.elapsed() < Duration::from_secs(2),
        "the work was not dropped in time"
    );
    let again = setup.jobs.cancel(&call(), &id).await.unwrap_err();
    assert_eq!(again.code, ErrorCode::JobFinished);
    setup.stop().await;
    assert_eq!(terminal(&setup.store.events(&id)), 1);
}

#[tokio::test(start_paused = true)]
async fn a_queued_job_is_cancelled_before_it_starts() {
    let script = Script::new([]);
    let setup = Setup::new(script.clone());
    let id = setup.submit(json!({})).await;
    assert_eq!(
        setup.jobs.cancel(&call(), &id).await.unwrap().status,
        JobStatus::Cancelled
    );
    let setup = setup.start();
    let after = setup.submit(json!({})).await;
    setup.store.reached(&after, JobStatus::Completed).await;
    assert_eq!(
        setup.store.events(&id),
        [JobEvent::Queued, JobEvent::Cancelled]
    );
    setup.stop().await;
}

#[tokio::test(start_paused = true)]
async fn what_can_be_retried_is_released_and_then_succeeds() {
    let busy =
        Error::new(ErrorCode::EngineUnavailable, "busy").with_retry_after(Duration::from_secs(60));
    let setup = Setup::new(Script::new([Act::Fail(busy), Act::Answer(json!(7))])).start();
    let started = Instant::now();
    let id = setup.submit(json!({})).await;
    let job = setup.store.reached(&id, JobStatus::Completed).await;
    assert_eq!((job.attempt, job.result), (2, Some(json!(7))));
    assert!(
        started.elapsed() >= Duration::from_secs(60),
        "{:?}",
        started.elapsed()
    );
    let events = setup.store.events(&id);
    assert_eq!(
        events,
        [
            JobEvent::Queued,
            JobEvent::Processing,
            JobEvent::Queued,
            JobEvent::Processing,
            JobEvent::Completed
        ]
    );
    setup.stop().await;
}

#[tokio::test(start_paused = true)]
async fn attempts_end() {
    let crash = || Act::Fail(Error::new(ErrorCode::EngineCrashed, "it crashed"));
    let setup = Setup::new(Script::new([crash(), crash(), crash()])).start();
    let id = setup.submit(json!({"max_attempts": 2})).await;
    let job = setup.store.reached(&id, JobStatus::Failed).await;
    assert_eq!((job.attempt, job.error.as_deref()), (2, Some("it crashed")));
    assert!(job.error_detail.unwrap().retryable);
    let again = setup.jobs.retry(&call(), &id).await.unwrap();
    assert_eq!(
        (again.job.status, again.job.attempt),
        (JobStatus::Queued, 0)
    );
    setup.store.reached(&id, JobStatus::Completed).await;
    setup.stop().await;
}

#[tokio::test(start_paused = true)]
async fn what_no_retry_helps_fails_at_once() {
    let bad = Error::new(ErrorCode::ContextLengthExceeded, "too long");
    let setup = Setup::new(Script::new([Act::Fail(bad)])).start();
    let id = setup.submit(json!({})).await;
    let job = setup.store.reached(&id, JobStatus::Failed).await;
    assert_eq!(job.attempt, 1);
    assert_eq!(
        job.error_detail.unwrap().code,
        ErrorCode::ContextLengthExceeded
    );
    setup.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_job_that_takes_too_long_is_dropped() {
    let script = Script::new([Act::Hang]);
    let setup = Setup::new(script.clone()).start();
    let started = Instant::now();
    let id = setup
        .submit(json!({"timeout_ms": 1500, "max_attempts": 1}))
        .await;
    let job = setup.store.reached(&id, JobStatus::Failed).await;
    assert_eq!(started.elapsed().as_millis() / 100, 15);
    assert_eq!(job.error_detail.unwrap().code, ErrorCode::Timeout);
    script.running(0).await;
    setup.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_lost_lease_drops_the_work_and_writes_nothing() {
    let script = Script::new([Act::Hang]);
    let setup = Setup::new(script.clone()).start();
    let id = setup.submit(json!({})).await;
    script.running(1).await;
    setup.store.steal(&id);
    script.running(0).await;
    setup.stop().await;
    assert_eq!(
        setup.store.events(&id),
        [JobEvent::Queued, JobEvent::Processing]
    );
    assert_eq!(setup.store.refused(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_result_with_a_stale_fence_is_refused() {
    let finish = CancellationToken::new();
    let script = Script::new([Act::AnswerAfter(finish.clone(), json!("late"))]);
    let setup = Setup::new(script.clone()).start();
    let id = setup.submit(json!({})).await;
    script.running(1).await;
    setup.store.steal(&id);
    finish.cancel();
    script.running(0).await;
    setup.stop().await;
    assert_eq!(setup.store.refused(), 1);
    assert_eq!(setup.store.job(&id).status, JobStatus::Processing);
}

#[tokio::test(start_paused = true)]
async fn a_panic_fails_its_job_alone() {
    let setup = Setup::new(Script::new([Act::Panic])).start();
    let id = setup.submit(json!({})).await;
    let job = setup.store.reached(&id, JobStatus::Failed).await;
    assert_eq!(job.error_detail.unwrap().code, ErrorCode::InternalError);
    let next = setup.submit(json!({})).await;
    setup.store.reached(&next, JobStatus::Completed).await;
    setup.stop().await;
}

#[tokio::test(start_paused = true)]
async fn leases_outlive_long_work() {
    let finish = CancellationToken::new();
    let setup = Setup::new(Script::new([Act::AnswerAfter(finish.clone(), json!(1))])).start();
    let id = setup.submit(json!({})).await;
    tokio::time::sleep(Duration::from_secs(120)).await;
    finish.cancel();
    assert_eq!(
        setup.store.reached(&id, JobStatus::Completed).await.attempt,
        1
    );
    setup.stop().await;
}

#[tokio::test(start_paused = true)]
async fn at_shutdown_what_still_runs_goes_back_uncounted() {
    let script = Script::new([Act::Hang]);
    let setup = Setup::new(script.clone()).start();
    let id = setup.submit(json!({})).await;
    script.running(1).await;
    setup.stop().await;
    let job = setup.store.job(&id);
    assert_eq!((job.status, job.attempt), (JobStatus::Queued, 0));
    assert_eq!(*script.running.borrow(), 0);
}

#[tokio::test(start_paused = true)]
async fn at_shutdown_what_ends_within_the_grace_is_kept() {
    let finish = CancellationToken::new();
    let script = Script::new([Act::AnswerAfter(finish.clone(), json!(1))]);
    let setup = Setup::new(script.clone()).start();
    let id = setup.submit(json!({})).await;
    script.running(1).await;
    setup.token.cancel();
    finish.cancel();
    setup.stop().await;
    assert_eq!(setup.store.job(&id).status, JobStatus::Completed);
}

#[tokio::test(start_paused = true)]
async fn no_more_run_than_may() {
    let finish = CancellationToken::new();
    let acts = (0..10).map(|_| Act::AnswerAfter(finish.clone(), Value::Null));
    let script = Script::new(acts);
    let config = jobs::Config {
        parallel: 3,
        ..jobs::Config::default()
    };
    let setup = Setup::with_config(script.clone(), config).start();
    let mut ids = Vec::new();
    for _ in 0..10 {
        ids.push(setup.submit(json!({})).await);
    }
    script.running(3).await;
    finish.cancel();
    for id in &ids {
        setup.store.reached(id, JobStatus::Completed).await;
    }
    assert_eq!(script.most.load(Ordering::SeqCst), 3);
    setup.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_job_for_later_waits_for_its_time() {
    let setup = Setup::new(Script::new([])).start();
    let run_at = setup.store.now().plus(Duration::from_secs(30));
    let id = setup.submit(json!({"run_at": run_at})).await;
    let job = setup.store.reached(&id, JobStatus::Completed).await;
    let started_at = job.started_at.unwrap();
    assert!(started_at >= run_at && started_at.since(run_at) <= Duration::from_secs(2));
    setup.stop().await;
}

#[tokio::test(start_paused = true)]
async fn progress_is_written_while_the_job_runs() {
    let script = Script::new([Act::Tell(0.5)]);
    let setup = Setup::new(script.clone()).start();
    let id = setup.submit(json!({})).await;
    script.running(1).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(setup.store.job(&id).progress, Some(0.5));
    setup.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_key_makes_one_job_of_equal_requests() {
    let setup = Setup::new(Script::new([]));
    let request = |input: Value| SubmitRequest {
        model_id: Some("talker".to_owned()),
        ..SubmitRequest::new(Operation::Chat, input)
    };
    let (caller, key) = (call(), Some("key".to_owned()));
    let submit = |input: Value| setup.jobs.submit(&caller, request(input), key.clone());
    let first = submit(json!({"a": 1, "b": 2})).await.unwrap();
    let same = submit(json!({"b": 2, "a": 1})).await.unwrap();
    assert_eq!(first.job_id, same.job_id);
    let other = submit(json!({"a": 2})).await.unwrap_err();
    assert_eq!(other.code, ErrorCode::IdempotencyMismatch);
}

#[tokio::test(start_paused = true)]
async fn a_full_queue_refuses_with_a_time_to_come_back() {
    let config = jobs::Config {
        max_queued: 2,
        ..jobs::Config::default()
    };
    let setup = Setup::with_config(Script::new([]), config);
    let requests = vec![SubmitRequest::new(Operation::Chat, json!({})); 2];
    let accepted = setup.jobs.submit_many(&call(), requests).await.unwrap();
    assert_eq!(accepted.len(), 2);
    let refused = setup
        .jobs
        .submit(
            &call(),
            SubmitRequest::new(Operation::Chat, json!({})),
            None,
        )
        .await
        .unwrap_err();
    assert_eq!(refused.code, ErrorCode::QueueFull);
    assert!(refused.retry_after.is_some());
}

#[tokio::test(start_paused = true)]
async fn an_answer_says_where_the_job_stands() {
    let setup = Setup::new(Script::new([]));
    let low = setup.submit(json!({"priority": "low"})).await;
    let high = setup.submit(json!({"priority": "high"})).await;
    let view = setup.jobs.get(&call(), &low, None).await.unwrap();
    assert_eq!(
        (view.position_in_queue, view.estimated_completion_ms),
        (Some(1), Some(200))
    );
    assert_eq!(
        setup
            .jobs
            .get(&call(), &high, None)
            .await
            .unwrap()
            .position_in_queue,
        Some(0)
    );
    let gap = setup.store.handed_in(&low).sort_key - setup.store.handed_in(&high).sort_key;
    assert!((110_000..=120_000).contains(&gap), "{gap}");
}

#[tokio::test(start_paused = true)]
async fn sync_tells_a_tenant_everything_of_its_own_in_order() {
    let setup = Setup::new(Script::new([])).start();
    let other = Call::interactive(RequestId::generate(), Tenant::new("other"));
    setup
        .jobs
        .submit(&other, SubmitRequest::new(Operation::Chat, json!({})), None)
        .await
        .unwrap();
    let id = setup.submit(json!({})).await;
    setup.store.reached(&id, JobStatus::Completed).await;
    let (mut events, mut since) = (Vec::new(), None);
    loop {
        let page = setup
            .jobs
            .sync(
                &call(),
                SyncParams {
                    since,
                    limit: Some(2),
                },
            )
            .await
            .unwrap();
        assert!(page.events.len() <= 2);
        events.extend(
            page.events
                .into_iter()
                .map(|event| (event.seq, event.event, event.job.job_id)),
        );
        since = Some(page.cursor);
        if !page.more {
            break;
        }
    }
    assert!(events.iter().all(|(_, _, job)| *job == id));
    assert_eq!(
        events
            .iter()
            .map(|(_, event, _)| *event)
            .collect::<Vec<_>>(),
        COMPLETED
    );
    assert!(events.is_sorted_by_key(|(seq, ..)| *seq));
    setup.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_cursor_into_what_is_gone_has_expired() {
    let setup = Setup::new(Script::new([]));
    for _ in 0..4 {
        setup.submit(json!({})).await;
    }
    setup.store.forget_changes(Seq(2));
    let caller = call();
    let sync = |since| setup.jobs.sync(&caller, SyncParams { since, limit: None });
    let expired = sync(Some(Seq(1))).await.unwrap_err();
    assert_eq!(
        (expired.code, &expired.details["oldest"]),
        (ErrorCode::CursorExpired, &json!(2))
    );
    assert_eq!(sync(Some(Seq(2))).await.unwrap().events.len(), 2);
    assert_eq!(sync(None).await.unwrap().events.len(), 2);
}

/// Whatever woke it, a poll does not spin over changes that are swept.
#[tokio::test(start_paused = true)]
async fn waiting_on_a_swept_log_ends_in_time() {
    let setup = Setup::new(Script::new([])).start();
    let id = setup.submit(json!({})).await;
    setup.store.reached(&id, JobStatus::Completed).await;
    setup.store.forget_changes(Seq(3));
    let params = SyncParams {
        since: None,
        limit: None,
    };
    let mut changes = Box::pin(setup.jobs.sync_stream(&call(), params).await.unwrap());
    let started = Instant::now();
    let nothing = tokio::time::timeout(Duration::from_secs(2), changes.next()).await;
    assert!(nothing.is_err());
    assert_eq!(started.elapsed().as_secs(), 2);
    setup.stop().await;
}

#[tokio::test(start_paused = true)]
async fn tenants_do_not_see_each_others_jobs() {
    let setup = Setup::new(Script::new([]));
    let id = setup.submit(json!({})).await;
    let other = Call::interactive(RequestId::generate(), Tenant::new("other"));
    assert_eq!(
        setup.jobs.get(&other, &id, None).await.unwrap_err().code,
        ErrorCode::JobNotFound
    );
    assert_eq!(
        setup.jobs.cancel(&other, &id).await.unwrap_err().code,
        ErrorCode::JobNotFound
    );
    assert_eq!(
        setup
            .jobs
            .list(&other, jobs::ListParams::default())
            .await
            .unwrap()
            .total,
        0
    );
}
