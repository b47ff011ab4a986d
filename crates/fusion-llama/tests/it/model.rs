//! What an engine says of its model.

use fusion_engine::{
    Engine,
    types::{
        ErrorCode,
        model::{Capability, ModelType},
    },
};
use fusion_llama::Llama;

use crate::support::{answer, ask, launch, load, model_file, refusal, until};

#[test]
fn the_card_is_true() {
    let Some(file) = model_file() else { return };
    let engine = Llama::load(&launch(file.clone(), 3, 512)).unwrap();
    let card = engine.card();
    assert_eq!(card.model_type, ModelType::Lm);
    assert_eq!(card.family.as_deref(), Some("llama"));
    assert_eq!(
        card.capabilities,
        [Capability::Chat, Capability::StructuredOutput]
    );
    assert_eq!(
        (card.context_length, card.slots, card.dimension),
        (512, 3, None)
    );
    assert_eq!(card.quantization.as_deref(), Some("q4_1"));
    assert_eq!(card.fingerprint.len(), 64);

    let again = Llama::load(&launch(file, 1, 256)).unwrap();
    assert_eq!(again.card().fingerprint, card.fingerprint);
}

#[tokio::test]
async fn an_estimate_says_what_loading_will_reserve() {
    let Some(file) = model_file() else { return };
    let launch = launch(file.clone(), 4, 1024);
    let estimate = Llama::estimate(&launch).unwrap();
    let file_bytes = file.metadata().unwrap().len();
    assert!(estimate.weights_bytes > file_bytes * 9 / 10 && estimate.weights_bytes < file_bytes);

    let engine = Llama::load(&launch).unwrap();
    let stats = engine.stats();
    assert_eq!(stats.kv_reserved_bytes, estimate.context_bytes);
    assert_eq!(stats.scratch_bytes, estimate.compute_bytes);
    assert!(stats.weights_bytes > 0);
    assert_eq!(stats.kv_used_bytes, 0);

    let usage = answer(&engine, ask("What is the capital of France?", 8))
        .await
        .usage;
    until(|| engine.stats().slots_busy == 0).await;
    let stats = engine.stats();
    let per_token = stats.kv_reserved_bytes / 1024;
    assert_eq!(
        stats.kv_used_bytes,
        u64::from(usage.total_tokens - 1) * per_token
    );
    assert_eq!(stats.tokens_in, u64::from(usage.prompt_tokens));
    assert_eq!(stats.tokens_out, u64::from(usage.completion_tokens));
}

#[test]
fn without_a_length_a_slot_holds_what_the_model_was_trained_on() {
    let Some(file) = model_file() else { return };
    let mut default = launch(file.clone(), 1, 0);
    default.context_length = None;
    let trained = Llama::estimate(&launch(file, 1, 8192)).unwrap();
    assert_eq!(Llama::estimate(&default).unwrap(), trained);
}

#[test]
fn a_launch_that_cannot_be_is_refused() {
    let Some(file) = model_file() else { return };
    for (slots, context_length) in [(0, 512), (100_000, 512), (1, 0), (4, u32::MAX)] {
        let error = refusal(Llama::estimate(&launch(
            file.clone(),
            slots,
            context_length,
        )));
        assert_eq!(error.code, ErrorCode::InvalidValue, "{error}");
    }
    let mut whisper = launch(file, 1, 512);
    whisper.model_type = ModelType::Whisper;
    assert_eq!(
        refusal(Llama::load(&whisper)).code,
        ErrorCode::NotImplemented
    );
}

#[tokio::test]
async fn tokens_are_found_in_the_text() {
    let Some(engine) = load(1, 256) else { return };
    let texts = [
        "Hello, world!",
        "",
        "naïve 漢字 😀 <|im_end|>\n\ttabs",
        " leading space",
    ];
    let spans = engine
        .tokenize(texts.iter().map(|&text| text.to_owned()).collect())
        .await
        .unwrap();
    assert_eq!(spans.len(), texts.len());
    for (text, spans) in texts.iter().zip(&spans) {
        let mut end = 0;
        for span in spans {
            assert_eq!(span.0, end);
            end = span.1;
        }
        assert_eq!(end as usize, text.len());
    }
    assert_eq!(spans[0], [(0, 5), (5, 6), (6, 12), (12, 13)]);
    let split = spans[2]
        .iter()
        .any(|span| !texts[2].is_char_boundary(span.1 as usize));
    assert!(
        split,
        "no token of this text ends inside a character, so the test shows nothing"
    );
}

#[tokio::test]
async fn threads_can_change_between_steps() {
    let Some(engine) = load(1, 512) else { return };
    answer(&engine, ask("Hello", 2)).await;
    engine.set_threads(2);
    let after = answer(&engine, ask("Hello", 4)).await;
    assert_eq!(after.usage.completion_tokens, 4);
}
