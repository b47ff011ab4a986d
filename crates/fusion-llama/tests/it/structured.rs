//! Answers that a schema binds.

use fusion_engine::{
    Engine,
    types::{
        Class, ErrorCode,
        chat::{ChatRequest, FinishReason, NamedSchema, ResponseFormat},
    },
};
use serde_json::{Value, json};

use crate::support::{ask, load, refusal, whole};

fn shaped(question: &str, schema: Value, most: u32) -> ChatRequest {
    ChatRequest {
        response_format: ResponseFormat::JsonSchema {
            json_schema: NamedSchema { name: None, schema },
        },
        ..ask(question, most)
    }
}

/// A schema, and what must be true of what it lets through.
type Shape = (Value, fn(&Value) -> bool);

fn shapes() -> Vec<Shape> {
    let city = json!({
        "type": "object",
        "properties": { "name": { "type": "string", "maxLength": 12 }, "capital": { "type": "boolean" } },
        "required": ["name", "capital"], "additionalProperties": false,
    });
    vec![
        (city.clone(), |value| {
            value.as_object().is_some_and(|city| city.len() == 2)
                && value["name"]
                    .as_str()
                    .is_some_and(|name| name.chars().count() <= 12)
                && value["capital"].is_boolean()
        }),
        (
            json!({ "type": "array", "items": { "type": "integer", "minimum": 1, "maximum": 9 }, "minItems": 2, "maxItems": 4 }),
            |value| {
                let items = value.as_array().unwrap();
                (2..=4).contains(&items.len())
                    && items
                        .iter()
                        .all(|item| (1..=9).contains(&item.as_i64().unwrap()))
            },
        ),
        (json!({ "enum": ["red", "green", 3] }), |value| {
            [json!("red"), json!("green"), json!(3)].contains(value)
        }),
        (
            json!({ "$defs": { "city": city }, "type": "object", "required": ["places", "code"], "properties": {
                "places": { "type": "array", "items": { "$ref": "#/$defs/city" }, "minItems": 1, "maxItems": 2 },
                "code": { "type": "string", "pattern": "^[A-Z]{2}-[0-9]{3}$" },
            } }),
            |value| {
                let code = value["code"].as_str().unwrap();
                let places = value["places"].as_array().unwrap();
                (1..=2).contains(&places.len())
                    && places.iter().all(|city| city["capital"].is_boolean())
                    && code.len() == 6
                    && code.as_bytes()[2] == b'-'
                    && code[3..].parse::<u32>().is_ok()
            },
        ),
        (
            json!({ "anyOf": [{ "type": "null" }, { "type": "boolean" }] }),
            |value| value.is_null() || value.is_boolean(),
        ),
    ]
}

#[tokio::test]
async fn every_answer_follows_its_schema_and_ends() {
    let Some(engine) = load(2, 512) else { return };
    for (schema, holds) in shapes() {
        for temperature in [0.0, 1.5] {
            let mut request = shaped("Tell me about France.", schema.clone(), 300);
            request.sampling.temperature = Some(temperature);
            request.sampling.seed = Some(5);
            let answer = whole(&engine, request).await;
            let value: Value = serde_json::from_str(&answer.content)
                .unwrap_or_else(|error| panic!("{schema}: {error} in {answer:?}"));
            assert!(holds(&value), "{schema} let {value} through");
            assert_eq!(answer.finish_reason, Some(FinishReason::Stop), "{answer:?}");
        }
    }
}

#[tokio::test]
async fn a_json_object_is_one() {
    let Some(engine) = load(1, 1024) else { return };
    let request = ChatRequest {
        response_format: ResponseFormat::JsonObject,
        ..ask(
            "Give the name and age of a sailor as JSON, in one short line.",
            600,
        )
    };
    let answer = whole(&engine, request).await;
    assert!(answer.content.trim_start().starts_with('{'), "{answer:?}");
    if answer.finish_reason == Some(FinishReason::Stop) {
        assert!(
            serde_json::from_str::<Value>(&answer.content)
                .unwrap()
                .is_object()
        );
    }
}

#[tokio::test]
async fn an_answer_cut_short_says_so() {
    let Some(engine) = load(1, 512) else { return };
    let long = json!({ "type": "array", "items": { "type": "integer" }, "minItems": 100 });
    let answer = whole(&engine, shaped("Count.", long, 12)).await;
    assert_eq!(answer.finish_reason, Some(FinishReason::Length));
    assert!(answer.content.trim_start().starts_with('['), "{answer:?}");
}

#[tokio::test]
async fn a_schema_that_cannot_be_enforced_is_refused() {
    let Some(engine) = load(1, 512) else { return };
    for schema in [
        json!({ "type": "song" }),
        json!({ "type": "number", "maximum": 3 }),
        json!({ "$ref": "#" }),
        json!({ "type": "string", "minLength": 2_000_000_000 }),
        json!({ "type": "array", "items": { "type": "integer" }, "minItems": 100_000 }),
    ] {
        let error = refusal(
            engine
                .chat(shaped("x", schema.clone(), 1), Class::Interactive)
                .await,
        );
        assert_eq!(error.code, ErrorCode::InvalidValue, "{schema}: {error}");
        assert_eq!(error.param.as_deref(), Some("response_format"), "{schema}");
    }
}

#[tokio::test]
async fn a_bias_draws_a_token_and_another_bans_it() {
    let Some(engine) = load(1, 512) else { return };
    let mut request = ask("Hello", 4);
    request.logit_bias.insert("500".to_owned(), 100.0);
    let forced = whole(&engine, request.clone()).await.content;
    let piece = &forced[..forced.len() / 4];
    assert_eq!(forced, piece.repeat(4));
    request.logit_bias.insert("500".to_owned(), -100.0);
    assert!(!whole(&engine, request).await.content.starts_with(piece));
}
