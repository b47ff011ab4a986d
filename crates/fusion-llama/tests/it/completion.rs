//! Text without a chat template.

use fusion_engine::{
    Engine,
    types::{
        Class, ErrorCode,
        chat::{Sampling, WholeAnswer},
        completion::{CompletionRequest, Prompt},
    },
};
use fusion_llama::Llama;
use futures::StreamExt;

use crate::support::{load, load_coder, refusal};

fn go_on(prompt: &str, max_tokens: u32) -> CompletionRequest {
    CompletionRequest {
        max_tokens: Some(max_tokens),
        sampling: Sampling {
            temperature: Some(0.0),
            ..Sampling::default()
        },
        ..CompletionRequest::new("m".to_owned(), Prompt::Text(prompt.to_owned()))
    }
}

async fn whole(engine: &Llama, request: CompletionRequest) -> WholeAnswer {
    let mut stream = engine.complete(request, Class::Job).await.unwrap();
    let mut whole = WholeAnswer::default();
    while let Some(event) = stream.next().await {
        whole.add(event.unwrap());
    }
    whole
}

#[tokio::test]
async fn a_list_is_gone_on_with() {
    let Some(engine) = load(1, 512) else { return };
    let mut request = go_on("1, 2, 3, 4, 5, 6, 7,", 12);
    let answer = whole(&engine, request.clone()).await;
    assert!(answer.content.starts_with(" 8, 9"), "{answer:?}");
    request.stop = vec![" 9".to_owned()];
    request.echo = true;
    let stopped = whole(&engine, request.clone()).await;
    assert_eq!(stopped.content, "1, 2, 3, 4, 5, 6, 7, 8,");

    // The same as tokens, which a client may have from anywhere.
    request.echo = false;
    request.stop = Vec::new();
    request.logprobs = Some(2);
    let told = whole(&engine, request).await;
    assert_eq!(told.content, answer.content);
    assert_eq!(told.logprobs.len(), told.usage.completion_tokens as usize);
    assert_eq!(told.logprobs[0].top_logprobs.len(), 2);
}

#[tokio::test]
async fn tokens_are_taken_as_they_are() {
    let Some(engine) = load(1, 512) else { return };
    let mut request = go_on("", 1);
    request.prompt = Prompt::Tokens(vec![28, 216, 34]);
    request.echo = true;
    let answer = whole(&engine, request.clone()).await;
    assert_eq!(answer.usage.prompt_tokens, 3);
    request.prompt = Prompt::Tokens(vec![4_000_000_000]);
    let error = refusal(engine.complete(request, Class::Interactive).await);
    assert_eq!(
        (error.code, error.param.as_deref()),
        (ErrorCode::InvalidValue, Some("prompt"))
    );
}

#[tokio::test]
async fn the_middle_is_filled_in_where_the_model_can() {
    if let Some(engine) = load(1, 512) {
        let mut request = go_on("def add(a, b):\n    return ", 8);
        request.suffix = Some("\n\nprint(add(1, 2))".to_owned());
        let error = refusal(engine.complete(request, Class::Interactive).await);
        assert_eq!(error.code, ErrorCode::UnsupportedOperation);
        assert_eq!(error.param.as_deref(), Some("suffix"));
    }
    let Some(engine) = load_coder(1, 512) else {
        return;
    };
    let mut request = go_on("def add(a, b):\n    return ", 8);
    request.suffix = Some("\n\nprint(add(1, 2))\n".to_owned());
    let answer = whole(&engine, request).await;
    assert!(
        answer.content.trim_start().starts_with("a + b"),
        "{answer:?}"
    );
}
