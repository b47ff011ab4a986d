//! Images and sounds, on tiny models of random weights: what they say means nothing, but it depends on every pixel.

use std::{
    f32::consts::TAU,
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
};

use fusion_engine::{
    Engine, Launch,
    types::{
        Class, ErrorCode,
        chat::{ChatRequest, Content, MediaFile, MediaKind, Part},
        model::{Capability, ModelType},
    },
};
use fusion_llama::Llama;
use tempfile::TempDir;

use crate::support::{Answer, answer, ask, launch, model_file, refusal};

/// The ways of seeing, and of hearing.
const SEEING: [&str; 3] = ["vision", "grid", "whole"];

/// The folder of the tiny models, made once a run; without Python the test says that it was skipped.
fn tiny() -> Option<&'static Path> {
    static FOLDER: OnceLock<Option<TempDir>> = OnceLock::new();
    let made = FOLDER.get_or_init(|| {
        let folder = TempDir::new().unwrap();
        let made = Command::new("python3")
            .arg("../../scripts/tiny_multimodal.py")
            .arg(folder.path())
            .status();
        match made {
            Ok(status) => assert!(status.success(), "the models can't be made"),
            Err(error) => {
                eprintln!("SKIPPED: python3 makes the models, and can't be run: {error}");
                return None;
            }
        }
        Some(folder)
    });
    made.as_ref().map(TempDir::path)
}

fn tiny_launch(name: &str, slots: u32, context_length: u32) -> Option<Launch> {
    let file = tiny()?.join(format!("tiny-{name}.gguf"));
    let plain = launch(file, slots, context_length);
    Some(Launch {
        model_type: ModelType::Multimodal,
        ..plain
    })
}

fn load(name: &str) -> Option<Llama> {
    Some(Llama::load(&tiny_launch(name, 3, 2048)?).unwrap())
}

/// Files as the server would keep them.
struct Files(TempDir);

impl Files {
    fn new() -> Self {
        Self(TempDir::new().unwrap())
    }

    fn write(&self, kind: MediaKind, name: &str, bytes: &[u8]) -> Part {
        let path = self.0.path().join(name);
        fs::write(&path, bytes).unwrap();
        Part::MediaFile {
            media_file: MediaFile { kind, path },
        }
    }

    fn image(&self, width: u32, height: u32, shade: u8) -> Part {
        let name = format!("{width}-{height}-{shade}.png");
        self.write(
            MediaKind::Image,
            &name,
            &picture(width, height, shade).png(),
        )
    }

    fn sound(&self, seconds: f32, pitch: f32) -> Part {
        self.write(
            MediaKind::Audio,
            &format!("{seconds}-{pitch}.wav"),
            &wav(seconds, pitch),
        )
    }
}

/// Red, green and blue of each pixel.
struct Picture {
    width: u32,
    height: u32,
    rgb: Vec<u8>,
}

fn picture(width: u32, height: u32, shade: u8) -> Picture {
    let wave = |x: u32, y: u32, step: u32| ((x * step + y * 3) % 256) as u8;
    let pixels = (0..height).flat_map(|y| (0..width).map(move |x| (x, y)));
    let rgb = pixels.flat_map(|(x, y)| {
        [
            wave(x, y, 5).wrapping_add(shade),
            wave(x, y, 7) ^ shade,
            shade,
        ]
    });
    Picture {
        width,
        height,
        rgb: rgb.collect(),
    }
}

impl Picture {
    fn png(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut encoder = png::Encoder::new(&mut bytes, self.width, self.height);
        encoder.set_color(png::ColorType::Rgb);
        let mut writer = encoder.write_header().unwrap();
        writer.write_image_data(&self.rgb).unwrap();
        writer.finish().unwrap();
        bytes
    }

    fn webp(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        let encoder = image_webp::WebPEncoder::new(&mut bytes);
        let colours = image_webp::ColorType::Rgb8;
        encoder
            .encode(&self.rgb, self.width, self.height, colours)
            .unwrap();
        bytes
    }

    fn gif(&self) -> Vec<u8> {
        let (width, height) = (
            self.width.try_into().unwrap(),
            self.height.try_into().unwrap(),
        );
        let mut bytes = Vec::new();
        let mut encoder = gif::Encoder::new(&mut bytes, width, height, &[]).unwrap();
        let frame = gif::Frame::from_rgb(width, height, &self.rgb);
        encoder.write_frame(&frame).unwrap();
        drop(encoder);
        bytes
    }
}

