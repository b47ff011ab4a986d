//! The suites of `ChunkIndex`: dense and keyword.

use fusion_types::{
    ErrorCode, Tenant,
    document::{CollectionRef, IndexChange, IndexChangeKind, IndexQuery},
    id::ChunkId,
    job::Seq,
    store::ChunkIndex,
};

fn docs() -> CollectionRef {
    CollectionRef {
        tenant: Tenant::default(),
        name: "docs".into(),
    }
}

fn add(seq: u64, id: &str, embedding: &[f32], text: &str) -> IndexChange {
    let chunk_id = ChunkId::from_text(id);
    IndexChange {
        seq: Seq(seq),
        kind: IndexChangeKind::Add {
            chunk_id,
            embedding: embedding.to_vec(),
            text: text.to_owned(),
        },
    }
}

fn remove(seq: u64, id: &str) -> IndexChange {
    IndexChange {
        seq: Seq(seq),
        kind: IndexChangeKind::Remove {
            chunk_id: ChunkId::from_text(id),
        },
    }
}

async fn search(index: &dyn ChunkIndex, query: IndexQuery, k: usize) -> Vec<String> {
    let hits = index.search(&docs(), query, k).await.unwrap();
    assert!(hits.is_sorted_by(|better, worse| better.score >= worse.score));
    hits.into_iter()
        .map(|hit| hit.chunk_id.as_str().to_owned())
        .collect()
}

async fn nearest(index: &dyn ChunkIndex, query: &[f32], k: usize) -> Vec<String> {
    search(index, IndexQuery::Dense(query.to_vec()), k).await
}

async fn words(index: &dyn ChunkIndex, query: &str) -> Vec<String> {
    search(index, IndexQuery::Keyword(query.to_owned()), 10).await
}

pub(crate) async fn dense_finds_the_nearest(index: &dyn ChunkIndex) {
    assert!(nearest(index, &[1.0, 0.0], 3).await.is_empty());
    let changes = vec![
        add(3, "east", &[1.0, 0.0], ""),
        add(5, "north", &[0.0, 1.0], ""),
        add(6, "west", &[-1.0, 0.0], ""),
    ];
    assert_eq!(index.apply(&docs(), changes).await.unwrap(), Seq(6));
    assert_eq!(index.upto(&docs()).await.unwrap(), Seq(6));
    assert_eq!(nearest(index, &[0.8, 0.6], 2).await, ["east", "north"]);
    assert_eq!(
        nearest(index, &[0.8, 0.6], 10).await,
        ["east", "north", "west"]
    );
    assert!(nearest(index, &[0.8, 0.6], 0).await.is_empty());
    let hits = index
        .search(&docs(), IndexQuery::Dense(vec![0.8, 0.6]), 1)
        .await
        .unwrap();
    assert!((hits[0].score - 0.8).abs() < 1e-6);
    let mismatch = index
        .search(&docs(), IndexQuery::Dense(vec![1.0; 3]), 1)
        .await
        .unwrap_err();
    assert_eq!(mismatch.code, ErrorCode::EmbeddingModelMismatch);
    let unsupported = index
        .search(&docs(), IndexQuery::Keyword("east".to_owned()), 1)
        .await
        .unwrap_err();
    assert_eq!(unsupported.code, ErrorCode::UnsupportedOperation);
    index.drop_collection(&docs()).await.unwrap();
    assert_eq!(index.upto(&docs()).await.unwrap(), Seq(0));
    assert!(nearest(index, &[1.0, 0.0], 3).await.is_empty());
}

pub(crate) async fn replays_and_removals_leave_what_is_live(index: &dyn ChunkIndex) {
    let log = vec![
        add(1, "a", &[1.0, 0.0], ""),
        add(2, "b", &[0.9, 0.0], ""),
        add(3, "c", &[0.8, 0.0], ""),
        remove(4, "a"),
    ];
    index.apply(&docs(), log.clone()).await.unwrap();
    assert_eq!(nearest(index, &[1.0, 0.0], 9).await, ["b", "c"]);
    assert_eq!(
        index.apply(&docs(), log[..1].to_vec()).await.unwrap(),
        Seq(4),
        "a late replay revives nothing"
    );
    assert_eq!(nearest(index, &[1.0, 0.0], 9).await, ["b", "c"]);
    let more = vec![
        remove(5, "unknown"),
        add(6, "c", &[1.0, 0.0], ""),
        remove(7, "b"),
        add(8, "a", &[0.5, 0.0], ""),
    ];
    index.apply(&docs(), more).await.unwrap();
    assert_eq!(nearest(index, &[1.0, 0.0], 9).await, ["c", "a"]);
    index
        .apply(&docs(), vec![remove(9, "a"), remove(10, "c")])
        .await
        .unwrap();
    assert!(nearest(index, &[1.0, 0.0], 9).await.is_empty());
}

