//! Which memory models are budgeted in, and how much of it they may take unless configured.

use fusion_models::{MemoryOf, MemoryReader};

/// That of CUDA's devices where the server was built for them and there are some, else the machine's.
pub(crate) fn budgeted() -> MemoryReader {
    #[cfg(feature = "cuda")]
    if let Some(devices) = MemoryReader::of_cuda_devices() {
        return devices;
    }
    MemoryReader::of_this_machine()
}

/// In bytes: 70 % of physical memory, which other programs need as well, or 90 % of the devices', where CUDA itself takes some.
/// `None` where it is unknown.
pub(crate) fn default_budget(reader: &MemoryReader) -> Option<u64> {
    let (bytes, percent) = match reader.memory_of() {
        MemoryOf::Machine => (physical()?, 70),
        MemoryOf::Cuda => (reader.read()?.total_bytes, 90),
    };
    Some(bytes / 100 * percent)
}

/// Physical memory in bytes, or less where a control group allows less; `None` where the platform doesn't tell.
fn physical() -> Option<u64> {
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

#[cfg(test)]
mod tests {
    use fusion_models::DeviceMemory;

    use super::*;

    #[test]
    fn the_default_is_a_part_of_the_memory_that_is_budgeted() {
        let read = || DeviceMemory {
            total_bytes: 1000,
            ..DeviceMemory::default()
        };
        let devices = MemoryReader::of_devices(move || Some(read()));
        assert_eq!(default_budget(&devices), Some(900));
        assert_eq!(default_budget(&MemoryReader::of_devices(|| None)), None);
        let machine = default_budget(&MemoryReader::of_this_machine());
        assert_eq!(machine, physical().map(|bytes| bytes / 100 * 70));
    }
}
