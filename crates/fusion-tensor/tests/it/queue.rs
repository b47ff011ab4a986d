//! Several requests at once.

use std::{future::poll_fn, pin::pin, task::Poll};

use fusion_engine::{Engine, types::ErrorCode};

use crate::{
    model::{cosine, embed, load, minilm, request},
    tiny,
};

#[tokio::test]
async fn requests_side_by_side_get_their_own_vectors() {
    let folder = tiny::folder();
    let engine = load(folder.path(), "safetensors").unwrap();
    let (one, two, three) = tokio::join!(
        embed(&engine, &["a", "b b", "c c c"]),
        embed(&engine, &["b b", "a"]),
        embed(&engine, &["c c c"]),
    );
    let (one, two, three) = (one.unwrap(), two.unwrap(), three.unwrap());
    let row = |vectors: &fusion_engine::types::embedding::Vectors, at: usize| {
        vectors.rows().nth(at).unwrap().to_vec()
    };
    assert!(cosine(&row(&one, 0), &row(&two, 1)) > 0.99999);
    assert!(cosine(&row(&one, 1), &row(&two, 0)) > 0.99999);
    assert!(cosine(&row(&one, 2), &row(&three, 0)) > 0.99999);
    assert_eq!(
        engine.stats().tokens_in,
        u64::from(one.tokens + two.tokens + three.tokens)
    );
    assert_eq!(engine.stats().slots_busy, 0);
}

#[tokio::test]
async fn over_its_slots_the_engine_says_that_it_is_busy() {
    let folder = tiny::folder();
    let engine = load(folder.path(), "safetensors").unwrap();
    let mut waiting: Vec<_> = (0..4)
        .map(|_| Box::pin(engine.embed(request(&["a"], false))))
        .collect();
    for future in &mut waiting {
        poll_once(future.as_mut()).await;
    }
    assert_eq!(engine.stats().slots_busy, 4);
    let error = embed(&engine, &["a"]).await.unwrap_err();
    assert_eq!(error.code, ErrorCode::EngineUnavailable);
    drop(waiting);
    embed(&engine, &["a"]).await.unwrap();
}

/// A long request is under way when another is given up: what wasn't begun of that one is never computed.
#[tokio::test]
async fn a_dropped_request_is_not_computed() {
    let Some(path) = minilm("dropped requests") else {
        return;
    };
    let engine = load(&path, "onnx").unwrap();
    let long = vec!["The quick brown fox jumps over the lazy dog."; 400];
    let full = 12 * long.len() as u64;
    {
        let mut given_up = pin!(engine.embed(request(&long, false)));
        while engine.stats().tokens_in == 0 {
            poll_once(given_up.as_mut()).await;
            tokio::task::yield_now().await;
        }
    }
    assert_eq!(engine.stats().slots_busy, 0);
    let next = embed(&engine, &["a cat"]).await.unwrap();
    assert!(
        engine.stats().tokens_in < full + u64::from(next.tokens),
        "{:?}",
        engine.stats()
    );
}

#[tokio::test]
async fn a_short_request_does_not_wait_for_all_of_a_long_one() {
    let Some(path) = minilm("fair turns") else {
        return;
    };
    let engine = load(&path, "onnx").unwrap();
    let long = vec!["The quick brown fox jumps over the lazy dog."; 400];
    let mut first = pin!(engine.embed(request(&long, false)));
    while engine.stats().tokens_in == 0 {
        poll_once(first.as_mut()).await;
        tokio::task::yield_now().await;
    }
    embed(&engine, &["a cat"]).await.unwrap();
    assert!(engine.stats().tokens_in < 12 * 400, "{:?}", engine.stats());
    assert_eq!(first.await.unwrap().rows().len(), 400);
}

async fn poll_once<F: Future>(mut future: std::pin::Pin<&mut F>) {
    poll_fn(|context| {
        let _ = future.as_mut().poll(context);
        Poll::Ready(())
    })
    .await;
}
