//! The suite of `RecordStore`.

use std::time::Duration;

use fusion_types::{
    ErrorCode, Timestamp,
    record::{Expect, RecordWrite},
    store::RecordStore,
};
use serde_json::json;

const SPACE: &str = "webhooks";

async fn put(store: &dyn RecordStore, key: &str, value: serde_json::Value) {
    store
        .commit(vec![RecordWrite::put(SPACE, key, value)])
        .await
        .unwrap();
}

pub(crate) async fn versions_rise_with_each_write(store: &dyn RecordStore) {
    assert_eq!(store.get(SPACE, "a").await.unwrap(), None);
    for version in 1..=3 {
        put(store, "a", json!({"version": version})).await;
        let record = store.get(SPACE, "a").await.unwrap().unwrap();
        assert_eq!(
            (record.version, record.value),
            (version, json!({"version": version}))
        );
    }
    assert_eq!(store.get("other", "a").await.unwrap(), None);
    store
        .commit(vec![RecordWrite::delete(SPACE, "a")])
        .await
        .unwrap();
    assert_eq!(store.get(SPACE, "a").await.unwrap(), None);
}

pub(crate) async fn an_expectation_that_fails_stops_the_whole_commit(store: &dyn RecordStore) {
    put(store, "a", json!(1)).await;
    put(store, "a", json!(2)).await;
    let conflicts = [
        RecordWrite::put(SPACE, "a", json!(9)).expecting(Expect::Absent),
        RecordWrite::put(SPACE, "a", json!(9)).expecting(Expect::Version(1)),
        RecordWrite::delete(SPACE, "missing").expecting(Expect::Version(1)),
    ];
    for conflict in conflicts {
        let refused = store
            .commit(vec![RecordWrite::put(SPACE, "b", json!(9)), conflict])
            .await
            .unwrap_err();
        assert_eq!(refused.code, ErrorCode::VersionConflict);
        assert_eq!(store.get(SPACE, "b").await.unwrap(), None);
    }
    let writes = vec![
        RecordWrite::put(SPACE, "a", json!(3)).expecting(Expect::Version(2)),
        RecordWrite::put(SPACE, "b", json!(1)).expecting(Expect::Absent),
    ];
    store.commit(writes).await.unwrap();
    assert_eq!(store.get(SPACE, "a").await.unwrap().unwrap().version, 3);
    assert_eq!(store.get(SPACE, "b").await.unwrap().unwrap().version, 1);
}

pub(crate) async fn lists_go_by_prefix_in_key_order(store: &dyn RecordStore) {
    for key in ["b/2", "b/10", "a/1", "b/é", "b", "c/1", "b/1"] {
        put(store, key, json!(key)).await;
    }
    let keys = async |prefix: &str, after: Option<&str>, limit| {
        let records = store.list(SPACE, prefix, after, limit).await.unwrap();
        records
            .into_iter()
            .map(|record| record.key)
            .collect::<Vec<_>>()
    };
    assert_eq!(keys("b/", None, 10).await, ["b/1", "b/10", "b/2", "b/é"]);
    assert_eq!(keys("b/", Some("b/10"), 1).await, ["b/2"]);
    assert_eq!(keys("", None, 100).await.len(), 7);
    assert!(keys("x", None, 10).await.is_empty());
}

pub(crate) async fn expired_records_are_hidden_then_swept(store: &dyn RecordStore) {
    let past = Timestamp::from_millis(Timestamp::now().as_millis() - 1);
    let later = Timestamp::now().plus(Duration::from_secs(3600));
    let writes = vec![
        RecordWrite::put(SPACE, "gone", json!(1)).expiring(past),
        RecordWrite::put(SPACE, "stays", json!(1)).expiring(later),
        RecordWrite::put(SPACE, "always", json!(1)),
    ];
    store.commit(writes).await.unwrap();
    assert_eq!(store.get(SPACE, "gone").await.unwrap(), None);
    assert_eq!(store.list(SPACE, "", None, 10).await.unwrap().len(), 2);
    // As if it had been deleted, also to who expects something of it.
    store
        .commit(vec![
            RecordWrite::put(SPACE, "gone", json!(2))
                .expecting(Expect::Absent)
                .expiring(past),
        ])
        .await
        .unwrap();
    assert_eq!(store.sweep(Timestamp::now()).await.unwrap(), 1);
    assert_eq!(store.sweep(later).await.unwrap(), 1);
    assert!(store.get(SPACE, "always").await.unwrap().is_some());
}
