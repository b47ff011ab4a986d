//! An input is in no file of the store once its job is done.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    time::{Duration, Instant},
};

use fusion_storage::{Config, Inputs, open};
use fusion_types::{
    ErrorCode, Tenant,
    id::JobId,
    job::{JobStatus, JobWrite, NewJob, Outcome},
};
use futures::future::join_all;
use rand::{RngExt, seq::SliceRandom};
use rusqlite::Connection;
use serde_json::{Value, json};

use crate::{
    sqlite::new_store,
    suite::job_ends,
    suite::jobs::{HOUR, claim, failure, insert, new_job},
};

const SECRET: &str = "xyzzy-input-";

/// The numbers that stand behind the secret, wherever it is in a file.
fn found(folder: &Path) -> BTreeSet<usize> {
    let mut found = BTreeSet::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(self::found(&path));
            continue;
        }
        let text = String::from_utf8_lossy(&std::fs::read(path).unwrap()).into_owned();
        found.extend(
            text.split(SECRET)
                .skip(1)
                // None where a page's end cuts it.
                .filter_map(|after| after.get(..4)?.parse::<usize>().ok()),
        );
    }
    found
}

fn input(number: usize, size: usize) -> Value {
    json!({"prompt": format!("{SECRET}{number:04} {}", "x".repeat(size))})
}

