//! `completion`: the body of a text completion in, the whole answer out.

use fusion_types::{
    Call, Error, Result,
    completion::{CompletionBody, CompletionRequest},
    inference::{Inference, WorkSize},
};
use serde_json::Value;

use super::{Progress, Work, answer, fields, in_input};

pub(super) struct Completion(CompletionRequest);

pub(super) fn parse(work: &Work) -> Result<Completion> {
    let (model, mut fields) = fields(work)?;
    fields.insert("model".to_owned(), Value::from(model));
    // How the answer travels is not the job's to say.
    fields.remove("stream");
    let body = CompletionBody::read(Value::Object(fields)).map_err(in_input)?;
    if body.n != 1 {
        return Err(answer::only_one());
    }
    let [request] = <[CompletionRequest; 1]>::try_from(body.requests).map_err(|_| {
        Error::invalid(
            "input.prompt",
            "a job goes on with one prompt; submit one for each",
        )
    })?;
    Ok(Completion(request))
}

impl Completion {
    pub(super) fn size(&self) -> WorkSize {
        WorkSize {
            prompt_tokens: u32::try_from(self.0.prompt.rough_tokens()).unwrap_or(u32::MAX),
            max_tokens: self.0.max_tokens.unwrap_or(answer::TYPICAL_TOKENS),
        }
    }

    pub(super) async fn run(
        self,
        call: &Call,
        inference: &dyn Inference,
        progress: &Progress,
    ) -> Result<Value> {
        let generation = inference.complete(call, self.0).await?;
        answer::whole(generation, progress).await
    }
}

#[cfg(test)]
mod tests {
    use fusion_types::job::Operation;
    use serde_json::json;

    use super::*;

    fn parse_input(input: Value) -> Result<Completion> {
        parse(&Work {
            operation: Operation::Completion,
            model_id: Some("m".to_owned()),
            input,
        })
    }

    #[test]
    fn a_body_of_the_dialect_is_read() {
        let completion = parse_input(json!({ "prompt": "One, two,", "max_tokens": 7 })).unwrap();
        assert_eq!(completion.0.model, "m");
        assert_eq!(completion.size().max_tokens, 7);
    }

    #[test]
    fn a_bad_body_is_refused_by_its_place_in_the_job() {
        for (input, param) in [
            (json!({}), "input.prompt"),
            (json!({ "prompt": ["a", "b"] }), "input.prompt"),
            (json!({ "prompt": "a", "n": 2 }), "input.n"),
            (json!({ "prompt": "a", "top_p": 2 }), "input.top_p"),
        ] {
            let error = parse_input(input).err().unwrap();
            assert_eq!(error.param.as_deref(), Some(param), "{error}");
        }
    }
}
