//! ⚡ A control group with little memory: the server makes room before the kernel does.

use std::{
    fs, io,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use reqwest::StatusCode;
use serde_json::json;
use tokio::process::{Child, Command};

use crate::{
    client::chat,
    server::{DEADLINE, Home, until},
};

const MEGABYTE: u64 = 1 << 20;
const LIMIT_MB: u64 = 1000;
/// How often the server looks at the machine.
const LOOK: Duration = Duration::from_secs(3);

/// A group of this test's own, of either version. Removed with the test, whose processes are gone by then.
struct Group {
    folder: PathBuf,
    /// Counts the processes that the kernel ended for want of memory.
    events: &'static str,
}

impl Group {
    /// # Errors
    /// Why this machine doesn't let a test make one.
    fn create() -> Result<Self, String> {
        let mount = Path::new("/sys/fs/cgroup");
        let name = format!("fusiond-test-{}", std::process::id());
        let second = mount.join("cgroup.controllers").is_file();
        let (folder, limit, events) = if second {
            (mount.join(name), "memory.max", "memory.events")
        } else {
            (
                mount.join("memory").join(name),
                "memory.limit_in_bytes",
                "memory.oom_control",
            )
        };
        let group = Self { folder, events };
        let failed = |error: io::Error| format!("no control group can be made here: {error}");
        fs::create_dir(&group.folder).map_err(failed)?;
        fs::write(group.folder.join(limit), (LIMIT_MB * MEGABYTE).to_string()).map_err(failed)?;
        Ok(group)
    }

    fn adopt(&self, pid: u32) {
        fs::write(self.folder.join("cgroup.procs"), pid.to_string()).unwrap();
    }

    fn kills(&self) -> u64 {
        let text = fs::read_to_string(self.folder.join(self.events)).unwrap();
        let count = text.lines().find_map(|line| line.strip_prefix("oom_kill "));
        count.unwrap().trim().parse().unwrap()
    }

    /// A program that isn't the server's and holds so much of the group's memory.
    fn neighbour(&self, megabytes: u64) -> Child {
        let engine = Path::new(env!("CARGO_BIN_EXE_fusiond")).with_file_name("fake-engine");
        let join = format!(
            "echo $$ > {}; exec \"$0\" \"$@\"",
            self.folder.join("cgroup.procs").display()
        );
        Command::new("sh")
            .args(["-c", &join])
            .arg(engine)
            .args(["serve", "--listen", "127.0.0.1:0", "--model", "none"])
            .args(["--option", &format!("resident_mb={megabytes}")])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .unwrap()
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // Processes that are on their way out hold it for a moment; a test that failed leaves it behind.
        for _ in 0..1000 {
            if fs::remove_dir(&self.folder).is_ok() {
                return;
            }
            std::thread::yield_now();
        }
    }
}

#[tokio::test]
async fn idle_models_go_and_loads_are_refused_before_the_kernel_kills() {
    let group = match Group::create() {
        Ok(group) => group,
        Err(why) => return println!("SKIPPED: {why}"),
    };
    let size = [("estimate_mb", "200"), ("resident_mb", "200")];
    let slow = [&size[..], &[("tokens", "1000000"), ("delay_ms", "20")]].concat();
    let home = Home::new()
        .fake("busy", "lm", &slow)
        .fake("idle", "lm", &size)
        .fake("other", "lm", &size)
        .argument("max-vram-gb", "4");
    let mut server = home.start().await;
    group.adopt(server.child.id().unwrap());
    let client = server.client();
    // One that isn't pinned would be asked to make room for the next, which then waits instead of being refused.
    for (model, pinned) in [("busy", true), ("idle", false)] {
        let load = json!({ "model_path": model, "pinned": pinned });
        client.ask("/v1/models/load", &load).await;
    }
    let mut stream = client.stream(&chat("busy", "hi", true)).await;
    stream.next().await.unwrap();

    let mut neighbours = vec![group.neighbour(LIMIT_MB - 560)];
    let idle_is_gone = async |limit| {
        let started = tokio::time::Instant::now();
        while client.look("/v1/models/idle/info").await["status"] != "unloaded" {
            if started.elapsed() > limit {
                return false;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        true
    };
    while !idle_is_gone(LOOK).await {
        assert_eq!(group.kills(), 0, "the kernel was first");
        neighbours.push(group.neighbour(15));
    }
    let (status, refused) = client
        .post("/v1/models/load", &json!({ "model_path": "other" }))
        .await;
    assert_eq!(
        (status, &refused["error"]["code"]),
        (StatusCode::SERVICE_UNAVAILABLE, &"insufficient_vram".into()),
        "{refused}"
    );
    assert_eq!(
        client.look("/v1/models/busy/info").await["status"],
        "loaded"
    );

    for mut neighbour in neighbours {
        neighbour.kill().await.unwrap();
    }
    until("room for another model", DEADLINE, async || {
        let load = json!({ "model_path": "other" });
        client.post("/v1/models/load", &load).await.0 == StatusCode::OK
    })
    .await;
    stream.next().await.unwrap();
    assert_eq!(group.kills(), 0, "the kernel killed something");
    drop(stream);
    server.child.kill().await.unwrap();
    until("the end of all processes", DEADLINE, async || {
        fs::read_to_string(group.folder.join("cgroup.procs"))
            .unwrap()
            .is_empty()
    })
    .await;
}
