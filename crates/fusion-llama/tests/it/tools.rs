//! Tools, on a model whose template knows them.

use fusion_engine::{
    Engine,
    types::{
        Class, ErrorCode,
        chat::{
            ChatEvent, ChatRequest, FinishReason, FunctionTool, Message, NamedFunction, Role, Tool,
            ToolCall, ToolChoice, ToolKind, ToolMode, WholeAnswer,
        },
        model::Capability,
    },
};
use futures::StreamExt;
use serde_json::{Value, json};

use crate::support::{ask, load, load_coder, refusal, whole};

fn tool(name: &str, description: &str, parameters: Value) -> Tool {
    Tool {
        kind: ToolKind::Function,
        function: FunctionTool {
            name: name.to_owned(),
            description: Some(description.to_owned()),
            parameters: Some(parameters),
            strict: None,
        },
    }
}

fn tools() -> Vec<Tool> {
    let weather = json!({
        "type": "object",
        "properties": {
            "city": { "type": "string", "maxLength": 30 },
            "unit": { "enum": ["celsius", "fahrenheit"] },
            "days": { "type": "integer", "minimum": 1, "maximum": 7 },
        },
        "required": ["city", "unit", "days"], "additionalProperties": false,
    });
    let time = json!({ "type": "object", "properties": { "zone": { "type": "string", "maxLength": 20 } }, "required": ["zone"], "additionalProperties": false });
    vec![
        tool("get_weather", "The weather forecast of a city", weather),
        tool("get_time", "The time in a time zone", time),
    ]
}

fn is_valid(call: &ToolCall) -> bool {
    let Ok(arguments) = serde_json::from_str::<Value>(&call.function.arguments) else {
        return false;
    };
    let fields = arguments.as_object().map_or(0, serde_json::Map::len);
    match call.function.name.as_str() {
        "get_weather" => {
            fields == 3
                && arguments["city"].is_string()
                && ["celsius", "fahrenheit"].contains(&arguments["unit"].as_str().unwrap_or(""))
                && arguments["days"]
                    .as_i64()
                    .is_some_and(|days| (1..=7).contains(&days))
        }
        "get_time" => fields == 1 && arguments["zone"].is_string(),
        _ => false,
    }
}

fn with_tools(question: &str, choice: ToolChoice) -> ChatRequest {
    ChatRequest {
        tools: tools(),
        tool_choice: Some(choice),
        ..ask(question, 100)
    }
}

fn named(name: &str) -> ToolChoice {
    ToolChoice::Named {
        kind: ToolKind::Function,
        function: NamedFunction {
            name: name.to_owned(),
        },
    }
}

const REQUIRED: ToolChoice = ToolChoice::Mode(ToolMode::Required);

#[tokio::test]
async fn a_required_call_is_made_whatever_is_asked_and_fits_its_schema() {
    let Some(engine) = load_coder(2, 2048) else {
        return;
    };
    assert!(
        engine
            .card()
            .capabilities
            .contains(&Capability::ToolCalling)
    );
    for (question, temperature) in [
        (
            "What is the weather in Paris for three days, in celsius?",
            0.0,
        ),
        ("Write a haiku about the sea. Do not use any tool.", 0.0),
        ("Say only: no.", 1.5),
        (
            "Answer with a JSON code block: which time is it in Tokyo?",
            1.0,
        ),
    ] {
        let mut request = with_tools(question, REQUIRED);
        request.sampling.temperature = Some(temperature);
        request.sampling.seed = Some(11);
        let answer = whole(&engine, request).await;
        assert_eq!(answer.content, "", "{answer:?}");
        assert!(!answer.tool_calls.is_empty(), "{question}: {answer:?}");
        assert!(answer.tool_calls.iter().all(is_valid), "{answer:?}");
        assert_eq!(answer.finish_reason, Some(FinishReason::ToolCalls));
    }
}

