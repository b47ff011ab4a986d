//! What identifies a model: SHA-256 over, for each of its files, the size, the whole head (tokenizer, template and the list
//! of tensors included) and 64 blocks of 4 KiB spread evenly from the first to the last byte of the weights.
//!
//! Hashing gigabytes at each start would cost more than loading them. Two files that differ only between the sampled blocks
//! would be taken for one; retraining, quantizing and converting all change every block.

use std::{
    fs::File,
    io::{self, Read, Seek, SeekFrom},
};

use sha2::{Digest, Sha256};

use super::Part;

const BLOCKS: u64 = 64;
const BLOCK_BYTES: u64 = 4096;

pub(super) fn of(parts: &[Part]) -> io::Result<String> {
    let mut hash = Sha256::new();
    for part in parts {
        add(&mut hash, part)?;
    }
    Ok(hex(hash))
}

/// A fingerprint and what else decides over a model's outputs.
pub(super) fn with(fingerprint: &str, setting: &str) -> String {
    hex(Sha256::new()
        .chain_update(fingerprint)
        .chain_update(setting))
}

fn hex(hash: Sha256) -> String {
    let digest = hash.finalize();
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn add(hash: &mut Sha256, part: &Part) -> io::Result<()> {
    let mut file = File::open(&part.path)?;
    hash.update(part.file_bytes.to_le_bytes());
    add_range(hash, &mut file, 0, part.head_bytes)?;
    let weights = part.file_bytes - part.head_bytes;
    let last = weights.saturating_sub(BLOCK_BYTES);
    for block in 0..BLOCKS {
        let offset = last / (BLOCKS - 1) * block + last % (BLOCKS - 1) * block / (BLOCKS - 1);
        add_range(hash, &mut file, part.head_bytes + offset, BLOCK_BYTES)?;
    }
    Ok(())
}

fn add_range(hash: &mut Sha256, file: &mut File, from: u64, bytes: u64) -> io::Result<()> {
    file.seek(SeekFrom::Start(from))?;
    let mut range = file.take(bytes);
    let mut buffer = [0; 1 << 14];
    loop {
        match range.read(&mut buffer)? {
            0 => return Ok(()),
            read => hash.update(&buffer[..read]),
        }
    }
}
