//! Several generations at a time.

use fusion_engine::{ChatStream, Engine, types::Class};
use futures::{StreamExt, future::join_all};

use crate::support::{answer, ask, load, piece, read, until};

const TOKENS: u32 = 48;

fn stories(count: usize) -> impl Iterator<Item = String> {
    let subjects = [
        "a fox",
        "a ship",
        "a clock",
        "a bridge",
        "a garden",
        "a mountain",
        "a letter",
        "a storm",
    ];
    subjects
        .into_iter()
        .cycle()
        .take(count)
        .map(|subject| format!("Tell me a very long story about {subject}."))
}

#[tokio::test]
async fn eight_streams_share_their_steps() {
    let Some(engine) = load(8, 1024) else { return };
    let generations = stories(8).map(|story| {
        let engine = &engine;
        async move { answer(engine, ask(&story, TOKENS)).await }
    });
    for answer in join_all(generations).await {
        assert_eq!(answer.usage.completion_tokens, TOKENS);
    }
    let stats = engine.stats();
    assert_eq!(stats.tokens_out, u64::from(8 * TOKENS));
    assert!(
        stats.decode_steps < u64::from(2 * TOKENS),
        "{} steps",
        stats.decode_steps
    );
    until(|| engine.stats().slots_busy == 0).await;
}

#[tokio::test]
async fn eight_requests_over_four_slots_all_finish() {
    let Some(engine) = load(4, 512) else { return };
    let stories: Vec<_> = stories(8).collect();
    for half in stories.chunks(4) {
        let generations = half.iter().map(|story| answer(&engine, ask(story, TOKENS)));
        for answer in join_all(generations).await {
            assert_eq!(answer.usage.completion_tokens, TOKENS);
        }
    }
    let stats = engine.stats();
    assert_eq!(stats.tokens_out, u64::from(8 * TOKENS));
    assert!(
        stats.decode_steps < u64::from(4 * TOKENS),
        "{} steps",
        stats.decode_steps
    );
}

#[tokio::test]
async fn a_dropped_stream_frees_its_slot_within_a_step() {
    let Some(engine) = load(2, 512) else { return };
    let mut stream = engine
        .chat(
            ask("Tell me a very long story about a fox.", 400),
            Class::Interactive,
        )
        .await
        .unwrap();
    for _ in 0..3 {
        piece(&mut stream).await;
    }
    assert_eq!(engine.stats().slots_busy, 1);

    drop(stream);
    let before = engine.stats().tokens_out;
    until(|| engine.stats().slots_busy == 0).await;
    let after = engine.stats().tokens_out;
    assert!(after <= before + 1, "{} tokens for nobody", after - before);
}

#[tokio::test]
async fn a_stream_that_nobody_reads_leaves_the_batch_and_comes_back() {
    let Some(engine) = load(2, 512) else { return };
    let slow = engine
        .chat(
            ask("Tell me a very long story about a fox.", 90),
            Class::Interactive,
        )
        .await
        .unwrap();
    until(|| engine.stats().tokens_out >= 30).await;

    let other = answer(&engine, ask("Tell me a very long story about a ship.", 60)).await;
    assert_eq!(other.usage.completion_tokens, 60);
    let waiting = engine.stats().tokens_out - 60;
    assert!(
        waiting <= 32,
        "{waiting} tokens for a client that reads none"
    );

    let slow = read(slow).await;
    assert_eq!(slow.usage.completion_tokens, 90);
}

#[tokio::test]
async fn a_long_prompt_does_not_hold_up_a_stream() {
    let Some(engine) = load(2, 2048) else { return };
    let mut stream = engine
        .chat(
            ask("Tell me a very long story about a fox.", 1500),
            Class::Interactive,
        )
        .await
        .unwrap();
    piece(&mut stream).await;

    let long = "The quick brown fox jumps over the lazy dog. ".repeat(105);
    let mut prompt = engine
        .chat(ask(&long, 1), Class::Interactive)
        .await
        .unwrap();
    let mut between = 0;
    let mut first = prompt.next();
    loop {
        tokio::select! {
            biased;
            event = &mut first => break drop(event.unwrap().unwrap()),
            text = piece(&mut stream) => between += usize::from(!text.is_empty()),
        }
    }
    // No step holds more than 512 tokens, and each of them carried the stream along.
    let read = usage(prompt).await;
    assert!(read > 1024, "{read} tokens");
    assert!(
        between >= 2,
        "{between} tokens of the stream while the prompt was read"
    );
}

async fn usage(stream: ChatStream) -> u32 {
    read(stream).await.usage.prompt_tokens
}
