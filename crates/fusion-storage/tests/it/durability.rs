//! What was acknowledged survives kill -9.

use std::{
    collections::HashSet,
    io::{BufRead, BufReader, Write},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use fusion_storage::{Config, MongoConfig, open};
use fusion_types::{
    Tenant,
    id::JobId,
    job::{JobCounts, Seq},
    record::RecordWrite,
};
use rand::RngExt;
use serde_json::json;

use crate::{
    mongo::TestDatabase,
    servers,
    suite::jobs::{insert, new_job},
};

const FOLDER: &str = "FUSION_STORAGE_TEST_FOLDER";
const MONGO: &str = "FUSION_STORAGE_TEST_MONGO";
const DATABASE: &str = "FUSION_STORAGE_TEST_DATABASE";

/// Short by default; `KILL_ROUNDS=200` is the long form.
fn rounds(short: u32) -> u32 {
    std::env::var("KILL_ROUNDS").map_or(short, |rounds| rounds.parse().unwrap())
}

#[tokio::test]
async fn no_acknowledged_job_is_lost_to_kill_9() {
    let folder = tempfile::tempdir().unwrap();
    kill_and_look(&Config::new(folder.path()), rounds(20)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_job_acknowledged_on_mongo_is_lost_to_kill_9() {
    let Some(server) = servers::mongo() else {
        return;
    };
    let database = TestDatabase::new(&server);
    let folder = tempfile::tempdir().unwrap();
    kill_and_look(&database.store_config(&folder), rounds(4)).await;
    database.drop().await;
}

async fn kill_and_look(config: &Config, rounds: u32) {
    let mut acknowledged = HashSet::new();
    for round in 0..rounds {
        let lifetime = Duration::from_millis(rand::rng().random_range(0..150));
        let before = acknowledged.len();
        acknowledged.extend(run_and_kill(config, lifetime));
        assert!(
            acknowledged.len() > before,
            "round {round} got nothing done"
        );

        let storage = open(config).await.unwrap();
        for id in &acknowledged {
            let found = storage
                .jobs
                .get(&Tenant::default(), &JobId::from_text(id))
                .await
                .unwrap();
            assert!(
                found.is_some(),
                "round {round}: {id} was acknowledged and is lost"
            );
        }
        let JobCounts { queued, .. } = storage.jobs.counts().await.unwrap();
        assert!(queued >= acknowledged.len() as u64);
        assert_dense(&storage, queued).await;
        storage.close().await.unwrap();
    }
}

/// The change log has one entry a job, without a gap.
async fn assert_dense(storage: &fusion_storage::Storage, queued: u64) {
    let mut newest = Seq(0);
    loop {
        let changes = storage.jobs.changes(newest, 1000).await.unwrap();
        let Some(last) = changes.last() else { break };
        assert_eq!(last.seq.0, newest.0 + changes.len() as u64);
        newest = last.seq;
    }
    assert_eq!(newest.0, queued);
}

/// Starts this very program as a child that only runs [`child_inserts_until_killed`], and kills it a while after its first
/// acknowledged job. Returns the ids that it acknowledged.
fn run_and_kill(config: &Config, lifetime: Duration) -> Vec<String> {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args([
            "--exact",
            "durability::child_inserts_until_killed",
            "--ignored",
            "--nocapture",
        ])
        .env(FOLDER, &config.data_dir)
        .stdout(Stdio::piped())
        .stderr(Stdio::null());
    if let Some(mongo) = &config.mongo {
        command
            .env(MONGO, &mongo.uri)
            .env(DATABASE, &mongo.database);
    }
    let mut child = command.spawn().unwrap();
    let mut output = BufReader::new(child.stdout.take().unwrap());
    let mut ids = Vec::new();
    let mut kill_at = None;
    let mut line = String::new();
    while output.read_line(&mut line).unwrap() > 0 {
        // The last line may be cut off.
        if let Some(id) = line
            .strip_suffix('\n')
            .and_then(|line| line.strip_prefix("acknowledged "))
        {
            ids.push(id.to_owned());
            let kill_at = kill_at.get_or_insert_with(|| Instant::now() + lifetime);
            if Instant::now() >= *kill_at {
                child.kill().unwrap();
            }
        }
        line.clear();
    }
    child.wait().unwrap();
    ids
}

#[tokio::test]
#[ignore = "the child process of the kill test: it ends only by being killed"]
async fn child_inserts_until_killed() {
    let folder = std::env::var_os(FOLDER).expect("only the kill test starts this");
    let mongo = std::env::var(MONGO).ok().map(|uri| MongoConfig {
        uri,
        database: std::env::var(DATABASE).unwrap(),
    });
    let config = Config {
        mongo,
        ..Config::new(folder)
    };
    let storage = open(&config).await.unwrap();
    let insert_and_say = async || {
        loop {
            let id = insert(&*storage.jobs, new_job()).await.job_id;
            writeln!(std::io::stdout().lock(), "acknowledged {id}").unwrap();
        }
    };
    // One record: SecantusDB, which the tests start, hangs when a client is killed within a transaction.
    let other_writes = async || {
        loop {
            let write = RecordWrite::put("space", "key", json!("x".repeat(5000)));
            storage.records.commit(vec![write]).await.unwrap();
        }
    };
    tokio::join!(
        insert_and_say(),
        insert_and_say(),
        insert_and_say(),
        other_writes()
    );
}
