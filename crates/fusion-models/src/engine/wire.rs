//! HTTP/1.1 over a child's socket or port, each connection driven by the task that uses it.
//!
//! A client library hands every connection to a task of its own, and every request and piece of an answer then crosses
//! between two tasks. Here nobody else is woken: the caller's task moves the bytes itself, which halves the added latency.

use std::{
    future::poll_fn,
    io,
    net::SocketAddr,
    path::PathBuf,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
};

use bytes::{Bytes, BytesMut};
use fusion_types::{Class, engine::CLASS_HEADER};
use http_body_util::Full;
use hyper::{
    Method, Request, StatusCode,
    body::{Body, Incoming},
    client::conn::http1::{self, SendRequest},
    header,
};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpStream, UnixStream},
    runtime,
};

/// Idle connections that are kept.
const MOST_IDLE: usize = 32;

/// Why an exchange failed; what it means is known by the child's end.
pub(crate) type WireError = Box<dyn std::error::Error + Send + Sync>;

/// Connections to one child. Clones are the same one.
#[derive(Clone, Debug)]
pub(crate) struct Wire(Arc<Shared>);

/// Where a child listens.
#[derive(Clone, Debug)]
pub(crate) enum Address {
    Socket(PathBuf),
    /// A foreign engine's: it may close a connection between two requests, so that each has one of its own.
    Port(SocketAddr),
}

#[derive(Debug)]
struct Shared {
    address: Address,
    idle: Mutex<Vec<Connection>>,
}

#[derive(Debug)]
struct Connection {
    /// Whose events drive it. Elsewhere it would work as well, and wake two threads for each event.
    home: runtime::Id,
    sender: SendRequest<Full<Bytes>>,
    /// Moves bytes while it is polled, and only then.
    driver: Pin<Box<http1::Connection<TokioIo<Stream>, Full<Bytes>>>>,
}

/// An answer whose head has arrived. Dropped before its end, it closes the connection.
#[derive(Debug)]
pub(crate) struct Response {
    pub(crate) status: StatusCode,
    body: Incoming,
    connection: Option<Connection>,
    wire: Wire,
}

impl Wire {
    pub(crate) fn new(address: Address) -> Self {
        Self(Arc::new(Shared {
            address,
            idle: Mutex::default(),
        }))
    }

