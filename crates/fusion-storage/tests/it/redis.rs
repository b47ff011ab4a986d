//! Redis beside MongoDB: what it says is used, and nothing hangs on it.

use std::time::{Duration, Instant};

use fusion_storage::{Config, Rate, RedisConfig, Storage, open};
use fusion_types::{
    ErrorCode, Tenant,
    job::{JobEvent, Outcome, Seq},
    store::JobStore,
};
use serde_json::json;
use tempfile::TempDir;
use tokio::time::{sleep, timeout};

use crate::{
    mongo::TestDatabase,
    servers::{self, Server},
    suite::{
        self,
        jobs::{HOUR, claim, finish, insert, new_job, owner},
    },
};

async fn open_with(database: &TestDatabase, redis: &Server) -> (Storage, TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let config = Config {
        redis: Some(RedisConfig {
            uri: redis.uri.clone(),
            database: 1,
        }),
        ..database.store_config(&folder)
    };
    (open(&config).await.unwrap(), folder)
}

async fn flush(redis: &Server) {
    let client = redis::Client::open(redis.uri.as_str()).unwrap();
    let mut connection = client.get_multiplexed_async_connection().await.unwrap();
    redis::cmd("FLUSHALL")
        .query_async::<()>(&mut connection)
        .await
        .unwrap();
}

fn port(redis: &Server) -> u16 {
    let port = redis.uri.trim_end_matches('/').rsplit(':').next();
    port.unwrap().parse().unwrap()
}

macro_rules! run {
    ($name:ident: $($suite:ident::$test:ident,)*) => {
        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $name() {
            let (Some(server), Some(redis)) = (servers::mongo(), servers::start("redis", None)) else {
                return;
            };
            $(
                eprintln!("{}", stringify!($test));
                let database = TestDatabase::new(&server);
                let (storage, _folder) = open_with(&database, &redis).await;
                suite::$suite::$test(&*storage.jobs).await;
                storage.close().await.unwrap();
                database.drop().await;
            )*
        }
    };
}

run! { jobs_are_what_they_are_without_it:
    jobs::a_job_runs_from_queue_to_result,
    jobs::a_claim_takes_what_is_held_first_and_leaves_what_is_unknown,
    jobs::claims_are_exclusive_and_in_order,
    jobs::a_job_waits_for_its_time,
    jobs::a_stale_fence_is_refused,
    jobs::a_lapsed_lease_is_taken_over,
    jobs::a_released_job_is_tried_again,
    jobs::a_returned_job_was_not_counted,
    jobs::a_key_makes_one_job,
    job_ends::a_job_whose_workers_vanish_fails_in_the_end,
    job_ends::a_queued_job_is_cancelled_at_once,
    job_ends::a_cancelled_job_is_not_tried_again,
    job_ends::a_failed_job_can_be_retried,
    job_groups::a_job_waits_for_those_it_depends_on,
    job_views::waiting_for_changes_ends_with_one_or_with_time,
}

