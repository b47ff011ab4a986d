//! Running models, and asking which one would run: the traits of the shared vocabulary.

use std::{
    hash::{DefaultHasher, Hash, Hasher},
    ops::Range,
    sync::Arc,
    time::Instant,
};

use async_trait::async_trait;
use fusion_types::{
    Call, Error, ErrorCode, Result,
    chat::{ChatEvent, ChatRequest, Message, Role},
    completion::CompletionRequest,
    embedding::EmbedRequest,
    inference::{
        Choice, Embedded, Generation, Inference, ModelPlanner, Needs, Reranked, WorkEstimate,
        WorkSize,
    },
    model::{Capability, ModelCard, ModelId},
    model_ref::ModelRef,
    rerank::RerankRequest,
};
use futures::{StreamExt, stream, stream::BoxStream};

use crate::{Models, engine::ChatEvents, lease::Lease, routing::Route, stats::Clock};

#[async_trait]
impl Inference for Models {
    async fn chat(&self, call: &Call, mut request: ChatRequest) -> Result<Generation> {
        let clock = Clock::start();
        let (mut lease, route) = self
            .acquire(
                call,
                &request.model.parse()?,
                Some(Capability::Chat),
                || Some(beginning(&request)),
            )
            .await?;
        route.model.as_str().clone_into(&mut request.model);
        // Always streamed: cancelling and noticing a hang are one path.
        request.stream = true;
        let begun = run(call, &mut lease, async |lease| {
            begin(lease.engine.client.chat(&request, call.class).await?).await
        })
        .await?;
        Ok(generation(call, clock, lease, route, begun))
    }

    async fn complete(&self, call: &Call, mut request: CompletionRequest) -> Result<Generation> {
        let clock = Clock::start();
        let model = request.model.parse()?;
        // Whoever chats also goes on with a text. A model that is named says itself whether it can.
        let capability = matches!(model, ModelRef::Auto(_)).then_some(Capability::Chat);
        let (mut lease, route) = self.acquire(call, &model, capability, || None).await?;
        route.model.as_str().clone_into(&mut request.model);
        request.stream = true;
        let begun = run(call, &mut lease, async |lease| {
            begin(lease.engine.client.complete(&request, call.class).await?).await
        })
        .await?;
        Ok(generation(call, clock, lease, route, begun))
    }

    async fn embed(&self, call: &Call, mut request: EmbedRequest) -> Result<Embedded> {
        let clock = Clock::start();
        let (mut lease, route) = self
            .acquire(
                call,
                &request.model.parse()?,
                Some(Capability::Embeddings),
                || None,
            )
            .await?;
        route.model.as_str().clone_into(&mut request.model);
        let vectors = run(call, &mut lease, async |lease| {
            lease
                .engine
                .client
                .embed(&request, &lease.engine.card.fingerprint)
                .await
        })
        .await?;
        lease.answered(clock.read(vectors.tokens));
        Ok(Embedded {
            model: route.model,
            vectors,
        })
    }

    async fn rerank(&self, call: &Call, mut request: RerankRequest) -> Result<Reranked> {
        let clock = Clock::start();
        let (mut lease, route) = self
            .acquire(
                call,
                &request.model.parse()?,
                Some(Capability::Rerank),
                || None,
            )
            .await?;
        route.model.as_str().clone_into(&mut request.model);
        let scores = run(call, &mut lease, async |lease| {
            lease.engine.client.rerank(&request).await
        })
        .await?;
        lease.answered(clock.read(scores.tokens));
        Ok(Reranked {
            model: route.model,
            scores,
        })
    }

    async fn tokenize(
        &self,
        call: &Call,
        model: &ModelRef,
        texts: Vec<String>,
    ) -> Result<Vec<Vec<Range<u32>>>> {
        let (mut lease, _) = self.acquire(call, model, None, || None).await?;
        let spans = run(call, &mut lease, async |lease| {
            lease.engine.client.tokenize(texts).await
        })
        .await?;
        let ranges =
            |spans: Vec<(u32, u32)>| spans.into_iter().map(|(start, end)| start..end).collect();
        Ok(spans.into_iter().map(ranges).collect())
    }
}

