//! A question answered: retrieve, rerank, generate; whole or as a stream.

use std::{collections::VecDeque, time::Instant};

use fusion_types::{Call, Result};
use futures::{
    StreamExt,
    stream::{self, BoxStream},
};
use serde_json::{Map, Value, json};

use super::{
    Inner,
    answer::{Answer, Writing},
    ingest::millis_since,
    request::{QueryRequest, SearchRequest},
    response::{QueryAnswer, QueryEvent, SearchAnswer, Source},
};

/// What both kinds of answer start from.
struct Basis {
    sources: Vec<Source>,
    dropped_below_threshold: u64,
    latency_ms: u64,
    metadata: Map<String, Value>,
}

impl Inner {
    pub(super) async fn search(&self, call: &Call, search: &SearchRequest) -> Result<SearchAnswer> {
        let basis = self.basis(call, search).await?;
        Ok(SearchAnswer {
            sources: basis.sources,
            retrieval_latency_ms: basis.latency_ms,
            total_latency_ms: basis.latency_ms,
            dropped_below_threshold: basis.dropped_below_threshold,
            metadata: basis.metadata,
        })
    }

    pub(super) async fn query(&self, call: &Call, request: &QueryRequest) -> Result<QueryAnswer> {
        request.check()?;
        let started = Instant::now();
        let basis = self.basis(call, &request.search()).await?;
        let (model, config) = (request.model_id.as_deref(), &request.generation_config);
        let answer = self
            .answer(call, &request.query, &basis.sources, model, config)
            .await?;
        let mut metadata = basis.metadata;
        answer.describe(&mut metadata);
        Ok(QueryAnswer {
            answer: answer.text,
            sources: if request.include_sources {
                basis.sources
            } else {
                Vec::new()
            },
            citations: answer.citations,
            retrieval_latency_ms: basis.latency_ms,
            generation_latency_ms: answer.latency_ms,
            total_latency_ms: millis_since(started),
            dropped_below_threshold: basis.dropped_below_threshold,
            metadata,
        })
    }

    /// The generation has started when this returns, so that most errors come before the first event.
    pub(super) async fn query_stream(
        &self,
        call: &Call,
        request: &QueryRequest,
    ) -> Result<BoxStream<'static, Result<QueryEvent>>> {
        request.check()?;
        let started = Instant::now();
        let basis = self.basis(call, &request.search()).await?;
        let (model, config) = (request.model_id.as_deref(), &request.generation_config);
        let mut queue = VecDeque::from([QueryEvent::Sources {
            sources: if request.include_sources {
                basis.sources.clone()
            } else {
                Vec::new()
            },
            retrieval_latency_ms: basis.latency_ms,
            dropped_below_threshold: basis.dropped_below_threshold,
        }]);
        let streaming = if basis.sources.is_empty() {
            let answer = Answer::nothing_found();
            queue.push_back(QueryEvent::Delta {
                text: answer.text.clone(),
            });
            queue.extend(last_events(answer, basis, started));
            Streaming { queue, rest: None }
        } else {
            let writing = self
                .start_answer(call, &request.query, &basis.sources, model, config)
                .await?;
            Streaming {
                queue,
                rest: Some(Rest {
                    writing,
                    basis,
                    started,
                }),
            }
        };
        Ok(stream::unfold(streaming, Streaming::next).boxed())
    }

    async fn basis(&self, call: &Call, search: &SearchRequest) -> Result<Basis> {
        let started = Instant::now();
        let rerank = search.wanted_rerank();
        let top_k = search.top_k as usize;
        let keep = if rerank.is_some() {
            SearchRequest::candidates(search.top_k)
        } else {
            top_k
        };
        let retrieved = self.retrieve(call, search, keep).await?;
        let mut metadata = Map::new();
        metadata.insert("collections".to_owned(), json!(search.collection_names()));
        metadata.insert("mode".to_owned(), json!(search.mode));
        metadata.insert("embedding_model".to_owned(), json!(retrieved.model));
        let mut sources = retrieved.sources;
        if let Some(with) = rerank {
            let reordered = self
                .rerank(call, &search.query, sources, with.model_id.as_deref())
                .await?;
            metadata.insert("rerank_model".to_owned(), json!(reordered.model));
            sources = reordered.sources;
            sources.truncate(with.top_n.map_or(top_k, |top_n| top_n as usize));
        }
        let dropped_below_threshold = retrieved.dropped_below_threshold;
        Ok(Basis {
            sources,
            dropped_below_threshold,
            latency_ms: millis_since(started),
            metadata,
        })
    }
}

struct Streaming {
    queue: VecDeque<QueryEvent>,
    /// `None` once the answer is finished or has failed.
    rest: Option<Rest>,
}

struct Rest {
    writing: Writing,
    basis: Basis,
    started: Instant,
}

impl Streaming {
    async fn next(mut self) -> Option<(Result<QueryEvent>, Self)> {
        loop {
            if let Some(event) = self.queue.pop_front() {
                return Some((Ok(event), self));
            }
            let mut rest = self.rest.take()?;
            match rest.writing.generation.events.next().await {
                Some(Ok(event)) => {
                    self.queue.extend(
                        rest.writing
                            .read(event)
                            .map(|text| QueryEvent::Delta { text }),
                    );
                    self.rest = Some(rest);
                }
                Some(Err(error)) => return Some((Err(error), self)),
                None => {
                    let answer = rest.writing.finish(&rest.basis.sources);
                    self.queue
                        .extend(last_events(answer, rest.basis, rest.started));
                }
            }
        }
    }
}

fn last_events(mut answer: Answer, basis: Basis, started: Instant) -> [QueryEvent; 2] {
    let mut metadata = basis.metadata;
    answer.describe(&mut metadata);
    let citations = QueryEvent::Citations {
        citations: std::mem::take(&mut answer.citations),
    };
    let done = QueryEvent::Done {
        retrieval_latency_ms: basis.latency_ms,
        generation_latency_ms: answer.latency_ms,
        total_latency_ms: millis_since(started),
        metadata,
    };
    [citations, done]
}