pub(crate) async fn a_large_collection_gives_the_same_as_a_naive_search(index: &dyn ChunkIndex) {
    const DIMENSION: usize = 70;
    let vector = |row: usize| {
        (0..DIMENSION).map(move |column| ((row * 31 + column * 17) % 101) as f32 / 101.0 - 0.5)
    };
    let rows = (0..3000)
        .map(|row| vector(row).collect::<Vec<_>>())
        .collect::<Vec<_>>();
    let changes = rows
        .iter()
        .enumerate()
        .map(|(row, vector)| add(row as u64 + 1, &format!("{row:05}"), vector, ""));
    index.apply(&docs(), changes.collect()).await.unwrap();
    let query = vector(7).map(|value| value + 0.01).collect::<Vec<_>>();
    let score = |row: &Vec<f32>| {
        row.iter()
            .zip(&query)
            .map(|(a, b)| f64::from(*a) * f64::from(*b))
            .sum::<f64>()
    };
    let mut naive = rows.iter().map(score).collect::<Vec<_>>();
    naive.sort_by(|a, b| b.total_cmp(a));
    let hits = index
        .search(&docs(), IndexQuery::Dense(query.clone()), 25)
        .await
        .unwrap();
    assert_eq!(hits.len(), 25);
    for (hit, expected) in hits.iter().zip(naive) {
        assert!(
            (f64::from(hit.score) - expected).abs() < 1e-4,
            "{hit:?} {expected}"
        );
    }
}

pub(crate) async fn keyword_finds_stemmed_words(index: &dyn ChunkIndex) {
    assert!(words(index, "anything").await.is_empty());
    let changes = vec![
        add(1, "cats", &[], "The cat was running after mice."),
        add(2, "dogs", &[], "Dogs run, and dogs bark: a dog's life."),
        add(3, "cars", &[], "A car needs fuel."),
    ];
    assert_eq!(index.apply(&docs(), changes).await.unwrap(), Seq(3));
    assert_eq!(index.upto(&docs()).await.unwrap(), Seq(3));
    assert_eq!(words(index, "DOG").await, ["dogs"]);
    assert_eq!(words(index, "fuelled cars").await, ["cars"]);
    assert_eq!(words(index, "who runs?").await.len(), 2);
    assert!(
        words(index, "the and a").await.is_empty(),
        "stop words find nothing"
    );
    let unsupported = index
        .search(&docs(), IndexQuery::Dense(vec![1.0]), 1)
        .await
        .unwrap_err();
    assert_eq!(unsupported.code, ErrorCode::UnsupportedOperation);
    let other = CollectionRef {
        name: "other".into(),
        ..docs()
    };
    assert!(
        index
            .search(&other, IndexQuery::Keyword("dog".to_owned()), 5)
            .await
            .unwrap()
            .is_empty()
    );
    index.drop_collection(&docs()).await.unwrap();
    assert!(words(index, "dog").await.is_empty());
}

pub(crate) async fn keyword_takes_any_text_as_words(index: &dyn ChunkIndex) {
    index
        .apply(
            &docs(),
            vec![add(
                1,
                "c",
                &[],
                "error code: E0277 AND text:secret (really)",
            )],
        )
        .await
        .unwrap();
    for query in [
        "\"",
        "text:\"e0277",
        "AND OR NOT (",
        "+-*?~^ e0277 [TO}",
        "",
        "\u{0}",
        "e0277'; DROP TABLE chunks",
    ] {
        let found = words(index, query).await;
        assert_eq!(
            found,
            if query.contains("e0277") {
                vec!["c"]
            } else {
                vec![]
            },
            "{query}"
        );
    }
    let long = "e0277 filler ".repeat(100_000);
    assert_eq!(words(index, &long).await, ["c"]);
    let hits = index
        .search(&docs(), IndexQuery::Keyword("e0277".to_owned()), usize::MAX)
        .await
        .unwrap();
    assert_eq!(hits.len(), 1);
}

pub(crate) async fn keyword_follows_changes(index: &dyn ChunkIndex) {
    index
        .apply(
            &docs(),
            vec![add(1, "a", &[], "apple"), add(2, "b", &[], "banana")],
        )
        .await
        .unwrap();
    index
        .apply(&docs(), vec![remove(3, "a"), add(4, "b", &[], "blueberry")])
        .await
        .unwrap();
    assert!(words(index, "apple banana").await.is_empty());
    assert_eq!(words(index, "blueberry").await, ["b"]);
    index
        .apply(&docs(), vec![add(1, "a", &[], "apple")])
        .await
        .unwrap();
    assert!(
        words(index, "apple").await.is_empty(),
        "a late replay revives nothing"
    );
    for seq in 5..40 {
        index
            .apply(&docs(), vec![add(seq, "c", &[], &format!("version{seq}"))])
            .await
            .unwrap();
    }
    assert_eq!(words(index, "version39 version38").await, ["c"]);
    assert!(words(index, "version38").await.is_empty());
}
