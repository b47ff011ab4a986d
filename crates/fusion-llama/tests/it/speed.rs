//! Not asserted: what this machine does. `cargo test -p fusion-llama --test it -- --ignored --nocapture speed`

use std::{env, time::Instant};

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
        let began = Instant::now();
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
        eprintln!(
            "{streams} streams: {:.1} tokens/s, {tokens} tokens in {steps} steps",
            f64::from(tokens) / seconds
        );
    }

    let began = Instant::now();
    let prompt = answer(
        &engine,
        ask(
            &"The quick brown fox jumps over the lazy dog. ".repeat(100),
            1,
        ),
    )
    .await;
    let seconds = began.elapsed().as_secs_f64();
    let read = prompt.usage.prompt_tokens - prompt.cached();
    eprintln!(
        "prefill: {:.1} tokens/s over {read} tokens",
        f64::from(read) / seconds
    );
}
