//! What a process really holds.

use std::{collections::BTreeMap, fs, path::Path};

/// What a process holds, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Held {
    pub(crate) own: u64,
    /// Weights, in memory once for all processes that map them.
    pub(crate) mapped: u64,
}

/// Bytes that are gone when the process is: private and shared memory, and mapped weights.
///
/// An engine that repacks tensors has them twice, as its own memory and as the file's pages, of which the second need not
/// stay. So mapped weights only count up to the `predicted` need. `None` where the system doesn't tell: then the prediction
/// stands.
pub(crate) fn measure(pid: u32, model: &Path, predicted: u64) -> Option<Held> {
    let own = own_bytes(pid)?;
    let model = fs::canonicalize(model).ok()?;
    let maps = |pid: u32| fs::read_to_string(format!("/proc/{pid}/smaps")).ok();
    let each = tree(pid).into_iter().filter_map(maps);
    // Several processes that map a file share its pages.
    let mapped = each.map(|maps| mapped(&maps, &model)).max().unwrap_or(0);
    let mapped = mapped.min(predicted.saturating_sub(own));
    Some(Held { own, mapped })
}

/// Bytes that are the process's own and its descendants', and not pages of a file that the system could drop.
pub(crate) fn own_bytes(pid: u32) -> Option<u64> {
    let own = |pid: u32| {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        Some(field(&status, "RssAnon:")?.saturating_add(field(&status, "RssShmem:")?))
    };
    let below = tree(pid).into_iter().skip(1).filter_map(own).sum::<u64>();
    Some(own(pid)? + below)
}

/// What the process and its descendants hold together, in bytes, of what is `held` by process; `None` where none of them is
/// listed.
pub(crate) fn share(pid: u32, held: &BTreeMap<u32, u64>) -> Option<u64> {
    let listed = tree(pid).into_iter().filter_map(|pid| held.get(&pid));
    listed.copied().reduce(u64::saturating_add)
}

/// A process and all that it started, and what those started. Our own engines start nothing.
fn tree(pid: u32) -> Vec<u32> {
    let mut tree = vec![pid];
    let mut next = 0;
    while let Some(pid) = tree.get(next) {
        let threads = fs::read_dir(format!("/proc/{pid}/task"));
        for thread in threads.into_iter().flatten().flatten() {
            let children = fs::read_to_string(thread.path().join("children")).unwrap_or_default();
            let children = children
                .split_whitespace()
                .filter_map(|pid| pid.parse().ok());
            tree.extend(
                children
                    .filter(|pid| !tree.contains(pid))
                    .collect::<Vec<_>>(),
            );
        }
        next += 1;
    }
    tree
}

/// The value of a line such as `RssAnon:     1234 kB`, in bytes.
fn field(text: &str, name: &str) -> Option<u64> {
    let value = text.lines().find_map(|line| line.strip_prefix(name))?;
    let kilobytes: u64 = value.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kilobytes * 1024)
}

/// Resident bytes of mappings of the file at `model`, or of files below the folder there.
fn mapped(maps: &str, model: &Path) -> u64 {
    let mut total = 0;
    let mut inside = false;
    for line in maps.lines() {
        // A mapping's first line is `address perms offset device inode path`; the others are `Name: value`.
        let mut columns = line.splitn(6, char::is_whitespace);
        if columns
            .next()
            .is_some_and(|address| address.contains('-') && !address.ends_with(':'))
        {
            let path = columns.last().map(str::trim).unwrap_or_default();
            inside = Path::new(path).starts_with(model);
        } else if inside {
            total += field(line, "Rss:").unwrap_or(0);
        }
    }
    total
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAPS: &str = "\
7f00-7f10 r--s 00000000 fe:01 42                         /models/a b.gguf
Size:               2000 kB
Rss:                1000 kB
7f10-7f20 rw-p 00000000 00:00 0
Rss:                  50 kB
7f20-7f30 r-xp 00000000 fe:01 43                         /usr/lib/libc.so
Rss:                 300 kB
7f30-7f40 r--s 00000000 fe:01 44                         /models/folder/model.safetensors
Rss:                   7 kB
";

    #[test]
    fn counts_only_the_model_s_own_mappings() {
        assert_eq!(mapped(MAPS, Path::new("/models/a b.gguf")), 1000 * 1024);
        assert_eq!(mapped(MAPS, Path::new("/models/folder")), 7 * 1024);
        assert_eq!(mapped(MAPS, Path::new("/models/fold")), 0);
    }

    #[test]
    fn a_share_is_that_of_the_listed() {
        let own = std::process::id();
        let others = BTreeMap::from([(own.wrapping_add(1), 7)]);
        assert_eq!(share(own, &others), None);
        let listed = BTreeMap::from([(own, 5), (own.wrapping_add(1), 7)]);
        assert_eq!(share(own, &listed), Some(5));
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn measures_this_process() {
        let own = measure(std::process::id(), Path::new("/"), 0).unwrap().own;
        assert!(own > 100_000, "{own}");
    }
}
