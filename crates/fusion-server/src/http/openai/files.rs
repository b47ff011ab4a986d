//! `/v1/files`: what batches read and write. An upload streams to disk as it comes.

use std::time::Duration;

use axum::{
    Json,
    body::Body,
    extract::{FromRequest, Multipart, Request, State, multipart::Field},
    http::{HeaderMap, HeaderValue, header},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use fusion_orchestrator::files::{
    DeletedFile, FileView, Files, ListFiles, Listed, NewFile, Upload,
};
use fusion_types::{Error, ErrorCode, Result, id::FileId};
use futures::{StreamExt, stream};
use tokio::time::timeout;

use super::super::{
    Answer, App, Caller, PathParams, QueryParams,
    answer::{SILENCE, silent, too_large},
};

/// The whole upload; what ends later is not waited for.
const LONGEST_UPLOAD: Duration = Duration::from_secs(3600);
/// Of a field that isn't the file.
const LONGEST_FIELD: usize = 4096;

pub(crate) async fn create(
    State(app): State<App>,
    Caller(call): Caller,
    request: Request,
) -> Answer<Json<FileView>> {
    let limit = app.limits.max_upload;
    let form = Multipart::from_request(request, &app).await;
    let form = form.map_err(|error| Error::new(ErrorCode::InvalidValue, error.body_text()))?;
    let mut upload = None;
    let read = timeout(
        LONGEST_UPLOAD,
        read_form(&app.files, form, &mut upload, limit),
    );
    let read = read.await.unwrap_or_else(|_| Err(silent()));
    match (read, upload) {
        (Ok(new), Some(upload)) => Ok(Json(app.files.create(&call, upload, new).await?)),
        (Ok(_), None) => {
            let error = Error::new(ErrorCode::MissingField, "file: there is no file");
            Err(error.with_param("file").into())
        }
        (Err(error), upload) => {
            if let Some(upload) = upload {
                app.files.discard(upload).await;
            }
            Err(error.into())
        }
    }
}

/// Fields come in any order, so that the file is kept before it is known what it is for.
async fn read_form(
    files: &Files,
    mut form: Multipart,
    upload: &mut Option<Upload>,
    limit: usize,
) -> Result<NewFile> {
    let mut new = NewFile::default();
    while let Some(field) = timeout(SILENCE, form.next_field())
        .await
        .map_err(|_| silent())?
        .map_err(broken_form)?
    {
        match field.name().unwrap_or_default() {
            "file" if upload.is_some() => {
                return Err(Error::invalid("file", "file: there must be one"));
            }
            "file" => {
                field
                    .file_name()
                    .unwrap_or("file")
                    .clone_into(&mut new.filename);
                *upload = Some(files.upload(pieces(field, limit).boxed()).await?);
            }
            "purpose" => new.purpose = text(field).await?,
            "expires_after[seconds]" => {
                let seconds = text(field).await?;
                let seconds = seconds.parse().map_err(|_| {
                    Error::invalid("expires_after", "expires_after: seconds must be a number")
                })?;
                new.expires_after_seconds = Some(seconds);
            }
            "expires_after[anchor]" => {
                if text(field).await? != "created_at" {
                    let message = "expires_after: the only anchor is created_at";
                    return Err(Error::invalid("expires_after", message));
                }
            }
            // As everywhere in this dialect, what isn't known is passed over.
            _ => {}
        }
    }
    Ok(new)
}

/// A field's bytes. One that is too large is read on for a while and thrown away, so that the client gets to see the answer.
fn pieces(field: Field<'_>, limit: usize) -> impl futures::Stream<Item = Result<Bytes>> + Send {
    stream::try_unfold((field, 0_usize), move |(mut field, mut read)| async move {
        loop {
            let piece = timeout(SILENCE, field.chunk())
                .await
                .map_err(|_| silent())?
                .map_err(broken_form)?;
            let Some(piece) = piece else {
                return match read > limit {
                    true => Err(too_large(limit)),
                    false => Ok(None),
                };
            };
            read = read.saturating_add(piece.len());
            if read <= limit {
                return Ok(Some((piece, (field, read))));
            }
            if read > limit.saturating_mul(2) {
                return Err(too_large(limit));
            }
        }
    })
}

async fn text(field: Field<'_>) -> Result<String> {
    let name = field.name().unwrap_or_default().to_owned();
    let mut bytes = Vec::new();
    let mut pieces = Box::pin(pieces(field, LONGEST_FIELD));
    while let Some(piece) = pieces.next().await {
        let piece = piece.map_err(|error| match error.code {
            ErrorCode::FileTooLarge => Error::invalid(&name, format!("{name}: is too long")),
            _ => error,
        })?;
        bytes.extend_from_slice(&piece);
    }
    String::from_utf8(bytes)
        .map_err(|_| Error::invalid(&name, format!("{name}: is not valid UTF-8")))
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

pub(crate) async fn list(
    State(App { files, .. }): State<App>,
    Caller(call): Caller,
    QueryParams(params): QueryParams<ListFiles>,
) -> Answer<Json<Listed<FileView>>> {
    Ok(Json(files.list(&call, params).await?))
}

pub(crate) async fn get(
    State(App { files, .. }): State<App>,
    Caller(call): Caller,
    PathParams(id): PathParams<String>,
) -> Answer<Json<FileView>> {
    Ok(Json(files.get(&call, &FileId::from_text(&id)).await?))
}

pub(crate) async fn content(
    State(App { files, .. }): State<App>,
    Caller(call): Caller,
    PathParams(id): PathParams<String>,
) -> Answer<Response> {
    let (file, bytes) = files.content(&call, &FileId::from_text(&id)).await?;
    let mut headers = HeaderMap::new();
    let kind = HeaderValue::from_static("application/octet-stream");
    headers.insert(header::CONTENT_TYPE, kind);
    headers.insert(header::CONTENT_LENGTH, HeaderValue::from(file.bytes));
    Ok((headers, Body::from_stream(bytes)).into_response())
}

pub(crate) async fn delete(
    State(App { files, .. }): State<App>,
    Caller(call): Caller,
    PathParams(id): PathParams<String>,
) -> Answer<Json<DeletedFile>> {
    Ok(Json(files.delete(&call, &FileId::from_text(&id)).await?))
}
