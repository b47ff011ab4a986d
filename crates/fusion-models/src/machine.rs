//! What the machine itself has left.

use std::{fs, path::Path};

/// The machine's memory, or the control group's where that has less; or that of its GPUs, where models are budgeted in it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct MachineMemory {
    pub total_bytes: u64,
    /// What could be had without anything being swapped out.
    pub available_bytes: u64,
    /// Percent of the last ten seconds in which somebody waited for memory, where the system tells.
    pub stalled_percent: Option<f32>,
}

/// This machine, as Linux describes it below `/proc`; elsewhere nothing is told.
pub(crate) fn read() -> Option<MachineMemory> {
    let table = fs::read_to_string("/proc/meminfo").ok()?;
    let mut total = kilobytes(&table, "MemTotal:")?;
    let mut available = kilobytes(&table, "MemAvailable:")?;
    if let Some((limit, used)) = group() {
        total = total.min(limit);
        available = available.min(limit.saturating_sub(used));
    }
    Some(MachineMemory {
        total_bytes: total,
        available_bytes: available,
        stalled_percent: stalled_percent(),
    })
}

/// As in [`MachineMemory`].
pub(crate) fn stalled_percent() -> Option<f32> {
    let pressure = fs::read_to_string("/proc/pressure/memory").ok()?;
    stalled(&pressure)
}

/// The limit that leaves this process the least room, among its control group's and those of the groups around it, and what
/// counts against it.
fn group() -> Option<(u64, u64)> {
    let groups = fs::read_to_string("/proc/self/cgroup").ok()?;
    limits(&groups, Path::new("/sys/fs/cgroup"))
        .min_by_key(|(limit, used)| limit.saturating_sub(*used))
}

/// Limit and use of each group, as both versions of control groups have them below `mount`. A group without a limit, or
/// hidden from this process, is passed over.
fn limits(groups: &str, mount: &Path) -> impl Iterator<Item = (u64, u64)> {
    let of_version_1 = groups.lines().find_map(|line| {
        let (controllers, path) = line.split_once(':')?.1.split_once(':')?;
        let found = controllers.split(',').any(|name| name == "memory");
        found.then_some((mount.join("memory"), path, &VERSION_1))
    });
    let of_version_2 = groups
        .lines()
        .find_map(|line| Some((mount.to_owned(), line.strip_prefix("0::")?, &VERSION_2)));
    let hierarchies = of_version_1.into_iter().chain(of_version_2);
    hierarchies.flat_map(|(root, path, files)| {
        let own = root.join(path.trim_start_matches('/'));
        let around: Vec<_> = own.ancestors().map(Path::to_owned).collect();
        around
            .into_iter()
            .take_while(move |folder| folder.starts_with(&root))
            .filter_map(|folder| files.read(&folder))
    })
}

/// Where one version of control groups tells what.
struct GroupFiles {
    limit: &'static str,
    used: &'static str,
    /// File pages that count as used, and that the system would drop.
    reclaimable: &'static str,
}

const VERSION_1: GroupFiles = GroupFiles {
    limit: "memory.limit_in_bytes",
    used: "memory.usage_in_bytes",
    reclaimable: "total_inactive_file ",
};
const VERSION_2: GroupFiles = GroupFiles {
    limit: "memory.max",
    used: "memory.current",
    reclaimable: "inactive_file ",
};

impl GroupFiles {
    fn read(&self, folder: &Path) -> Option<(u64, u64)> {
        let file = |name: &str| fs::read_to_string(folder.join(name)).ok();
        let limit = file(self.limit)?.trim().parse().ok()?;
        let used: u64 = file(self.used)?.trim().parse().ok()?;
        let table = file("memory.stat")?;
        let pages = |line: &str| line.strip_prefix(self.reclaimable)?.trim().parse().ok();
        let reclaimable: u64 = table.lines().find_map(pages).unwrap_or(0);
        Some((limit, used.saturating_sub(reclaimable)))
    }
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

    #[test]
    fn both_versions_of_control_groups_are_read_with_the_groups_around() {
        let mount = tempfile::tempdir().unwrap();
        let write = |group: &str, files: [(&str, &str); 3]| {
            let folder = mount.path().join(group);
            fs::create_dir_all(&folder).unwrap();
            for (name, text) in files {
                fs::write(folder.join(name), text).unwrap();
            }
        };
        let stat = ("memory.stat", "inactive_file 5\ntotal_inactive_file 30\n");
        let (limit, used) = ("memory.limit_in_bytes", "memory.usage_in_bytes");
        write("memory/a", [(limit, "500\n"), (used, "430\n"), stat]);
        write("memory/a/b", [(limit, "900\n"), (used, "90\n"), stat]);
        let (limit, used) = ("memory.max", "memory.current");
        write("x", [(limit, "max\n"), (used, "7\n"), stat]);
        write("x/y", [(limit, "200\n"), (used, "15\n"), stat]);
        let read = |groups: &str| limits(groups, mount.path()).collect::<Vec<_>>();

        assert_eq!(
            read("4:cpu,memory:/a/b\n1:pids:/\n"),
            [(900, 60), (500, 400)]
        );
        assert_eq!(read("0::/x/y\n"), [(200, 10)]);
        assert_eq!(read("0::/gone\n4:memory:/gone\n"), []);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn this_machine_has_memory() {
        let memory = read().unwrap();
        assert!(memory.total_bytes > 100 << 20, "{memory:?}");
        assert!(memory.available_bytes <= memory.total_bytes, "{memory:?}");
    }
}
