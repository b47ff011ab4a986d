//! Chat on real weights, by the front door: what an answer must look like, and what its tokens cost.

use serde_json::{Value, json};

use crate::{
    client::{chat, content},
    server::Home,
};

const SMOL: &str = "SmolLM2-135M-Instruct-Q4_1";

fn home() -> Option<Home> {
    let home = Home::with_real_models();
    if home.is_none() {
        println!("SKIPPED: the models have not been fetched; run `make models`");
    }
    home
}

fn shaped(schema: &Value, stream: bool) -> Value {
    let mut body = chat(SMOL, "Tell me about a sailor.", stream);
    body["temperature"] = 0.into();
    body["max_tokens"] = 200.into();
    body["response_format"] =
        json!({ "type": "json_schema", "json_schema": { "name": "sailor", "schema": schema } });
    body
}

fn is_sailor(text: &str) -> bool {
    let sailor: Value = serde_json::from_str(text).unwrap();
    sailor["name"].is_string()
        && sailor["age"]
            .as_u64()
            .is_some_and(|age| (18..=80).contains(&age))
        && sailor.as_object().is_some_and(|fields| fields.len() == 2)
}

#[tokio::test]
async fn a_schema_binds_streams_answers_and_jobs() {
    let Some(home) = home() else { return };
    let server = home.start().await;
    let client = server.client();
    let schema = json!({
        "type": "object",
        "properties": {
            "name": { "type": "string", "maxLength": 20 },
            "age": { "type": "integer", "minimum": 18, "maximum": 80 },
        },
        "required": ["name", "age"], "additionalProperties": false,
    });
    let answer = client
        .ask("/v1/chat/completions", &shaped(&schema, false))
        .await;
    let choice = &answer["choices"][0];
    assert!(
        is_sailor(choice["message"]["content"].as_str().unwrap()),
        "{answer}"
    );
    assert_eq!(choice["finish_reason"], "stop");

    let events = client.stream(&shaped(&schema, true)).await.rest().await;
    assert!(is_sailor(&content(&events)), "{events:?}");

    let mut input = shaped(&schema, false);
    input.as_object_mut().unwrap().remove("model");
    let job = json!({ "operation": "chat", "model_id": SMOL, "input": input });
    let (_, accepted) = client.post("/api/mcp/jobs", &job).await;
    let path = format!("/api/mcp/jobs/{}", accepted["job_id"].as_str().unwrap());
    let mut result = Value::Null;
    crate::server::until("the job's end", crate::server::DEADLINE, async || {
        let job = client.look(&path).await;
        result = job["result"]["content"].clone();
        job["status"] == "completed"
    })
    .await;
    assert!(is_sailor(result.as_str().unwrap()), "{result}");
}

#[tokio::test]
async fn what_cannot_be_enforced_is_refused_by_its_field() {
    let Some(home) = home() else { return };
    let server = home.start().await;
    let client = server.client();
    for (field, body) in [
        ("response_format", shaped(&json!({ "type": "song" }), false)),
        (
            "response_format",
            shaped(&json!({ "type": "number", "maximum": 1 }), true),
        ),
        ("logit_bias", {
            let mut body = chat(SMOL, "hi", false);
            body["logit_bias"] = json!({ "99999999": 1 });
            body
        }),
    ] {
        let (status, answer) = client.post("/v1/chat/completions", &body).await;
        let error = &answer["error"];
        assert_eq!(
            (status.as_u16(), &error["code"]),
            (400, &"invalid_value".into()),
            "{answer}"
        );
        assert_eq!(error["param"], field, "{answer}");
    }
}
