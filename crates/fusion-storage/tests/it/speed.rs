//! Measured, not asserted: run with `--ignored --nocapture` on a quiet machine.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use fusion_storage::{Config, open};
use fusion_types::{
    Tenant,
    document::{CollectionRef, IndexChange, IndexChangeKind, IndexQuery},
    id::ChunkId,
    job::{Claimed, JobWrite, NewJob, Outcome, Seq},
    store::JobStore,
};
use futures::future::join_all;
use serde_json::json;
use tokio::task::JoinSet;

use crate::{
    sqlite::new_store,
    suite::jobs::{HOUR, claim, insert, new_job},
};

/// How long one thing is done again and again; short enough that the queue isn't used up.
const SHARE: Duration = Duration::from_secs(1);

/// How often a second.
async fn rate(mut work: impl AsyncFnMut() -> usize) -> f64 {
    let began = Instant::now();
    let mut done = 0;
    while began.elapsed() < SHARE {
        done += work().await;
    }
    done as f64 / began.elapsed().as_secs_f64()
}

async fn insert_together(jobs: &Arc<dyn JobStore>, callers: usize) -> f64 {
    let began = Instant::now();
    let mut running = JoinSet::new();
    for _ in 0..callers {
        let jobs = Arc::clone(jobs);
        running.spawn(async move {
            let mut done = 0;
            while began.elapsed() < SHARE {
                insert(&*jobs, new_job()).await;
                done += 1;
            }
            done
        });
    }
    let done = running.join_all().await.into_iter().sum::<usize>();
    done as f64 / began.elapsed().as_secs_f64()
}

#[tokio::test]
#[ignore = "a measurement"]
async fn commits_and_claims_a_second() {
    let store = new_store().await;
    let jobs = &*store.storage.jobs;
    for callers in [1, 10, 100] {
        println!(
            "inserts/s, {callers} callers: {:.0}",
            insert_together(&store.storage.jobs, callers).await
        );
    }
    let began = Instant::now();
    for _ in 0..100 {
        jobs.insert((0..1000).map(|_| new_job()).collect())
            .await
            .unwrap();
    }
    println!(
        "100,000 jobs in thousands: {:.1} s",
        began.elapsed().as_secs_f64()
    );
    let queued = jobs.counts().await.unwrap().queued;
    println!("queued: {queued}");
    for limit in [1, 10, 100] {
        println!(
            "claims/s, {limit} at once: {:.0}",
            rate(async || claim(jobs, limit, HOUR).await.len()).await
        );
    }
    let last = insert(
        jobs,
        NewJob {
            sort_key: i64::MAX,
            ..new_job()
        },
    )
    .await;
    println!(
        "positions/s of the last: {:.0}",
        rate(async || jobs.position(&last.job_id).await.unwrap().map_or(0, |_| 1)).await
    );
    let finish = async || {
        let claimed = claim(jobs, 1, HOUR).await.remove(0);
        let finish = JobWrite::Finish(Outcome::Completed(json!({"content": "done"})));
        jobs.write(&claimed.job.job_id, claimed.fence, finish)
            .await
            .unwrap();
        1
    };
    println!(
        "claimed, completed and scrubbed, one by one: {:.0}/s",
        rate(finish).await
    );
    let finish_together = async || {
        let claimed = claim(jobs, 64, HOUR).await;
        let done = claimed.len();
        let finish = |job: Claimed| async move {
            let finish = JobWrite::Finish(Outcome::Completed(json!({"content": "done"})));
            jobs.write(&job.job.job_id, job.fence, finish)
                .await
                .unwrap();
        };
        join_all(claimed.into_iter().map(finish)).await;
        done
    };
    println!(
        "claimed, completed and scrubbed, 64 at once: {:.0}/s",
        rate(finish_together).await
    );
    store.storage.close().await.unwrap();
    let began = Instant::now();
    let storage = open(&Config::new(store.folder.path().to_owned()))
        .await
        .unwrap();
    println!("opened again: {:?}", began.elapsed());
    storage.close().await.unwrap();
}

#[tokio::test]
#[ignore = "a measurement"]
async fn searches_a_second() {
    let store = new_store().await;
    let collection = CollectionRef {
        tenant: Tenant::default(),
        name: "docs".into(),
    };
    let vector = |row: u64| {
        (0..384)
            .map(|column| ((row * 31 + column * 17) % 101) as f32 / 101.0 - 0.5)
            .collect::<Vec<_>>()
    };
    let change = |seq: u64| {
        let text = format!(
            "chunk {seq} speaks of subject {} and matter {}",
            seq % 1000,
            seq % 77
        );
        let chunk_id = ChunkId::from_text(&format!("chunk-{seq:06}"));
        IndexChange {
            seq: Seq(seq),
            kind: IndexChangeKind::Add {
                chunk_id,
                embedding: vector(seq),
                text,
            },
        }
    };
    let changes = (1..=20_000).map(change).collect::<Vec<_>>();
    for (index, query) in [
        (&store.storage.dense, IndexQuery::Dense(vector(5))),
        (
            &store.storage.keyword,
            IndexQuery::Keyword("which subject matters 55".to_owned()),
        ),
    ] {
        let began = Instant::now();
        index.apply(&collection, changes.clone()).await.unwrap();
        println!("20,000 chunks applied: {:?}", began.elapsed());
        let one = index.apply(&collection, vec![change(20_001)]);
        let began = Instant::now();
        one.await.unwrap();
        println!("one more: {:?}", began.elapsed());
        let search = async || {
            index
                .search(&collection, query.clone(), 10)
                .await
                .unwrap()
                .len()
                / 10
        };
        println!("searches/s: {:.0}", rate(search).await);
    }
}
