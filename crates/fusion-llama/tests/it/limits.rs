//! More than there is room for.

use fusion_engine::{
    Engine,
    types::{Class, ErrorCode},
};

use crate::support::{answer, ask, ask_for_paris, load, piece, refusal};

#[tokio::test]
async fn a_prompt_longer_than_the_context_is_refused_with_both_numbers() {
    let Some(engine) = load(1, 256) else { return };
    let error = refusal(
        engine
            .chat(ask(&"fox ".repeat(400), 10), Class::Interactive)
            .await,
    );
    assert_eq!(error.code, ErrorCode::ContextLengthExceeded);
    let numbers: Vec<u32> = error
        .message
        .split(|c: char| !c.is_ascii_digit())
        .filter_map(|number| number.parse().ok())
        .collect();
    assert!(numbers[0] > 400 && numbers[1] == 256, "{}", error.message);

    // The slot was given back.
    assert!(
        answer(&engine, ask_for_paris())
            .await
            .text
            .contains("Paris")
    );
}

#[tokio::test]
async fn a_request_beyond_the_slots_is_refused_until_one_is_free() {
    let Some(engine) = load(1, 512) else { return };
    let mut first = engine
        .chat(
            ask("Tell me a very long story about a fox.", 400),
            Class::Interactive,
        )
        .await
        .unwrap();
    piece(&mut first).await;
    let error = refusal(engine.chat(ask("Hello", 4), Class::Interactive).await);
    assert_eq!(error.code, ErrorCode::EngineUnavailable);

    drop(first);
    assert_eq!(
        answer(&engine, ask("Tell me a story.", 4))
            .await
            .usage
            .completion_tokens,
        4
    );
}

#[tokio::test]
async fn an_engine_that_ends_says_so_to_its_streams() {
    let Some(engine) = load(1, 512) else { return };
    let mut stream = engine
        .chat(
            ask("Tell me a very long story about a fox.", 400),
            Class::Interactive,
        )
        .await
        .unwrap();
    piece(&mut stream).await;
    drop(engine);
    let mut last = futures::StreamExt::next(&mut stream).await;
    while let Some(Ok(_)) = last {
        last = futures::StreamExt::next(&mut stream).await;
    }
    assert_eq!(refusal(last.unwrap()).code, ErrorCode::EngineUnavailable);
    assert!(futures::StreamExt::next(&mut stream).await.is_none());
}
