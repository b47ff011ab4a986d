//! Bounds that every request for generated text has to keep, told before anything is loaded for it.

use std::collections::BTreeMap;

use crate::{Error, Result, chat::Sampling};

const MOST_STOPS: usize = 16;
const MOST_STOP_BYTES: usize = 1024;
const MOST_BIASES: usize = 1024;
/// The likeliest tokens that are told at each place, at most.
pub(crate) const MOST_TOP_LOGPROBS: u32 = 20;
/// Answers to one prompt, at most.
const MOST_CHOICES: u32 = 16;

/// # Errors
/// `invalid_value`, naming the field.
pub(crate) fn check_ending(max_tokens: Option<u32>, stop: &[String]) -> Result<()> {
    if max_tokens == Some(0) {
        return Err(Error::invalid(
            "max_tokens",
            "max_tokens: must be at least 1",
        ));
    }
    let bad = |stop: &String| stop.is_empty() || stop.len() > MOST_STOP_BYTES;
    if stop.len() > MOST_STOPS || stop.iter().any(bad) {
        let message = format!(
            "stop: at most {MOST_STOPS} strings, none empty or over {MOST_STOP_BYTES} bytes"
        );
        return Err(Error::invalid("stop", message));
    }
    Ok(())
}

/// # Errors
/// `invalid_value`, naming the field.
pub(crate) fn check_sampling(sampling: &Sampling) -> Result<()> {
    let ranges = [
        ("temperature", sampling.temperature, 0.0, 2.0),
        ("top_p", sampling.top_p, 0.0, 1.0),
        ("min_p", sampling.min_p, 0.0, 1.0),
        ("frequency_penalty", sampling.frequency_penalty, -2.0, 2.0),
        ("presence_penalty", sampling.presence_penalty, -2.0, 2.0),
        (
            "repetition_penalty",
            sampling.repetition_penalty,
            0.01,
            10.0,
        ),
    ];
    for (name, value, least, most) in ranges {
        if value.is_some_and(|value| !(least..=most).contains(&value)) {
            return Err(Error::invalid(
                name,
                format!("{name}: must be from {least} to {most}"),
            ));
        }
    }
    check_adapters(sampling)
}

/// More than any model is loaded with.
const MOST_ADAPTERS: usize = 64;
const MOST_SCALE: f32 = 100.0;

fn check_adapters(sampling: &Sampling) -> Result<()> {
    let chosen = sampling.adapters.as_deref().unwrap_or_default();
    let bad = chosen.iter().enumerate().any(|(index, adapter)| {
        let named_before = chosen[..index].iter().any(|it| it.name == adapter.name);
        named_before || !(-MOST_SCALE..=MOST_SCALE).contains(&adapter.scale)
    });
    if chosen.len() > MOST_ADAPTERS || bad {
        let message = format!(
            "adapters: at most {MOST_ADAPTERS}, each named once, with a scale from -{MOST_SCALE} to {MOST_SCALE}"
        );
        return Err(Error::invalid("adapters", message));
    }
    Ok(())
}

/// # Errors
/// `invalid_value`, naming the field.
pub(crate) fn check_bias(bias: &BTreeMap<String, f32>) -> Result<()> {
    let bad = |(token, bias): (&String, &f32)| {
        token.parse::<u32>().is_err() || !(-100.0..=100.0).contains(bias)
    };
    if bias.len() > MOST_BIASES || bias.iter().any(bad) {
        let message = format!(
            "logit_bias: at most {MOST_BIASES} token ids, each with a number from -100 to 100"
        );
        return Err(Error::invalid("logit_bias", message));
    }
    Ok(())
}

/// # Errors
/// `invalid_value`, naming the field.
pub(crate) fn check_choices(n: Option<u32>) -> Result<()> {
    if n.is_some_and(|n| !(1..=MOST_CHOICES).contains(&n)) {
        let message = format!("n: must be from 1 to {MOST_CHOICES}");
        return Err(Error::invalid("n", message));
    }
    Ok(())
}
