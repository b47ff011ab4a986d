//! `/api/rag`: documents in, answers with sources out.

use axum::{
    Json,
    extract::{FromRequest, Multipart, Request, State, multipart::Field},
    http::{StatusCode, header},
    response::{IntoResponse, Response, Sse, sse::Event},
};
use fusion_orchestrator::rag::{
    Content, CreateCollection, DeletedDocument, DocumentAnswer, DocumentList, IngestDocument,
    IngestReport, IngestRequest, QueryEvent, QueryRequest, SearchAnswer, SearchRequest,
};
use fusion_types::{
    Class, Error, ErrorCode, Result, document::Collection, error::ErrorBody, id::DocumentId, json,
};
use futures::{StreamExt, stream::BoxStream};
use serde::Deserialize;
use serde_json::{Value, json as object};
use tokio::time::timeout;

use super::{
    Answer, App, Caller, JsonBody, PathParams, QueryParams,
    answer::{SILENCE, read_body, silent, too_large},
    window::WindowParams,
};

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct IngestParams {
    r#async: bool,
}

/// Takes JSON or a multipart form.
pub(crate) async fn ingest(
    State(app): State<App>,
    Caller(call): Caller,
    QueryParams(params): QueryParams<IngestParams>,
    request: Request,
) -> Answer<Json<IngestReport>> {
    if params.r#async {
        let instead = Error::not_implemented(
            "an asynchronous ingest; submit a job with operation \"rag_ingest\": it",
        );
        return Err(instead.with_param("async").into());
    }
    let content_type = request
        .headers()
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok());
    let request = if content_type.is_some_and(|kind| kind.starts_with("multipart/form-data")) {
        let limit = app.limits.max_upload;
        let form = Multipart::from_request(request, &app).await;
        let form = form.map_err(|error| Error::new(ErrorCode::InvalidValue, error.body_text()))?;
        read_form(form, limit).await?
    } else {
        json::parse(&read_body(request.into_body(), app.limits.max_body).await?)?
    };
    let call = call.with_class(Class::Ingest);
    Ok(Json(app.rag.ingest(&call, request, |_| {}).await?))
}

/// A form's fields become the JSON request's, its files the documents.
async fn read_form(mut form: Multipart, limit: usize) -> Result<IngestRequest> {
    let mut fields = serde_json::Map::new();
    let mut documents = Vec::new();
    let mut document_id = None;
    let mut room = limit;
    while let Some(field) = timeout(SILENCE, form.next_field())
        .await
        .map_err(|_| silent())?
        .map_err(broken_form)?
    {
        let name = field.name().unwrap_or_default().to_owned();
        let filename = field.file_name().map(str::to_owned);
        let bytes = read_field(field, &mut room, limit).await?;
        match (name.as_str(), filename) {
            ("files" | "files[]" | "file", filename) => {
                let metadata = serde_json::Map::new();
                documents.push(IngestDocument {
                    id: None,
                    filename,
                    content: Content::Bytes(bytes),
                    metadata,
                });
            }
            ("document_id", _) => document_id = Some(field_text(&name, bytes)?),
            (_, _) => {
                let value = field_value(&name, field_text(&name, bytes)?)?;
                fields.insert(name, value);
            }
        }
    }
    if let Some(id) = document_id {
        let [document] = documents.as_mut_slice() else {
            return Err(Error::invalid(
                "document_id",
                "document_id: goes with exactly one file",
            ));
        };
        document.id = Some(id);
    }
    if documents.is_empty() {
        return Err(
            Error::new(ErrorCode::MissingField, "files: there is no file").with_param("files"),
        );
    }
    fields.insert("documents".to_owned(), Value::Array(Vec::new()));
    let request: IngestRequest = json::parse_value(Value::Object(fields))?;
    Ok(IngestRequest {
        documents,
        ..request
    })
}

/// A form knows only text: the fields that are numbers or objects are read as JSON.
fn field_value(name: &str, text: String) -> Result<Value> {
    match name {
        "chunk_size" | "overlap" | "metadata" => serde_json::from_str(&text).map_err(|error| {
            Error::invalid(name, format!("{name}: is not what it should be: {error}"))
        }),
        _ => Ok(Value::String(text)),
    }
}

fn field_text(name: &str, bytes: Vec<u8>) -> Result<String> {
    String::from_utf8(bytes)
        .map_err(|_| Error::invalid(name, format!("{name}: is not valid UTF-8")))
}

