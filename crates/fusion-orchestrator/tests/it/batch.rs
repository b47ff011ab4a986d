//! Batches from their input to their files, over servers that die and windows that end.

use std::time::Duration;

use fusion_orchestrator::{
    batch::{self, ListBatches, Status},
    jobs,
};
use fusion_types::{Error, ErrorCode, id::BatchId};
use serde_json::{Value, json};

use crate::{
    batch_setup::{Dying, Setup, line, many, request, with_body},
    jobs_setup::call,
};

fn code<T>(result: Result<T, Error>) -> ErrorCode {
    result.err().unwrap().code
}

#[tokio::test(start_paused = true)]
async fn every_line_is_answered_once() {
    let setup = Setup::new().start();
    let text = line("a", "hello") + "\n" + &line("b", "fail") + line("c", "bye").trim_end();
    let id = setup.submit(&text).await;
    let batch = setup.ended(&id).await;
    assert_eq!(batch.status, Status::Completed, "{batch:?}");
    assert!(batch.in_progress_at.is_some() && batch.completed_at.is_some());
    assert_eq!(batch.metadata.as_ref().unwrap()["night"], "1");
    let (output, errors) = setup.outcomes(&batch).await;
    assert_eq!(output.len(), 2);
    let answer = &output["a"];
    assert_eq!(answer["response"]["status_code"], 200);
    assert_eq!(
        answer["response"]["body"],
        json!({"said": "hello", "loud": true})
    );
    assert_eq!(answer["error"], Value::Null);
    let failed = &errors["b"]["response"];
    assert_eq!(failed["status_code"], 400);
    assert_eq!(failed["body"]["error"]["code"], "context_length_exceeded");
}

#[tokio::test(start_paused = true)]
async fn a_long_input_becomes_jobs_a_few_at_a_time() {
    let setup = Setup::new().start();
    let id = setup.submit(&many(2_500)).await;
    let batch = setup.ended(&id).await;
    let (output, _) = setup.outcomes(&batch).await;
    assert_eq!(output.len(), 2_500);
}

#[tokio::test(start_paused = true)]
async fn what_is_wrong_with_the_input_is_told_by_line() {
    let config = batch::Config {
        most_lines: 3,
        ..batch::Config::default()
    };
    let setup = Setup::with(jobs::Config::default(), config).start();
    let bad = |body: Value| format!("{}\n", with_body("x", &body));
    let good = || line("a", "hello");
    let cases = [
        (String::new(), "empty_file", None),
        ("\n \n".to_owned(), "empty_file", None),
        (good() + "{not json\n", "invalid_json_line", Some(2)),
        (good() + &line("a", "again"), "duplicate_custom_id", Some(2)),
        (
            good() + "\n{\"custom_id\": \"b\"}\n",
            "missing_required_parameter",
            Some(3),
        ),
        (
            good().replace("chat/completions", "embeddings"),
            "url_mismatch",
            Some(1),
        ),
        (good().replace("POST", "GET"), "invalid_value", Some(1)),
        (
            bad(json!({"model": "nobody", "text": "x"})),
            "model_not_found",
            Some(1),
        ),
        (bad(json!({"model": "talker"})), "invalid_value", Some(1)),
        (bad(json!({"text": "x"})), "missing_field", Some(1)),
        (many(4), "too_many_tasks", None),
    ];
    for (text, code, line) in cases {
        let id = setup.submit(&text).await;
        let batch = setup.ended(&id).await;
        assert_eq!(batch.status, Status::Failed, "{text}");
        assert!(batch.failed_at.is_some());
        let error = &batch.errors.as_ref().unwrap().data[0];
        assert_eq!((error.code.as_str(), error.line), (code, line), "{text}");
        assert_eq!(setup.store.job_count(), 0, "nothing of it was begun");
    }
}

#[tokio::test(start_paused = true)]
async fn a_request_that_can_not_be_is_refused_at_once() {
    let setup = Setup::new();
    let file = setup.upload(&many(1), "batch").await;
    let mut other = request(&file);
    other.completion_window = "1h".to_owned();
    assert_eq!(
        code(setup.batches.create(&call(), other).await),
        ErrorCode::InvalidValue
    );
    let notes = setup.upload("notes", "user_data").await;
    let refused = setup.batches.create(&call(), request(&notes)).await;
    assert_eq!(code(refused), ErrorCode::InvalidValue);
    setup.files.delete(&call(), &file).await.unwrap();
    let refused = setup.batches.create(&call(), request(&file)).await;
    assert_eq!(code(refused), ErrorCode::FileNotFound);
    let missing = setup.batches.get(&call(), &BatchId::generate()).await;
    assert_eq!(code(missing), ErrorCode::BatchNotFound);
}

#[tokio::test(start_paused = true)]
async fn a_cancelled_batch_keeps_what_is_done() {
    let setup = Setup::new().start();
    let text: String = (0..10)
        .map(|n| line(&format!("hang-{n}"), "hang"))
        .collect();
    let id = setup.submit(&(line("done", "hello") + &text)).await;
    setup
        .until(&id, |batch| batch.request_counts.completed == 1)
        .await;
    let batch = setup.batches.cancel(&call(), &id).await.unwrap();
    assert_eq!(batch.status, Status::Cancelling);
    let batch = setup.ended(&id).await;
    assert_eq!(batch.status, Status::Cancelled);
    let (output, errors) = setup.outcomes(&batch).await;
    assert!(output.contains_key("done"));
    assert_eq!(errors.len(), 10);
    for line in errors.values() {
        assert_eq!(line["error"]["code"], "batch_cancelled");
        assert_eq!(line["response"], Value::Null);
    }
    assert_eq!(
        code(setup.batches.cancel(&call(), &id).await),
        ErrorCode::BatchFinished
    );
}

