//! Reasoning told from content, by a template that knows it.

use fusion_engine::{
    Engine,
    types::{
        Class,
        chat::{ChatEvent, ChatRequest, FinishReason, Message, Role, WholeAnswer},
    },
};
use fusion_llama::Llama;
use futures::StreamExt;
use serde_json::json;

use crate::support::{ask, launch_coder, whole};

/// Turns as the model knows them, with reasoning in them.
const THINKING: &str = "{%- for message in messages %}\
{{- '<|im_start|>' + message.role + '\\n' }}\
{%- if message.role == 'assistant' and message.reasoning_content %}\
{{- '<think>\\n' + message.reasoning_content + '\\n</think>\\n\\n' }}\
{%- endif %}\
{{- message.content + '<|im_end|>\\n' }}\
{%- endfor %}\
{%- if add_generation_prompt %}\
{{- '<|im_start|>assistant\\n' }}\
{%- if reasoning_effort is defined and reasoning_effort == 'high' %}{{- 'Let us think for long.\\n' }}{%- endif %}\
{%- if enable_thinking is defined and enable_thinking is false %}\
{{- '<think>\\n\\n</think>\\n\\n' }}\
{%- endif %}\
{%- endif %}";

fn load() -> Option<Llama> {
    let mut launch = launch_coder(1, 1024)?;
    launch
        .options
        .push(("chat_template".to_owned(), THINKING.to_owned()));
    Some(Llama::load(&launch).unwrap())
}

/// Two turns with reasoning, after which the model goes on alike.
fn question() -> ChatRequest {
    let mut request = ask("What is 3 + 4?", 60);
    let turns = [
        ("1 + 1", "one and one is two", "2"),
        ("2 + 3", "two and three is five", "5"),
    ];
    let turns = turns.into_iter().flat_map(|(sum, reasoning, result)| {
        let mut answer = Message::new(Role::Assistant, format!("The answer is {result}."));
        answer.reasoning_content = Some(reasoning.to_owned());
        [Message::new(Role::User, format!("What is {sum}?")), answer]
    });
    request.messages.splice(0..0, turns);
    request
}

#[tokio::test]
async fn reasoning_comes_apart_from_content() {
    let Some(engine) = load() else { return };
    let mut stream = engine.chat(question(), Class::Interactive).await.unwrap();
    let mut whole = WholeAnswer::default();
    let mut content_began = false;
    while let Some(event) = stream.next().await {
        let event = event.unwrap();
        if let ChatEvent::Delta(delta) = &event {
            content_began |= delta.content.is_some();
            assert!(
                delta.reasoning_content.is_none() || !content_began,
                "reasoning after content: {delta:?}"
            );
        }
        whole.add(event);
    }
    assert!(
        whole.reasoning_content.contains("three and four"),
        "{whole:?}"
    );
    assert!(whole.content.contains('7'), "{whole:?}");
    assert!(!format!("{whole:?}").contains("think>"), "{whole:?}");
    assert_eq!(whole.finish_reason, Some(FinishReason::Stop));
}

#[tokio::test]
async fn the_template_hears_how_much_to_think() {
    let Some(engine) = load() else { return };
    let prompt = async |request: ChatRequest| {
        let request = ChatRequest {
            max_tokens: Some(1),
            ..request
        };
        whole(&engine, request).await.usage.prompt_tokens
    };
    let plain = prompt(question()).await;
    let mut off = question();
    off.chat_template_kwargs
        .insert("enable_thinking".to_owned(), json!(false));
    let without = prompt(off).await;
    assert!(without > plain, "{without} and {plain}");
    let effort = |effort: &str| ChatRequest {
        reasoning_effort: Some(effort.to_owned()),
        ..question()
    };
    assert_eq!(prompt(effort("none")).await, without);
    assert!(prompt(effort("high")).await > plain);
    assert_eq!(prompt(effort("low")).await, plain);
}
