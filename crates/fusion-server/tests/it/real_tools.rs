//! Tool calls, several answers and text completion on real weights, by the front door.

use serde_json::{Value, json};

use crate::{client::chat, server::Home};

const CODER: &str = "Qwen2.5-Coder-1.5B-Instruct-Q4_K_M";
const SMOL: &str = "SmolLM2-135M-Instruct-Q4_1";

fn home(model: &str) -> Option<Home> {
    let home = Home::with_real_models()
        .filter(|home| home.models_dir().join(format!("{model}.gguf")).is_file());
    if home.is_none() {
        println!("SKIPPED: {model} has not been fetched; run `make models`");
    }
    home
}

fn weather(question: &str, stream: bool) -> Value {
    let mut body = chat(CODER, question, stream);
    body["temperature"] = 0.into();
    body["max_tokens"] = 120.into();
    body["tools"] = json!([{ "type": "function", "function": {
        "name": "get_weather",
        "description": "The weather in a city",
        "parameters": {
            "type": "object",
            "properties": { "city": { "type": "string" }, "unit": { "enum": ["celsius", "fahrenheit"] } },
            "required": ["city", "unit"], "additionalProperties": false,
        },
    } }]);
    body
}

fn is_weather(call: &Value) -> bool {
    let arguments = call["function"]["arguments"].as_str().unwrap();
    let arguments: Value = serde_json::from_str(arguments).unwrap();
    call["type"] == "function"
        && call["id"].is_string()
        && call["function"]["name"] == "get_weather"
        && arguments["city"].is_string()
        && ["celsius", "fahrenheit"].contains(&arguments["unit"].as_str().unwrap())
}

#[tokio::test]
async fn a_required_call_comes_whole_and_streamed_and_its_result_is_used() {
    let Some(home) = home(CODER) else { return };
    let server = home.start().await;
    let client = server.client();
    let question = "What is the weather in Oslo, in celsius?";
    let mut body = weather(question, false);
    body["tool_choice"] = "required".into();
    let answer = client.ask("/v1/chat/completions", &body).await;
    let choice = &answer["choices"][0];
    assert_eq!(choice["finish_reason"], "tool_calls", "{answer}");
    assert_eq!(choice["message"]["content"], Value::Null);
    let calls = choice["message"]["tool_calls"].as_array().unwrap();
    assert!(calls.iter().all(is_weather), "{answer}");
    let card = client.look(&format!("/v1/models/{CODER}")).await;
    assert!(
        card["capabilities"]
            .as_array()
            .unwrap()
            .contains(&"tool_calling".into()),
        "{card}"
    );

    let messages = body["messages"].as_array_mut().unwrap();
    messages.push(choice["message"].clone());
    for call in calls {
        messages.push(
            json!({ "role": "tool", "tool_call_id": call["id"], "content": "-31 degrees and fog" }),
        );
    }
    body["tool_choice"] = "none".into();
    let told = client.ask("/v1/chat/completions", &body).await;
    let text = told["choices"][0]["message"]["content"].to_string();
    assert!(text.contains("31"), "{told}");

    let mut body = weather(question, true);
    body["tool_choice"] = json!({ "type": "function", "function": { "name": "get_weather" } });
    let events = client.stream(&body).await.rest().await;
    let chunks = events
        .iter()
        .filter_map(|event| serde_json::from_str::<Value>(event).ok());
    let (mut name, mut arguments, mut pieces) = (String::new(), String::new(), 0);
    let mut finish = Value::Null;
    for chunk in chunks {
        let choice = &chunk["choices"][0];
        for call in choice["delta"]["tool_calls"]
            .as_array()
            .into_iter()
            .flatten()
        {
            assert_eq!(call["index"], 0, "{chunk}");
            name.push_str(call["function"]["name"].as_str().unwrap_or_default());
            let more = call["function"]["arguments"].as_str().unwrap_or_default();
            pieces += usize::from(!more.is_empty());
            arguments.push_str(more);
        }
        if !choice["finish_reason"].is_null() {
            finish = choice["finish_reason"].clone();
        }
    }
    assert_eq!(
        (name.as_str(), finish),
        ("get_weather", "tool_calls".into())
    );
    assert!(pieces > 1, "{events:?}");
    let arguments: Value = serde_json::from_str(&arguments).unwrap();
    assert!(arguments["city"].is_string(), "{arguments}");
}

#[tokio::test]
async fn several_answers_read_the_prompt_once_and_come_again_with_their_seed() {
    let Some(home) = home(SMOL) else { return };
    let server = home.start().await;
    let client = server.client();
    let story = format!(
        "{} Go on with it.",
        "The old ship left the harbour at dawn. ".repeat(12)
    );
    let mut body = chat(SMOL, &story, false);
    body["n"] = 3.into();
    body["seed"] = 5.into();
    body["temperature"] = 1.into();
    body["max_tokens"] = 12.into();
    let texts = |answer: &Value| -> Vec<String> {
        let choices = answer["choices"].as_array().unwrap().iter();
        choices
            .map(|choice| choice["message"]["content"].as_str().unwrap().to_owned())
            .collect()
    };
    let first = client.ask("/v1/chat/completions", &body).await;
    let told = texts(&first);
    assert!(told[0] != told[1] && told[1] != told[2], "{told:?}");
    let stats = client.look(&format!("/v1/models/{SMOL}/stats")).await;
    assert_eq!(stats["request_count"], 3, "{stats}");
    let prompt = first["usage"]["prompt_tokens"].as_u64().unwrap();
    assert!(prompt > 80 && prompt < 200, "it counts once: {first}");

    body["n"] = 1.into();
    body["seed"] = 6.into();
    let alone = client.ask("/v1/chat/completions", &body).await;
    let cached = &alone["usage"]["prompt_tokens_details"]["cached_tokens"];
    assert_eq!(*cached, prompt - 1, "{alone}");
}

#[tokio::test]
async fn a_text_is_gone_on_with_and_its_tokens_weighed() {
    let Some(home) = home(SMOL) else { return };
    let server = home.start().await;
    let client = server.client();
    let body = json!({ "model": SMOL, "prompt": "1, 2, 3, 4, 5, 6,", "max_tokens": 6, "temperature": 0, "logprobs": 2 });
    let answer = client.ask("/v1/completions", &body).await;
    let choice = &answer["choices"][0];
    assert!(
        choice["text"].as_str().unwrap().starts_with(" 7, 8"),
        "{answer}"
    );
    assert_eq!(choice["finish_reason"], "length");
    assert_eq!(choice["logprobs"]["tokens"].as_array().unwrap().len(), 6);
    let offsets = choice["logprobs"]["text_offset"].as_array().unwrap();
    assert_eq!(offsets[0], 0);
}