#[tokio::test(start_paused = true)]
async fn a_batch_can_be_cancelled_before_it_is_looked_at() {
    let setup = Setup::new();
    let id = setup.submit(&many(3)).await;
    setup.batches.cancel(&call(), &id).await.unwrap();
    let setup = setup.start();
    assert_eq!(setup.ended(&id).await.status, Status::Cancelled);
    assert_eq!(setup.store.job_count(), 0);
}

/// A window that is over before a job's own time limit.
fn short() -> batch::Config {
    batch::Config {
        window: Duration::from_secs(60),
        ..batch::Config::default()
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_not_done_within_the_window_expires() {
    let setup = Setup::with(jobs::Config::default(), short()).start();
    let id = setup
        .submit(&(line("done", "hello") + &line("hangs", "hang")))
        .await;
    let batch = setup.ended(&id).await;
    assert_eq!(batch.status, Status::Expired);
    let took = batch.expired_at.unwrap() - batch.created_at;
    assert!((60..70).contains(&took), "{took}");
    let (output, errors) = setup.outcomes(&batch).await;
    assert!(output.contains_key("done"));
    assert_eq!(errors["hangs"]["error"]["code"], "batch_expired");
}

#[tokio::test(start_paused = true)]
async fn lines_that_never_ran_expire() {
    // Nobody does jobs.
    let setup = Setup::with(jobs::Config::default(), short());
    setup.work(&setup.batches, "worker");
    let id = setup.submit(&many(1_200)).await;
    let batch = setup.ended(&id).await;
    assert_eq!(batch.status, Status::Expired);
    let (_, errors) = setup.outcomes(&batch).await;
    assert!(
        errors
            .values()
            .all(|line| line["error"]["code"] == "batch_expired")
    );
}

#[tokio::test(start_paused = true)]
async fn a_full_queue_makes_a_batch_wait() {
    let config = jobs::Config {
        max_queued: 1_100,
        ..jobs::Config::default()
    };
    let setup = Setup::with(config, batch::Config::default()).start();
    let first = setup.submit(&many(1_300)).await;
    let second = setup.submit(&many(700)).await;
    for id in [first, second] {
        let batch = setup.ended(&id).await;
        assert_eq!(batch.status, Status::Completed);
        setup.outcomes(&batch).await;
    }
}

#[tokio::test(start_paused = true)]
async fn an_input_can_not_be_deleted_while_it_is_read() {
    let setup = Setup::new();
    let input = setup.upload(&many(3), "batch").await;
    let id = setup
        .batches
        .create(&call(), request(&input))
        .await
        .unwrap()
        .id;
    assert_eq!(
        code(setup.files.delete(&call(), &input).await),
        ErrorCode::FileInUse
    );
    let setup = setup.start();
    setup.ended(&id).await;
    assert!(setup.files.delete(&call(), &input).await.unwrap().deleted);
    let batch = setup.get(&id).await;
    assert_eq!(setup.lines(batch.output_file_id.as_ref()).await.len(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_server_may_die_at_any_commit() {
    for after in [false, true] {
        for commits in 0.. {
            let setup = Setup::new().run_jobs();
            let text = many(40) + &line("failed", "fail");
            let id = setup.submit(&text).await;
            let dying = Dying::new(&setup.records, commits, after);
            let first = setup.work(&setup.over(dying.clone()), "first");
            let ended = tokio::select! {
                () = dying.died() => false,
                _ = setup.ended(&id) => true,
            };
            first.abort();
            let _ = first.await;
            setup.batches.release_all_leases().await.unwrap();
            let second = setup.work(&setup.batches, "second");
            let batch = setup.ended(&id).await;
            assert_eq!(batch.status, Status::Completed);
            let (output, errors) = setup.outcomes(&batch).await;
            assert_eq!((output.len(), errors.len()), (40, 1));
            assert_eq!(setup.store.job_count(), 41, "each line was one job");
            second.abort();
            if ended {
                assert!(commits > 6, "it was looked at at {commits} commits");
                break;
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn another_server_takes_over_from_one_that_died() {
    let setup = Setup::new().run_jobs();
    let id = setup.submit(&many(30)).await;
    let dying = Dying::new(&setup.records, 3, true);
    let first = setup.work(&setup.over(dying.clone()), "first");
    dying.died().await;
    first.abort();
    let _ = first.await;
    setup.work(&setup.batches, "second");
    let before = setup.store.now();
    let batch = setup.ended(&id).await;
    assert!(setup.store.now().since(before) < Duration::from_secs(25));
    let (output, _) = setup.outcomes(&batch).await;
    assert_eq!(output.len(), 30);
}

#[tokio::test(start_paused = true)]
async fn of_two_servers_one_works_on_a_batch() {
    let setup = Setup::new().run_jobs();
    let other = setup.over(setup.records.clone());
    setup.work(&setup.batches, "one");
    setup.work(&other, "other");
    let mut ids = Vec::new();
    for _ in 0..5 {
        ids.push(setup.submit(&many(20)).await);
    }
    for id in &ids {
        let batch = setup.ended(id).await;
        assert_eq!(batch.status, Status::Completed);
        setup.outcomes(&batch).await;
    }
    // Inputs and outputs, and nothing that a second writer left.
    assert_eq!(setup.blobs.count(), 10);
    let list = async |limit, after| {
        let params = ListBatches { limit, after };
        setup.batches.list(&call(), params).await.unwrap()
    };
    let page = list(Some(2), None).await;
    assert_eq!((page.data.len(), page.has_more), (2, true));
    assert_eq!(page.data[0].id, ids[4]);
    let next = list(None, page.last_id).await;
    assert_eq!((next.data.len(), next.has_more), (3, false));
    assert_eq!(next.data[2].id, ids[0]);
}
