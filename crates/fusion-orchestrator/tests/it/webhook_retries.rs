//! At least once: what deliveries meet with endpoints that fail and a server that stops.

use std::time::Duration;

use fusion_orchestrator::webhook::{DeliveryStatus, WebhookStatus};
use serde_json::json;

use crate::{
    jobs_setup::call,
    webhook_setup::{Answer, HOOK, Received, Setup, cancelled_job, submitted_job},
};

fn seconds_between(received: &[Received]) -> Vec<u64> {
    received
        .windows(2)
        .map(|pair| (pair[1].at.since(pair[0].at) + Duration::from_millis(500)).as_secs())
        .collect()
}

/// The dispatcher ends between the commit of the delivery and an answer to its POST: the next one delivers it.
#[tokio::test(start_paused = true)]
async fn a_crash_before_the_answer_loses_nothing() {
    let setup = Setup::new();
    setup.endpoints.will(HOOK, &[Answer::Hang]);
    let webhook = setup.register(HOOK, json!(["job.cancelled"]), None).await;
    let dispatcher = setup.webhooks.dispatcher();
    let crashing = setup
        .tasks
        .spawn(dispatcher.run(setup.tasks.clone(), setup.token.clone()));
    cancelled_job(&setup, None).await;
    setup.endpoints.received(1).await;
    crashing.abort();
    assert!(crashing.await.unwrap_err().is_cancelled());
    let setup = setup.start();
    let received = setup.endpoints.received(2).await;
    assert_eq!(
        received[0].header("webhook-id"),
        received[1].header("webhook-id")
    );
    assert_eq!(received[0].request.body, received[1].request.body);
    setup.records.count("webhook_outbox", 0).await;
    let deliveries = setup
        .webhooks
        .deliveries(&call(), &webhook)
        .await
        .unwrap()
        .deliveries;
    assert_eq!(deliveries.len(), 1);
    assert_eq!(deliveries[0].status, DeliveryStatus::Delivered);
    setup.stop().await;
}

/// Changes that nobody had read when the server stopped are delivered after its start, and only once.
#[tokio::test(start_paused = true)]
async fn what_happened_before_the_start_is_delivered_and_not_twice() {
    let setup = Setup::new();
    setup
        .register(HOOK, json!(["job.queued", "job.cancelled"]), None)
        .await;
    cancelled_job(&setup, None).await;
    let setup = setup.start();
    setup.records.count("webhook_deliveries", 2).await;
    setup.stop().await;
    let again = Setup {
        token: Default::default(),
        tasks: Default::default(),
        ..setup
    }
    .start();
    cancelled_job(&again, None).await;
    again.records.count("webhook_deliveries", 4).await;
    assert_eq!(again.endpoints.count(), 4);
    again.stop().await;
}

