//! Documents in: text, chunks, vectors, one commit a document.

use std::{
    collections::{HashMap, HashSet},
    time::Instant,
};

use fusion_types::{
    Call, Class, Error, ErrorCode, Result, Timestamp,
    document::{Chunk, Collection, CollectionRef, DocumentVersion, NewChunk, NewCollection},
    id::{ChunkId, DocumentId},
};
use futures::TryStreamExt;
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

use super::{
    Inner,
    chunker::{self, Cutting, Piece},
    embedder::Embedder,
    extract,
    request::{Content, IngestDocument, IngestRequest},
    response::{FailedDocument, IngestReport, IngestStatus},
};

/// Rises when the same text would be cut another way, so that unchanged documents are cut anew.
const CHUNKING: &str = "1";

impl Inner {
    pub(super) async fn ingest(
        &self,
        call: &Call,
        request: IngestRequest,
        progress: &(dyn Fn(f32) + Send + Sync),
    ) -> Result<IngestReport> {
        request.check()?;
        let call = &call.clone().with_class(Class::Ingest);
        let key = CollectionRef {
            tenant: call.tenant.clone(),
            name: request.collection.as_str().into(),
        };
        let existing = self.documents.collection(&key).await?;
        let embedder = self
            .embedder_for(call, existing.as_ref(), request.embedding_model.as_deref())
            .await?;
        let cutting = embedder.cutting(&request);
        let mut report = empty_report(&request, &embedder, cutting);

        let count = request.documents.len();
        let mut seen = HashSet::new();
        let mut ingest = Ingest {
            inner: self,
            call,
            key,
            embedder,
            cutting,
            created: existing.is_some(),
        };
        for (index, document) in request.documents.into_iter().enumerate() {
            call.check_deadline()?;
            let file = name_of(&document, index);
            let within = |part: f32| progress((index as f32 + part) / count as f32);
            let taken = ingest
                .take(document, &request.metadata, &mut seen, &within)
                .await;
            record(&mut report, file, taken)?;
            within(1.0);
        }
        report.status = match (report.document_ids.len(), report.documents_failed.len()) {
            (_, 0) => IngestStatus::Completed,
            (0, _) => IngestStatus::Failed,
            _ => IngestStatus::Partial,
        };
        if report.documents_ingested > 0
            && let Err(error) = self.indexes.catch_up(call, &ingest.key).await
        {
            tracing::warn!(collection = %ingest.key.name, %error, "indexes fell behind; the next search tries again");
        }
        Ok(report)
    }

    /// The collection's own model, or the one asked for if it makes the same vectors.
    async fn embedder_for(
        &self,
        call: &Call,
        collection: Option<&Collection>,
        asked: Option<&str>,
    ) -> Result<Embedder> {
        let own = collection.map(|collection| collection.embedding_model.as_str());
        let embedder = self
            .embedder(call, asked.or(own).unwrap_or(&self.config.embedding_model))
            .await?;
        if let Some(collection) = collection {
            embedder.check_collection(collection)?;
        }
        Ok(embedder)
    }

    /// The collection, made if it isn't there, and bound to this model either way.
    pub(super) async fn bind_collection(
        &self,
        key: &CollectionRef,
        embedder: &Embedder,
        metadata: Map<String, Value>,
    ) -> Result<Collection> {
        let new = NewCollection {
            key: key.clone(),
            embedding_model: embedder.model.to_string(),
            fingerprint: embedder.fingerprint.to_string(),
            dimension: embedder.dimension,
            metadata,
            created_at: Timestamp::now(),
        };
        let collection = self.documents.create_collection(new).await?;
        embedder.check_collection(&collection)?;
        Ok(collection)
    }
}

/// One ingest request at work.
struct Ingest<'a> {
    inner: &'a Inner,
    call: &'a Call,
    key: CollectionRef,
    embedder: Embedder,
    cutting: Cutting,
    created: bool,
}

/// What became of a document.
enum Taken {
    Unchanged(DocumentId),
    Ingested {
        id: DocumentId,
        chunks: u64,
        reused: u64,
        embedding_ms: u64,
    },
}

