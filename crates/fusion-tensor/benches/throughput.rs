//! Tokens per CPU-second of both backends, through the engine's public face: `cargo bench -p fusion-tensor`.
//!
//! CPU time is the whole process's, so work on other threads counts, and a busy machine doesn't.

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a measurement for people to read"
)]

use std::{fs, path::PathBuf, time::Instant};

use fusion_engine::{
    Engine, Launch,
    types::{embedding::EmbedRequest, model::ModelType},
};
use fusion_tensor::Tensor;

const SECONDS: f64 = 4.0;

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let models = std::env::var_os("FUSIOND_MODELS_DIR").map(PathBuf::from);
    let home = std::env::home_dir().unwrap_or_default();
    let model = models
        .unwrap_or_else(|| home.join(".cache/fusiond/models"))
        .join("all-MiniLM-L6-v2");
    if !model.is_dir() {
        println!("SKIPPED: no model at {}", model.display());
        return;
    }
    for backend in ["onnx", "safetensors"] {
        let engine = Tensor::load(&Launch {
            model: model.clone(),
            model_type: ModelType::Embeddings,
            context_length: Some(512),
            slots: 1,
            threads: 1,
            cache_dir: None,
            options: vec![("backend".to_owned(), backend.to_owned())],
        })
        .unwrap();
        println!("{backend}: {} MiB resident after load", resident() >> 20);
        for (rows, length) in [(1, 16), (1, 128), (1, 512), (16, 16), (16, 128), (64, 128)] {
            let rate = measure(&engine, rows, length).await;
            println!("{backend} {rows}×{length}: {rate:.0} tokens per CPU-second");
        }
        println!(
            "{backend}: {} MiB resident after work, {:?}",
            resident() >> 20,
            engine.stats()
        );
    }
}

async fn measure(engine: &Tensor, rows: usize, length: usize) -> f64 {
    let request = EmbedRequest {
        model: "m".to_owned(),
        // Each word is one token; two more are special.
        input: vec!["river ".repeat(length - 2); rows].into(),
        truncate: false,
    };
    engine.embed(request.clone()).await.unwrap();
    let (start, cpu) = (Instant::now(), cpu_seconds());
    let mut tokens = 0;
    while start.elapsed().as_secs_f64() < SECONDS {
        tokens += engine.embed(request.clone()).await.unwrap().tokens;
    }
    f64::from(tokens) / (cpu_seconds() - cpu)
}

/// User and system time of this process; Linux counts it in hundredths.
fn cpu_seconds() -> f64 {
    let stat = fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<_> = stat.rsplit(") ").next().unwrap().split(' ').collect();
    let ticks = |at: usize| fields[at].parse::<f64>().unwrap();
    (ticks(11) + ticks(12)) / 100.0
}

fn resident() -> u64 {
    let pages = fs::read_to_string("/proc/self/statm").unwrap();
    pages.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * 4096
}