/// A number that conversations with the same beginning have in common: a process that knows the beginning already need
/// not read it again.
fn beginning(request: &ChatRequest) -> u64 {
    let mut hasher = DefaultHasher::new();
    let until = |message: &&Message| message.role != Role::Assistant;
    for message in request.messages.iter().take_while(until) {
        message.content.text().hash(&mut hasher);
    }
    hasher.finish()
}

/// The first event, so that what goes wrong before it is an error, and the others.
type Begun = (Option<ChatEvent>, ChatEvents);

async fn begin(mut events: ChatEvents) -> Result<Begun> {
    let first = events.next().await.transpose()?;
    Ok((first, events))
}

fn generation(
    call: &Call,
    mut clock: Clock,
    mut lease: Lease,
    route: Route,
    (first, rest): Begun,
) -> Generation {
    if let Some(sample) = first.as_ref().and_then(|event| clock.hear(event)) {
        lease.answered(sample);
    }
    let running = Running {
        clock,
        events: rest,
        lease,
        deadline: call.deadline,
    };
    let first = stream::iter(first.map(Ok));
    Generation {
        model: route.model,
        route: route.reason.map(Arc::from),
        events: first.chain(running.into_stream()).boxed(),
    }
}

/// Work on a leased engine, within the call's deadline. What goes wrong is noted with the model.
async fn run<T>(
    call: &Call,
    lease: &mut Lease,
    work: impl AsyncFnOnce(&Lease) -> Result<T>,
) -> Result<T> {
    let outcome = within(call.deadline, work(lease))
        .await
        .unwrap_or_else(|| Err(timeout()));
    if let Err(error) = &outcome {
        lease.note(error);
    }
    outcome
}

/// A generation under way, with the lease that keeps its model. The lease goes back at the last event, or when this is dropped.
struct Running {
    events: ChatEvents,
    clock: Clock,
    lease: Lease,
    deadline: Option<Instant>,
}

impl Running {
    fn into_stream(self) -> BoxStream<'static, Result<ChatEvent>> {
        let next = async |running: Option<Self>| {
            let mut running = running?;
            let event = within(running.deadline, running.events.next())
                .await
                .unwrap_or_else(|| Some(Err(timeout())));
            match event? {
                Ok(event) => {
                    if let Some(sample) = running.clock.hear(&event) {
                        running.lease.answered(sample);
                    }
                    Some((Ok(event), Some(running)))
                }
                Err(error) => {
                    running.lease.note(&error);
                    Some((Err(error), None))
                }
            }
        };
        stream::unfold(Some(self), next).boxed()
    }
}

/// `None` once the deadline has passed.
async fn within<T>(deadline: Option<Instant>, work: impl Future<Output = T>) -> Option<T> {
    match deadline {
        Some(deadline) => tokio::time::timeout_at(deadline.into(), work).await.ok(),
        None => Some(work.await),
    }
}

fn timeout() -> Error {
    Error::new(ErrorCode::Timeout, "the request's deadline has passed")
}

impl ModelPlanner for Models {
    fn models(&self) -> Arc<[ModelCard]> {
        self.cards()
    }

    fn choose(&self, model: &ModelRef, needs: &Needs) -> Result<Choice> {
        let route = self.view().choose(model, needs)?;
        let reason = route.reason.unwrap_or_else(|| "named".to_owned());
        Ok(Choice {
            model: route.model,
            reason,
        })
    }

    fn estimate(&self, model: &ModelId, _work: &WorkSize) -> WorkEstimate {
        let outlook = self.view().outlook(model);
        WorkEstimate {
            wait: outlook.wait,
            run: outlook.run,
            free_slots: outlook.free_slots,
            runnable: outlook.runnable,
        }
    }
}