/// Looks until no more than these are left; panics when a second isn't enough.
async fn gone_within_a_second(folder: &Path, left: &BTreeSet<usize>) {
    let since = Instant::now();
    loop {
        let found = found(folder);
        if found == *left {
            return;
        }
        let too_long = found.difference(left).collect::<Vec<_>>();
        assert!(
            since.elapsed() < Duration::from_secs(1),
            "still there: {too_long:?}"
        );
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn the_input_of_a_finished_job_is_gone_within_a_second() {
    let store = new_store().await;
    let (jobs, folder) = (&*store.storage.jobs, store.folder.path());
    for size in [10, 5_000, 200_000] {
        let completed = insert(
            jobs,
            NewJob {
                input: input(1, size),
                ..new_job()
            },
        )
        .await;
        let cancelled = insert(
            jobs,
            NewJob {
                input: input(2, size),
                ..new_job()
            },
        )
        .await;
        assert_eq!(found(folder), [1, 2].into());
        jobs.cancel(&Tenant::default(), &cancelled.job_id)
            .await
            .unwrap();
        let claimed = claim(jobs, 1, HOUR).await.remove(0);
        assert_eq!(claimed.job.job_id, completed.job_id);
        let finish = JobWrite::Finish(Outcome::Completed(json!("fine")));
        jobs.write(&completed.job_id, claimed.fence, finish)
            .await
            .unwrap();
        gone_within_a_second(folder, &BTreeSet::new()).await;
    }
}

/// Finished in any order among others, of any size: nothing that a rebalanced tree would leave behind.
#[tokio::test]
async fn no_copy_of_an_input_stays_behind_among_many() {
    let store = new_store().await;
    let (jobs, folder) = (&*store.storage.jobs, store.folder.path());
    let mut random = rand::rng();
    let mut ids = Vec::new();
    for number in 0..300 {
        let input = input(number, random.random_range(0..6000));
        ids.push((
            number,
            insert(jobs, NewJob { input, ..new_job() }).await.job_id,
        ));
    }
    assert_eq!(found(folder).len(), 300);
    ids.shuffle(&mut random);
    let (finished, unfinished) = ids.split_at(200);
    for (_, id) in finished {
        jobs.cancel(&Tenant::default(), id).await.unwrap();
    }
    gone_within_a_second(
        folder,
        &unfinished.iter().map(|(number, _)| *number).collect(),
    )
    .await;
}

/// Those that came in together share pages: by one call, or by several that are committed at once, of which some fail.
#[tokio::test]
async fn an_input_goes_from_among_those_that_came_with_it() {
    let store = new_store().await;
    let (jobs, folder) = (&*store.storage.jobs, store.folder.path());
    let mut random = rand::rng();
    let mut numbers = 0..600;
    let mut ids = Vec::new();
    for size in [20, 600, 6_000] {
        let new: Vec<NewJob> = numbers
            .by_ref()
            .take(200)
            .map(|number| NewJob {
                input: input(number, random.random_range(0..size)),
                ..new_job()
            })
            .collect();
        ids.extend(new.iter().map(|job| job.id.clone()));
        let (in_one, alone) = new.split_at(100);
        jobs.insert(in_one.to_vec()).await.unwrap();
        let failing = || async {
            let orphan = NewJob {
                depends_on: vec![JobId::generate()],
                ..new_job()
            };
            jobs.insert(vec![new_job(), orphan]).await.unwrap_err();
        };
        let each = alone.iter().map(|job| async {
            jobs.insert(vec![job.clone()]).await.unwrap();
            failing().await;
        });
        join_all(each).await;
    }
    // But for some that a page's end cuts in two.
    let visible = found(folder);
    assert!(visible.len() > 550);
    let mut ids: Vec<(usize, JobId)> = ids.into_iter().enumerate().collect();
    ids.shuffle(&mut random);
    let (finished, unfinished) = ids.split_at(400);
    for (_, id) in finished {
        jobs.cancel(&Tenant::default(), id).await.unwrap();
    }
    let left: BTreeSet<usize> = unfinished.iter().map(|(number, _)| *number).collect();
    gone_within_a_second(folder, &(&left & &visible)).await;
    let numbers: BTreeMap<JobId, usize> =
        ids.into_iter().map(|(number, id)| (id, number)).collect();
    let claimed = claim(jobs, 1_000, HOUR).await;
    assert_eq!(claimed.len(), left.len());
    for job in claimed {
        let text = job.input["prompt"].as_str().unwrap();
        let number = numbers[&job.job.job_id];
        assert!(
            text.starts_with(&format!("{SECRET}{number:04}")),
            "{number}: {text}"
        );
    }
}

#[tokio::test]
async fn the_input_of_a_failed_job_goes_after_a_day() {
    let store = new_store().await;
    let (jobs, folder) = (&*store.storage.jobs, store.folder.path());
    let tenant = Tenant::default();
    let mut ids = Vec::new();
    for number in 0..2 {
        let job = insert(
            jobs,
            NewJob {
                input: input(number, 10),
                ..new_job()
            },
        )
        .await;
        let claimed = claim(jobs, 1, HOUR).await.remove(0);
        let fail = JobWrite::Finish(Outcome::Failed(failure(ErrorCode::InternalError)));
        jobs.write(&job.job_id, claimed.fence, fail).await.unwrap();
        ids.push(job.job_id);
    }
    let a_day_earlier = "UPDATE jobs SET failed_at = failed_at - 24 * 3600 * 1000 WHERE id = ?1";
    let database = Connection::open(folder.join("fusiond.sqlite")).unwrap();
    database.execute(a_day_earlier, [ids[0].as_str()]).unwrap();
    drop(database);
    assert_eq!(jobs.sweep().await.unwrap(), 0, "the job itself stays");
    gone_within_a_second(folder, &[1].into()).await;
    assert_eq!(
        jobs.get(&tenant, &ids[0]).await.unwrap().unwrap().status,
        JobStatus::Failed
    );
    assert_eq!(
        jobs.retry(&tenant, &ids[0]).await.unwrap_err().code,
        ErrorCode::PayloadGone
    );
    assert_eq!(
        jobs.retry(&tenant, &ids[1]).await.unwrap().status,
        JobStatus::Queued
    );
}

#[tokio::test]
async fn inputs_are_kept_as_long_as_the_store_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let at_once = Inputs::UntilDone {
        after_failure: Duration::ZERO,
    };
    for inputs in [at_once, Inputs::Keep] {
        let config = Config {
            inputs,
            ..Config::new(folder.path())
        };
        let storage = open(&config).await.unwrap();
        let jobs = &*storage.jobs;
        if inputs == Inputs::Keep {
            job_ends::a_kept_input_outlives_the_sweep(jobs).await;
            let done = NewJob {
                input: input(1, 10),
                ..new_job()
            };
            let id = insert(jobs, done).await.job_id;
            jobs.cancel(&Tenant::default(), &id).await.unwrap();
        } else {
            job_ends::without_its_input_no_failed_job_is_retried(jobs).await;
        }
        storage.close().await.unwrap();
    }
    assert_eq!(found(folder.path()), [1].into());
}

/// Under load there is no idle moment to wait for.
#[tokio::test]
async fn the_input_goes_under_load_too() {
    let store = new_store().await;
    let (jobs, folder) = (&*store.storage.jobs, store.folder.path());
    let job = insert(
        jobs,
        NewJob {
            input: input(1, 10),
            ..new_job()
        },
    )
    .await;
    let load = async {
        loop {
            insert(jobs, new_job()).await;
        }
    };
    let check = async {
        jobs.cancel(&Tenant::default(), &job.job_id).await.unwrap();
        gone_within_a_second(folder, &BTreeSet::new()).await;
    };
    tokio::select! { () = load => {}, () = check => {} }
    assert!(found(folder).is_empty());
}