    /// # Errors
    /// When the child can't be reached or breaks the exchange off before the head of its answer.
    pub(crate) async fn send(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<Response, WireError> {
        self.send_as(None, method, path, body).await
    }

    /// The same for somebody: the engine orders by class what it does side by side.
    ///
    /// # Errors
    /// As for [`Wire::send`].
    pub(crate) async fn send_as(
        &self,
        class: Option<Class>,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<Response, WireError> {
        let mut connection = match self.idle() {
            Some(connection) => connection,
            None => Connection::open(&self.0.address).await?,
        };
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::CONTENT_TYPE, "application/json");
        request = match &self.0.address {
            // The host is never looked at: the socket is the address.
            Address::Socket(_) => request.header(header::HOST, "engine"),
            Address::Port(address) => request
                .header(header::HOST, address.to_string())
                .header(header::CONNECTION, "close"),
        };
        if let Some(class) = class {
            request = request.header(CLASS_HEADER, class.as_str());
        }
        let request = request.body(Full::new(body))?;
        let answer = connection.sender.send_request(request);
        let (head, body) = connection.driver.drive(answer).await?.into_parts();
        Ok(Response {
            status: head.status,
            body,
            connection: Some(connection),
            wire: self.clone(),
        })
    }

    fn idle(&self) -> Option<Connection> {
        let mut idle = self.0.idle.lock().unwrap_or_else(PoisonError::into_inner);
        let here = runtime::Handle::current().id();
        loop {
            let index = idle
                .iter()
                .rposition(|connection| connection.home == here)?;
            let connection = idle.swap_remove(index);
            if connection.sender.is_ready() {
                return Some(connection);
            }
        }
    }

    fn keep(&self, connection: Connection) {
        let mut idle = self.0.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < MOST_IDLE {
            idle.push(connection);
        }
    }
}

impl Connection {
    async fn open(address: &Address) -> Result<Self, WireError> {
        let stream = match address {
            Address::Socket(path) => Stream::Socket(UnixStream::connect(path).await?),
            Address::Port(address) => {
                let stream = TcpStream::connect(address).await?;
                stream.set_nodelay(true)?;
                Stream::Port(stream)
            }
        };
        let (sender, driver) = http1::handshake(TokioIo::new(stream)).await?;
        let mut connection = Self {
            home: runtime::Handle::current().id(),
            sender,
            driver: Box::pin(driver),
        };
        let Self { sender, driver, .. } = &mut connection;
        driver.drive(sender.ready()).await?;
        Ok(connection)
    }
}

/// Either kind of connection.
#[derive(Debug)]
enum Stream {
    Socket(UnixStream),
    Port(TcpStream),
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Socket(stream) => Pin::new(stream).poll_read(cx, buffer),
            Self::Port(stream) => Pin::new(stream).poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Socket(stream) => Pin::new(stream).poll_write(cx, bytes),
            Self::Port(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Socket(stream) => Pin::new(stream).poll_write_vectored(cx, parts),
            Self::Port(stream) => Pin::new(stream).poll_write_vectored(cx, parts),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Socket(stream) => Pin::new(stream).poll_flush(cx),
            Self::Port(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Socket(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Port(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

/// Polls a connection beside what waits for it.
trait Drive {
    async fn drive<T, E>(
        &mut self,
        waiting: impl Future<Output = Result<T, E>>,
    ) -> Result<T, WireError>
    where
        E: Into<WireError>;
}

impl Drive for Pin<Box<http1::Connection<TokioIo<Stream>, Full<Bytes>>>> {
    async fn drive<T, E>(
        &mut self,
        waiting: impl Future<Output = Result<T, E>>,
    ) -> Result<T, WireError>
    where
        E: Into<WireError>,
    {
        let mut waiting = std::pin::pin!(waiting);
        poll_fn(|cx| {
            let ended = self.as_mut().poll(cx);
            if let Poll::Ready(answer) = waiting.as_mut().poll(cx) {
                return Poll::Ready(answer.map_err(Into::into));
            }
            match ended {
                Poll::Ready(Err(error)) => Poll::Ready(Err(error.into())),
                Poll::Ready(Ok(())) => Poll::Ready(Err(closed())),
                Poll::Pending => Poll::Pending,
            }
        })
        .await
    }
}

impl Response {
    /// The next piece of the body; `None` at its end.
    ///
    /// # Errors
    /// When the child breaks off.
    pub(crate) async fn chunk(&mut self) -> Result<Option<Bytes>, WireError> {
        loop {
            match poll_fn(|cx| self.poll_frame(cx)).await {
                None => {
                    self.give_back().await;
                    return Ok(None);
                }
                Some(Err(error)) => return Err(error),
                Some(Ok(frame)) => {
                    if let Some(data) = frame {
                        return Ok(Some(data));
                    }
                }
            }
        }
    }

    /// The whole body.
    ///
    /// # Errors
    /// When the child breaks off.
    pub(crate) async fn bytes(mut self) -> Result<Bytes, WireError> {
        let Some(first) = self.chunk().await? else {
            return Ok(Bytes::new());
        };
        let Some(second) = self.chunk().await? else {
            return Ok(first);
        };
        let mut whole = BytesMut::from(first);
        whole.extend_from_slice(&second);
        while let Some(more) = self.chunk().await? {
            whole.extend_from_slice(&more);
        }
        Ok(whole.freeze())
    }

    fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Option<Bytes>, WireError>>> {
        let ended = match &mut self.connection {
            Some(connection) => connection.driver.as_mut().poll(cx),
            None => return Poll::Ready(None),
        };
        match Pin::new(&mut self.body).poll_frame(cx) {
            Poll::Ready(frame) => Poll::Ready(frame.map(|frame| {
                frame
                    .map(|frame| frame.into_data().ok())
                    .map_err(Into::into)
            })),
            Poll::Pending if ended.is_ready() => Poll::Ready(Some(Err(closed()))),
            Poll::Pending => Poll::Pending,
        }
    }

    /// Read to its end, the connection can be used again.
    async fn give_back(&mut self) {
        let Some(mut connection) = self.connection.take() else {
            return;
        };
        let Connection { sender, driver, .. } = &mut connection;
        if driver.drive(sender.ready()).await.is_ok() {
            self.wire.keep(connection);
        }
    }
}

fn closed() -> WireError {
    io::Error::from(io::ErrorKind::UnexpectedEof).into()
}
