//! What a slot has read before is read only once.

use fusion_engine::{
    Engine,
    types::chat::{ChatRequest, Message, Role},
};
use fusion_llama::Llama;

use crate::support::{answer, ask, launch, load, model_file};

const DOCUMENT: &str = "The harbour of Port Ellis was built in 1874 by Maria Duval. It has three piers, a lighthouse with \
    a green lamp, and a shipyard that closed in 1931. Every summer the town holds a race of wooden boats. The winner gets a \
    silver anchor, and the last boat has to buy the other crews their dinner. ";

fn about_the_document(question: &str) -> ChatRequest {
    ask(&format!("{}\n{question}", DOCUMENT.repeat(3)), 30)
}

#[tokio::test]
async fn a_shared_beginning_is_reused_and_changes_nothing() {
    let Some(engine) = load(2, 1024) else { return };
    let first = answer(&engine, about_the_document("Who built the harbour?")).await;
    assert_eq!(first.cached(), 0);
    let warm = answer(
        &engine,
        about_the_document("What does the winner of the race get?"),
    )
    .await;
    assert!(
        warm.cached() > 200 && warm.cached() < warm.usage.prompt_tokens,
        "{warm:?}"
    );
    assert_eq!(engine.stats().prefix_cache_hits, 1);

    let again = Llama::load(&launch(model_file().unwrap(), 2, 1024)).unwrap();
    let cold = answer(
        &again,
        about_the_document("What does the winner of the race get?"),
    )
    .await;
    assert_eq!(cold.cached(), 0);
    assert_eq!(warm.text, cold.text);
    assert_eq!(warm.usage.prompt_tokens, cold.usage.prompt_tokens);
}

#[tokio::test]
async fn the_next_turn_reads_only_what_is_new() {
    let Some(engine) = load(2, 1024) else { return };
    let mut conversation = about_the_document("Who built the harbour?");
    let first = answer(&engine, conversation.clone()).await;
    conversation
        .messages
        .push(Message::new(Role::Assistant, first.text));
    conversation
        .messages
        .push(Message::new(Role::User, "And when?"));
    let second = answer(&engine, conversation.clone()).await;
    assert!(
        second.cached() >= first.usage.prompt_tokens - 1,
        "{second:?}"
    );

    // The very same request: all but the last token, which the answer is drawn from.
    let same = answer(&engine, conversation).await;
    assert_eq!(same.cached(), same.usage.prompt_tokens - 1);
    assert_eq!(same.text, second.text);
}

#[tokio::test]
async fn another_conversation_takes_another_slot() {
    let Some(engine) = load(2, 1024) else { return };
    answer(&engine, about_the_document("Who built the harbour?")).await;
    answer(&engine, ask("What is the capital of France?", 8)).await;
    let back = answer(&engine, about_the_document("Who built the harbour?")).await;
    assert_eq!(back.cached(), back.usage.prompt_tokens - 1);
}

#[tokio::test]
async fn what_left_the_slots_comes_back_from_memory() {
    let Some(file) = model_file() else { return };
    let mut launch = launch(file, 1, 1024);
    launch
        .options
        .push(("prefix_cache_mb".to_owned(), "100".to_owned()));
    let engine = Llama::load(&launch).unwrap();
    // Few tokens: what is read a token at a time is rounded otherwise, and near ties fall otherwise in the end.
    let few = || ChatRequest {
        max_tokens: Some(6),
        ..about_the_document("Who built the harbour?")
    };
    let first = answer(&engine, few()).await;
    for question in ["What is the capital of France?", "Count to ten."] {
        let other = answer(&engine, ask(question, 8)).await;
        assert!(other.cached() < 64, "{other:?}");
    }
    let back = answer(&engine, few()).await;
    assert_eq!(back.cached(), back.usage.prompt_tokens - 1);
    assert_eq!(back.text, first.text);
    let other = answer(
        &engine,
        about_the_document("What does the winner of the race get?"),
    )
    .await;
    assert!(other.cached() > 200, "{other:?}");
}

#[tokio::test]
async fn a_model_can_be_warm_from_the_start() {
    let Some(file) = model_file() else { return };
    let mut launch = launch(file, 2, 1024);
    launch
        .options
        .push(("warmup".to_owned(), DOCUMENT.repeat(2)));
    let engine = Llama::load(&launch).unwrap();
    let mut request = ask("Who built the harbour?", 4);
    request
        .messages
        .insert(0, Message::new(Role::System, DOCUMENT.repeat(2)));
    let warm = answer(&engine, request).await;
    assert!(warm.cached() > 150, "{warm:?}");
}
