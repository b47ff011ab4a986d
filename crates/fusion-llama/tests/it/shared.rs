//! The slots share one KV cache: what they have in common is there once, and when it is full requests take turns.

use fusion_engine::{
    Engine,
    types::{
        Class, ErrorCode,
        chat::{ChatRequest, FinishReason, Message, Role},
    },
};
use fusion_llama::Llama;
use futures::future::join_all;

use crate::support::{answer, ask, launch, load, model_file, piece, read, refusal, until};

const CONTEXT: u32 = 512;

/// What the model is sure of: near ties fall differently with every other layout of the cache.
fn count_from(first: u32) -> ChatRequest {
    let numbers: Vec<String> = (first..first + 12)
        .map(|number| number.to_string())
        .collect();
    let request = format!("Continue this list of numbers: {}", numbers.join(", "));
    ask(&request, 200)
}

#[tokio::test]
async fn streams_that_do_not_fit_together_take_turns_and_answer_as_if_alone() {
    let Some(engine) = load(4, CONTEXT) else {
        return;
    };
    let lists = [1, 21, 41, 61].map(count_from);
    let together = join_all(lists.iter().map(|list| answer(&engine, list.clone()))).await;
    let tokens: u32 = together
        .iter()
        .map(|answer| answer.usage.total_tokens)
        .sum();
    assert!(tokens > CONTEXT + CONTEXT / 2, "{tokens} tokens fit");
    let stats = engine.stats();
    assert!(stats.kv_used_bytes <= stats.kv_reserved_bytes, "{stats:?}");

    let Some(engine) = load(1, CONTEXT) else {
        return;
    };
    for (list, together) in lists.into_iter().zip(together) {
        let alone = answer(&engine, list).await;
        assert_eq!(together.text, alone.text);
        assert_eq!(together.usage.total_tokens, alone.usage.total_tokens);
        assert_eq!(together.finish, alone.finish);
    }
}

#[tokio::test]
async fn a_stream_alone_may_fill_the_cache_and_ends_with_length() {
    let Some(engine) = load(4, CONTEXT) else {
        return;
    };
    // What idle slots hold goes first.
    for subject in ["a fox", "a ship", "a clock"] {
        let story = format!("Tell me a very long story about {subject}.");
        answer(&engine, ask(&story, 80)).await;
    }
    let mut list = count_from(1);
    list.max_tokens = None;
    let whole = answer(&engine, list).await;
    assert_eq!(whole.finish, FinishReason::Length, "{whole:?}");
    assert_eq!(whole.usage.total_tokens, CONTEXT);
}

#[tokio::test]
async fn a_client_that_reads_nothing_makes_room_for_others_and_loses_nothing() {
    let Some(engine) = load(2, CONTEXT) else {
        return;
    };
    let filler = "The quick brown fox jumps over the lazy dog. ";
    let slow = format!(
        "{}\nTell me a very long story about a fox.",
        filler.repeat(25)
    );
    let slow = engine
        .chat(ask(&slow, 120), Class::Interactive)
        .await
        .unwrap();
    until(|| engine.stats().tokens_out >= 30).await;

    let other = format!("Ships sail the seas. {}", filler.repeat(25));
    let other = answer(&engine, ask(&other, 40)).await;
    assert!(other.usage.prompt_tokens > CONTEXT / 2, "{other:?}");
    assert!(other.usage.completion_tokens > 0);

    let slow = read(slow).await;
    assert_eq!(slow.usage.completion_tokens, 120);
}

const SYSTEM: &str = "You work for the harbour of Port Ellis, built in 1874 by Maria Duval. It has three piers, a lighthouse \
    with a green lamp, and a shipyard that closed in 1931. Every summer the town holds a race of wooden boats. ";

fn ask_the_harbour(question: &str) -> ChatRequest {
    let mut request = ask(question, 16);
    let system = Message::new(Role::System, SYSTEM.repeat(4).as_str());
    request.messages.insert(0, system);
    request
}

#[tokio::test]
async fn a_system_prompt_is_read_once_for_eight_clients() {
    let Some(engine) = load(8, 1024) else { return };
    let questions = [
        "Who built the harbour?",
        "When was it built?",
        "How many piers are there?",
        "What colour is the lamp?",
        "When did the shipyard close?",
        "What happens every summer?",
        "What are the boats made of?",
        "What is the town's name?",
    ];
    let requests = questions.map(ask_the_harbour);
    let together = join_all(
        requests
            .iter()
            .map(|request| answer(&engine, request.clone())),
    )
    .await;

    let prompts: Vec<u32> = together
        .iter()
        .map(|answer| answer.usage.prompt_tokens)
        .collect();
    let read = together
        .iter()
        .map(|answer| answer.usage.prompt_tokens - answer.cached());
    let (system, read) = (prompts[0] - 30, read.sum::<u32>());
    assert!(system > 150, "{prompts:?}");
    assert!(
        read < system + 8 * 60,
        "{read} tokens were read of {prompts:?}"
    );
    assert_eq!(engine.stats().prefix_cache_hits, 7);

    assert!(together[0].text.contains("1874"), "{together:?}");
    assert!(together[4].text.contains("1931"), "{together:?}");
}

#[tokio::test]
async fn a_prefix_is_taken_over_from_a_slot_that_is_busy() {
    let Some(engine) = load(2, 1024) else { return };
    let mut long = ask_the_harbour("Tell me a very long story about the harbour.");
    long.max_tokens = Some(300);
    let mut busy = engine.chat(long, Class::Interactive).await.unwrap();
    piece(&mut busy).await;

    let other = answer(&engine, ask_the_harbour("Who built the harbour?")).await;
    assert!(other.cached() > 150, "{other:?}");
    let cells = engine.stats().kv_used_bytes / (engine.stats().kv_reserved_bytes / 1024);
    let twice = u64::from(2 * other.cached());
    assert!(
        cells < twice,
        "{cells} cells, {twice} for two system prompts"
    );
}

#[tokio::test]
async fn a_split_cache_takes_as_many_times_the_memory() {
    let Some(file) = model_file() else { return };
    let shared = launch(file, 4, CONTEXT);
    let mut split = shared.clone();
    split.options.push(("kv".to_owned(), "split".to_owned()));
    let bytes = |launch| Llama::estimate(launch).unwrap().context_bytes;
    assert_eq!(bytes(&split), 4 * bytes(&shared));
    let engine = Llama::load(&split).unwrap();
    assert_eq!(engine.card().context_length, CONTEXT);
    assert_eq!(engine.stats().kv_reserved_bytes, bytes(&split));
    let answers = ["a fox", "a ship"].map(|subject| answer(&engine, ask(subject, 8)));
    assert_eq!(join_all(answers).await.len(), 2);

    split.options.push(("kv".to_owned(), "mine".to_owned()));
    let refused = refusal(Llama::load(&split));
    assert_eq!(
        (refused.code, refused.param.as_deref()),
        (ErrorCode::InvalidValue, Some("options.kv"))
    );
}
