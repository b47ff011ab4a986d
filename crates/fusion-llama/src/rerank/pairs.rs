//! A query and a document as one sequence for a classification head.

use fusion_engine::types::{Error, Result, rerank::RerankRequest};
use llama_cpp_4::{model::LlamaModel, token::LlamaToken};

use crate::embed::{Limit, plain_tokens};

/// How the model wants its pairs: special tokens around two texts, or a prompt of its own.
pub(super) enum Format {
    Separated {
        before: Vec<LlamaToken>,
        between: Vec<LlamaToken>,
        after: Vec<LlamaToken>,
    },
    /// The file's template named `rerank`.
    Prompt(Vec<Segment>),
}

#[derive(Debug, PartialEq)]
pub(super) enum Segment {
    Special(LlamaToken),
    /// Text with `{query}` or `{document}` in it; a document ends its segment.
    Text(String),
}

impl Format {
    pub(super) fn of(model: &LlamaModel) -> Self {
        if let Ok(template) = model.chat_template(Some("rerank")) {
            return Self::Prompt(segments(template, &special_tokens(model)));
        }
        let vocabulary = model.get_vocab();
        let given = |token: LlamaToken, wanted: bool| (wanted && token.0 >= 0).then_some(token);
        let (adds_end, adds_separator) = (vocabulary.get_add_eos(), vocabulary.get_add_sep());
        let end = if vocabulary.eos().0 >= 0 {
            vocabulary.eos()
        } else {
            vocabulary.sep()
        };
        let end = given(end, adds_end);
        let separator = given(vocabulary.sep(), adds_separator);
        Self::Separated {
            before: given(vocabulary.bos(), vocabulary.get_add_bos())
                .into_iter()
                .collect(),
            between: end.into_iter().chain(separator).collect(),
            after: end.or(separator).into_iter().collect(),
        }
    }

    /// One sequence a document, in the request's order.
    ///
    /// # Errors
    /// `context_length_exceeded` for a query that leaves no room, and for a document that is too long unless cutting was asked for.
    pub(super) fn sequences(
        &self,
        model: &LlamaModel,
        request: &RerankRequest,
        most: usize,
    ) -> Result<Vec<Vec<LlamaToken>>> {
        let limit = Limit {
            tokens: most,
            truncate: request.truncate,
        };
        // Half a question asks something else.
        let strict = Limit {
            truncate: false,
            ..limit
        };
        let alone = self.parts(model, &request.query, "")?;
        // There has to be room for something of the document.
        strict.apply(alone.iter().map(Vec::len).sum::<usize>() + 1, "query", None)?;
        let documents = request.documents.iter().enumerate();
        let sequence = |(index, document): (usize, &String)| {
            let [before, mut middle, after] = self.parts(model, &request.query, document)?;
            let length = before.len() + middle.len() + after.len();
            let read = limit.apply(length, "documents", Some(index))?;
            middle.truncate(middle.len().saturating_sub(length - read));
            Ok([before, middle, after].concat())
        };
        documents.map(sequence).collect()
    }

    /// What comes before the part that ends with the document, that part, and what comes after it.
    fn parts(
        &self,
        model: &LlamaModel,
        query: &str,
        document: &str,
    ) -> Result<[Vec<LlamaToken>; 3]> {
        match self {
            Self::Separated {
                before,
                between,
                after,
            } => {
                let query = plain_tokens(model, query, "query")?;
                let document = plain_tokens(model, document, "documents")?;
                Ok([
                    [before, &query[..], between].concat(),
                    document,
                    after.clone(),
                ])
            }
            Self::Prompt(segments) => prompt(model, segments, query, document),
        }
    }
}

fn prompt(
    model: &LlamaModel,
    segments: &[Segment],
    query: &str,
    document: &str,
) -> Result<[Vec<LlamaToken>; 3]> {
    let mut parts = [Vec::new(), Vec::new(), Vec::new()];
    let mut part = 0;
    for segment in segments {
        match segment {
            Segment::Special(token) => parts[part].push(*token),
            Segment::Text(text) => {
                let has_document = text.contains("{document}");
                // The query first: what a document says is never taken for a placeholder.
                let filled: Vec<_> = text
                    .split("{document}")
                    .map(|text| text.replace("{query}", query))
                    .collect();
                let tokens = plain_tokens(model, &filled.join(document), "documents")?;
                if has_document {
                    parts[1] = tokens;
                    part = 2;
                } else {
                    parts[part].extend(tokens);
                }
            }
        }
    }
    Ok(parts)
}

fn special_tokens(model: &LlamaModel) -> Vec<(String, LlamaToken)> {
    let tokens = (0..model.n_vocab()).map(LlamaToken::new);
    tokens
        .filter(|token| model.token_is_control(*token))
        .filter_map(|token| Some((model.token_get_text(token).ok()?.to_owned(), token)))
        .filter(|(text, _)| !text.is_empty())
        .collect()
}

/// The template taken apart at its special tokens, and after the document.
fn segments(template: &str, special: &[(String, LlamaToken)]) -> Vec<Segment> {
    let mut segments = Vec::new();
    let mut rest = template;
    let mut text = String::new();
    while let Some(first) = rest.chars().next() {
        let longest = special
            .iter()
            .filter(|(token, _)| rest.starts_with(token.as_str()))
            .max_by_key(|(token, _)| token.len());
        if let Some((token, id)) = longest {
            segments.extend((!text.is_empty()).then(|| Segment::Text(std::mem::take(&mut text))));
            segments.push(Segment::Special(*id));
            rest = &rest[token.len()..];
            continue;
        }
        let taken = if rest.starts_with("{document}") {
            "{document}".len()
        } else {
            first.len_utf8()
        };
        text.push_str(&rest[..taken]);
        rest = &rest[taken..];
        if taken > 1 && text.ends_with("{document}") {
            segments.push(Segment::Text(std::mem::take(&mut text)));
        }
    }
    segments.extend((!text.is_empty()).then_some(Segment::Text(text)));
    segments
}

/// # Errors
/// `invalid_value` for a template without a place for the query or the document.
pub(super) fn check(format: &Format) -> Result<()> {
    let Format::Prompt(segments) = format else {
        return Ok(());
    };
    let has = |name: &str| {
        segments
            .iter()
            .any(|segment| matches!(segment, Segment::Text(text) if text.contains(name)))
    };
    if has("{query}") && has("{document}") {
        return Ok(());
    }
    Err(Error::invalid(
        "model",
        "the model's prompt for reranking has no place for the query or the document",
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_template_is_taken_apart_at_special_tokens_and_after_the_document() {
        let special =
            [("<|a|>", 1), ("<|a|>b", 2)].map(|(text, id)| (text.to_owned(), LlamaToken::new(id)));
        let text = |text: &str| Segment::Text(text.to_owned());
        let token = |id| Segment::Special(LlamaToken::new(id));
        assert_eq!(
            segments("<|a|>Q: {query}\nD: {document}.<|a|>b\u{e9}", &special),
            [
                token(1),
                text("Q: {query}\nD: {document}"),
                text("."),
                token(2),
                text("\u{e9}")
            ]
        );
        assert_eq!(segments("", &special), []);
    }
}