fn wav(seconds: f32, pitch: f32) -> Vec<u8> {
    let count = (16_000.0 * seconds) as usize;
    let samples = (0..count).flat_map(|at| {
        let wave = (TAU * pitch * at as f32 / 16_000.0).sin();
        ((wave * 12_000.0) as i16).to_le_bytes()
    });
    let data: Vec<u8> = samples.collect();
    let size = u32::try_from(data.len()).unwrap();
    let mut file = b"RIFF".to_vec();
    file.extend((36 + size).to_le_bytes());
    file.extend(b"WAVEfmt \x10\0\0\0\x01\0\x01\0");
    file.extend(16_000_u32.to_le_bytes());
    file.extend(32_000_u32.to_le_bytes());
    file.extend(b"\x02\0\x10\0data");
    file.extend(size.to_le_bytes());
    file.extend(data);
    file
}

fn text(text: &str) -> Part {
    Part::Text {
        text: text.to_owned(),
    }
}

/// The first tokens only: rounding depends on what else is in a batch, and random weights soon make much of it.
fn begin(parts: &[Part]) -> ChatRequest {
    let mut request = show(parts.to_vec());
    request.max_tokens = Some(4);
    request
}

fn show(parts: Vec<Part>) -> ChatRequest {
    let mut request = ask("", 16);
    request.messages[0].content = Content::Parts(parts);
    request
}

/// What an engine answers that has seen nothing before.
async fn anew(name: &str, parts: &[Part]) -> Answer {
    answer(&load(name).unwrap(), show(parts.to_vec())).await
}

#[tokio::test]
async fn an_image_is_seen_and_read_only_once() {
    let files = Files::new();
    for name in SEEING {
        let Some(engine) = load(name) else { return };
        let card = engine.card();
        assert!(card.capabilities.contains(&Capability::Vision), "{card:?}");
        assert!(
            !card.capabilities.contains(&Capability::AudioInput),
            "{card:?}"
        );

        let [one, other] = [files.image(120, 90, 1), files.image(120, 90, 200)];
        let question =
            |image: &Part, question: &str| vec![text("Look: "), image.clone(), text(question)];
        let first = answer(&engine, show(question(&one, " What is it?"))).await;
        let again = answer(&engine, show(question(&one, " Where is it, and why?"))).await;
        let different = answer(&engine, show(question(&other, " What is it?"))).await;
        let back = answer(&engine, show(question(&one, " What is it?"))).await;

        assert_eq!(first.cached(), 0, "{name}");
        assert!(
            again.cached() > 20,
            "{name}: the image was read again, {again:?}"
        );
        assert!(
            different.cached() < 20,
            "{name}: another image is taken for it, {different:?}"
        );
        assert_ne!(
            first.text, different.text,
            "{name}: the image changes nothing"
        );
        assert_eq!(first.text, back.text, "{name}");
        // What the cache held is what would be computed anew: positions behind the image are right.
        let fresh = anew(name, &question(&one, " Where is it, and why?")).await;
        assert_eq!(
            (again.text, again.usage.prompt_tokens),
            (fresh.text, fresh.usage.prompt_tokens),
            "{name}"
        );
        let fresh = anew(name, &question(&other, " What is it?")).await;
        assert_eq!(different.text, fresh.text, "{name}");
    }
}

#[tokio::test]
async fn several_images_and_sizes_beside_each_other() {
    let files = Files::new();
    for name in SEEING {
        let Some(engine) = load(name) else { return };
        let prompts = [
            vec![
                files.image(60, 40, 3),
                text("and"),
                files.image(200, 50, 9),
                text("differ?"),
            ],
            vec![
                text("Two at once: "),
                files.image(64, 64, 3),
                files.image(64, 64, 3),
                text("?"),
            ],
            vec![text("What is this? "), files.image(300, 200, 77)],
        ];
        let mut alone = Vec::new();
        for prompt in &prompts {
            let engine = load(name).unwrap();
            alone.push(answer(&engine, begin(prompt)).await.text);
        }
        let together =
            futures::future::join_all(prompts.iter().map(|prompt| answer(&engine, begin(prompt))));
        let together: Vec<_> = together
            .await
            .into_iter()
            .map(|answer| answer.text)
            .collect();
        assert_eq!(together, alone, "{name}");
    }
}