#[tokio::test(start_paused = true)]
async fn failures_are_retried_on_schedule_until_the_tries_are_used_up() {
    let setup = Setup::new().start();
    let failures = [
        Answer::Status(500),
        Answer::Unreachable,
        Answer::Status(302),
        Answer::Status(404),
    ];
    setup.endpoints.will(HOOK, &failures);
    let webhook = setup.register(HOOK, json!(["job.cancelled"]), None).await;
    cancelled_job(&setup, None).await;
    setup.records.count("webhook_deliveries", 1).await;
    let received = setup.endpoints.received(4).await;
    assert_eq!(received.len(), 4);
    assert_eq!(seconds_between(&received), [5, 300, 1800]);
    let delivery = setup
        .webhooks
        .deliveries(&call(), &webhook)
        .await
        .unwrap()
        .deliveries
        .remove(0);
    assert_eq!(
        (delivery.status, delivery.next_attempt_at),
        (DeliveryStatus::Failed, None)
    );
    let statuses: Vec<_> = delivery
        .attempts
        .iter()
        .map(|attempt| attempt.status)
        .collect();
    assert_eq!(statuses, [Some(500), None, Some(302), Some(404)]);
    assert_eq!(
        delivery.attempts[1].error.as_deref(),
        Some("connection refused")
    );
    assert_eq!(
        setup
            .webhooks
            .get(&call(), &webhook)
            .await
            .unwrap()
            .failure_count,
        4
    );
    setup.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_retry_that_waits_survives_a_restart() {
    let setup = Setup::new().start();
    setup
        .endpoints
        .will(HOOK, &[Answer::Status(500), Answer::Status(500)]);
    let webhook = setup.register(HOOK, json!(["job.cancelled"]), None).await;
    cancelled_job(&setup, None).await;
    setup.endpoints.received(2).await;
    setup.stop().await;
    let pending = setup
        .webhooks
        .deliveries(&call(), &webhook)
        .await
        .unwrap()
        .deliveries
        .remove(0);
    assert_eq!(
        (pending.status, pending.attempts.len()),
        (DeliveryStatus::Pending, 2)
    );
    let setup = Setup {
        token: Default::default(),
        tasks: Default::default(),
        ..setup
    }
    .start();
    let received = setup.endpoints.received(3).await;
    assert!(received[2].at >= pending.next_attempt_at.unwrap());
    let ids: Vec<_> = received
        .iter()
        .map(|received| received.header("webhook-id"))
        .collect();
    assert!(ids.windows(2).all(|pair| pair[0] == pair[1]));
    let timestamp = |at: usize| {
        received[at]
            .header("webhook-timestamp")
            .parse::<i64>()
            .unwrap()
    };
    assert!(timestamp(2) - timestamp(1) >= 300);
    setup.stop().await;
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_that_is_gone_disables_its_webhook() {
    let setup = Setup::new().start();
    setup.endpoints.will(HOOK, &[Answer::Status(410)]);
    let gone = setup.register(HOOK, json!(["job.cancelled"]), None).await;
    let other = setup
        .register("https://other.example/", json!(["job.cancelled"]), None)
        .await;
    cancelled_job(&setup, None).await;
    setup.records.count("webhook_deliveries", 2).await;
    assert_eq!(
        setup.webhooks.get(&call(), &gone).await.unwrap().status,
        WebhookStatus::Disabled
    );
    assert_eq!(
        setup.webhooks.get(&call(), &other).await.unwrap().status,
        WebhookStatus::Active
    );
    cancelled_job(&setup, None).await;
    setup.records.count("webhook_deliveries", 3).await;
    assert_eq!(
        setup
            .webhooks
            .deliveries(&call(), &gone)
            .await
            .unwrap()
            .deliveries
            .len(),
        1
    );
    setup.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_hanging_endpoint_holds_up_nobody_else() {
    let setup = Setup::new().start();
    setup.endpoints.will(HOOK, &[Answer::Hang; 100]);
    setup.register(HOOK, json!(["job.queued"]), None).await;
    setup
        .register("https://works.example/", json!(["job.cancelled"]), None)
        .await;
    let mut jobs = Vec::new();
    for _ in 0..100 {
        jobs.push(submitted_job(&setup, None).await);
    }
    setup.endpoints.received(1).await;
    let started = setup.store.now();
    setup.jobs.cancel(&call(), &jobs[0]).await.unwrap();
    setup.records.count("webhook_deliveries", 1).await;
    assert!(setup.store.now().since(started) < Duration::from_secs(5));
    setup.stop().await;
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_that_never_answers_times_out_and_is_tried_again() {
    let setup = Setup::new().start();
    setup.endpoints.will(HOOK, &[Answer::Hang]);
    let webhook = setup.register(HOOK, json!(["job.cancelled"]), None).await;
    cancelled_job(&setup, None).await;
    setup.records.count("webhook_deliveries", 1).await;
    let delivery = setup
        .webhooks
        .deliveries(&call(), &webhook)
        .await
        .unwrap()
        .deliveries
        .remove(0);
    assert_eq!(delivery.status, DeliveryStatus::Delivered);
    assert!(delivery.attempts[0].error.is_some());
    assert_eq!(delivery.attempts[1].status, Some(200));
    setup.stop().await;
}
