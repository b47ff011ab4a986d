//! Several answers to one request, side by side: each asked for by itself, so that each waits for a slot of its own, and the
//! engine reads what they begin with in common once.

use std::{iter, pin::Pin, sync::Arc};

use fusion_types::{
    Call, Error, Result,
    chat::{ChatEvent, ChatRequest, Sampling, Usage, WholeAnswer},
    completion::CompletionRequest,
    inference::{Generation, Inference},
    model::ModelId,
};
use futures::{
    FutureExt, Stream, StreamExt,
    stream::{self, BoxStream},
};

/// One answer that is wanted.
pub enum Wanted {
    Chat(ChatRequest),
    Text(CompletionRequest),
}

/// Answers under way. Dropping them cancels all of them.
pub struct Choices {
    pub model: ModelId,
    /// Why this model, where it was chosen by routing.
    pub route: Option<Arc<str>>,
    pub count: usize,
    /// Answers to each prompt.
    per_prompt: usize,
    events: Events,
    usage: Vec<Option<Usage>>,
}

enum Events {
    OfOne(BoxStream<'static, Result<ChatEvent>>),
    /// With each answer's place.
    OfAll(BoxStream<'static, Result<(usize, ChatEvent)>>),
}

enum Step {
    Begun(ModelId, Option<Arc<str>>),
    Said(ChatEvent),
}

impl Choices {
    /// Asks for all of them, and waits until the first has begun. `per_prompt` neighbours have the prompt in common.
    ///
    /// # Errors
    /// Of whichever fails before: then none is answered.
    pub async fn begin(
        inference: &Arc<dyn Inference>,
        call: &Call,
        mut wanted: Vec<Wanted>,
        per_prompt: usize,
    ) -> Result<Self> {
        let count = wanted.len();
        if count == 1
            && let Some(only) = wanted.pop()
        {
            let generation = only.ask(inference.clone(), call.clone()).await?;
            return Ok(Self {
                model: generation.model,
                route: generation.route,
                count,
                per_prompt,
                events: Events::OfOne(generation.events),
                usage: vec![None],
            });
        }
        let each = wanted.into_iter().enumerate().map(|(index, wanted)| {
            wanted
                .steps(inference.clone(), call.clone())
                .map(move |step| Ok((index, step?)))
        });
        let mut steps = stream::select_all(each);
        let Some((_, Step::Begun(model, route))) = steps.next().await.transpose()? else {
            return Err(Error::internal("an answer went on before it began"));
        };
        let events = steps.filter_map(|step| {
            std::future::ready(match step {
                Ok((_, Step::Begun(..))) => None,
                Ok((index, Step::Said(event))) => Some(Ok((index, event))),
                Err(error) => Some(Err(error)),
            })
        });
        Ok(Self {
            model,
            route,
            count,
            per_prompt,
            events: Events::OfAll(events.boxed()),
            usage: vec![None; count],
        })
    }

    /// What an answer says next, its place among the answers first. Usage is kept, and told as a sum.
    pub async fn next(&mut self) -> Option<Result<(usize, ChatEvent)>> {
        loop {
            let event = match &mut self.events {
                Events::OfOne(events) => events.next().await?.map(|event| (0, event)),
                Events::OfAll(events) => events.next().await?,
            };
            match event {
                Ok((index, ChatEvent::Usage(usage))) => {
                    if let Some(place) = self.usage.get_mut(index) {
                        *place = Some(usage);
                    }
                }
                other => return Some(other),
            }
        }
    }

    /// Of all answers; a prompt counts once however many answers it has. `None` where no engine told any.
    pub fn usage(&self) -> Option<Usage> {
        let prompts = self.usage.chunks(self.per_prompt.max(1));
        prompts.filter_map(of_prompt).reduce(sum)
    }

    /// Reads all of them to their ends.
    ///
    /// # Errors
    /// Of whichever fails first.
    pub async fn gather(mut self) -> Result<(Vec<WholeAnswer>, Usage)> {
        let mut answers = vec![WholeAnswer::default(); self.count];
        while let Some(event) = self.next().await {
            let (index, event) = event?;
            if let Some(answer) = answers.get_mut(index) {
                answer.add(event);
            }
        }
        Ok((answers, self.usage().unwrap_or_default()))
    }
}

impl Wanted {
    /// So many answers to one chat.
    pub fn chats(mut request: ChatRequest) -> Vec<Self> {
        let n = request.n.take().unwrap_or(1);
        let each = (0..n).zip(iter::repeat_n(request, n as usize));
        each.map(|(index, mut request)| {
            reseed(&mut request.sampling, index);
            Self::Chat(request)
        })
        .collect()
    }

    /// So many answers to each of these texts.
    pub fn texts(requests: Vec<CompletionRequest>, n: u32) -> Vec<Self> {
        let each = requests.into_iter().flat_map(|request| {
            let each = (0..n).zip(iter::repeat_n(request, n as usize));
            each.map(|(index, mut request)| {
                reseed(&mut request.sampling, index);
                Self::Text(request)
            })
        });
        each.collect()
    }

    async fn ask(self, inference: Arc<dyn Inference>, call: Call) -> Result<Generation> {
        match self {
            Self::Chat(request) => inference.chat(&call, request).await,
            Self::Text(request) => inference.complete(&call, request).await,
        }
    }

    fn steps(
        self,
        inference: Arc<dyn Inference>,
        call: Call,
    ) -> Pin<Box<dyn Stream<Item = Result<Step>> + Send>> {
        let begun = self.ask(inference, call).into_stream();
        begun
            .flat_map(|outcome| match outcome {
                Ok(generation) => {
                    let begun = Step::Begun(generation.model, generation.route);
                    let said = generation.events.map(|event| Ok(Step::Said(event?)));
                    stream::iter([Ok(begun)]).chain(said).boxed()
                }
                Err(error) => stream::iter([Err(error)]).boxed(),
            })
            .boxed()
    }
}

/// The first answer is the one that a request for a single one would get; each other has a seed of its own, the same each time.
fn reseed(sampling: &mut Sampling, index: u32) {
    if let Some(seed) = &mut sampling.seed {
        *seed = seed.wrapping_add(u64::from(index));
    }
}

/// Cached is what the first reader found: the others found what that one had read.
fn of_prompt(usages: &[Option<Usage>]) -> Option<Usage> {
    let mut told = usages.iter().flatten();
    let mut usage = told.next()?.clone();
    for other in told {
        usage.completion_tokens = usage
            .completion_tokens
            .saturating_add(other.completion_tokens);
        let details = usage.prompt_tokens_details.as_mut();
        if let Some((ours, theirs)) = details.zip(other.prompt_tokens_details.as_ref()) {
            ours.cached_tokens = ours.cached_tokens.min(theirs.cached_tokens);
        }
    }
    usage.total_tokens = usage.prompt_tokens.saturating_add(usage.completion_tokens);
    Some(usage)
}

fn sum(mut usage: Usage, more: Usage) -> Usage {
    usage.prompt_tokens = usage.prompt_tokens.saturating_add(more.prompt_tokens);
    usage.completion_tokens = usage
        .completion_tokens
        .saturating_add(more.completion_tokens);
    usage.total_tokens = usage.total_tokens.saturating_add(more.total_tokens);
    let details = usage.prompt_tokens_details.as_mut();
    if let Some((ours, theirs)) = details.zip(more.prompt_tokens_details) {
        ours.cached_tokens = ours.cached_tokens.saturating_add(theirs.cached_tokens);
    }
    usage
}

#[cfg(test)]
mod tests {
    use fusion_types::chat::PromptTokensDetails;

    use super::*;

    fn usage(prompt: u32, completion: u32, cached: u32) -> Option<Usage> {
        let mut usage = Usage::new(prompt, completion);
        usage.prompt_tokens_details = Some(PromptTokensDetails {
            cached_tokens: cached,
        });
        Some(usage)
    }

    #[test]
    fn a_prompt_counts_once() {
        let first = of_prompt(&[usage(10, 3, 9), usage(10, 4, 2)]).unwrap();
        assert_eq!(first, usage(10, 7, 2).unwrap());
        let both = sum(first, usage(5, 1, 0).unwrap());
        assert_eq!(both, usage(15, 8, 2).unwrap());
        assert_eq!(of_prompt(&[None]), None);
    }

    #[test]
    fn seeds_differ_and_come_again() {
        let request = ChatRequest {
            n: Some(3),
            sampling: Sampling {
                seed: Some(u64::MAX),
                ..Sampling::default()
            },
            ..ChatRequest::default()
        };
        let seeds = Wanted::chats(request)
            .into_iter()
            .map(|wanted| match wanted {
                Wanted::Chat(request) => (request.sampling.seed, request.n),
                Wanted::Text(_) => panic!("a chat became a text"),
            });
        let expected = [u64::MAX, 0, 1].map(|seed| (Some(seed), None));
        assert_eq!(seeds.collect::<Vec<_>>(), expected);
    }
}
