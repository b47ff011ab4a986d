//! An input is in no file of the store once its job is done.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use fusion_types::{
    Tenant,
    job::{JobWrite, NewJob, Outcome},
};
use rand::{RngExt, seq::SliceRandom};
use serde_json::json;

use crate::{
    sqlite::new_store,
    suite::jobs::{HOUR, claim, insert, new_job},
};

const SECRET: &str = "xyzzy-input";

fn files_hold(folder: &Path, marker: &str) -> bool {
    std::fs::read_dir(folder).unwrap().any(|entry| {
        let bytes = std::fs::read(entry.unwrap().path()).unwrap();
        bytes
            .windows(marker.len())
            .any(|window| window == marker.as_bytes())
    })
}

/// Looks until the marker is gone; panics when a second isn't enough.
async fn gone_within_a_second(folder: &Path, marker: &str, since: Instant) {
    while files_hold(folder, marker) {
        assert!(
            since.elapsed() < Duration::from_secs(1),
            "{marker} is still there"
        );
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn the_input_of_a_finished_job_is_gone_within_a_second() {
    let store = new_store().await;
    let (jobs, folder) = (&*store.storage.jobs, store.folder.path());
    for size in [10, 5_000, 200_000] {
        let marker = format!("{SECRET}-{size}");
        let input = json!({"prompt": format!("{marker} {}", "word ".repeat(size / 5))});
        let completed = insert(
            jobs,
            NewJob {
                input: input.clone(),
                ..new_job()
            },
        )
        .await;
        let cancelled = insert(jobs, NewJob { input, ..new_job() }).await;
        assert!(files_hold(folder, &marker));
        jobs.cancel(&Tenant::default(), &cancelled.job_id)
            .await
            .unwrap();
        let claimed = claim(jobs, 1, HOUR).await.remove(0);
        assert_eq!(claimed.job.job_id, completed.job_id);
        let finish = JobWrite::Finish(Outcome::Completed(json!("fine")));
        jobs.write(&completed.job_id, claimed.fence, finish)
            .await
            .unwrap();
        gone_within_a_second(folder, &marker, Instant::now()).await;
    }
}

/// Finished in any order among others, of any size: nothing that a rebalanced tree would leave behind.
#[tokio::test]
async fn no_copy_of_an_input_stays_behind_among_many() {
    let store = new_store().await;
    let (jobs, folder) = (&*store.storage.jobs, store.folder.path());
    let mut random = rand::rng();
    let sizes = (0..300)
        .map(|_| random.random_range(0..6000))
        .collect::<Vec<usize>>();
    let marker = |number: usize| format!("{SECRET}-{number:04}-");
    let mut ids = Vec::new();
    for (number, size) in sizes.into_iter().enumerate() {
        let input = json!(format!("{}{}", marker(number), "x".repeat(size)));
        ids.push((
            number,
            insert(jobs, NewJob { input, ..new_job() }).await.job_id,
        ));
    }
    ids.shuffle(&mut random);
    let (finished, unfinished) = ids.split_at(200);
    for (_, id) in finished {
        jobs.cancel(&Tenant::default(), id).await.unwrap();
    }
    let since = Instant::now();
    for (number, _) in finished {
        gone_within_a_second(folder, &marker(*number), since).await;
    }
    for (number, _) in unfinished {
        assert!(files_hold(folder, &marker(*number)));
    }
}

/// Under load there is no idle moment to wait for.
#[tokio::test]
async fn the_input_goes_under_load_too() {
    let store = new_store().await;
    let (jobs, folder) = (&*store.storage.jobs, store.folder.path());
    let job = insert(
        jobs,
        NewJob {
            input: json!(SECRET),
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
        gone_within_a_second(folder, SECRET, Instant::now()).await;
    };
    tokio::select! { () = load => {}, () = check => {} }
    assert!(!files_hold(folder, SECRET));
}