impl Ingest<'_> {
    async fn take(
        &mut self,
        document: IngestDocument,
        shared: &Map<String, Value>,
        seen: &mut HashSet<DocumentId>,
        progress: &(dyn Fn(f32) + Send + Sync),
    ) -> Result<Taken> {
        let document = self.with_bytes(document).await?;
        let text = extract::text(&document, self.inner.config.most_document_bytes)?;
        let id = document_id(&self.key, &document, &text);
        let is_named = document.id.is_some() || document.filename.is_some();
        if !seen.insert(id.clone()) && is_named {
            return Err(Error::invalid(
                "documents",
                "another document of this request has the same id or name",
            ));
        }
        let mut metadata = shared.clone();
        metadata.extend(document.metadata);
        let filename = document.filename;
        let content_hash = self.content_hash(&text, filename.as_deref(), &metadata);
        if !self.created {
            self.inner
                .bind_collection(&self.key, &self.embedder, Map::new())
                .await?;
            self.created = true;
        }
        let stored = self.inner.documents.document(&self.key, &id).await?;
        if let Some(stored) = &stored
            && stored.info.content_hash == content_hash
        {
            return Ok(Taken::Unchanged(id));
        }

        let (text, pieces) = self.cut(text).await?;
        let vectors = self.vectors(&id, &text, &pieces, progress).await?;
        let (chunks, reused, embedding_ms) =
            (pieces.len() as u64, vectors.reused, vectors.embedding_ms);
        let version = DocumentVersion {
            collection: self.key.clone(),
            document_id: id.clone(),
            filename,
            chunks: new_chunks(
                &text,
                pieces,
                vectors.rows,
                stored.map_or_else(Vec::new, |stored| stored.chunks),
            ),
            text,
            content_hash,
            metadata,
            ingested_at: Timestamp::now(),
            at_least: 0,
        };
        self.inner.documents.commit(version).await?;
        Ok(Taken::Ingested {
            id,
            chunks,
            reused,
            embedding_ms,
        })
    }

    /// With the bytes of the file that it names, and that file's name unless it has its own.
    async fn with_bytes(&self, mut document: IngestDocument) -> Result<IngestDocument> {
        let Content::File(id) = &document.content else {
            return Ok(document);
        };
        let Some(files) = &self.inner.files else {
            return Err(Error::not_implemented("a document by `file_id`"));
        };
        let (file, mut pieces) = files.content(self.call, id).await?;
        let most = self.inner.config.most_document_bytes;
        let size = usize::try_from(file.bytes).unwrap_or(usize::MAX);
        if size > most {
            return Err(extract::too_large(size, most));
        }
        let mut bytes = Vec::with_capacity(size);
        while let Some(piece) = pieces.try_next().await? {
            bytes.extend_from_slice(&piece);
        }
        document.filename.get_or_insert(file.filename);
        document.content = Content::Bytes(bytes);
        Ok(document)
    }

    async fn cut(&self, text: String) -> Result<(String, Vec<Piece>)> {
        let tokens = self
            .inner
            .tokenize(self.call, &self.embedder.model, &text)
            .await?;
        let cutting = self.cutting;
        let cut = move || {
            let pieces = chunker::chunk(&text, &tokens, cutting);
            (text, pieces)
        };
        tokio::task::spawn_blocking(cut)
            .await
            .map_err(|error| Error::internal(format!("cutting a document: {error}")))
    }

    /// One vector a piece: the known ones, and the others made now.
    async fn vectors(
        &self,
        id: &DocumentId,
        text: &str,
        pieces: &[Piece],
        progress: &(dyn Fn(f32) + Send + Sync),
    ) -> Result<PieceVectors> {
        let texts: Vec<&str> = pieces
            .iter()
            .map(|piece| &text[piece.bytes.clone()])
            .collect();
        let mut rows = self
            .inner
            .documents
            .known_vectors(&self.key, id, &texts)
            .await?;
        rows.resize(texts.len(), None);
        let missing: Vec<usize> = (0..rows.len()).filter(|at| rows[*at].is_none()).collect();
        let started = Instant::now();
        let mut done = 0;
        for batch in missing.chunks(self.inner.config.embed_batch.max(1)) {
            self.call.check_deadline()?;
            let input = batch.iter().map(|at| texts[*at].to_owned()).collect();
            let vectors = self
                .inner
                .embed(self.call, &self.embedder.model, input)
                .await?;
            if vectors.fingerprint != self.embedder.fingerprint {
                return Err(self.changed());
            }
            for (at, row) in batch.iter().zip(vectors.rows()) {
                rows[*at] = Some(row.to_vec());
            }
            done += batch.len();
            progress(done as f32 / missing.len() as f32);
        }
        Ok(PieceVectors {
            rows: rows.into_iter().flatten().collect(),
            reused: (texts.len() - missing.len()) as u64,
            embedding_ms: if missing.is_empty() {
                0
            } else {
                millis_since(started)
            },
        })
    }

    /// The model's files were replaced while documents went in.
    fn changed(&self) -> Error {
        let message = format!(
            "the embedding model {} changed during the ingest",
            self.embedder.model
        );
        Error::new(ErrorCode::EmbeddingModelMismatch, message).with_param("embedding_model")
    }

    /// Over everything that decides what is stored, each part with its length.
    fn content_hash(
        &self,
        text: &str,
        filename: Option<&str>,
        metadata: &Map<String, Value>,
    ) -> String {
        let cutting = format!("{CHUNKING} {} {}", self.cutting.size, self.cutting.overlap);
        let metadata = Value::Object(metadata.clone()).to_string();
        hash(&[
            &cutting,
            &self.embedder.fingerprint,
            filename.unwrap_or_default(),
            &metadata,
            text,
        ])
    }
}

