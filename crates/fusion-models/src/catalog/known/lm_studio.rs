//! LM Studio's models: `PUBLISHER/REPOSITORY/FILES`.

use std::path::Path;

use super::{Known, Walk, name, of_repository};

pub(super) fn search(walk: &mut Walk, root: &Path) -> Vec<Known> {
    let mut known = Vec::new();
    for publisher in walk.entries(root).iter().filter(|path| path.is_dir()) {
        for repository in walk.entries(publisher).iter().filter(|path| path.is_dir()) {
            if let (Some(owner), Some(own)) = (name(publisher), name(repository)) {
                known.extend(of_repository(walk, &format!("{owner}/{own}"), repository));
            }
        }
    }
    known
}