#[tokio::test]
async fn a_sound_is_heard() {
    let Some(engine) = load("sound") else { return };
    let files = Files::new();
    let capabilities = engine.card().capabilities;
    assert!(capabilities.contains(&Capability::AudioInput));
    assert!(!capabilities.contains(&Capability::Vision));
    let heard = |sound: Part| show(vec![text("What is it? "), sound]);
    let low = answer(&engine, heard(files.sound(1.0, 440.0))).await;
    let high = answer(&engine, heard(files.sound(1.0, 880.0))).await;
    let again = answer(&engine, heard(files.sound(1.0, 440.0))).await;
    assert_ne!(low.text, high.text);
    assert_eq!(low.text, again.text);
    assert!(again.cached() > 100, "{again:?}");

    let error = refusal(
        engine
            .chat(heard(files.image(10, 10, 1)), Class::Interactive)
            .await,
    );
    assert_eq!(error.code, ErrorCode::UnsupportedOperation, "{error}");
    assert_eq!(error.param.as_deref(), Some("messages[0].content[1]"));
    let broken = files.write(MediaKind::Audio, "broken.wav", &wav(1.0, 440.0)[..60]);
    let error = refusal(engine.chat(heard(broken), Class::Interactive).await);
    assert_eq!(error.code, ErrorCode::InvalidValue, "{error}");
}

#[tokio::test]
async fn every_format_shows_the_same_image() {
    let Some(engine) = load("vision") else { return };
    let files = Files::new();
    let image = picture(112, 112, 50);
    let mut answers = Vec::new();
    for (name, bytes) in [("image.png", image.png()), ("image.webp", image.webp())] {
        let part = files.write(MediaKind::Image, name, &bytes);
        answers.push(answer(&engine, show(vec![part, text("Say.")])).await.text);
    }
    assert_eq!(answers[0], answers[1]);
    // These lose a little, so only that they are read can be told.
    let jpeg = include_bytes!("data/gradient.jpg").to_vec();
    for (name, bytes) in [("image.gif", image.gif()), ("image.jpg", jpeg)] {
        let part = files.write(MediaKind::Image, name, &bytes);
        let answer = answer(&engine, show(vec![part, text("Say.")])).await;
        assert_eq!(answer.usage.completion_tokens, 16);
    }
}

/// A PNG that says it is this large, and has next to nothing in it.
fn bomb(width: u32, height: u32) -> Vec<u8> {
    let mut bytes = picture(8, 8, 0).png();
    bytes[16..20].copy_from_slice(&width.to_be_bytes());
    bytes[20..24].copy_from_slice(&height.to_be_bytes());
    let crc = bytes[12..29].iter().fold(u32::MAX, |crc, &byte| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| {
            (crc >> 1) ^ (0xedb8_8320 * (crc & 1))
        })
    });
    bytes[29..33].copy_from_slice(&(!crc).to_be_bytes());
    bytes
}

#[tokio::test]
async fn a_broken_image_ends_its_own_request_only() {
    let Some(engine) = load("vision") else { return };
    let files = Files::new();
    let good = vec![files.image(64, 64, 5), text("Say.")];
    let expected = anew("vision", &good).await.text;
    let whole = picture(300, 300, 1).png();
    let cases = [
        ("empty", Vec::new()),
        ("text", b"not an image at all".to_vec()),
        ("cut", whole[..whole.len() / 2].to_vec()),
        (
            "cut jpeg",
            include_bytes!("data/gradient.jpg")[..100].to_vec(),
        ),
        ("bomb", bomb(30_000, 30_000)),
        ("flat bomb", bomb(16_000, 16_000)),
        ("endless", bomb(u32::MAX, 1)),
        ("nothing", bomb(0, 8)),
    ];
    let running = answer(&engine, show(good.clone()));
    let refused = async {
        for (name, bytes) in &cases {
            let part = files.write(MediaKind::Image, name, bytes);
            let error = refusal(
                engine
                    .chat(show(vec![text("See "), part]), Class::Interactive)
                    .await,
            );
            assert_eq!(error.code, ErrorCode::InvalidValue, "{name}: {error}");
            assert_eq!(
                error.param.as_deref(),
                Some("messages[0].content[1]"),
                "{name}"
            );
        }
    };
    let (running, ()) = futures::join!(running, refused);
    assert_eq!(running.text, expected);
    assert_eq!(answer(&engine, show(good)).await.text, expected);

    let gone = Part::MediaFile {
        media_file: MediaFile {
            kind: MediaKind::Image,
            path: PathBuf::from("/nowhere/at/all.png"),
        },
    };
    let error = refusal(engine.chat(show(vec![gone]), Class::Interactive).await);
    assert_eq!(error.code, ErrorCode::InvalidValue);
    assert!(!error.message.contains("nowhere"), "{error}");
}

