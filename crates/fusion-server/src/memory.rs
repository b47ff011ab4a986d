//! How much memory the machine has.

/// Physical memory in bytes, or less where a control group allows less; `None` where the platform doesn't tell.
pub(crate) fn physical() -> Option<u64> {
    let installed = installed()?;
    Some(group_limit().map_or(installed, |limit| limit.min(installed)))
}

#[cfg(target_os = "linux")]
fn installed() -> Option<u64> {
    let table = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = table
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kilobytes: u64 = line.split_whitespace().next()?.parse().ok()?;
    Some(kilobytes * 1024)
}

#[cfg(not(target_os = "linux"))]
fn installed() -> Option<u64> {
    let answer = std::process::Command::new("sysctl")
        .args(["-n", "hw.memsize"])
        .output()
        .ok()?;
    String::from_utf8(answer.stdout).ok()?.trim().parse().ok()
}

/// `memory.max` of this process's control group (version 2), where one is set.
fn group_limit() -> Option<u64> {
    let groups = std::fs::read_to_string("/proc/self/cgroup").ok()?;
    let path = groups.lines().find_map(|line| line.strip_prefix("0::"))?;
    let limit = std::fs::read_to_string(format!("/sys/fs/cgroup{path}/memory.max")).ok()?;
    limit.trim().parse().ok()
}
