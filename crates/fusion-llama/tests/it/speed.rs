//! Not asserted: what this machine does. `cargo test -p fusion-llama --test it -- --ignored --nocapture speed`

use std::{env, fs, time::Instant};

use fusion_engine::Engine;
use fusion_llama::Llama;
use futures::future::join_all;

use crate::support::{answer, ask, launch, model_file};

#[tokio::test]
#[ignore = "measures, and takes a minute"]
async fn speed() {
    let Some(file) = model_file() else { return };
    let threads = env::var("THREADS")
        .ok()
        .and_then(|threads| threads.parse().ok())
        .unwrap_or(1);

    let began = Instant::now();
    let mut launch = launch(file, 8, 2048);
    launch.threads = threads;
    if let Ok(kv) = env::var("KV") {
        launch.options.push(("kv".to_owned(), kv));
    }
    Llama::estimate(&launch).unwrap();
    eprintln!("estimate: {:.2} s", began.elapsed().as_secs_f64());
    let began = Instant::now();
    let engine = Llama::load(&launch).unwrap();
    eprintln!(
        "load: {:.2} s, {threads} threads, {:?}",
        began.elapsed().as_secs_f64(),
        engine.stats()
    );

    for streams in [1_u32, 2, 4, 8] {
        let steps = engine.stats().decode_steps;
        let (began, cpu) = (Instant::now(), cpu_seconds());
        let stories = (0..streams).map(|story| {
            let request = ask(
                &format!("Tell me a very long story about the number {story}."),
                128,
            );
            answer(&engine, request)
        });
        let tokens: u32 = join_all(stories)
            .await
            .iter()
            .map(|answer| answer.usage.completion_tokens)
            .sum();
        let seconds = began.elapsed().as_secs_f64();
        let steps = engine.stats().decode_steps - steps;
        let cpu = f64::from(tokens) / (cpu_seconds() - cpu);
        let wall = f64::from(tokens) / seconds;
        eprintln!(
            "{streams} streams: {wall:.0} tokens/s, {cpu:.0} per CPU-s, {tokens} in {steps} steps"
        );
    }

    let (began, cpu) = (Instant::now(), cpu_seconds());
    let text = "The quick brown fox jumps over the lazy dog. ".repeat(100);
    let prompt = answer(&engine, ask(&text, 1)).await;
    let read = f64::from(prompt.usage.prompt_tokens - prompt.cached());
    let (wall, cpu) = (
        read / began.elapsed().as_secs_f64(),
        read / (cpu_seconds() - cpu),
    );
    eprintln!("prefill: {wall:.0} tokens/s, {cpu:.0} per CPU-s, over {read} tokens");
}

/// What this process has used of all cores; steadier than time on the wall where others work too.
fn cpu_seconds() -> f64 {
    let stat = fs::read_to_string("/proc/self/stat").unwrap();
    let ticks = stat
        .rsplit(") ")
        .next()
        .unwrap()
        .split(' ')
        .skip(11)
        .take(2);
    ticks
        .map(|ticks| ticks.parse::<f64>().unwrap())
        .sum::<f64>()
        / 100.0
}