async fn read_field(mut field: Field<'_>, room: &mut usize, limit: usize) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    while let Some(piece) = timeout(SILENCE, field.chunk())
        .await
        .map_err(|_| silent())?
        .map_err(broken_form)?
    {
        *room = room
            .checked_sub(piece.len())
            .ok_or_else(|| too_large(limit))?;
        bytes.extend_from_slice(&piece);
    }
    Ok(bytes)
}

#[expect(
    clippy::needless_pass_by_value,
    reason = "the form in which `map_err` calls it"
)]
fn broken_form(error: axum::extract::multipart::MultipartError) -> Error {
    Error::new(
        ErrorCode::InvalidValue,
        format!("the form can't be read: {}", error.body_text()),
    )
}

pub(crate) async fn query(
    State(App { rag, .. }): State<App>,
    Caller(call): Caller,
    JsonBody(request): JsonBody<QueryRequest>,
) -> Answer<Response> {
    if request.stream {
        return Ok(stream(rag.query_stream(&call, request).await?));
    }
    Ok(Json(rag.query(&call, request).await?).into_response())
}

/// Events `sources`, `delta`, `citations`, `done`; an error ends the stream as an event `error`.
fn stream(events: BoxStream<'static, Result<QueryEvent>>) -> Response {
    let events = events.map(|event| match event {
        Ok(event) => Event::default().event(event.name()).json_data(event),
        Err(error) => Event::default()
            .event("error")
            .json_data(ErrorBody::from(&error)),
    });
    Sse::new(events).into_response()
}

pub(crate) async fn search(
    State(App { rag, .. }): State<App>,
    Caller(call): Caller,
    JsonBody(request): JsonBody<SearchRequest>,
) -> Answer<Json<SearchAnswer>> {
    Ok(Json(rag.search(&call, request).await?))
}

pub(crate) async fn collections(
    State(App { rag, .. }): State<App>,
    Caller(call): Caller,
    QueryParams(params): QueryParams<WindowParams>,
) -> Answer<Json<Value>> {
    let window = params.window()?;
    let page = rag.collections(&call, window).await?;
    let (limit, offset) = (window.limit, window.offset);
    Ok(Json(
        object!({ "collections": page.items, "total": page.total, "limit": limit, "offset": offset }),
    ))
}

pub(crate) async fn collection(
    State(App { rag, .. }): State<App>,
    Caller(call): Caller,
    PathParams(name): PathParams<String>,
) -> Answer<Json<Collection>> {
    Ok(Json(rag.collection(&call, &name).await?))
}

pub(crate) async fn create_collection(
    State(App { rag, .. }): State<App>,
    Caller(call): Caller,
    JsonBody(request): JsonBody<CreateCollection>,
) -> Answer<(StatusCode, Json<Collection>)> {
    Ok((
        StatusCode::CREATED,
        Json(rag.create_collection(&call, request).await?),
    ))
}

pub(crate) async fn delete_collection(
    State(App { rag, .. }): State<App>,
    Caller(call): Caller,
    PathParams(name): PathParams<String>,
) -> Answer<Json<Value>> {
    rag.delete_collection(&call, &name).await?;
    Ok(Json(object!({ "name": name, "status": "deleted" })))
}

pub(crate) async fn documents(
    State(App { rag, .. }): State<App>,
    Caller(call): Caller,
    PathParams(collection): PathParams<String>,
    QueryParams(params): QueryParams<WindowParams>,
) -> Answer<Json<DocumentList>> {
    Ok(Json(
        rag.documents(&call, &collection, params.window()?).await?,
    ))
}

pub(crate) async fn document(
    State(App { rag, .. }): State<App>,
    Caller(call): Caller,
    PathParams((collection, id)): PathParams<(String, String)>,
) -> Answer<Json<DocumentAnswer>> {
    Ok(Json(
        rag.document(&call, &collection, &DocumentId::from_text(&id))
            .await?,
    ))
}

pub(crate) async fn delete_document(
    State(App { rag, .. }): State<App>,
    Caller(call): Caller,
    PathParams((collection, id)): PathParams<(String, String)>,
) -> Answer<Json<DeletedDocument>> {
    Ok(Json(
        rag.delete_document(&call, &collection, &DocumentId::from_text(&id))
            .await?,
    ))
}
