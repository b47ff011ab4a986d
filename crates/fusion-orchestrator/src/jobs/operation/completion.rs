//! `completion`: the body of a text completion in, the whole answer out.

use std::sync::Arc;

use fusion_types::{
    Call, Result,
    completion::CompletionBody,
    inference::{Inference, WorkSize},
};
use serde_json::Value;

use super::{Progress, Work, answer, fields, in_input};
use crate::choices::{Choices, Wanted};

pub(super) struct Completion(CompletionBody);

pub(super) fn parse(work: &Work) -> Result<Completion> {
    let (model, mut fields) = fields(work)?;
    fields.insert("model".to_owned(), Value::from(model));
    // How the answer travels is not the job's to say.
    fields.remove("stream");
    let body = CompletionBody::read(Value::Object(fields)).map_err(in_input)?;
    Ok(Completion(body))
}

impl Completion {
    pub(super) fn size(&self) -> WorkSize {
        let CompletionBody { requests, n } = &self.0;
        let prompts = requests.iter().map(|request| request.prompt.rough_tokens());
        let answers = requests.iter().map(|request| {
            let each = request.max_tokens.unwrap_or(answer::TYPICAL_TOKENS);
            each.saturating_mul(*n)
        });
        WorkSize {
            prompt_tokens: u32::try_from(prompts.sum::<usize>()).unwrap_or(u32::MAX),
            max_tokens: answers.fold(0, u32::saturating_add),
        }
    }

    pub(super) async fn run(
        self,
        call: &Call,
        inference: &Arc<dyn Inference>,
        progress: &Progress,
    ) -> Result<Value> {
        let CompletionBody { requests, n } = self.0;
        let wanted = Wanted::texts(requests, n);
        let answers = Choices::begin(inference, call, wanted, n as usize).await?;
        answer::whole(answers, progress).await
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
        assert_eq!(completion.0.requests[0].model, "m");
        assert_eq!(completion.size().max_tokens, 7);
        let several = json!({ "prompt": ["a", "b"], "n": 3, "max_tokens": 7 });
        assert_eq!(parse_input(several).unwrap().size().max_tokens, 42);
    }

    #[test]
    fn a_bad_body_is_refused_by_its_place_in_the_job() {
        for (input, param) in [
            (json!({}), "input.prompt"),
            (json!({ "prompt": "a", "n": 0 }), "input.n"),
            (json!({ "prompt": "a", "top_p": 2 }), "input.top_p"),
        ] {
            let error = parse_input(input).err().unwrap();
            assert_eq!(error.param.as_deref(), Some(param), "{error}");
        }
    }
}
