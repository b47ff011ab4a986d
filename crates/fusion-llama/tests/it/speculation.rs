//! Guessing ahead changes how many steps an answer takes, and nothing else.

use fusion_engine::{
    Engine, Launch,
    types::{ErrorCode, chat::ChatRequest, engine::EngineStats},
};
use fusion_llama::Llama;

use crate::support::{answer, ask, launch, load, model_file, other_model_file, refusal};

/// The model guesses for itself: it is nearly always right.
fn with_draft() -> Option<Launch> {
    let file = model_file()?;
    let mut launch = launch(file.clone(), 2, 1024);
    let draft = file.to_str().unwrap().to_owned();
    launch.options.push(("draft_model".to_owned(), draft));
    Some(launch)
}

fn list() -> ChatRequest {
    ask("Continue this list of numbers: 1, 2, 3, 4, 5, 6, 7, 8", 120)
}

async fn same_as_without(engine: &Llama, request: ChatRequest) -> EngineStats {
    let plain = load(2, 1024).unwrap();
    let expected = answer(&plain, request.clone()).await;
    let before = engine.stats();
    let got = answer(engine, request).await;
    assert_eq!(got.text, expected.text);
    assert_eq!(got.finish, expected.finish);
    assert_eq!(
        got.usage.completion_tokens,
        expected.usage.completion_tokens
    );
    let after = engine.stats();
    EngineStats {
        decode_steps: after.decode_steps - before.decode_steps,
        tokens_out: after.tokens_out - before.tokens_out,
        draft_tokens: after.draft_tokens - before.draft_tokens,
        draft_accepted: after.draft_accepted - before.draft_accepted,
        ..after
    }
}

#[tokio::test]
async fn a_draft_model_saves_steps_and_changes_no_answer() {
    let Some(launch) = with_draft() else { return };
    let engine = Llama::load(&launch).unwrap();
    let stats = same_as_without(&engine, list()).await;
    assert!(stats.decode_steps * 2 < stats.tokens_out, "{stats:?}");
    assert!(
        stats.draft_accepted * 10 > stats.draft_tokens * 9,
        "{stats:?}"
    );
}

#[tokio::test]
async fn a_draft_model_changes_no_answer_that_is_drawn() {
    let Some(launch) = with_draft() else { return };
    let mut story = ask("Tell me a short story about a fox.", 60);
    for temperature in [0.0, 0.9] {
        // Anew, so that both engines read the prompt in one piece: near ties fall otherwise.
        let engine = Llama::load(&launch).unwrap();
        story.sampling.temperature = Some(temperature);
        story.sampling.seed = Some(7);
        same_as_without(&engine, story.clone()).await;
    }
}

#[tokio::test]
async fn an_answer_ends_where_it_must() {
    let Some(launch) = with_draft() else { return };
    let engine = Llama::load(&launch).unwrap();
    for most in 1..8 {
        let mut short = list();
        short.max_tokens = Some(most);
        same_as_without(&engine, short).await;
    }
    let mut stopped = list();
    stopped.stop = vec!["12".to_owned()];
    let answer = answer(&engine, stopped).await;
    assert!(!answer.text.contains("12"), "{answer:?}");
}

#[tokio::test]
async fn what_the_text_repeats_is_guessed() {
    let Some(file) = model_file() else { return };
    let mut launch = launch(file, 2, 1024);
    launch
        .options
        .push(("speculate".to_owned(), "ngram".to_owned()));
    let engine = Llama::load(&launch).unwrap();
    let text = "The harbour of Port Ellis was built in 1874 by Maria Duval. It has three piers and a green lighthouse.";
    let request = ask(&format!("Repeat this text word for word: {text}"), 60);
    let stats = same_as_without(&engine, request).await;
    assert!(stats.draft_accepted > 4, "{stats:?}");
    assert!(stats.decode_steps < stats.tokens_out, "{stats:?}");
}

#[tokio::test]
async fn a_draft_model_is_counted_and_checked() {
    let Some(with) = with_draft() else { return };
    let plain = launch(with.model.clone(), 2, 1024);
    let (with_draft, without) = (
        Llama::estimate(&with).unwrap(),
        Llama::estimate(&plain).unwrap(),
    );
    assert_eq!(with_draft.weights_bytes, 2 * without.weights_bytes);
    assert!(with_draft.total() > 2 * without.weights_bytes + without.context_bytes);
    let stats = Llama::load(&with).unwrap().stats();
    assert_eq!(stats.scratch_bytes, with_draft.compute_bytes);

    let mut missing = plain.clone();
    let nowhere = "/nowhere/draft.gguf".to_owned();
    missing.options.push(("draft_model".to_owned(), nowhere));
    let error = refusal(Llama::load(&missing));
    let told = (error.code, error.param.as_deref());
    assert_eq!(told, (ErrorCode::InvalidValue, Some("draft_model")));

    if let Some(other) = other_model_file() {
        let mut foreign = plain.clone();
        let other = other.to_str().unwrap().to_owned();
        foreign.options.push(("draft_model".to_owned(), other));
        let error = refusal(Llama::load(&foreign));
        assert_eq!(error.param.as_deref(), Some("draft_model"));
        assert!(error.message.contains("vocabulary"), "{error}");
    }

    let mut odd = plain;
    odd.options
        .push(("speculate".to_owned(), "wildly".to_owned()));
    let error = refusal(Llama::load(&odd));
    assert_eq!(error.param.as_deref(), Some("options.speculate"));
}
