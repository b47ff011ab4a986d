//! ⚡ Engines that are somebody else's servers: one that answers in every odd way, and llama.cpp's own.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use reqwest::StatusCode;
use serde_json::{Value, json};

use crate::{
    client::{Client, chat},
    server::{DEADLINE, Home, is_alive, kill_hard, until},
};

/// A home with two models on the odd server, where there is a Python to run it.
fn home() -> Option<Home> {
    if Command::new("python3").arg("--version").output().is_err() {
        println!("SKIPPED: there is no python3");
        return None;
    }
    let script = fs::canonicalize("tests/it/foreign_engine.py").unwrap();
    let script = script.display();
    let home = Home::new();
    for model in ["speaks", "embeds"] {
        fs::write(home.models_dir().join(model), "not a real model").unwrap();
    }
    Some(home.configured(&format!(
        "[[engine]]\nname = \"odd\"\nhealth = \"/well\"\nmodel_name = \"name-of-{{model}}\"\n\
         command = [\"python3\", \"{script}\", \"{{model}}\", \"{{port}}\", \"{{option:good_for}}\"]\n\
         environment = {{ NAMED = \"yes\" }}\n\
         [[model]]\nid = \"speaks\"\npath = \"speaks\"\ntype = \"lm\"\nengine = \"odd\"\n\
         concurrency = \"auto\"\noptions = {{ good_for = \"3\" }}\n\
         [[model]]\nid = \"embeds\"\npath = \"embeds\"\ntype = \"embeddings\"\nengine = \"odd\"\n\
         options = {{ good_for = \"1\" }}\n"
    )))
}

#[tokio::test]
async fn a_foreign_engine_answers_as_ours_do() {
    let Some(home) = home() else { return };
    let server = home
        .environment("SECRET_OF_MINE", Path::new("x"))
        .start()
        .await;
    let client = server.client();

    let whole = client
        .ask("/v1/chat/completions", &chat("speaks", "hi", false))
        .await;
    assert_eq!(content(&whole), "one two three ");
    assert_eq!(whole["choices"][0]["finish_reason"], "stop");
    // It doesn't count, so its pieces are counted.
    assert_eq!(whole["usage"]["completion_tokens"], 3);
    let events = client
        .stream(&chat("speaks", "hi", true))
        .await
        .rest()
        .await;
    assert_eq!(events.last().unwrap(), "[DONE]");
    let usage: Value = serde_json::from_str(&events[events.len() - 2]).unwrap();
    assert_eq!(usage["usage"]["completion_tokens"], 3, "{usage}");

    let vectors = client
        .ask(
            "/v1/embeddings",
            &json!({ "model": "embeds", "input": ["a", "bcd"] }),
        )
        .await;
    assert_eq!(vectors["data"][1]["embedding"], json!([3.0, 0.5]));

    let (status, refused) = client
        .post("/v1/chat/completions", &chat("speaks", "fail", false))
        .await;
    assert_eq!(
        (
            status,
            &refused["error"]["code"],
            &refused["error"]["message"]
        ),
        (
            StatusCode::BAD_REQUEST,
            &"invalid_value".into(),
            &"no, thanks".into()
        )
    );
    // Nothing of the server's own environment but what programs need to run.
    let told = client
        .ask(
            "/v1/chat/completions",
            &chat("speaks", "environment", false),
        )
        .await;
    let names: Vec<_> = content(&told).split_whitespace().collect();
    assert!(
        names.contains(&"NAMED") && names.contains(&"OMP_WAIT_POLICY"),
        "{names:?}"
    );
    assert!(!names.contains(&"SECRET_OF_MINE"), "{names:?}");
}

fn content(answer: &Value) -> &str {
    answer["choices"][0]["message"]["content"].as_str().unwrap()
}

/// The processes of a model: the one that keeps it, and the server itself.
fn family(keeper: u64) -> Vec<u64> {
    let children = fs::read_to_string(format!("/proc/{keeper}/task/{keeper}/children"));
    let children = children.unwrap_or_default();
    let children = children.split_whitespace().map(|pid| pid.parse().unwrap());
    [keeper].into_iter().chain(children).collect()
}