struct PieceVectors {
    rows: Vec<Vec<f32>>,
    reused: u64,
    embedding_ms: u64,
}

/// A chunk whose text was in the version before keeps its id, so that no index has to forget it.
fn new_chunks(
    text: &str,
    pieces: Vec<Piece>,
    vectors: Vec<Vec<f32>>,
    before: Vec<Chunk>,
) -> Vec<NewChunk> {
    let mut ids: HashMap<String, Vec<ChunkId>> = HashMap::new();
    for chunk in before.into_iter().rev() {
        ids.entry(chunk.text).or_default().push(chunk.chunk_id);
    }
    let chunk = |(piece, embedding): (Piece, Vec<f32>)| {
        let text = &text[piece.bytes];
        NewChunk {
            id: ids
                .get_mut(text)
                .and_then(Vec::pop)
                .unwrap_or_else(ChunkId::generate),
            text: text.to_owned(),
            char_start: piece.chars.start,
            char_end: piece.chars.end,
            page: None,
            embedding,
        }
    };
    pieces.into_iter().zip(vectors).map(chunk).collect()
}

/// The id given; else one that is the same whenever this file, or this nameless text, comes into the collection again.
fn document_id(key: &CollectionRef, document: &IngestDocument, text: &str) -> DocumentId {
    let (kind, name) = match (&document.id, &document.filename) {
        (Some(id), _) => return DocumentId::from_text(id),
        (None, Some(filename)) => ("file", filename.as_str()),
        (None, None) => ("text", text),
    };
    let digest = hash(&[key.tenant.as_str(), &key.name, kind, name]);
    DocumentId::from_text(&format!("{}{}", DocumentId::PREFIX, &digest[..32]))
}

fn hash(parts: &[&str]) -> String {
    let mut digest = Sha256::new();
    for part in parts {
        digest.update((part.len() as u64).to_le_bytes());
        digest.update(part.as_bytes());
    }
    hex::encode(digest.finalize())
}

fn name_of(document: &IngestDocument, index: usize) -> String {
    let name = document.filename.as_ref().or(document.id.as_ref());
    match (name, &document.content) {
        (Some(name), _) => name.clone(),
        (None, Content::File(id)) => id.to_string(),
        (None, _) => format!("documents[{index}]"),
    }
}

fn empty_report(request: &IngestRequest, embedder: &Embedder, cutting: Cutting) -> IngestReport {
    IngestReport {
        collection: request.collection.clone(),
        documents_ingested: 0,
        documents_unchanged: 0,
        documents_failed: Vec::new(),
        chunks_created: 0,
        chunks_reused: 0,
        embedding_time_ms: 0,
        document_ids: Vec::new(),
        status: IngestStatus::Completed,
        embedding_model: embedder.model.to_string(),
        chunk_size: cutting.size,
        overlap: cutting.overlap,
        chunk_size_requested: (cutting.size != request.chunk_size).then_some(request.chunk_size),
    }
}

/// Counts the document. What isn't the document's own fault ends the ingest.
fn record(report: &mut IngestReport, file: String, taken: Result<Taken>) -> Result<()> {
    match taken {
        Ok(Taken::Unchanged(id)) => {
            report.documents_unchanged += 1;
            report.document_ids.push(id);
        }
        Ok(Taken::Ingested {
            id,
            chunks,
            reused,
            embedding_ms,
        }) => {
            report.documents_ingested += 1;
            report.chunks_created += chunks;
            report.chunks_reused += reused;
            report.embedding_time_ms += embedding_ms;
            report.document_ids.push(id);
        }
        Err(error) if is_the_documents_own(error.code) => {
            report.documents_failed.push(FailedDocument {
                file,
                error: error.message,
                code: error.code,
            });
        }
        Err(error) => return Err(error),
    }
    Ok(())
}

fn is_the_documents_own(code: ErrorCode) -> bool {
    use ErrorCode::{
        ContextLengthExceeded, FileNotFound, FileTooLarge, InvalidValue, UnsupportedFileType,
    };
    matches!(
        code,
        ContextLengthExceeded | FileNotFound | FileTooLarge | InvalidValue | UnsupportedFileType
    )
}

pub(super) fn millis_since(start: Instant) -> u64 {
    u64::try_from(start.elapsed().as_millis()).unwrap_or(u64::MAX)
}
