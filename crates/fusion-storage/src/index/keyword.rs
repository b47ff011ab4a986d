//! BM25 over stemmed English words, in memory.

use std::{
    collections::BTreeSet,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use async_trait::async_trait;
use fusion_types::{
    Error, Result,
    document::{CollectionRef, Hit, IndexChange, IndexChangeKind, IndexQuery},
    id::ChunkId,
    job::Seq,
    store::ChunkIndex,
};
use tantivy::{
    Index, IndexReader, IndexSettings, IndexWriter, ReloadPolicy, TantivyDocument, Term,
    collector::TopDocs,
    index::IndexBuilder,
    indexer::IndexWriterOptions,
    query::BooleanQuery,
    schema::{
        Field, IndexRecordOption, STORED, STRING, Schema, TextFieldIndexing, TextOptions, Value,
    },
    tokenizer::{
        Language, LowerCaser, RemoveLongFilter, SimpleTokenizer, Stemmer, StopWordFilter,
        TextAnalyzer, TokenizerManager,
    },
};

use super::{Shelves, blocking, unsupported};
use crate::error::StoreError;

const ANALYZER: &str = "english";
/// Longer words, in bytes, are no words.
const LONGEST_WORD: usize = 64;
/// Different words of a query that are looked for.
const MOST_WORDS: usize = 256;
/// The least that tantivy takes; it is held while changes are applied, and at no other time.
const WRITER_BYTES: usize = 15_000_000;

#[derive(Default)]
pub(crate) struct KeywordIndex {
    shelves: Shelves<Shelf>,
}

/// A collection's words: of each collection on its own, since BM25 weighs a word by how rare it is there.
struct Shelf {
    index: Index,
    reader: IndexReader,
    chunk_id: Field,
    text: Field,
    upto: AtomicU64,
    writing: Mutex<()>,
}

#[async_trait]
impl ChunkIndex for KeywordIndex {
    async fn upto(&self, collection: &CollectionRef) -> Result<Seq> {
        Ok(self
            .shelves
            .get(collection)
            .map(|shelf| shelf.upto())
            .unwrap_or_default())
    }

    async fn apply(&self, collection: &CollectionRef, changes: Vec<IndexChange>) -> Result<Seq> {
        if changes.is_empty() {
            return self.upto(collection).await;
        }
        let shelf = self.shelves.get_or_make(collection, || Ok(Shelf::new()?))?;
        blocking(move || Ok(shelf.apply(changes)?)).await
    }

    async fn search(
        &self,
        collection: &CollectionRef,
        query: IndexQuery,
        k: usize,
    ) -> Result<Vec<Hit>> {
        let IndexQuery::Keyword(query) = query else {
            return Err(unsupported("keyword", "dense"));
        };
        let Some(shelf) = self.shelves.get(collection) else {
            return Ok(Vec::new());
        };
        blocking(move || Ok(shelf.search(&query, k)?)).await
    }

    async fn drop_collection(&self, collection: &CollectionRef) -> Result<()> {
        self.shelves.remove(collection);
        Ok(())
    }
}

impl Shelf {
    fn new() -> Result<Self, StoreError> {
        let mut schema = Schema::builder();
        let chunk_id = schema.add_text_field("chunk_id", STRING | STORED);
        let words = TextFieldIndexing::default()
            .set_tokenizer(ANALYZER)
            .set_index_option(IndexRecordOption::WithFreqs);
        let text =
            schema.add_text_field("text", TextOptions::default().set_indexing_options(words));
        let tokenizers = TokenizerManager::default();
        tokenizers.register(ANALYZER, analyzer()?);
        let index = IndexBuilder::new()
            .schema(schema.build())
            .settings(IndexSettings::default())
            .tokenizers(tokenizers)
            .create_in_ram()?;
        let reader = index
            .reader_builder()
            .reload_policy(ReloadPolicy::Manual)
            .try_into()?;
        Ok(Self {
            index,
            reader,
            chunk_id,
            text,
            upto: AtomicU64::new(0),
            writing: Mutex::new(()),
        })
    }

    fn upto(&self) -> Seq {
        Seq(self.upto.load(Ordering::Acquire))
    }

    /// Searches see the changes when this returns. Changes that were seen before are skipped: two callers may bring the same.
    fn apply(&self, mut changes: Vec<IndexChange>) -> Result<Seq, StoreError> {
        let _writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let seen = self.upto();
        changes.retain(|change| change.seq > seen);
        let Some(last) = changes.last().map(|change| change.seq) else {
            return Ok(seen);
        };
        let options = IndexWriterOptions::builder()
            .num_worker_threads(1)
            .num_merge_threads(1)
            .memory_budget_per_thread(WRITER_BYTES)
            .build();
        let mut writer: IndexWriter = self.index.writer_with_options(options)?;
        for change in changes {
            self.write(&writer, &change.kind)?;
        }
        writer.commit()?;
        writer.wait_merging_threads()?;
        self.reader.reload()?;
        self.upto.store(last.0, Ordering::Release);
        Ok(last)
    }

    /// An Add takes the place of what was there under its id, so that a replay doubles nothing.
    fn write(&self, writer: &IndexWriter, change: &IndexChangeKind) -> Result<(), StoreError> {
        let (IndexChangeKind::Add { chunk_id, .. } | IndexChangeKind::Remove { chunk_id }) =
            &change;
        writer.delete_term(Term::from_field_text(self.chunk_id, chunk_id.as_str()));
        if let IndexChangeKind::Add { chunk_id, text, .. } = change {
            let mut document = TantivyDocument::default();
            document.add_text(self.chunk_id, chunk_id.as_str());
            document.add_text(self.text, text);
            writer.add_document(document)?;
        }
        Ok(())
    }

    /// The query is plain words, any of which may occur: there is no syntax in it.
    fn search(&self, query: &str, k: usize) -> Result<Vec<Hit>, StoreError> {
        let searcher = self.reader.searcher();
        let terms = self.terms(query)?;
        let k = k.min(usize::try_from(searcher.num_docs()).unwrap_or(usize::MAX));
        if terms.is_empty() || k == 0 {
            return Ok(Vec::new());
        }
        let query = BooleanQuery::new_multiterms_query(terms);
        let found = searcher.search(&query, &TopDocs::with_limit(k).order_by_score())?;
        let hit = |(score, address)| {
            let document: TantivyDocument = searcher.doc(address)?;
            let id = document
                .get_first(self.chunk_id)
                .and_then(|value| value.as_str());
            let id = id.ok_or_else(|| Error::internal("a search index has lost an id"))?;
            Ok(Hit {
                chunk_id: ChunkId::from_text(id),
                score,
            })
        };
        found.into_iter().map(hit).collect()
    }

    fn terms(&self, query: &str) -> Result<Vec<Term>, StoreError> {
        let mut analyzer = self.index.tokenizer_for_field(self.text)?;
        let mut words = analyzer.token_stream(query);
        let mut terms = BTreeSet::new();
        while terms.len() < MOST_WORDS && words.advance() {
            terms.insert(Term::from_field_text(self.text, &words.token().text));
        }
        Ok(terms.into_iter().collect())
    }
}

fn analyzer() -> Result<TextAnalyzer, Error> {
    let stop_words = StopWordFilter::new(Language::English);
    let stop_words =
        stop_words.ok_or_else(|| Error::internal("the keyword index lacks its stop words"))?;
    Ok(TextAnalyzer::builder(SimpleTokenizer::default())
        .filter(RemoveLongFilter::limit(LONGEST_WORD))
        .filter(LowerCaser)
        .filter(stop_words)
        .filter(Stemmer::new(Language::English))
        .build())
}
