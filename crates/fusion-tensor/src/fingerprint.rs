//! What makes two models' vectors the same.
//!
//! The SHA-256, cut to 128 bits, of: each weight file's size and samples (64 blocks of 16 KiB spread evenly over it, or all of
//! a file under 1 MiB), config.json, tokenizer.json, and how token vectors are pooled and normalised. Another training step,
//! quantization or backend gives another file and so another fingerprint; the length at which texts are cut is not in it,
//! since it doesn't change the vector of a text that fits.

use std::{
    fs::{self, File},
    os::unix::fs::FileExt,
    path::Path,
};

use fusion_engine::types::Result;
use sha2::{Digest, Sha256};

use crate::{
    fault::unreadable,
    folder::{Folder, Weights},
};

const BLOCKS: u64 = 64;
const BLOCK: u64 = 16 << 10;

/// # Errors
/// Where a file can't be read.
pub(crate) fn fingerprint(folder: &Folder, weights: &Weights) -> Result<String> {
    let mut hash = Sha256::new();
    hash.update(format!(
        "pooling={} normalize={} lowercase={}\n",
        folder.pooling.as_str(),
        folder.normalize,
        folder.lowercase
    ));
    for file in [folder.config_file(), folder.tokenizer_file()?] {
        let bytes = fs::read(&file).map_err(|error| unreadable(&file, &error))?;
        hash.update((bytes.len() as u64).to_le_bytes());
        hash.update(bytes);
    }
    for file in weights.files() {
        sample(&mut hash, &file)?;
    }
    let digest = hash.finalize();
    Ok(digest
        .iter()
        .take(16)
        .map(|byte| format!("{byte:02x}"))
        .collect())
}

fn sample(hash: &mut Sha256, path: &Path) -> Result<()> {
    let broken = |error: std::io::Error| unreadable(path, &error);
    let file = File::open(path).map_err(broken)?;
    let size = file.metadata().map_err(broken)?.len();
    hash.update(size.to_le_bytes());
    for (offset, length) in blocks(size) {
        let mut block = vec![0; length];
        file.read_exact_at(&mut block, offset).map_err(broken)?;
        hash.update(&block);
    }
    Ok(())
}

/// Where to read, and how many bytes: first and last block included.
fn blocks(size: u64) -> Vec<(u64, usize)> {
    if size <= BLOCKS * BLOCK {
        return vec![(0, usize::try_from(size).unwrap_or(0))];
    }
    let last = size - BLOCK;
    (0..BLOCKS)
        .map(|index| (last / (BLOCKS - 1) * index, BLOCK as usize))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_lie_within_the_file() {
        for size in [0, 1, 1 << 20, (1 << 20) + 1, 90_868_376, u64::MAX] {
            let blocks = blocks(size);
            assert!(
                blocks
                    .iter()
                    .all(|(offset, length)| offset + *length as u64 <= size),
                "{size}"
            );
        }
        assert_eq!(blocks(90_868_376).len(), 64);
    }
}
