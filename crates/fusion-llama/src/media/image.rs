//! Image files to pixels.

use std::io::Cursor;

use gif::{ColorOutput, DecodeOptions, MemoryLimit};
use image_webp::WebPDecoder;
use png::Transformations;
use zune_core::{bytestream::ZCursor, colorspace::ColorSpace, options::DecoderOptions};
use zune_jpeg::JpegDecoder;

/// Each side, in pixels.
const MOST_SIDE: usize = 16_384;
/// In all: what a good camera makes. Told by the file's head, before anything is unpacked.
const MOST_PIXELS: usize = 50_000_000;
/// Bytes that a decoder may take beside the pixels.
const MOST_SCRATCH: usize = 512 << 20;

/// Red, green and blue of every pixel, row by row.
pub(super) struct Pixels {
    pub(super) width: u32,
    pub(super) height: u32,
    pub(super) rgb: Vec<u8>,
}

/// # Errors
/// With what is wrong with the image.
pub(super) fn decode(file: &[u8]) -> Result<Pixels, String> {
    match file {
        _ if file.starts_with(b"\x89PNG\r\n\x1a\n") => png(file),
        _ if file.starts_with(b"\xff\xd8\xff") => jpeg(file),
        _ if file.starts_with(b"GIF8") => gif(file),
        _ if file.starts_with(b"RIFF") && file.get(8..12) == Some(b"WEBP") => webp(file),
        _ => Err("it is no PNG, JPEG, GIF or WebP image".to_owned()),
    }
}

fn png(file: &[u8]) -> Result<Pixels, String> {
    let mut decoder = png::Decoder::new_with_limits(
        Cursor::new(file),
        png::Limits {
            bytes: MOST_SCRATCH,
        },
    );
    decoder.set_transformations(Transformations::normalize_to_color8());
    let mut reader = decoder.read_info().map_err(broken)?;
    let size = reader.info().size();
    let (width, height) = checked(size.0 as usize, size.1 as usize)?;
    let bytes = reader.output_buffer_size().ok_or("it is too large")?;
    let mut buffer = vec![0; bytes];
    let frame = reader.next_frame(&mut buffer).map_err(broken)?;
    buffer.truncate(frame.buffer_size());
    Ok(Pixels {
        width,
        height,
        rgb: to_rgb(&buffer, frame.color_type.samples()),
    })
}

fn jpeg(file: &[u8]) -> Result<Pixels, String> {
    let options = DecoderOptions::default()
        .jpeg_set_out_colorspace(ColorSpace::RGB)
        .set_max_width(MOST_SIDE)
        .set_max_height(MOST_SIDE);
    let mut decoder = JpegDecoder::new_with_options(ZCursor::new(file), options);
    decoder.decode_headers().map_err(broken)?;
    let info = decoder.info().ok_or("it has no head")?;
    let (width, height) = checked(usize::from(info.width), usize::from(info.height))?;
    let rgb = decoder.decode().map_err(broken)?;
    Ok(Pixels { width, height, rgb })
}

/// The first picture of one that moves, on black.
fn gif(file: &[u8]) -> Result<Pixels, String> {
    let mut options = DecodeOptions::new();
    options.set_color_output(ColorOutput::RGBA);
    let most = std::num::NonZeroU64::new(MOST_SCRATCH as u64).ok_or("no memory is allowed")?;
    options.set_memory_limit(MemoryLimit::Bytes(most));
    let mut decoder = options.read_info(Cursor::new(file)).map_err(broken)?;
    let (screen, rows) = (usize::from(decoder.width()), usize::from(decoder.height()));
    let (width, height) = checked(screen, rows)?;
    let frame = decoder.read_next_frame().map_err(broken)?;
    let frame = frame.ok_or("it has no picture")?;
    let mut rgb = vec![0; screen * rows * 3];
    let lines = frame
        .buffer
        .chunks_exact(usize::from(frame.width).max(1) * 4);
    for (y, line) in lines.enumerate() {
        let row = usize::from(frame.top) + y;
        for (x, pixel) in line.chunks_exact(4).enumerate() {
            let column = usize::from(frame.left) + x;
            if row < rows && column < screen && pixel[3] > 0 {
                let at = (row * screen + column) * 3;
                rgb[at..at + 3].copy_from_slice(&pixel[..3]);
            }
        }
    }
    Ok(Pixels { width, height, rgb })
}

fn webp(file: &[u8]) -> Result<Pixels, String> {
    let mut decoder = WebPDecoder::new(Cursor::new(file)).map_err(broken)?;
    decoder.set_memory_limit(MOST_SCRATCH);
    let size = decoder.dimensions();
    let (width, height) = checked(size.0 as usize, size.1 as usize)?;
    let bytes = decoder.output_buffer_size().ok_or("it is too large")?;
    let mut buffer = vec![0; bytes];
    decoder.read_image(&mut buffer).map_err(broken)?;
    let samples = if decoder.has_alpha() { 4 } else { 3 };
    Ok(Pixels {
        width,
        height,
        rgb: to_rgb(&buffer, samples),
    })
}

fn checked(width: usize, height: usize) -> Result<(u32, u32), String> {
    let sides = 1..=MOST_SIDE;
    if !sides.contains(&width) || !sides.contains(&height) || width * height > MOST_PIXELS {
        return Err(format!(
            "it is {width} × {height} pixels, and at most {MOST_PIXELS} are taken, {MOST_SIDE} a side"
        ));
    }
    let side = |pixels| u32::try_from(pixels).map_err(|_| "it is too large".to_owned());
    Ok((side(width)?, side(height)?))
}

/// What can be seen through is shown as if it couldn't be.
fn to_rgb(pixels: &[u8], samples: usize) -> Vec<u8> {
    let colours = |pixel: &[u8]| match *pixel {
        [red, green, blue, ..] => [red, green, blue],
        [grey, ..] => [grey; 3],
        [] => [0; 3],
    };
    pixels
        .chunks_exact(samples.max(1))
        .flat_map(colours)
        .collect()
}

fn broken(error: impl std::fmt::Display) -> String {
    format!("it can't be decoded: {error}")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn no_bytes_do_harm(start in 0_usize..4, rest in prop::collection::vec(any::<u8>(), 0..300)) {
            let starts = [&b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR"[..], b"\xff\xd8\xff\xe0", b"GIF89a", b"RIFF\x40\0\0\0WEBPVP8L"];
            let _ = decode(&[starts[start], &rest].concat());
        }
    }
}
