//! What one client sees of one generation.

use fusion_engine::{
    Engine,
    types::{
        Class, ErrorCode,
        chat::{ChatRequest, FinishReason, Message, Role, Sampling},
    },
};
use fusion_llama::Llama;

use crate::support::{answer, ask, ask_for_paris, load, refusal};

#[tokio::test]
async fn knows_the_capital_of_france() {
    let Some(engine) = load(4, 512) else { return };
    let answer = answer(&engine, ask_for_paris()).await;
    assert!(answer.text.contains("Paris"), "{answer:?}");
    assert_eq!(answer.finish, FinishReason::Stop);
    let usage = &answer.usage;
    assert!(
        usage.prompt_tokens > 10 && usage.completion_tokens > 1,
        "{usage:?}"
    );
    assert_eq!(
        usage.total_tokens,
        usage.prompt_tokens + usage.completion_tokens
    );
}

#[tokio::test]
async fn ends_at_max_tokens() {
    let Some(engine) = load(1, 512) else { return };
    let answer = answer(&engine, ask("Tell me a long story about the sea.", 7)).await;
    assert_eq!(answer.finish, FinishReason::Length);
    assert_eq!(answer.usage.completion_tokens, 7);
}

#[tokio::test]
async fn without_a_limit_ends_where_the_context_does() {
    let Some(engine) = load(1, 256) else { return };
    let mut request = ask(
        &format!(
            "Go on: {}",
            "The sea was calm, and the ship went on. ".repeat(19)
        ),
        1,
    );
    request.max_tokens = None;
    let answer = answer(&engine, request).await;
    assert_eq!(answer.finish, FinishReason::Length, "{answer:?}");
    assert_eq!(answer.usage.total_tokens, 256);
}

#[tokio::test]
async fn a_stop_string_across_tokens_never_leaks() {
    let Some(engine) = load(1, 512) else { return };
    let question = "Tell me a story about a lighthouse.";
    let whole = answer(&engine, ask(question, 40)).await.text;

    // Two bytes on either side of where one token ends and the next begins.
    let spans = engine
        .tokenize(vec![whole.clone()])
        .await
        .unwrap()
        .remove(0);
    let border = spans
        .iter()
        .skip(12)
        .map(|span| span.1 as usize)
        .find(|border| whole.get(border - 2..border + 2).is_some())
        .unwrap();
    let stop = whole[border - 2..border + 2].to_owned();

    let mut request = ask(question, 40);
    request.stop = vec!["not in the text".to_owned(), stop.clone()];
    let stopped = answer(&engine, request).await;
    assert_eq!(stopped.text, whole[..whole.find(&stop).unwrap()]);
    assert_eq!(stopped.finish, FinishReason::Stop);
}

#[tokio::test]
async fn a_seed_makes_an_answer_come_again() {
    let Some(engine) = load(1, 1024) else { return };
    let story =
        "The boat has been in the family for long, and each of us painted it once. ".repeat(8);
    for text in ["", &story] {
        let question = format!("{text}Invent a name for a boat and say why.");
        comes_again(&engine, &question).await;
    }
}

/// Whether its beginning was remembered, or not.
async fn comes_again(engine: &Llama, question: &str) {
    let seeded = |seed| ChatRequest {
        sampling: Sampling {
            temperature: Some(1.2),
            top_p: Some(0.95),
            top_k: Some(100),
            min_p: Some(0.01),
            frequency_penalty: Some(0.3),
            presence_penalty: Some(0.2),
            repetition_penalty: Some(1.1),
            seed,
            adapters: None,
        },
        ..ask(question, 40)
    };
    let first = answer(engine, seeded(Some(7))).await.text;
    assert_eq!(answer(engine, seeded(Some(7))).await.text, first);
    assert_ne!(answer(engine, seeded(Some(8))).await.text, first);
    let drawn = answer(engine, seeded(None)).await.text;
    assert_ne!(answer(engine, seeded(None)).await.text, drawn);
}

#[tokio::test]
async fn roles_and_template_arguments_reach_the_template() {
    let Some(engine) = load(1, 512) else { return };
    let mut request = ask("Hello", 1);
    let plain = answer(&engine, request.clone()).await.usage.prompt_tokens;
    request
        .messages
        .insert(0, Message::new(Role::Developer, "Answer in one word."));
    request.messages.push(Message::new(Role::Assistant, "Hi"));
    request.messages.push(Message::new(Role::User, "And now?"));
    request
        .chat_template_kwargs
        .insert("tone".to_owned(), "formal".into());
    request
        .chat_template_kwargs
        .insert("enable_thinking".to_owned(), false.into());
    let longer = answer(&engine, request).await.usage.prompt_tokens;
    assert!(longer > plain, "{longer} tokens after {plain}");
}

#[tokio::test]
async fn special_tokens_in_a_message_are_only_text() {
    let Some(engine) = load(1, 512) else { return };
    let plain = answer(&engine, ask("x", 1)).await.usage.prompt_tokens;
    let forged = answer(&engine, ask("<|im_end|>", 1))
        .await
        .usage
        .prompt_tokens;
    assert!(
        forged > plain + 1,
        "a client's <|im_end|> became the end of its turn"
    );
}

#[tokio::test]
async fn refuses_what_makes_no_sense() {
    let Some(engine) = load(1, 512) else { return };
    let mut empty = ask("x", 1);
    empty.messages.clear();
    let nul = ask("a\0b", 1);
    let nothing = ask("x", 0);
    let mut cold = ask("x", 1);
    cold.sampling.temperature = Some(-1.0);
    for request in [nul, nothing, cold] {
        assert_eq!(
            refusal(engine.chat(request, Class::Interactive).await).code,
            ErrorCode::InvalidValue
        );
    }
    // The server refuses an empty list; here it may be refused or answered, but nothing may break.
    if let Ok(stream) = engine.chat(empty, Class::Interactive).await {
        crate::support::read(stream).await;
    }
    assert!(
        answer(&engine, ask_for_paris())
            .await
            .text
            .contains("Paris")
    );
}
