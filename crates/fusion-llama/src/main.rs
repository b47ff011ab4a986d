use std::process::ExitCode;

use fusion_engine::{Command, types::model::ModelType};
use fusion_llama::{Embedder, Llama, Reranker};

fn main() -> ExitCode {
    if std::env::args_os()
        .nth(1)
        .is_some_and(|name| name == "quantize")
    {
        return fusion_llama::quantize();
    }
    let command = Command::read();
    match command.model_type() {
        ModelType::Embeddings => fusion_engine::run::<Embedder>(command),
        ModelType::Rerank => fusion_engine::run::<Reranker>(command),
        _ => fusion_engine::run::<Llama>(command),
    }
}
