//! A person's stream beside a job's.

use fusion_engine::{
    Engine,
    types::{Class, chat::ChatEvent},
};
use futures::{FutureExt, StreamExt};

use crate::support::{ask, load, piece, read};

#[tokio::test]
async fn a_job_gets_a_quarter_of_the_steps_until_the_person_has_its_answer() {
    let Some(engine) = load(2, 512) else { return };
    let story = "Tell me a very long story about a fox.";
    let mut job = engine.chat(ask(story, 60), Class::Job).await.unwrap();
    piece(&mut job).await;
    let person = engine
        .chat(
            ask("Tell me a very long story about a whale.", 48),
            Class::Interactive,
        )
        .await
        .unwrap();
    // What is still on its way when the person's stream begins is the job's own.
    let before = told(&mut job);
    let whole = read(person).await;
    assert_eq!(whole.usage.completion_tokens, 48);
    let meanwhile = told(&mut job);
    assert!(
        (8..=20 + before).contains(&meanwhile),
        "{meanwhile} tokens of the job beside 48 of the person, {before} before"
    );
    assert_eq!(read(job).await.usage.completion_tokens, 60);
}

/// Pieces that have come so far.
fn told(stream: &mut fusion_engine::ChatStream) -> usize {
    let mut count = 0;
    while let Some(Some(Ok(ChatEvent::Delta(_)))) = stream.next().now_or_never() {
        count += 1;
    }
    count
}
