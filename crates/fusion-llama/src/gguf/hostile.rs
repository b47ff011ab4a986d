//! Heads that lie: whatever a file says, reading it ends soon, takes no more memory than the file has bytes, and believes nothing
//! that the file can't hold.

use std::{fs, path::Path};

use proptest::prelude::*;
use tempfile::TempDir;

use super::{Head, read_head};

fn text(value: &str) -> Vec<u8> {
    [&(value.len() as u64).to_le_bytes(), value.as_bytes()].concat()
}

fn value(key: &str, kind: u32, bytes: &[u8]) -> Vec<u8> {
    [text(key), kind.to_le_bytes().to_vec(), bytes.to_vec()].concat()
}

fn tensor(name: &str, dimensions: &[u64], kind: u32, offset: u64) -> Vec<u8> {
    let mut bytes = text(name);
    bytes.extend(u32::try_from(dimensions.len()).unwrap().to_le_bytes());
    bytes.extend(dimensions.iter().flat_map(|size| size.to_le_bytes()));
    bytes.extend(kind.to_le_bytes());
    bytes.extend(offset.to_le_bytes());
    bytes
}

fn file(values: &[Vec<u8>], tensors: &[Vec<u8>], data: usize) -> Vec<u8> {
    let mut bytes = b"GGUF\x03\0\0\0".to_vec();
    bytes.extend((tensors.len() as u64).to_le_bytes());
    bytes.extend((values.len() as u64).to_le_bytes());
    bytes.extend(values.concat());
    bytes.extend(tensors.concat());
    bytes.resize(bytes.len().next_multiple_of(32) + data, 1);
    bytes
}

fn plain() -> Vec<u8> {
    let strings = [
        8_u32.to_le_bytes().to_vec(),
        2_u64.to_le_bytes().to_vec(),
        text("a"),
        text("bc"),
    ];
    let numbers = [
        4_u32.to_le_bytes().to_vec(),
        3_u64.to_le_bytes().to_vec(),
        vec![1; 12],
    ];
    file(
        &[
            value("general.architecture", 8, &text("llama")),
            value("llama.context_length", 4, &2048_u32.to_le_bytes()),
            value("clip.vision.patch_size", 10, &14_u64.to_le_bytes()),
            value("tokenizer.ggml.tokens", 9, &strings.concat()),
            value("numbers", 9, &numbers.concat()),
        ],
        &[tensor("one", &[32, 4], 0, 0), tensor("two", &[16], 0, 512)],
        576,
    )
}

fn read(folder: &Path, bytes: &[u8]) -> Option<Head> {
    let path = folder.join("model.gguf");
    fs::write(&path, bytes).unwrap();
    let head = read_head(&path).ok()?;
    assert!(head.head_bytes <= head.file_bytes && head.tensor_bytes <= head.file_bytes);
    assert_eq!(head.file_bytes, bytes.len() as u64);
    Some(head)
}

#[test]
fn what_a_file_can_not_hold_is_not_believed() {
    let folder = TempDir::new().unwrap();
    let head = read(folder.path(), &plain()).unwrap();
    assert_eq!(
        (head.tensor_bytes, head.numbers["clip.vision.patch_size"]),
        (576, 14)
    );

    let of = |tensors: &[Vec<u8>]| {
        file(
            &[value("general.architecture", 8, &text("llama"))],
            tensors,
            576,
        )
    };
    let many = vec![tensor("same", &[32, 4], 0, 0); 4];
    for (what, bytes) in [
        (
            "an offset behind the end",
            of(&[tensor("a", &[32, 4], 0, 96)]),
        ),
        (
            "an offset that wraps",
            of(&[tensor("a", &[32, 4], 0, u64::MAX - 100)]),
        ),
        (
            "a size that wraps",
            of(&[tensor("a", &[1 << 32, 1 << 32, 4], 0, 0)]),
        ),
        (
            "a dimension of all ones",
            of(&[tensor("a", &[u64::MAX], 0, 0)]),
        ),
        (
            "five dimensions",
            of(&[tensor("a", &[1, 1, 1, 1, 1], 0, 0)]),
        ),
        ("an unknown type", of(&[tensor("a", &[32], 999, 0)])),
        ("tensors over each other", of(&many)),
        (
            "a string of 2^63 bytes",
            file(&[value("k", 8, &(1_u64 << 63).to_le_bytes())], &[], 0),
        ),
        (
            "an array of 2^24 arrays",
            file(
                &[value(
                    "k",
                    9,
                    &[&9_u32.to_le_bytes()[..], &(1_u64 << 24).to_le_bytes()].concat(),
                )],
                &[],
                0,
            ),
        ),
        (
            "an alignment of zero",
            file(
                &[value("general.alignment", 4, &0_u32.to_le_bytes())],
                &[tensor("a", &[32], 0, 0)],
                576,
            ),
        ),
    ] {
        assert!(read(folder.path(), &bytes).is_none(), "{what} was believed");
    }
}

proptest! {
    #[test]
    fn no_change_of_bytes_does_harm(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..12),
        length in any::<prop::sample::Index>(),
        cut in any::<bool>(),
    ) {
        let folder = TempDir::new().unwrap();
        let mut bytes = plain();
        for (at, byte) in changes {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        if cut {
            bytes.truncate(length.index(bytes.len()));
        }
        read(folder.path(), &bytes);
    }

    #[test]
    fn no_bytes_do_harm(rest in prop::collection::vec(any::<u8>(), 0..600)) {
        let folder = TempDir::new().unwrap();
        read(folder.path(), &[b"GGUF\x03\0\0\0", &rest[..]].concat());
    }
}
