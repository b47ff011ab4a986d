//! Webhooks: who is told what, signed how.

use std::time::Duration;

use fusion_orchestrator::webhook::{DeliveryStatus, RegisterRequest};
use fusion_types::{
    Call, ErrorCode, Tenant,
    id::{DeliveryId, RequestId},
};
use serde_json::{Value, json};
use standardwebhooks::Webhook as Verifier;

use crate::{
    jobs_setup::call,
    webhook_setup::{Answer, DEFAULT_SECRET, HOOK, Setup, cancelled_job},
};

#[tokio::test(start_paused = true)]
async fn a_delivery_carries_the_job_and_signatures_that_verify() {
    for secret in [
        "webhook-secret-123",
        "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD",
    ] {
        let setup = Setup::new().start();
        let webhook = setup
            .register(HOOK, json!(["job.cancelled"]), Some(secret))
            .await;
        let job = cancelled_job(&setup, None).await;
        let received = setup.endpoints.received(1).await.remove(0);

        let body = received.json();
        assert_eq!(body["event"], "job.cancelled");
        assert_eq!(body["job"]["job_id"], job.as_str());
        assert_eq!(body["job"]["status"], "cancelled");
        assert!(body["timestamp"].is_string());

        let verifier = match secret.strip_prefix("whsec_") {
            Some(_) => Verifier::new(secret).unwrap(),
            None => Verifier::from_bytes(secret.as_bytes().to_vec()).unwrap(),
        };
        verifier
            .verify(&received.request.body, &received.standard_headers())
            .unwrap();
        let wrong = Verifier::from_bytes(b"wrong".to_vec()).unwrap();
        assert!(
            wrong
                .verify(&received.request.body, &received.standard_headers())
                .is_err()
        );
        assert!(
            received
                .header("webhook-id")
                .starts_with(DeliveryId::PREFIX)
        );
        assert_eq!(received.header("X-Webhook-Event"), "job.cancelled");
        assert_eq!(received.header("X-Webhook-ID"), webhook.as_str());
        assert!(
            received
                .header("X-Webhook-Signature")
                .starts_with("sha256=")
        );

        setup.records.count("webhook_deliveries", 1).await;
        let view = setup.webhooks.get(&call(), &webhook).await.unwrap();
        assert_eq!((view.success_count, view.failure_count), (1, 0));
        assert!(view.last_triggered_at.is_some());
        let delivery = setup
            .webhooks
            .deliveries(&call(), &webhook)
            .await
            .unwrap()
            .deliveries
            .remove(0);
        assert_eq!(
            (delivery.status, delivery.attempts[0].status),
            (DeliveryStatus::Delivered, Some(200))
        );
        setup.stop().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_secret_that_we_made_is_shown_once_and_verifies() {
    let setup = Setup::new().start();
    let request: RegisterRequest =
        serde_json::from_value(json!({"url": HOOK, "events": ["job.queued"]})).unwrap();
    let secret = setup
        .webhooks
        .register(&call(), request)
        .await
        .unwrap()
        .secret
        .unwrap();
    let listed = serde_json::to_string(&setup.webhooks.list(&call()).await.unwrap()).unwrap();
    assert!(
        !listed.contains(&secret) && !listed.contains("secret"),
        "{listed}"
    );
    cancelled_job(&setup, None).await;
    let received = setup.endpoints.received(1).await.remove(0);
    Verifier::new(&secret)
        .unwrap()
        .verify(&received.request.body, &received.standard_headers())
        .unwrap();
    setup.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_callback_is_told_of_the_end_alone_signed_by_the_server() {
    let setup = Setup::new().start();
    cancelled_job(&setup, Some("https://caller.example/done")).await;
    setup.records.count("webhook_deliveries", 1).await;
    let received = setup.endpoints.received(1).await;
    assert_eq!(received.len(), 1);
    assert_eq!(received[0].request.url, "https://caller.example/done");
    assert_eq!(received[0].header("X-Webhook-Event"), "job.cancelled");
    assert_eq!(received[0].header("X-Webhook-ID"), "callback");
    let verifier = Verifier::from_bytes(DEFAULT_SECRET.as_bytes().to_vec()).unwrap();
    verifier
        .verify(&received[0].request.body, &received[0].standard_headers())
        .unwrap();
    setup.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_deleted_webhook_is_told_nothing_more() {
    let setup = Setup::new().start();
    setup.endpoints.will(HOOK, &[Answer::Status(500)]);
    let webhook = setup.register(HOOK, json!(["job.cancelled"]), None).await;
    let witness = setup
        .register("https://witness.example/", json!(["job.cancelled"]), None)
        .await;
    cancelled_job(&setup, None).await;
    setup.records.count("webhook_deliveries", 1).await;
    setup.endpoints.received(2).await;
    assert_eq!(
        setup
            .webhooks
            .delete(&call(), &webhook)
            .await
            .unwrap()
            .status,
        "deleted"
    );
    cancelled_job(&setup, None).await;
    setup.records.count("webhook_deliveries", 2).await;
    tokio::time::sleep(Duration::from_secs(3600)).await;
    assert_eq!(setup.endpoints.count(), 3);
    assert_eq!(
        setup
            .webhooks
            .get(&call(), &webhook)
            .await
            .unwrap_err()
            .code,
        ErrorCode::WebhookNotFound
    );
    assert_eq!(
        setup
            .webhooks
            .deliveries(&call(), &witness)
            .await
            .unwrap()
            .deliveries
            .len(),
        2
    );
    setup.stop().await;
}

#[tokio::test(start_paused = true)]
async fn tenants_are_told_of_their_own_jobs_and_see_their_own_webhooks() {
    let setup = Setup::new().start();
    let other = Call::interactive(RequestId::generate(), Tenant::new("other"));
    let request = json!({"url": "https://other.example/", "events": ["job.cancelled"]});
    let request: RegisterRequest = serde_json::from_value(request).unwrap();
    let foreign = setup
        .webhooks
        .register(&other, request)
        .await
        .unwrap()
        .webhook_id;
    setup.register(HOOK, json!(["job.cancelled"]), None).await;
    cancelled_job(&setup, None).await;
    setup.records.count("webhook_deliveries", 1).await;
    let received = setup.endpoints.received(1).await;
    assert_eq!(
        received
            .iter()
            .map(|received| received.request.url.as_str())
            .collect::<Vec<_>>(),
        [HOOK]
    );
    assert_eq!(
        setup.webhooks.list(&call()).await.unwrap().webhooks.len(),
        1
    );
    assert_eq!(
        setup
            .webhooks
            .get(&call(), &foreign)
            .await
            .unwrap_err()
            .code,
        ErrorCode::WebhookNotFound
    );
    assert_eq!(
        setup
            .webhooks
            .delete(&call(), &foreign)
            .await
            .unwrap_err()
            .code,
        ErrorCode::WebhookNotFound
    );
    setup.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_failed_delivery_is_sent_again_when_asked_for() {
    let setup = Setup::new().start();
    setup.endpoints.will(HOOK, &[Answer::Status(500); 4]);
    let webhook = setup.register(HOOK, json!(["job.cancelled"]), None).await;
    cancelled_job(&setup, None).await;
    setup.records.count("webhook_deliveries", 1).await;
    let failed = setup
        .webhooks
        .deliveries(&call(), &webhook)
        .await
        .unwrap()
        .deliveries
        .remove(0);
    assert_eq!(failed.status, DeliveryStatus::Failed);
    let again = setup
        .webhooks
        .redeliver(&call(), &webhook, &failed.delivery_id)
        .await
        .unwrap();
    assert_eq!(again.status, DeliveryStatus::Pending);
    let received = setup.endpoints.received(5).await;
    assert_eq!(
        received[4].header("webhook-id"),
        failed.delivery_id.as_str()
    );
    setup.records.count("webhook_outbox", 0).await;
    let delivered = setup
        .webhooks
        .deliveries(&call(), &webhook)
        .await
        .unwrap()
        .deliveries
        .remove(0);
    assert_eq!(
        (delivered.status, delivered.attempts.len()),
        (DeliveryStatus::Delivered, 5)
    );
    let unknown = setup
        .webhooks
        .redeliver(&call(), &webhook, &DeliveryId::generate())
        .await
        .unwrap_err();
    assert_eq!(unknown.code, ErrorCode::DeliveryNotFound);
    setup.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_test_delivery_says_how_it_went() {
    let setup = Setup::new();
    setup.endpoints.will(HOOK, &[Answer::Status(500)]);
    let webhook = setup
        .register(HOOK, json!(["job.completed"]), Some("plain"))
        .await;
    let failed = setup.webhooks.test(&call(), &webhook).await.unwrap();
    assert_eq!(
        (failed.delivered, failed.attempt.status),
        (false, Some(500))
    );
    assert!(
        setup
            .webhooks
            .test(&call(), &webhook)
            .await
            .unwrap()
            .delivered
    );
    let received = setup.endpoints.received(2).await;
    assert_eq!(received[1].json()["event"], "webhook.test");
    let verifier = Verifier::from_bytes(b"plain".to_vec()).unwrap();
    verifier
        .verify(&received[1].request.body, &received[1].standard_headers())
        .unwrap();
}

#[tokio::test(start_paused = true)]
async fn bad_registrations_are_refused() {
    let setup = Setup::new();
    let cases: [(Value, ErrorCode, &str); 3] = [
        (
            json!({"url": "http://127.0.0.1/", "events": ["job.queued"]}),
            ErrorCode::UrlNotAllowed,
            "url",
        ),
        (
            json!({"url": HOOK, "events": []}),
            ErrorCode::InvalidValue,
            "events",
        ),
        (
            json!({"url": HOOK, "events": ["job.queued"], "secret": "whsec_?"}),
            ErrorCode::InvalidValue,
            "secret",
        ),
    ];
    for (body, code, param) in cases {
        let error = setup
            .webhooks
            .register(&call(), serde_json::from_value(body).unwrap())
            .await
            .unwrap_err();
        assert_eq!((error.code, error.param.as_deref()), (code, Some(param)));
    }
    assert!(
        serde_json::from_value::<RegisterRequest>(json!({"url": HOOK, "events": ["job.exploded"]}))
            .is_err()
    );
}
