//! Whatever JSON comes is read or refused with the contract's codes, and what was read is written as it was.

use fusion_types::{
    chat::{ChatRequest, ChunkChoice},
    embedding::EmbedRequest,
    engine::EngineChunk,
    error::ErrorBody,
    json,
    rerank::RerankRequest,
};
use proptest::prelude::*;
use serde::{Serialize, de::DeserializeOwned};
use serde_json::json;

use crate::hostile;

const NAMES: &[&str] = &[
    "model",
    "messages",
    "role",
    "user",
    "assistant",
    "content",
    "type",
    "text",
    "function",
    "name",
    "parameters",
    "stop",
    "max_tokens",
    "max_completion_tokens",
    "temperature",
    "top_p",
    "seed",
    "stream",
    "tools",
    "tool_choice",
    "auto",
    "required",
    "response_format",
    "json_schema",
    "json_object",
    "schema",
    "logit_bias",
    "logprobs",
    "top_logprobs",
    "n",
    "input",
    "query",
    "documents",
    "truncate",
    "choices",
    "delta",
    "index",
    "usage",
    "finish_reason",
    "prompt_tokens",
    "total_tokens",
    "tool_calls",
    "arguments",
    "id",
    "reasoning_effort",
    "reasoning_effot",
    "chat_template_kwargs",
    "stream_options",
    "parallel_tool_calls",
];

fn chat() -> serde_json::Value {
    json!({
        "model": "m",
        "messages": [
            { "role": "system", "content": "s" },
            { "role": "user", "content": [{ "type": "text", "text": "t" }], "name": "n" },
            { "role": "assistant", "content": null, "tool_calls": [
                { "id": "c", "type": "function", "function": { "name": "f", "arguments": "{}" } }] },
            { "role": "tool", "content": "r", "tool_call_id": "c" },
        ],
        "stop": ["x"], "max_tokens": 5, "temperature": 0.5, "seed": 1, "stream": true,
        "response_format": { "type": "json_schema", "json_schema": { "name": "n", "schema": { "type": "object" } } },
        "logit_bias": { "5": -100 }, "chat_template_kwargs": { "a": 1 },
    })
}

fn chunk() -> serde_json::Value {
    json!({
        "id": "i", "object": "chat.completion.chunk", "created": 1, "model": "m",
        "choices": [{ "index": 0, "finish_reason": "stop", "delta": {
            "role": "assistant", "content": "c", "reasoning_content": "r",
            "tool_calls": [{ "index": 0, "id": "i", "type": "function", "function": { "name": "f", "arguments": "{" } }] } }],
        "usage": { "prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3, "prompt_tokens_details": { "cached_tokens": 1 } },
    })
}

/// All that is read without a tree of it.
fn plain_chat() -> serde_json::Value {
    json!({
        "model": "m", "messages": [{ "role": "system", "content": "a" }, { "role": "user", "content": "b" }],
        "max_tokens": 3, "temperature": 0.3, "top_p": 0.9, "seed": 7, "stream": true,
    })
}

/// What was read is read the same once it was written.
fn comes_back<T: Serialize + DeserializeOwned + PartialEq + std::fmt::Debug>(
    value: &T,
) -> Result<(), TestCaseError> {
    let written = serde_json::to_vec(value).unwrap();
    prop_assert_eq!(&json::parse::<T>(&written).unwrap(), value);
    Ok(())
}

/// A refusal in the contract's shape.
fn is_a_refusal(error: &fusion_types::Error) -> Result<(), TestCaseError> {
    prop_assert!(matches!(error.code.status(), 400 | 501), "{error:?}");
    prop_assert!(!error.message.is_empty());
    let body = serde_json::to_value(ErrorBody::from(error)).unwrap();
    prop_assert!(body["error"]["code"].is_string() && body["error"]["type"].is_string());
    Ok(())
}

fn read<T: Serialize + DeserializeOwned + PartialEq + std::fmt::Debug>(
    body: serde_json::Value,
) -> Result<(), TestCaseError> {
    match json::parse_value::<T>(body) {
        Ok(value) => comes_back(&value),
        Err(error) => is_a_refusal(&error),
    }
}

proptest! {
    #[test]
    fn a_chat_is_read_or_refused(body in prop_oneof![hostile::json(NAMES), hostile::spoiled(chat(), NAMES)]) {
        match ChatRequest::read(body) {
            Ok(request) => comes_back(&request)?,
            Err(error) => is_a_refusal(&error)?,
        }
    }

    #[test]
    fn a_plain_chat_is_read_like_any_other(
        body in prop_oneof![hostile::spoiled(plain_chat(), NAMES), hostile::spoiled(chat(), NAMES)],
    ) {
        let text = serde_json::to_vec(&body).unwrap();
        let said = |error: fusion_types::Error| (error.code, error.message);
        if let Some(plain) = ChatRequest::read_plain(&text).map_err(said).transpose() {
            prop_assert_eq!(plain, ChatRequest::read(body).map_err(said));
        }
    }

    #[test]
    fn a_chunk_is_read_or_refused(body in prop_oneof![hostile::json(NAMES), hostile::spoiled(chunk(), NAMES)]) {
        read::<EngineChunk<ChunkChoice>>(body)?;
    }

    #[test]
    fn embeddings_are_read_or_refused(
        body in prop_oneof![
            hostile::json(NAMES),
            hostile::spoiled(json!({ "model": "m", "input": ["a", "b"], "truncate": true }), NAMES),
        ],
    ) {
        read::<EmbedRequest>(body)?;
    }

    #[test]
    fn rerankings_are_read_or_refused(
        body in prop_oneof![
            hostile::json(NAMES),
            hostile::spoiled(json!({ "model": "m", "query": "q", "documents": ["a", "b"] }), NAMES),
        ],
    ) {
        read::<RerankRequest>(body)?;
    }

    #[test]
    fn bytes_that_are_not_json_are_said_to_be_so(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        if let Err(error) = json::parse::<ChatRequest>(&bytes) {
            is_a_refusal(&error)?;
        }
    }
}

#[test]
fn the_good_bodies_are_good() {
    let request = ChatRequest::read(chat()).unwrap();
    assert_eq!(request.messages.len(), 4);
    json::parse_value::<EngineChunk<ChunkChoice>>(chunk()).unwrap();
    let plain = serde_json::to_vec(&plain_chat()).unwrap();
    assert!(ChatRequest::read_plain(&plain).unwrap().is_some());
}