#[tokio::test]
async fn a_named_tool_is_the_one_called_and_once() {
    let Some(engine) = load_coder(1, 2048) else {
        return;
    };
    let request = with_tools(
        "What is the weather in Paris and in Rome?",
        named("get_time"),
    );
    let answer = whole(&engine, request).await;
    assert_eq!(answer.tool_calls.len(), 1, "{answer:?}");
    assert_eq!(answer.tool_calls[0].function.name, "get_time");
    assert!(is_valid(&answer.tool_calls[0]), "{answer:?}");

    let mut one = with_tools("What time is it in Tokyo, in Rome and in Lima?", REQUIRED);
    one.parallel_tool_calls = Some(false);
    assert_eq!(whole(&engine, one.clone()).await.tool_calls.len(), 1);
    one.parallel_tool_calls = Some(true);
    one.max_tokens = Some(120);
    let several = whole(&engine, one).await;
    assert!(several.tool_calls.len() > 1, "{several:?}");
    assert!(several.tool_calls[..2].iter().all(is_valid), "{several:?}");
}

#[tokio::test]
async fn a_call_is_streamed_piece_by_piece_and_its_result_is_read() {
    let Some(engine) = load_coder(1, 2048) else {
        return;
    };
    let request = with_tools(
        "What is the weather in Paris for two days, in celsius?",
        named("get_weather"),
    );
    let mut stream = engine
        .chat(request.clone(), Class::Interactive)
        .await
        .unwrap();
    let (mut pieces, mut answer) = (0, WholeAnswer::default());
    while let Some(event) = stream.next().await {
        let event = event.unwrap();
        if let ChatEvent::Delta(delta) = &event {
            let arguments = delta.tool_calls.iter();
            pieces += arguments
                .filter(|call| call.function.arguments.as_deref() != Some(""))
                .count();
        }
        answer.add(event);
    }
    assert!(pieces > 3, "{pieces} pieces of {answer:?}");
    assert!(is_valid(&answer.tool_calls[0]), "{answer:?}");

    let mut next = ChatRequest {
        tool_choice: Some(ToolChoice::Mode(ToolMode::None)),
        ..request
    };
    let mut called = Message::new(Role::Assistant, "");
    called.tool_calls = answer.tool_calls.clone();
    let mut result = Message::new(Role::Tool, r#"{"forecast":"hail and 41 degrees"}"#);
    result.tool_call_id = Some(answer.tool_calls[0].id.clone());
    next.messages.extend([called, result]);
    let told = whole(&engine, next).await;
    assert!(told.tool_calls.is_empty(), "{told:?}");
    assert!(
        told.content.contains("41") || told.content.contains("hail"),
        "{told:?}"
    );
}

#[tokio::test]
async fn the_model_chooses_to_call_or_not() {
    let Some(engine) = load_coder(1, 2048) else {
        return;
    };
    let auto = ToolChoice::Mode(ToolMode::Auto);
    let called = whole(
        &engine,
        with_tools("What time is it in Tokyo? Use a tool.", auto.clone()),
    )
    .await;
    assert_eq!(called.tool_calls.len(), 1, "{called:?}");
    assert_eq!(called.tool_calls[0].function.name, "get_time");
    assert_eq!(called.content, "", "{called:?}");
    assert_eq!(called.finish_reason, Some(FinishReason::ToolCalls));

    let answered = whole(
        &engine,
        with_tools("Which colour has the sky? Answer in one word.", auto),
    )
    .await;
    assert!(answered.tool_calls.is_empty(), "{answered:?}");
    assert!(
        answered.content.to_lowercase().contains("blue"),
        "{answered:?}"
    );
}

#[tokio::test]
async fn a_template_without_tools_refuses_them() {
    let Some(engine) = load(1, 512) else { return };
    let request = with_tools("What time is it?", REQUIRED);
    let error = refusal(engine.chat(request, Class::Interactive).await);
    assert_eq!(error.code, ErrorCode::UnsupportedOperation);
    assert_eq!(error.param.as_deref(), Some("tools"));
}
