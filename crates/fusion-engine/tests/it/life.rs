use fusion_types::engine::{Estimate, HelloOutcome};
use tokio::time::timeout;

use crate::child::{DEADLINE, FakeEngine};

#[tokio::test]
async fn ends_with_its_standard_input() {
    let mut engine = FakeEngine::start(&[]).await;
    drop(engine.child.stdin.take());
    let status = timeout(DEADLINE, engine.child.wait())
        .await
        .unwrap()
        .unwrap();
    assert!(status.success());
}

#[tokio::test]
async fn a_failed_load_says_why() {
    let mut engine = FakeEngine::start(&["fail_load=invalid_value"]).await;
    let HelloOutcome::Error(error) = &engine.hello.outcome else {
        panic!("it loaded")
    };
    assert_eq!(error.code, "invalid_value");
    let status = timeout(DEADLINE, engine.child.wait())
        .await
        .unwrap()
        .unwrap();
    assert!(!status.success());
}

#[tokio::test]
async fn estimates_without_loading() {
    let output = tokio::process::Command::new(env!("CARGO_BIN_EXE_fake-engine"))
        .args(["estimate", "--model", "none", "--option", "estimate_mb=3"])
        .output()
        .await
        .unwrap();
    let estimate: Estimate = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(estimate.total(), 3 << 20);
}
