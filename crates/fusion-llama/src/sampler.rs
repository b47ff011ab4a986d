//! From the request's sampling parameters to llama.cpp's sampler chain.

use std::collections::BTreeMap;

use fusion_engine::types::{Error, Result, chat::Sampling};
use llama_cpp_4::{
    common_sampler::{CommonSampler, CommonSamplerParams, CommonSamplerType},
    model::LlamaModel,
    token::LlamaToken,
};

use crate::prompt::Prompt;

/// Penalties look at this many tokens back.
const PENALTY_TOKENS: i32 = 4096;
/// llama.cpp's word for "draw a seed".
const RANDOM_SEED: u32 = u32::MAX;

/// What the request leaves open keeps llama.cpp's defaults: temperature 0.8, top k 40, top p 0.95, min p 0.05, no penalties,
/// a random seed. Frequency and presence count what was generated; with a repetition penalty all three count the prompt too.
///
/// # Errors
/// `invalid_value` for a parameter out of range, and for a grammar that can't be enforced.
pub(crate) fn sampler(
    model: &LlamaModel,
    sampling: &Sampling,
    logit_bias: &BTreeMap<String, f32>,
    Prompt {
        tokens: prompt,
        grammar,
        ..
    }: &Prompt,
) -> Result<CommonSampler> {
    check(sampling)?;
    let mut params = CommonSamplerParams::new();
    let mut scalars = params.scalars();
    scalars.seed = sampling.seed.map_or(RANDOM_SEED, fold);
    scalars.temp = sampling.temperature.unwrap_or(scalars.temp);
    scalars.top_k = sampling.top_k.unwrap_or(scalars.top_k);
    scalars.top_p = sampling.top_p.unwrap_or(scalars.top_p);
    scalars.min_p = sampling.min_p.unwrap_or(scalars.min_p);
    scalars.penalty_last_n = PENALTY_TOKENS;
    scalars.penalty_repeat = sampling.repetition_penalty.unwrap_or(1.0);
    scalars.penalty_freq = sampling.frequency_penalty.unwrap_or(0.0);
    scalars.penalty_present = sampling.presence_penalty.unwrap_or(0.0);
    scalars.no_perf = true;

    let greedy = scalars.temp <= 0.0;
    if greedy {
        scalars.top_k = 1;
    }
    params.set_scalars(&scalars);
    if greedy {
        // Only the best token counts, so nothing else needs to look at the others.
        params
            .set_samplers(&[CommonSamplerType::Penalties, CommonSamplerType::TopK])
            .map_err(failed)?;
    }
    bias(&mut params, model, logit_bias)?;
    if let Some(grammar) = grammar {
        grammar.set(&mut params)?;
    }
    let made = CommonSampler::new(model, &mut params);
    let mut sampler = made.map_err(|error| match grammar {
        Some(grammar) => grammar.refused(&error),
        None => failed(error),
    })?;
    if sampling
        .repetition_penalty
        .is_some_and(|penalty| (penalty - 1.0).abs() > f32::EPSILON)
    {
        let from = prompt.len().saturating_sub(PENALTY_TOKENS as usize);
        for token in &prompt[from..] {
            sampler.accept(*token, false);
        }
    }
    Ok(sampler)
}

/// -100 bans a token, as the dialect has it.
fn bias(
    params: &mut CommonSamplerParams,
    model: &LlamaModel,
    logit_bias: &BTreeMap<String, f32>,
) -> Result<()> {
    for (token, bias) in logit_bias {
        let known = |token: &i32| (0..model.n_vocab()).contains(token);
        let token = token.parse().ok().filter(known).ok_or_else(|| {
            let message = format!("logit_bias: {token} is no token of this model");
            Error::invalid("logit_bias", message)
        })?;
        let bias = if *bias <= -100.0 {
            f32::NEG_INFINITY
        } else {
            *bias
        };
        params
            .add_logit_bias(LlamaToken(token), bias)
            .map_err(failed)?;
    }
    Ok(())
}

fn check(sampling: &Sampling) -> Result<()> {
    let within = |name, value: Option<f32>, low: f32, high: f32| match value {
        Some(value) if !(low..=high).contains(&value) => Err(Error::invalid(
            name,
            format!("{name} must be from {low} to {high}"),
        )),
        _ => Ok(()),
    };
    within("temperature", sampling.temperature, 0.0, 100.0)?;
    within("top_p", sampling.top_p, 0.0, 1.0)?;
    within("min_p", sampling.min_p, 0.0, 1.0)?;
    within(
        "frequency_penalty",
        sampling.frequency_penalty,
        -100.0,
        100.0,
    )?;
    within("presence_penalty", sampling.presence_penalty, -100.0, 100.0)?;
    within(
        "repetition_penalty",
        sampling.repetition_penalty,
        0.01,
        100.0,
    )
}

/// All 64 bits count, and no seed means "draw one".
fn fold(seed: u64) -> u32 {
    let bytes = seed.to_le_bytes();
    let low = u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
    let high = u32::from_le_bytes([bytes[4], bytes[5], bytes[6], bytes[7]]);
    (low ^ high).min(RANDOM_SEED - 1)
}

fn failed(error: impl std::fmt::Display) -> Error {
    Error::internal(format!("can't make a sampler: {error}"))
}
