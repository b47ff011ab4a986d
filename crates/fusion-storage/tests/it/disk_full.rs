//! On a disk that is full the store refuses writes, and reads go on.

use std::{
    io::Write,
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use fusion_storage::{Config, open};
use fusion_types::{ErrorCode, Tenant, id::BlobId, job::NewJob};
use futures::StreamExt;
use serde_json::json;

use crate::suite::jobs::{insert, new_job};

const FOLDER: &str = "FUSION_STORAGE_TEST_SMALL_DISK";

/// Needs a name space of its own, to mount a small file system without being root.
#[test]
fn a_full_disk_refuses_writes_and_answers_reads() {
    let folder = tempfile::tempdir().unwrap();
    let unshare = |script: &str| {
        let mut command = Command::new("unshare");
        command
            .args([
                "--user",
                "--map-root-user",
                "--mount",
                "sh",
                "-c",
                script,
                "sh",
            ])
            .arg(folder.path());
        command
    };
    let mount = "mount -t tmpfs -o size=4m small \"$1\"";
    if !unshare(mount)
        .output()
        .is_ok_and(|output| output.status.success())
    {
        println!("SKIPPED: no small file system can be mounted here (unshare, mount)");
        return;
    }
    let output = unshare(&format!(
        "{mount} && exec \"$2\" --exact disk_full::child_fills_its_disk --ignored --nocapture"
    ))
    .arg(std::env::current_exe().unwrap())
    .env(FOLDER, folder.path())
    .output()
    .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(String::from_utf8_lossy(&output.stdout).contains("1 passed"));
}

#[tokio::test]
#[ignore = "the child process of the test above: it needs a small disk"]
async fn child_fills_its_disk() {
    let folder = std::env::var_os(FOLDER).expect("only the test above starts this");
    let filler = Path::new(&folder).join("filler");
    std::fs::write(&filler, vec![1; 1 << 20]).unwrap();
    let storage = open(&Config::new(folder.clone())).await.unwrap();
    let jobs = &*storage.jobs;
    let large = || NewJob {
        input: json!("x".repeat(50_000)),
        ..new_job()
    };
    let mut ids = vec![insert(jobs, large()).await.job_id];
    let refused = loop {
        match jobs.insert(vec![large()]).await {
            Ok(_) => ids.push(
                jobs.changes(fusion_types::job::Seq(ids.len() as u64), 1)
                    .await
                    .unwrap()[0]
                    .job
                    .job_id
                    .clone(),
            ),
            Err(error) => break error,
        }
    };
    assert_eq!(refused.code, ErrorCode::StoreUnavailable, "{refused}");
    assert!(refused.message.contains("disk is full"), "{refused}");
    // What a large write left free may be enough for the store's own small one, so that it counts as healthy again.
    let rest = Path::new(&folder).join("rest");
    let mut file = std::fs::File::create(&rest).unwrap();
    while file.write_all(&[1; 512]).is_ok() {}
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        let refused = jobs.insert(vec![large()]).await.unwrap_err();
        assert_eq!(refused.code, ErrorCode::StoreUnavailable, "{refused}");
        // On a busy machine the store's own small write may come first, and find room.
        if !storage.is_healthy().await {
            break;
        }
        assert!(Instant::now() < deadline, "the store calls itself healthy");
    }
    assert!(ids.len() > 10);
    let file = futures::stream::iter([Ok(vec![1; 1 << 20].into())]).boxed();
    let refused = storage.blobs.put(&BlobId::generate(), file).await;
    let refused = refused.unwrap_err();
    assert_eq!(refused.code, ErrorCode::StoreUnavailable, "{refused}");
    let blobs = Path::new(&folder).join("blobs");
    assert_eq!(
        std::fs::read_dir(blobs.join("incoming")).unwrap().count(),
        0
    );
    assert_eq!(std::fs::read_dir(blobs).unwrap().count(), 1);
    for id in &ids {
        assert!(jobs.get(&Tenant::default(), id).await.unwrap().is_some());
    }

    std::fs::remove_file(filler).unwrap();
    std::fs::remove_file(rest).unwrap();
    let deadline = Instant::now() + Duration::from_secs(30);
    while !storage.is_healthy().await {
        assert!(Instant::now() < deadline, "the store doesn't recover");
        tokio::task::yield_now().await;
    }
    insert(jobs, large()).await;
    assert_eq!(jobs.counts().await.unwrap().queued, ids.len() as u64 + 1);
    storage.close().await.unwrap();
}