/// Two servers work off a queue. Redis forgets everything in the middle, goes away, and comes back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn losing_redis_loses_and_doubles_nothing() {
    let (Some(server), Some(redis)) = (servers::mongo(), servers::start("redis", None)) else {
        return;
    };
    let database = TestDatabase::new(&server);
    let ((first, _a), (second, _b)) =
        tokio::join!(open_with(&database, &redis), open_with(&database, &redis));
    const JOBS: u64 = 45;
    let completed = async || first.jobs.counts().await.unwrap().completed;
    let work = async |store: &dyn JobStore| {
        let began = Instant::now();
        while store.counts().await.unwrap().completed < JOBS {
            assert!(began.elapsed() < Duration::from_secs(120));
            for claimed in claim(store, 2, HOUR).await {
                assert_eq!(claimed.job.attempt, 1);
                finish(store, &claimed, Outcome::Completed(json!(null))).await;
            }
        }
    };
    let submit = async || {
        for number in 0..JOBS {
            let store = if number % 2 == 0 { &first } else { &second };
            insert(&*store.jobs, new_job()).await;
        }
    };
    let harm = async || {
        while completed().await < JOBS / 5 {
            sleep(Duration::from_millis(20)).await;
        }
        flush(&redis).await;
        while completed().await < 2 * JOBS / 5 {
            sleep(Duration::from_millis(20)).await;
        }
        let port = port(&redis);
        drop(redis);
        while completed().await < 3 * JOBS / 5 {
            sleep(Duration::from_millis(20)).await;
        }
        servers::start("redis", Some(port)).unwrap()
    };
    let ((), (), (), redis) =
        tokio::join!(submit(), work(&*first.jobs), work(&*second.jobs), harm());

    let log = first.jobs.changes(Seq(0), 1000).await.unwrap();
    assert_eq!(log.len() as u64, 3 * JOBS);
    let of = |event| log.iter().filter(|change| change.event == event).count();
    assert_eq!(of(JobEvent::Completed) as u64, JOBS);
    assert_eq!(of(JobEvent::Processing) as u64, JOBS);
    // They find it again by themselves.
    let began = Instant::now();
    while first.health().await.redis != Some(true) {
        assert!(began.elapsed() < Duration::from_secs(30));
        sleep(Duration::from_millis(50)).await;
    }
    drop(redis);
    assert!(first.is_healthy().await, "the truth is elsewhere");
    first.close().await.unwrap();
    second.close().await.unwrap();
    database.drop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cancellation_is_heard_of_on_another_server() {
    let (Some(server), Some(redis)) = (servers::mongo(), servers::start("redis", None)) else {
        return;
    };
    let database = TestDatabase::new(&server);
    let ((first, _a), (second, _b)) =
        tokio::join!(open_with(&database, &redis), open_with(&database, &redis));
    let job = insert(&*first.jobs, new_job()).await;
    claim(&*second.jobs, 1, HOUR).await;
    let worker = owner();
    let heard = second.jobs.wait_for_cancellation(&worker);
    let tenant = Tenant::default();
    let cancel = first.jobs.cancel(&tenant, &job.job_id);
    let (heard, cancelled) = tokio::join!(timeout(Duration::from_secs(10), heard), cancel);
    heard.expect("the worker is told");
    cancelled.unwrap();
    database.drop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_clients_rate_is_one_over_all_servers_and_limited_without_redis_too() {
    let (Some(server), Some(redis)) = (servers::mongo(), servers::start("redis", None)) else {
        return;
    };
    let database = TestDatabase::new(&server);
    let ((first, _a), (second, _b)) =
        tokio::join!(open_with(&database, &redis), open_with(&database, &redis));
    let rate = Rate {
        interval: Duration::from_secs(2),
        burst: 4,
    };
    let began = Instant::now();
    let mut taken = 0;
    for _ in 0..6 {
        for store in [&first, &second] {
            match store.admit("client", rate).await {
                Ok(()) => taken += 1,
                Err(wait) => assert!(wait <= rate.interval, "{wait:?}"),
            }
        }
    }
    let most = 4 + began.elapsed().as_secs() / 2;
    assert!((4..=most).contains(&taken), "{taken} of {most}");
    assert_eq!(first.admit("another", rate).await, Ok(()));
    let wait = loop {
        match second.admit("client", rate).await {
            Ok(()) => {}
            Err(wait) => break wait,
        }
    };
    sleep(wait + Duration::from_millis(20)).await;
    assert_eq!(first.admit("client", rate).await, Ok(()));

    // Each counts for itself while it can't ask.
    drop(redis);
    let mut alone = 0;
    for _ in 0..6 {
        alone += u32::from(first.admit("client", rate).await.is_ok());
    }
    assert!((4..=5).contains(&alone), "{alone}");
    database.drop().await;
}

#[tokio::test]
async fn a_server_that_is_not_there_is_named_without_its_password() {
    let Some(server) = servers::mongo() else {
        return;
    };
    let database = TestDatabase::new(&server);
    let folder = tempfile::tempdir().unwrap();
    let config = Config {
        redis: Some(RedisConfig {
            uri: "redis://:hush@127.0.0.1:1/".to_owned(),
            database: 0,
        }),
        ..database.store_config(&folder)
    };
    let Err(error) = open(&config).await else {
        panic!("nobody listens there");
    };
    assert_eq!(error.code, ErrorCode::StoreUnavailable);
    assert!(error.message.contains("127.0.0.1:1"), "{}", error.message);
    assert!(error.message.contains("REDIS_URI"), "{}", error.message);
    assert!(!error.message.contains("hush"), "{}", error.message);
    database.drop().await;
}
