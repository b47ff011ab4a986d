//! How likely the model found its tokens.

use fusion_engine::types::chat::ChatRequest;

use crate::support::{ask_for_paris, load, whole};

#[tokio::test]
async fn the_likeliest_tokens_are_those_drawn_without_chance() {
    let Some(engine) = load(1, 512) else { return };
    let request = ChatRequest {
        logprobs: true,
        top_logprobs: Some(5),
        ..ask_for_paris()
    };
    let answer = whole(&engine, request.clone()).await;
    let told: Vec<u8> = answer
        .logprobs
        .iter()
        .flat_map(|token| token.bytes.clone())
        .collect();
    assert_eq!(String::from_utf8(told).unwrap(), answer.content);
    assert_eq!(
        answer.logprobs.len(),
        answer.usage.completion_tokens as usize
    );
    for token in &answer.logprobs {
        assert_eq!(token.top_logprobs.len(), 5);
        assert_eq!(token.top_logprobs[0].token, token.token);
        let sum: f32 = token.top_logprobs.iter().map(|top| top.logprob.exp()).sum();
        assert!(sum <= 1.001, "{token:?}");
        let sorted = token
            .top_logprobs
            .is_sorted_by(|a, b| a.logprob >= b.logprob);
        assert!(sorted, "{token:?}");
    }

    // Temperature and bias change what is drawn, not what the model thinks.
    let mut biased = request;
    biased.sampling.temperature = Some(2.0);
    biased.sampling.seed = Some(3);
    biased.logit_bias.insert("500".to_owned(), 50.0);
    let other = whole(&engine, biased).await;
    assert_eq!(
        other.logprobs[0].top_logprobs,
        answer.logprobs[0].top_logprobs
    );
}

#[tokio::test]
async fn a_stop_string_takes_the_likelihoods_of_its_tokens_along() {
    let Some(engine) = load(1, 512) else { return };
    let mut request = ChatRequest {
        logprobs: true,
        ..ask_for_paris()
    };
    request.stop = vec![" Paris".to_owned()];
    let answer = whole(&engine, request).await;
    let told: String = answer
        .logprobs
        .iter()
        .map(|token| token.token.as_str())
        .collect();
    assert_eq!(told, answer.content);
    assert!(answer.content.ends_with(" is"), "{answer:?}");
    assert!(
        answer
            .logprobs
            .iter()
            .all(|token| token.top_logprobs.is_empty())
    );
}
