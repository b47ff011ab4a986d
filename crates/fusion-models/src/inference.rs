//! Running models, and asking which one would run: the traits of the shared vocabulary.

use std::{
    hash::{DefaultHasher, Hash, Hasher},
    ops::Range,
    pin::{Pin, pin},
    sync::Arc,
    time::Instant,
};

use async_trait::async_trait;
use fusion_types::{
    Call, Error, ErrorCode, Result,
    chat::{ChatEvent, ChatRequest, Message, Role},
    completion::CompletionRequest,
    embedding::EmbedRequest,
    engine::TokenizeRequest,
    inference::{
        Choice, Embedded, Generation, Inference, ModelPlanner, Needs, Reranked, WorkEstimate,
        WorkSize,
    },
    model::{Capability, ModelCard, ModelId},
    model_ref::ModelRef,
    rerank::RerankRequest,
};
use futures::{StreamExt, stream, stream::BoxStream};

use crate::{
    Models,
    engine::ChatEvents,
    lease::Lease,
    models::Wanted,
    routing::{self, Route},
    stats::Clock,
};

#[async_trait]
impl Inference for Models {
    async fn chat(&self, call: &Call, mut request: ChatRequest) -> Result<Generation> {
        let clock = Clock::start();
        // Always streamed: cancelling and noticing a hang are one path.
        request.stream = true;
        let wanted = Wanted {
            model: request.model.parse()?,
            capability: Some(Capability::Chat),
            likes: |request| Some(beginning(request)),
            request,
        };
        let class = call.class;
        let sent = self.work(call, wanted, async move |lease, model, request| {
            model.as_str().clone_into(&mut request.model);
            lease.engine.client.chat(request, class).await
        });
        generation(call, clock, sent.await?).await
    }

    async fn complete(&self, call: &Call, mut request: CompletionRequest) -> Result<Generation> {
        let clock = Clock::start();
        request.stream = true;
        let model = request.model.parse()?;
        let wanted = Wanted {
            // Whoever chats also goes on with a text. A model that is named says itself whether it can.
            capability: matches!(model, ModelRef::Auto(_)).then_some(Capability::Chat),
            model,
            likes: |_| None,
            request,
        };
        let class = call.class;
        let sent = self.work(call, wanted, async move |lease, model, request| {
            model.as_str().clone_into(&mut request.model);
            lease.engine.client.complete(request, class).await
        });
        generation(call, clock, sent.await?).await
    }

    async fn embed(&self, call: &Call, request: EmbedRequest) -> Result<Embedded> {
        let clock = Clock::start();
        let wanted = Wanted {
            model: request.model.parse()?,
            capability: Some(Capability::Embeddings),
            likes: |_| None,
            request,
        };
        let worked = self.work(call, wanted, async |lease, model, request| {
            model.as_str().clone_into(&mut request.model);
            let engine = &lease.engine;
            engine.client.embed(request, &engine.card.fingerprint).await
        });
        let (mut lease, route, vectors) = worked.await?;
        lease.answered(clock.read(vectors.tokens));
        Ok(Embedded {
            model: route.model,
            vectors,
        })
    }

    async fn rerank(&self, call: &Call, request: RerankRequest) -> Result<Reranked> {
        let clock = Clock::start();
        let wanted = Wanted {
            model: request.model.parse()?,
            capability: Some(Capability::Rerank),
            likes: |_| None,
            request,
        };
        let worked = self.work(call, wanted, async |lease, model, request| {
            model.as_str().clone_into(&mut request.model);
            lease.engine.client.rerank(request).await
        });
        let (mut lease, route, scores) = worked.await?;
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
        let wanted = Wanted {
            model: model.clone(),
            capability: None,
            likes: |_| None,
            request: TokenizeRequest { texts },
        };
        let worked = self.work(call, wanted, async |lease, _, request| {
            lease.engine.client.tokenize(request).await
        });
        let (_, _, spans) = worked.await?;
        let ranges =
            |spans: Vec<(u32, u32)>| spans.into_iter().map(|(start, end)| start..end).collect();
        Ok(spans.into_iter().map(ranges).collect())
    }
}

