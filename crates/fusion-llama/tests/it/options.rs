//! The engine's own launch options.

use fusion_engine::{
    Engine, Launch,
    types::{Error, ErrorCode},
};
use fusion_llama::Llama;

use crate::support::{answer, ask_for_paris, launch, model_file, refusal};

fn with(launch: &Launch, options: &[(&str, &str)]) -> Launch {
    Launch {
        options: options
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect(),
        ..launch.clone()
    }
}

#[tokio::test]
async fn a_smaller_type_of_keys_and_values_takes_less_and_still_answers() {
    let Some(file) = model_file() else { return };
    let plain = launch(file, 1, 1024);
    let half = Llama::estimate(&plain).unwrap().context_bytes;
    for (kind, blocks) in [
        ("q8_0", 34),
        ("q4_0", 18),
        ("iq4_nl", 18),
        ("f32", 128),
        ("bf16", 64),
    ] {
        let launch = with(&plain, &[("kv_type", kind)]);
        let estimate = Llama::estimate(&launch).unwrap();
        // Bytes of 32 values, of which half precision takes 64.
        let cells = half / 64 * blocks;
        // Quantized ones come with matrices that rotate them first.
        let rotations = estimate.context_bytes.checked_sub(cells).unwrap();
        assert!(rotations < 2_000_000, "{kind}: {rotations}");
        let engine = Llama::load(&launch).unwrap();
        assert_eq!(
            engine.stats().kv_reserved_bytes,
            estimate.context_bytes,
            "{kind}"
        );
        // What it says is not held: this small a model says something else with few bits.
        let answer = answer(&engine, ask_for_paris()).await;
        assert!(answer.usage.completion_tokens > 1, "{kind}: {answer:?}");
    }
}

#[test]
fn what_is_no_option_is_refused_by_name() {
    let Some(file) = model_file() else { return };
    let plain = launch(file, 1, 256);
    let refused = |name: &str, value: &str| -> Error {
        let launch = with(&plain, &[(name, value)]);
        let error = refusal(Llama::estimate(&launch));
        assert_eq!(refusal(Llama::load(&launch)), error);
        assert_eq!(error.code, ErrorCode::InvalidValue);
        assert_eq!(error.param, Some(format!("options.{name}")));
        error
    };
    let error = refused("kv_type", "q3_0");
    assert!(
        error.message.contains("f16") && error.message.contains("q8_0"),
        "{error}"
    );
    let error = refused("kvtype", "f16");
    assert!(error.message.contains("kv_type"), "{error}");
    refused("kv", "none");
    refused("threads", "0");
    refused("gpu_layers", "some");
    let allowed = with(
        &plain,
        &[("gpu_layers", "0"), ("threads", "1"), ("kv", "split")],
    );
    Llama::load(&allowed).unwrap();
}
