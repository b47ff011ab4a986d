//! A LoRA adapter of random numbers for SmolLM2-135M, the same for the same seed.

use std::{fs, path::Path};

const RANK: usize = 4;
const LAYERS: usize = 30;
const WIDTH: usize = 576;
const KEY_WIDTH: usize = 192;
/// How much it changes: far more than the order in which a processor adds up, which is all that the tests rely on.
const STRENGTH: f32 = 0.5;

/// What is wrong with the file.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Fault {
    None,
    Architecture,
    Shape,
}

pub(crate) fn write(path: &Path, seed: u64, fault: Fault) {
    let mut random = Random(seed);
    let width = if fault == Fault::Shape { 320 } else { WIDTH };
    let mut tensors = Vec::new();
    for layer in 0..LAYERS {
        for (name, height) in [("attn_q", WIDTH), ("attn_v", KEY_WIDTH)] {
            let name = format!("blk.{layer}.{name}.weight");
            let spread = 1.0 / (width as f32).sqrt();
            tensors.push((
                format!("{name}.lora_a"),
                [width, RANK],
                random.numbers(width * RANK, spread),
            ));
            tensors.push((
                format!("{name}.lora_b"),
                [RANK, height],
                random.numbers(RANK * height, STRENGTH),
            ));
        }
    }
    let architecture = if fault == Fault::Architecture {
        "qwen2"
    } else {
        "llama"
    };
    fs::write(path, gguf(architecture, &tensors)).unwrap();
}

fn gguf(architecture: &str, tensors: &[(String, [usize; 2], Vec<f32>)]) -> Vec<u8> {
    let mut file = b"GGUF".to_vec();
    file.extend(3_u32.to_le_bytes());
    file.extend((tensors.len() as u64).to_le_bytes());
    file.extend(4_u64.to_le_bytes());
    for (key, value) in [
        ("general.type", "adapter"),
        ("general.architecture", architecture),
        ("adapter.type", "lora"),
    ] {
        text(&mut file, key);
        file.extend(8_u32.to_le_bytes());
        text(&mut file, value);
    }
    text(&mut file, "adapter.lora.alpha");
    file.extend(6_u32.to_le_bytes());
    file.extend((RANK as f32).to_le_bytes());
    let mut offset = 0_u64;
    for (name, shape, numbers) in tensors {
        text(&mut file, name);
        file.extend(2_u32.to_le_bytes());
        shape
            .iter()
            .for_each(|side| file.extend((*side as u64).to_le_bytes()));
        file.extend(0_u32.to_le_bytes());
        file.extend(offset.to_le_bytes());
        offset += (numbers.len() as u64 * 4).next_multiple_of(32);
    }
    for (_, _, numbers) in tensors {
        file.resize(file.len().next_multiple_of(32), 0);
        numbers
            .iter()
            .for_each(|number| file.extend(number.to_le_bytes()));
    }
    file.resize(file.len().next_multiple_of(32), 0);
    file
}

fn text(file: &mut Vec<u8>, text: &str) {
    file.extend((text.len() as u64).to_le_bytes());
    file.extend(text.as_bytes());
}

/// xorshift64*.
struct Random(u64);

impl Random {
    fn numbers(&mut self, count: usize, spread: f32) -> Vec<f32> {
        (0..count).map(|_| self.next() * spread).collect()
    }

    /// Near enough to normally distributed: the sum of four uniform numbers.
    fn next(&mut self) -> f32 {
        (0..4).map(|_| self.uniform()).sum::<f32>() * 3_f32.sqrt()
    }

    fn uniform(&mut self) -> f32 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let bits = (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 40) as f32;
        bits / (1_u64 << 24) as f32 - 0.5
    }
}
