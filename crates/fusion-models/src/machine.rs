//! What the machine itself has left.

use std::{fmt, fs, sync::Arc};

/// The machine's memory, or the control group's where that has less.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct MachineMemory {
    pub total_bytes: u64,
    /// What could be had without anything being swapped out.
    pub available_bytes: u64,
    /// Percent of the last ten seconds in which somebody waited for memory, where the system tells.
    pub stalled_percent: Option<f32>,
}

/// How the machine's memory is read. `None` where the system doesn't tell.
#[derive(Clone)]
pub struct MemoryReader(Arc<dyn Fn() -> Option<MachineMemory> + Send + Sync>);

impl MemoryReader {
    pub fn new(read: impl Fn() -> Option<MachineMemory> + Send + Sync + 'static) -> Self {
        Self(Arc::new(read))
    }

    /// This machine, as Linux describes it below `/proc`; elsewhere nothing is told.
    pub fn of_this_machine() -> Self {
        Self::new(read)
    }

    pub fn read(&self) -> Option<MachineMemory> {
        (self.0)()
    }
}

impl fmt::Debug for MemoryReader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MemoryReader")
    }
}

fn read() -> Option<MachineMemory> {
    let table = fs::read_to_string("/proc/meminfo").ok()?;
    let mut total = kilobytes(&table, "MemTotal:")?;
    let mut available = kilobytes(&table, "MemAvailable:")?;
    if let Some((limit, used)) = group() {
        total = total.min(limit);
        available = available.min(limit.saturating_sub(used));
    }
    let pressure = fs::read_to_string("/proc/pressure/memory").ok();
    Some(MachineMemory {
        total_bytes: total,
        available_bytes: available,
        stalled_percent: pressure.as_deref().and_then(stalled),
    })
}

/// The limit of this process's control group (version 2) and what counts against it, without the file pages that can go.
fn group() -> Option<(u64, u64)> {
    let groups = fs::read_to_string("/proc/self/cgroup").ok()?;
    let path = groups.lines().find_map(|line| line.strip_prefix("0::"))?;
    let file = |name: &str| fs::read_to_string(format!("/sys/fs/cgroup{path}/{name}")).ok();
    let limit = file("memory.max")?.trim().parse().ok()?;
    let current: u64 = file("memory.current")?.trim().parse().ok()?;
    let table = file("memory.stat")?;
    let pages = |line: &str| line.strip_prefix("inactive_file ")?.trim().parse().ok();
    let reclaimable: u64 = table.lines().find_map(pages).unwrap_or(0);
    Some((limit, current.saturating_sub(reclaimable)))
}

/// The value of a line such as `MemTotal:  1234 kB`, in bytes.
fn kilobytes(table: &str, name: &str) -> Option<u64> {
    let value = table.lines().find_map(|line| line.strip_prefix(name))?;
    let kilobytes: u64 = value.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kilobytes * 1024)
}

/// `some avg10=1.23 avg60=…`
fn stalled(pressure: &str) -> Option<f32> {
    let some = pressure
        .lines()
        .find_map(|line| line.strip_prefix("some "))?;
    let average = some
        .split_whitespace()
        .find_map(|word| word.strip_prefix("avg10="))?;
    average.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_linux_writes() {
        let table = "MemTotal:       16000 kB\nMemFree: 1 kB\nMemAvailable:    8000 kB\n";
        assert_eq!(kilobytes(table, "MemAvailable:"), Some(8_192_000));
        assert_eq!(kilobytes(table, "SwapFree:"), None);
        let pressure =
            "some avg10=12.50 avg60=3.00 avg300=1.00 total=9\nfull avg10=0.00 avg60=0 total=0\n";
        assert_eq!(stalled(pressure), Some(12.5));
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn this_machine_has_memory() {
        let memory = MemoryReader::of_this_machine().read().unwrap();
        assert!(memory.total_bytes > 100 << 20, "{memory:?}");
        assert!(memory.available_bytes <= memory.total_bytes, "{memory:?}");
    }
}