async fn until_gone(family: &[u64]) {
    assert_eq!(family.len(), 2, "a keeper and its server");
    until(
        "the end of the engine",
        Duration::from_secs(2),
        async || family.iter().all(|pid| !is_alive(*pid)),
    )
    .await;
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_foreign_engine_ends_with_its_model_and_with_the_server() {
    let Some(home) = home() else { return };
    let server = home.start().await;
    let client = server.client();
    let load = json!({ "model_path": "speaks" });
    let loaded = client.ask("/v1/models/load", &load).await;
    // A Python holds that much; what was guessed was 268 MB.
    let measured = loaded["vram_usage_bytes"].as_u64().unwrap();
    assert!((4 << 20..200 << 20).contains(&measured), "{measured}");
    let first = family(client.pid("speaks").await);
    client.delete("/v1/models/speaks/unload").await;
    until_gone(&first).await;

    // Its own death is known, and the next request has another.
    let (status, died) = client
        .post("/v1/chat/completions", &chat("speaks", "die", false))
        .await;
    assert_eq!(
        (status, &died["error"]["code"]),
        (StatusCode::BAD_GATEWAY, &"engine_crashed".into()),
        "{died}"
    );
    let whole = client
        .ask("/v1/chat/completions", &chat("speaks", "hi", false))
        .await;
    assert_eq!(content(&whole), "one two three ");

    // Killed, the keeper takes the server along.
    let killed = family(client.pid("speaks").await);
    kill_hard(killed[0]);
    until_gone(&killed).await;

    // A request that comes before the death is known may still hear of it.
    until("another engine", DEADLINE, async || {
        let hi = chat("speaks", "hi", false);
        let (status, answer) = client.post("/v1/chat/completions", &hi).await;
        assert!(status == StatusCode::OK || answer["error"]["code"] == "engine_crashed");
        status == StatusCode::OK
    })
    .await;
    let last = family(client.pid("speaks").await);
    server.kill().await;
    until_gone(&last).await;
}

#[tokio::test]
async fn the_slots_of_a_foreign_engine_are_found() {
    let Some(home) = home() else { return };
    let server = home.start().await;
    let client = server.client();
    let ask = async |requests: usize| {
        let body = chat("speaks", "hi", false);
        for _ in 0..requests {
            client.ask("/v1/chat/completions", &body).await;
        }
    };
    let slots = async || {
        client.look("/v1/queue/stats").await["models"]["speaks"]["max_concurrency"].clone()
    };
    ask(1).await;
    assert_eq!(
        slots().await,
        2,
        "it begins with half of the configured four"
    );
    futures::future::join_all((0..24).map(|_| ask(10))).await;
    let found = slots().await.as_u64().unwrap();
    assert!((2..=12).contains(&found), "{found}");
}

/// llama.cpp's server: named by `LLAMA_SERVER`, on the path for programs, or where the benchmarks fetched one.
fn llama_server() -> Option<PathBuf> {
    let named = std::env::var_os("LLAMA_SERVER").map(PathBuf::from);
    let path = std::env::var_os("PATH").unwrap_or_default();
    let installed = std::env::split_paths(&path).map(|folder| folder.join("llama-server"));
    let cache = std::env::var_os("HOME").map(|home| Path::new(&home).join(".cache/fusiond/peers"));
    let fetched = cache
        .into_iter()
        .flat_map(|folder| fs::read_dir(folder).into_iter().flatten().flatten())
        .map(|entry| entry.path().join("llama-server"));
    let runs = |path: &PathBuf| path.is_file();
    named.into_iter().chain(installed).chain(fetched).find(runs)
}

async fn asked(client: &Client, model: &str, text: &str) -> Value {
    let mut body = chat(model, text, false);
    body["max_tokens"] = 12.into();
    body["temperature"] = 0.into();
    client.ask("/v1/chat/completions", &body).await
}

#[tokio::test]
async fn llama_cpp_s_own_server_is_an_engine() {
    let Some(home) = Home::with_real_models() else {
        return println!("SKIPPED: the models have not been fetched; run `make models`");
    };
    let Some(program) = llama_server() else {
        return println!("SKIPPED: there is no llama-server (LLAMA_SERVER names one)");
    };
    let model = "SmolLM2-135M-Instruct-Q4_1";
    let program = program.display();
    let home = home.configured(&format!(
        "[[engine]]\nname = \"llama-server\"\n\
         command = [\"{program}\", \"--model\", \"{{model}}\", \"--port\", \"{{port}}\", \"--parallel\", \"{{slots}}\", \
         \"--ctx-size\", \"{{context_total}}\", \"--device\", \"none\"]\n\
         [[model]]\nid = \"theirs\"\npath = \"{model}.gguf\"\ntype = \"lm\"\nengine = \"llama-server\"\n\
         context_length = 512\nconcurrency = 2\n"
    ));
    let server = home.start().await;
    let client = server.client();
    let load = json!({ "model_path": "theirs" });
    let (status, loaded) = client.post("/v1/models/load", &load).await;
    if status == StatusCode::BAD_GATEWAY
        && loaded["error"]["message"].to_string().contains("signal: 4")
    {
        return println!("SKIPPED: this llama-server was built for another processor");
    }
    assert_eq!(status, StatusCode::OK, "{loaded}");
    assert_eq!(loaded["metadata"]["context_length"], 512);
    let measured = loaded["vram_usage_bytes"].as_u64().unwrap();
    assert!((90 << 20..400 << 20).contains(&measured), "{measured}");

    let question = "What is the capital of France?";
    let theirs = asked(&client, "theirs", question).await;
    assert!(!content(&theirs).is_empty(), "{theirs}");
    assert!(theirs["usage"]["completion_tokens"].as_u64().unwrap() <= 12);
    let ours = asked(&client, model, question).await;
    assert_eq!(
        theirs["usage"]["prompt_tokens"],
        ours["usage"]["prompt_tokens"]
    );
    let keeper = client.pid("theirs").await;
    let family = family(keeper);
    server.kill().await;
    until("the end of llama-server", DEADLINE, async || {
        family.iter().all(|pid| !is_alive(*pid))
    })
    .await;
}
