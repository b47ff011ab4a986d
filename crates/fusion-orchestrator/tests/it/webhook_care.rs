//! Endpoints over time: groups called back, secrets changed, those that fail left alone.

use std::time::Duration;

use fusion_orchestrator::{
    jobs::BulkRequest,
    webhook::{DeliveryStatus, RotateRequest, WebhookStatus},
};
use fusion_types::ErrorCode;
use serde_json::json;

use crate::{
    jobs_setup::call,
    webhook_setup::{Answer, DEFAULT_SECRET, DISABLE_AFTER, HOOK, Setup, cancelled_job},
};

fn verifies(secret: &str, received: &crate::webhook_setup::Received) -> bool {
    let receiver = standardwebhooks::Webhook::new(secret).unwrap();
    receiver
        .verify(&received.request.body, &received.standard_headers())
        .is_ok()
}

async fn received_signatures(setup: &Setup, index: usize) -> usize {
    let received = setup.endpoints.received(index + 1).await;
    let signatures = received[index].header("webhook-signature");
    signatures.split(' ').count()
}

#[tokio::test(start_paused = true)]
async fn a_group_calls_back_once_when_all_of_it_is_finished() {
    let setup = Setup::new().start();
    let job = json!({ "operation": "chat", "input": {} });
    let body = json!({ "jobs": [job, job, job], "group": "night" });
    let request = BulkRequest::read(body).unwrap().with_group().unwrap();
    let tenant = call();
    let callback = setup.webhooks.call_back(&tenant, "night", HOOK.to_owned());
    callback.await.unwrap();
    let jobs = setup.jobs.submit_many(&call(), request.jobs).await.unwrap();
    assert_eq!(jobs.len(), 3);
    let listed = setup.jobs.list(&call(), Default::default()).await.unwrap();
    for job in &listed.jobs[1..] {
        setup.jobs.cancel(&call(), &job.job_id).await.unwrap();
    }
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(setup.endpoints.count(), 0);
    let last = &listed.jobs[0].job_id;
    setup.jobs.cancel(&call(), last).await.unwrap();
    let received = setup.endpoints.received(1).await.remove(0);
    assert_eq!(received.header("X-Webhook-Event"), "group.finished");
    let told = received.json();
    assert_eq!(told["event"], "group.finished");
    assert_eq!(told["group"]["group"], "night");
    assert_eq!(told["group"]["status"], "cancelled");
    assert_eq!(told["group"]["counts"]["cancelled"], 3);
    let signed = standardwebhooks::Webhook::from_bytes(DEFAULT_SECRET.as_bytes().to_vec()).unwrap();
    let headers = received.standard_headers();
    signed.verify(&received.request.body, &headers).unwrap();
    setup.records.count("job_groups", 0).await;
    setup.records.count("webhook_deliveries", 1).await;
    cancelled_job(&setup, None).await;
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(setup.endpoints.count(), 1);
    setup.stop().await;
}

#[tokio::test(start_paused = true)]
async fn after_a_rotation_both_secrets_verify_for_a_while() {
    let setup = Setup::new().start();
    let old = format!("whsec_{}", "b2xk".repeat(8));
    let webhook = setup
        .register(HOOK, json!(["job.cancelled"]), Some(&old))
        .await;
    let request = RotateRequest {
        secret: None,
        keep_old_seconds: Some(3600),
    };
    let rotated = setup.webhooks.rotate(&call(), &webhook, request).await;
    let new = rotated.unwrap().secret.unwrap();
    cancelled_job(&setup, None).await;
    let received = setup.endpoints.received(1).await;
    assert!(verifies(&new, &received[0]) && verifies(&old, &received[0]));
    let signatures = |index: usize| received_signatures(&setup, index);
    assert_eq!(signatures(0).await, 2);
    tokio::time::sleep(Duration::from_secs(3601)).await;
    cancelled_job(&setup, None).await;
    assert_eq!(signatures(1).await, 1);

    let too_long = RotateRequest {
        secret: None,
        keep_old_seconds: Some(u64::MAX),
    };
    let refused = setup.webhooks.rotate(&call(), &webhook, too_long).await;
    assert_eq!(refused.unwrap_err().code, ErrorCode::InvalidValue);
    setup.stop().await;
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_that_fails_for_too_long_is_disabled_until_it_is_enabled() {
    let setup = Setup::new().start();
    setup.endpoints.will(HOOK, &[Answer::Status(500); 5]);
    let webhook = setup.register(HOOK, json!(["job.cancelled"]), None).await;
    cancelled_job(&setup, None).await;
    // Four tries, the last one 35 minutes after the first.
    setup.endpoints.received(4).await;
    tokio::time::sleep(DISABLE_AFTER).await;
    let failing = setup.webhooks.get(&call(), &webhook).await.unwrap();
    assert_eq!(failing.status, WebhookStatus::Active);
    assert!(failing.failing_since.is_some());
    cancelled_job(&setup, None).await;
    setup.records.count("webhook_deliveries", 2).await;
    let disabled = setup.webhooks.get(&call(), &webhook).await.unwrap();
    assert_eq!(disabled.status, WebhookStatus::Disabled);

    // Nothing more is sent; what was pending can be asked for again.
    cancelled_job(&setup, None).await;
    tokio::time::sleep(Duration::from_secs(3600)).await;
    assert_eq!(setup.endpoints.count(), 5);
    let deliveries = setup.webhooks.deliveries(&call(), &webhook).await.unwrap();
    let given_up = &deliveries.deliveries[0];
    assert_eq!(given_up.status, DeliveryStatus::Failed);
    let enabled = setup.webhooks.enable(&call(), &webhook).await.unwrap();
    assert_eq!(
        (enabled.status, enabled.failing_since),
        (WebhookStatus::Active, None)
    );
    let id = given_up.delivery_id.clone();
    setup
        .webhooks
        .redeliver(&call(), &webhook, &id)
        .await
        .unwrap();
    assert_eq!(setup.endpoints.received(6).await.len(), 6);
    setup.stop().await;
}
