//! Jobs handed in together, and lists of them.

use fusion_orchestrator::jobs::{BulkEntry, BulkRequest, ListParams, SubmitRequest};
use fusion_types::{ErrorCode, id::JobId, job::Operation};
use serde_json::{Value, json};

use crate::jobs_setup::{Script, Setup, call};

fn job() -> Value {
    json!({ "operation": "chat", "model_id": "talker", "input": {} })
}

fn ids(entries: Vec<BulkEntry>) -> Vec<JobId> {
    entries
        .into_iter()
        .map(|entry| match entry {
            BulkEntry::Accepted(accepted) => accepted.job_id,
            BulkEntry::Refused(body) => panic!("refused: {}", body.error.message),
        })
        .collect()
}

async fn submit(setup: &Setup, body: Value) -> Result<Vec<BulkEntry>, fusion_types::Error> {
    let request = BulkRequest::read(body)?.with_group()?;
    setup.jobs.submit_many(&call(), request.jobs).await
}

#[tokio::test(start_paused = true)]
async fn a_job_of_a_list_may_depend_on_one_before_it() {
    let setup = Setup::new(Script::new([]));
    let mut second = job();
    second["depends_on"] = json!(["#0"]);
    let ids = ids(submit(&setup, json!([job(), second])).await.unwrap());
    let handed_in = setup.store.handed_in(&ids[1]);
    assert_eq!(handed_in.depends_on, [ids[0].clone()]);

    for reference in ["#1", "#7", "#x"] {
        let mut bad = job();
        bad["depends_on"] = json!([reference]);
        let error = submit(&setup, json!([job(), bad])).await.unwrap_err();
        assert_eq!(
            error.param.as_deref(),
            Some("[1].depends_on"),
            "{reference}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_list_is_a_group_where_it_says_so() {
    let setup = Setup::new(Script::new([]));
    let ids = ids(
        submit(&setup, json!({ "jobs": [job(), job()], "group": "night" }))
            .await
            .unwrap(),
    );
    assert_eq!(
        setup.store.handed_in(&ids[1]).group.as_deref(),
        Some("night")
    );
    let group = setup.jobs.group(&call(), "night").await.unwrap();
    assert_eq!((group.total, group.counts.queued), (2, 2));
    let cancelled = setup.jobs.cancel_group(&call(), "night").await.unwrap();
    assert_eq!(
        (cancelled.cancelled, cancelled.group.counts.cancelled),
        (2, 2)
    );
    let unknown = setup.jobs.group(&call(), "day").await.unwrap_err();
    assert_eq!(unknown.code, ErrorCode::JobNotFound);

    let made = BulkRequest::read(json!({ "jobs": [job()], "callback_url": "http://a" })).unwrap();
    assert!(
        made.with_group()
            .unwrap()
            .group
            .unwrap()
            .starts_with("grp-")
    );
    let mut other = job();
    other["group"] = "day".into();
    let error = submit(&setup, json!({ "jobs": [job(), other], "group": "night" }))
        .await
        .unwrap_err();
    assert_eq!(error.param.as_deref(), Some("jobs[1].group"));
}

#[tokio::test(start_paused = true)]
async fn a_key_used_for_something_else_refuses_that_job_alone() {
    let setup = Setup::new(Script::new([]));
    let mut first = SubmitRequest::new(Operation::Chat, json!({}));
    first.idempotency_key = Some("k".to_owned());
    let mut other = first.clone();
    other.max_attempts = Some(2);
    let same = setup.jobs.submit_many(&call(), vec![first.clone()]).await;
    let same = ids(same.unwrap());
    let third = SubmitRequest::new(Operation::Chat, json!({}));
    let entries = setup
        .jobs
        .submit_many(&call(), vec![first, other, third])
        .await
        .unwrap();
    assert!(matches!(&entries[0], BulkEntry::Accepted(job) if job.job_id == same[0]));
    let BulkEntry::Refused(body) = &entries[1] else {
        panic!("a key was used twice: {:?}", entries[1]);
    };
    assert_eq!(body.error.code.as_deref(), Some("idempotency_mismatch"));
    assert!(matches!(&entries[2], BulkEntry::Accepted(_)));
}

#[tokio::test]
async fn list_parameters_are_read_strictly() {
    let read = |pairs: &[(&str, &str)]| {
        let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        ListParams::read(pairs.iter().map(owned).collect())
    };
    let params = read(&[("metadata.user.id", "7"), ("limit", "5"), ("order", "asc")]).unwrap();
    assert_eq!(params.metadata, [("user.id".to_owned(), "7".to_owned())]);
    assert_eq!(params.limit, Some(5));
    for (bad, code) in [
        (("limit", "-1"), ErrorCode::InvalidValue),
        (("offset", "x"), ErrorCode::InvalidValue),
        (("sort_by", "size"), ErrorCode::InvalidValue),
        (("status", "lost"), ErrorCode::InvalidValue),
        (("colour", "blue"), ErrorCode::UnknownField),
        (("metadata", "blue"), ErrorCode::UnknownField),
    ] {
        assert_eq!(read(&[bad]).unwrap_err().code, code, "{bad:?}");
    }
}