impl Models {
    /// Work on an engine that is leased for it, within the call's deadline. What goes wrong is noted with the model.
    ///
    /// An engine that says nothing at all, not even that it has taken the request up, had stopped before: it is ended,
    /// and its successor gets the request. Only once, as the request itself may be what stops engines.
    async fn work<R, T>(
        &self,
        call: &Call,
        mut wanted: Wanted<R>,
        work: impl AsyncFn(&Lease, &ModelId, &mut R) -> Result<T>,
    ) -> Result<(Lease, Route, T)> {
        let mut is_first = true;
        loop {
            let (mut lease, route) = self.acquire(call, &wanted).await?;
            let worked = {
                let working = pin!(work(&lease, &route.model, &mut wanted.request));
                within(call.deadline, working).await
            };
            match noted(&mut lease, worked) {
                Ok(done) => return Ok((lease, route, done)),
                Err(_) if is_first && lease.engine.life.was_silent() => is_first = false,
                Err(error) => return Err(error),
            }
        }
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

/// A generation whose first event is there, so that what goes wrong before it is an error.
async fn generation(
    call: &Call,
    mut clock: Clock,
    (mut lease, route, mut events): (Lease, Route, ChatEvents),
) -> Result<Generation> {
    let first = {
        let first = pin!(async { events.next().await.transpose() });
        within(call.deadline, first).await
    };
    let first = noted(&mut lease, first)?;
    if let Some(sample) = first.as_ref().and_then(|event| clock.hear(event)) {
        lease.answered(sample);
    }
    let running = Running {
        first,
        clock,
        events,
        lease,
        deadline: call.deadline,
    };
    Ok(Generation {
        model: route.model,
        route: route.reason.map(Arc::from),
        events: running.into_stream(),
    })
}

/// What goes wrong is noted with the model.
fn noted<T>(lease: &mut Lease, outcome: Result<T>) -> Result<T> {
    if let Err(error) = &outcome {
        lease.note(error);
    }
    outcome
}

/// A generation under way, with the lease that keeps its model. The lease goes back at the last event, or when this is dropped.
struct Running {
    /// Heard already.
    first: Option<ChatEvent>,
    events: ChatEvents,
    clock: Clock,
    lease: Lease,
    deadline: Option<Instant>,
}

impl Running {
    fn into_stream(self) -> BoxStream<'static, Result<ChatEvent>> {
        // Boxed, as it is moved into and out of each wait for an event.
        let next = async |running: Option<Box<Self>>| {
            let mut running = running?;
            if let Some(first) = running.first.take() {
                return Some((Ok(first), Some(running)));
            }
            let event = {
                let event = pin!(async { running.events.next().await.transpose() });
                within(running.deadline, event).await
            };
            match event.transpose()? {
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
        stream::unfold(Some(Box::new(self)), next).boxed()
    }
}

/// An error once the deadline has passed. The work is pinned by the caller, as this would have room for it twice.
async fn within<T>(
    deadline: Option<Instant>,
    work: Pin<&mut impl Future<Output = Result<T>>>,
) -> Result<T> {
    match deadline {
        Some(deadline) => tokio::time::timeout_at(deadline.into(), work)
            .await
            .unwrap_or_else(|_| Err(timeout())),
        None => work.await,
    }
}

fn timeout() -> Error {
    Error::new(ErrorCode::Timeout, "the request's deadline has passed")
}

impl ModelPlanner for Models {
    fn models(&self) -> Arc<[ModelCard]> {
        self.cards()
    }

    fn names(&self) -> Vec<String> {
        routing::names(&self.cards())
    }

    fn choose(&self, model: &ModelRef, needs: &Needs) -> Result<Choice> {
        let route = self.view().choose(model, needs)?;
        Ok(route.choice(&self.cards()))
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