#[tokio::test]
async fn odd_shapes_do_no_harm() {
    let files = Files::new();
    for name in SEEING {
        let Some(engine) = load(name) else { return };
        for (width, height) in [(1, 1), (1, 400), (2000, 3), (4000, 40)] {
            let request = show(vec![files.image(width, height, 9), text("Say.")]);
            match engine.chat(request, Class::Interactive).await {
                Ok(stream) => drop(crate::support::read(stream).await),
                Err(error) => assert_eq!(
                    error.code.status(),
                    400,
                    "{name} {width} × {height}: {error}"
                ),
            }
        }
    }
}

#[tokio::test]
async fn images_beyond_the_context_are_refused() {
    let Some(launch) = tiny_launch("vision", 1, 256) else {
        return;
    };
    let engine = Llama::load(&launch).unwrap();
    let files = Files::new();
    let mut parts = vec![files.image(64, 64, 5); 4];
    parts.push(text("Say."));
    let error = refusal(engine.chat(show(parts), Class::Interactive).await);
    assert_eq!(error.code, ErrorCode::ContextLengthExceeded, "{error}");
}

#[tokio::test]
async fn what_a_message_says_is_no_marker() {
    let Some(engine) = load("vision") else { return };
    let files = Files::new();
    let image = || files.image(64, 64, 5);
    let plain = answer(&engine, show(vec![image(), text("aaaaaaaaaaaaa")])).await;
    let marker = answer(&engine, show(vec![image(), text("<__media__>aa")])).await;
    assert_eq!(plain.usage.prompt_tokens, marker.usage.prompt_tokens);
    let special = answer(&engine, show(vec![image(), text("<|im_end|>aaa")])).await;
    assert_eq!(plain.usage.prompt_tokens, special.usage.prompt_tokens);
}

#[tokio::test]
async fn a_model_without_a_projector_takes_no_images() {
    let Some(model) = model_file() else { return };
    let engine = Llama::load(&launch(model.clone(), 1, 512)).unwrap();
    let files = Files::new();
    let error = refusal(
        engine
            .chat(
                show(vec![text("See "), files.image(8, 8, 1)]),
                Class::Interactive,
            )
            .await,
    );
    assert_eq!(error.code, ErrorCode::UnsupportedOperation);
    assert_eq!(error.param.as_deref(), Some("messages[0].content[1]"));

    let folder = TempDir::new().unwrap();
    let alone = folder.path().join("alone.gguf");
    std::os::unix::fs::symlink(model, &alone).unwrap();
    let mut launch = launch(alone, 1, 512);
    launch.model_type = ModelType::Multimodal;
    let error = refusal(Llama::load(&launch));
    assert_eq!(error.param.as_deref(), Some("options.mmproj"), "{error}");
}

#[test]
fn a_projector_is_counted_found_by_name_and_refused_where_it_is_none() {
    let Some(seeing) = tiny_launch("vision", 1, 512) else {
        return;
    };
    let mut blind = seeing.clone();
    blind.model_type = ModelType::Lm;
    let (with, without) = (
        Llama::estimate(&seeing).unwrap(),
        Llama::estimate(&blind).unwrap(),
    );
    assert!(with.weights_bytes > without.weights_bytes + 100_000);
    assert!(with.compute_bytes > without.compute_bytes);

    let mut named = seeing.clone();
    named.options = vec![("mmproj".to_owned(), "tiny-vision.gguf".to_owned())];
    let error = refusal(Llama::load(&named));
    assert!(error.message.contains("not a projector"), "{error}");
    // Another model's: the widths differ, or it doesn't matter; either way nothing breaks.
    named.options = vec![("mmproj".to_owned(), "mmproj-tiny-whole.gguf".to_owned())];
    Llama::load(&named).unwrap();
}
