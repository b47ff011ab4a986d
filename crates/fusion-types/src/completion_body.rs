//! A text completion as clients write it, wherever it comes in: as a request, as a job's input.

use serde::Deserialize;
use serde_json::Value;

use crate::{
    Error, Result,
    bounds::{MOST_TOP_LOGPROBS, check_bias, check_choices, check_ending, check_sampling},
    completion::{CompletionRequest, Prompt},
    json,
};

/// What the dialect's clients expect where they say nothing.
const DEFAULT_TOKENS: u32 = 16;
const MOST_PROMPTS: usize = 64;

/// One request of a client: for each prompt, several answers.
#[derive(Clone, Debug, PartialEq)]
pub struct CompletionBody {
    /// The same but for the prompt.
    pub requests: Vec<CompletionRequest>,
    /// Answers to each.
    pub n: u32,
}

#[derive(Deserialize)]
#[serde(
    untagged,
    expecting = "expected a string, a list of strings, a list of token ids or a list of such lists"
)]
enum Prompts {
    One(Prompt),
    Many(Vec<Prompt>),
}

impl CompletionBody {
    /// Reads a completion as clients write it.
    ///
    /// # Errors
    /// `missing_field` or `invalid_value`, naming the field.
    pub fn read(mut body: Value) -> Result<Self> {
        let (mut prompts, mut n) = (Vec::new(), None);
        if let Some(fields) = body.as_object_mut() {
            // Clients send null for what they leave to the server.
            fields.retain(|_, value| !value.is_null());
            if let Some(prompt) = fields.remove("prompt") {
                prompts = read_prompts(prompt)?;
                // Stands for all of them while the rest is read.
                fields.insert("prompt".to_owned(), Value::from(""));
            }
            if let Some(count) = fields.remove("n") {
                n = Some(json::parse_value::<u32>(count).map_err(|error| error.with_param("n"))?);
            }
            let best_of = fields.remove("best_of").unwrap_or(Value::Null);
            if !best_of.is_null() && best_of != n.unwrap_or(1) {
                let message =
                    "best_of: only as many as n can be made; ask for n and choose among them";
                return Err(Error::invalid("best_of", message));
            }
            fields.entry("max_tokens").or_insert(DEFAULT_TOKENS.into());
        }
        let request: CompletionRequest = json::parse_value(body)?;
        check(&request)?;
        check_choices(n)?;
        let requests = prompts.into_iter().map(|prompt| CompletionRequest {
            prompt,
            ..request.clone()
        });
        Ok(Self {
            requests: requests.collect(),
            n: n.unwrap_or(1),
        })
    }
}

fn read_prompts(value: Value) -> Result<Vec<Prompt>> {
    let prompts = json::parse_value(value).map_err(|error| error.with_param("prompt"))?;
    let prompts = match prompts {
        Prompts::One(prompt) => vec![prompt],
        Prompts::Many(prompts) => prompts,
    };
    if prompts.is_empty() || prompts.len() > MOST_PROMPTS {
        let message = format!("prompt: from 1 to {MOST_PROMPTS} of them");
        return Err(Error::invalid("prompt", message));
    }
    let empty = |prompt: &Prompt| matches!(prompt, Prompt::Tokens(tokens) if tokens.is_empty());
    if prompts.iter().any(empty) {
        return Err(Error::invalid("prompt", "prompt: it has no tokens"));
    }
    Ok(prompts)
}

fn check(request: &CompletionRequest) -> Result<()> {
    check_ending(request.max_tokens, &request.stop)?;
    check_sampling(&request.sampling)?;
    check_bias(&request.logit_bias)?;
    if request.logprobs.is_some_and(|top| top > MOST_TOP_LOGPROBS) {
        let message = format!("logprobs: at most {MOST_TOP_LOGPROBS}");
        return Err(Error::invalid("logprobs", message));
    }
    if request.echo && request.logprobs.is_some() {
        let message =
            "logprobs: of the answer alone; leave echo out, as a prompt's own can't be told";
        return Err(Error::invalid("logprobs", message));
    }
    if request.echo && request.suffix.is_some() {
        let message = "echo: not together with a suffix";
        return Err(Error::invalid("echo", message));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn prompts_of_every_shape_are_read() {
        for (prompt, count) in [
            (json!("a"), 1),
            (json!(["a", "b"]), 2),
            (json!([1, 2, 3]), 1),
            (json!([[1], [2, 3]]), 2),
        ] {
            let body =
                json!({ "model": "m", "prompt": prompt, "n": 2, "best_of": 2, "suffix": null });
            let body = CompletionBody::read(body).unwrap();
            assert_eq!((body.requests.len(), body.n), (count, 2));
            assert_eq!(body.requests[0].max_tokens, Some(DEFAULT_TOKENS));
        }
    }

    #[test]
    fn what_cannot_be_is_refused_by_its_field() {
        for (more, param) in [
            (json!({ "prompt": [] }), "prompt"),
            (json!({ "prompt": [[]] }), "prompt"),
            (json!({ "prompt": 7 }), "prompt"),
            (json!({ "prompt": vec!["a"; 65] }), "prompt"),
            (json!({ "n": 1_000_000_000 }), "n"),
            (json!({ "n": 0 }), "n"),
            (json!({ "n": -1 }), "n"),
            (json!({ "best_of": 3 }), "best_of"),
            (json!({ "max_tokens": 0 }), "max_tokens"),
            (json!({ "logprobs": 21 }), "logprobs"),
            (json!({ "logprobs": 1, "echo": true }), "logprobs"),
            (json!({ "suffix": "x", "echo": true }), "echo"),
            (json!({ "temperature": 1e9 }), "temperature"),
            (json!({ "stop": vec!["x"; 10_000] }), "stop"),
        ] {
            let mut body = json!({ "model": "m", "prompt": "a" });
            for (name, value) in more.as_object().unwrap() {
                body[name] = value.clone();
            }
            let error = CompletionBody::read(body).unwrap_err();
            assert_eq!(error.param.as_deref(), Some(param), "{more}: {error}");
        }
        let error = CompletionBody::read(json!({ "model": "m" })).unwrap_err();
        assert_eq!(error.param.as_deref(), Some("prompt"), "{error}");
    }
}
