//! Sound files to samples: WAV, whose head is not believed beyond what the file holds.
//!
//! Decoded here: llama.cpp's loader can't be linked as llama-cpp-sys builds it, and believes a head that lies.

/// More is refused.
const MOST_SECONDS: usize = 20 * 60;
const RATES: std::ops::RangeInclusive<u32> = 4_000..=192_000;

#[derive(Clone, Copy)]
enum Coding {
    /// Whole numbers, of as many bytes; a single byte has no sign.
    Pcm(usize),
    /// Floats of four bytes.
    Float,
}

struct Format {
    coding: Coding,
    channels: usize,
    rate: u32,
}

/// One channel at `rate` samples a second, from -1 to 1.
///
/// # Errors
/// With what is wrong with the file.
pub(super) fn decode(file: &[u8], rate: u32) -> Result<Vec<f32>, String> {
    let broken = "its head is broken, or it is no WAV of plain samples";
    let (format, data) = parts(file).ok_or(broken)?;
    let frame = format.coding.bytes() * format.channels;
    let seconds = data.len() / frame / format.rate as usize;
    if seconds > MOST_SECONDS {
        return Err(format!(
            "it lasts {seconds} s, and at most {MOST_SECONDS} s are taken"
        ));
    }
    let samples: Vec<f32> = data
        .chunks_exact(frame)
        .map(|frame| mixed(frame, &format))
        .collect();
    if samples.is_empty() {
        return Err("it is silent: there are no samples".to_owned());
    }
    Ok(resampled(samples, format.rate, rate))
}

/// The format, and the samples as they are stored.
fn parts(file: &[u8]) -> Option<(Format, &[u8])> {
    let mut rest = file
        .strip_prefix(b"RIFF")?
        .get(4..)?
        .strip_prefix(b"WAVE")?;
    let mut format = None;
    loop {
        let (name, size) = (rest.get(..4)?, u32_at(rest, 4)?);
        let size = usize::try_from(size).ok()?;
        let body = rest.get(8..)?;
        match name {
            b"fmt " => format = Some(read_format(body.get(..size)?)?),
            // Nothing may be promised that isn't there.
            b"data" => return Some((format?, body.get(..size)?)),
            _ => {}
        }
        rest = body.get(size.checked_add(size % 2)?..)?;
    }
}

fn read_format(head: &[u8]) -> Option<Format> {
    let (channels, rate, bits) = (u16_at(head, 2)?, u32_at(head, 4)?, u16_at(head, 14)?);
    let kind = match u16_at(head, 0)? {
        // The real one comes with the extension.
        0xfffe => u16_at(head, 24)?,
        kind => kind,
    };
    let coding = match (kind, bits) {
        (1, 8 | 16 | 24 | 32) => Coding::Pcm(usize::from(bits / 8)),
        (3, 32) => Coding::Float,
        _ => return None,
    };
    ((1..=8).contains(&channels) && RATES.contains(&rate)).then_some(Format {
        coding,
        channels: usize::from(channels),
        rate,
    })
}

impl Coding {
    fn bytes(self) -> usize {
        match self {
            Self::Pcm(bytes) => bytes,
            Self::Float => 4,
        }
    }

    #[expect(
        clippy::cast_precision_loss,
        reason = "24 bits are more than a microphone has"
    )]
    fn sample(self, bytes: &[u8]) -> f32 {
        match (self, bytes) {
            (Self::Float, &[a, b, c, d]) => {
                let sample = f32::from_le_bytes([a, b, c, d]);
                if sample.is_finite() { sample } else { 0.0 }
            }
            (Self::Pcm(_), &[byte]) => (f32::from(byte) - 128.0) / 128.0,
            (Self::Pcm(_), bytes) => {
                let mut wide = [0; 4];
                wide[4 - bytes.len()..].copy_from_slice(bytes);
                i32::from_le_bytes(wide) as f32 / 2_147_483_648.0
            }
            (Self::Float, _) => 0.0,
        }
    }
}

#[expect(
    clippy::cast_precision_loss,
    reason = "there are eight channels at most"
)]
fn mixed(frame: &[u8], format: &Format) -> f32 {
    let samples = frame.chunks_exact(format.coding.bytes());
    let sum: f32 = samples.map(|sample| format.coding.sample(sample)).sum();
    sum / format.channels as f32
}

/// A straight line between neighbours; where there are more samples than wanted, the mean of those that fall together, which
/// keeps most of what is too high from folding back.
#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "places in a sound of minutes"
)]
fn resampled(samples: Vec<f32>, from: u32, to: u32) -> Vec<f32> {
    if from == to {
        return samples;
    }
    let step = f64::from(from) / f64::from(to);
    let count = (samples.len() as f64 / step) as usize;
    let at = |place: usize| samples[place.min(samples.len() - 1)];
    let one = |index: usize| {
        let place = index as f64 * step;
        let (left, right) = (place as usize, (place + step) as usize);
        if right > left + 1 {
            let taken = &samples[left..right.min(samples.len())];
            taken.iter().sum::<f32>() / taken.len().max(1) as f32
        } else {
            let part = (place - left as f64) as f32;
            at(left) * (1.0 - part) + at(left + 1) * part
        }
    };
    (0..count.max(1)).map(one).collect()
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn wav(rate: u32, channels: u16, promised: u32, data: &[u8]) -> Vec<u8> {
        let mut file = b"RIFF\0\0\0\0WAVEfmt \x10\0\0\0\x01\0".to_vec();
        file.extend(channels.to_le_bytes());
        file.extend(rate.to_le_bytes());
        file.extend([0; 6]);
        file.extend(16_u16.to_le_bytes());
        file.extend(b"data");
        file.extend(promised.to_le_bytes());
        file.extend(data);
        file
    }

    #[test]
    fn samples_are_mixed_and_resampled() {
        let stereo: Vec<u8> = [16384_i16, -16384, 16384, 0]
            .iter()
            .flat_map(|sample| sample.to_le_bytes())
            .collect();
        assert_eq!(
            decode(&wav(16_000, 2, 8, &stereo), 16_000).unwrap(),
            [0.0, 0.25]
        );
        let second = vec![0; 96_000];
        assert_eq!(
            decode(&wav(48_000, 1, 96_000, &second), 16_000)
                .unwrap()
                .len(),
            16_000
        );
        assert_eq!(
            decode(&wav(8_000, 1, 16_000, &second), 16_000)
                .unwrap()
                .len(),
            16_000
        );
    }

    #[test]
    fn a_head_that_lies_is_refused() {
        let data = vec![0; 1000];
        for (what, file) in [
            ("more than there is", wav(16_000, 1, u32::MAX, &data)),
            ("a rate that would be blown up", wav(1, 1, 1000, &data)),
            ("no channels", wav(16_000, 0, 1000, &data)),
            ("nothing", wav(16_000, 1, 0, &data)),
            (
                "far too long",
                wav(4_000, 1, 12_000_000, &vec![0; 12_000_000]),
            ),
        ] {
            assert!(decode(&file, 16_000).is_err(), "{what}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_do_harm(rest in prop::collection::vec(any::<u8>(), 0..400)) {
            let _ = decode(&[&b"RIFF\0\0\0\0WAVEfmt \x10\0\0\0"[..], &rest].concat(), 16_000);
        }
    }
}
