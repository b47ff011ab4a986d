//! HTTP/1.1 over a child's socket or port, each connection driven by the task that uses it.
//!
//! Of HTTP a child needs little: one request at a time, whole, and an answer that is read as it comes. A client library
//! for all of HTTP hands every request and every piece of an answer from one task or state machine to another, for a
//! seventh of what a request cost. Here the caller's task moves the bytes itself.

mod message;
mod socket;

use std::{
    io,
    net::SocketAddr,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
};

use bytes::Bytes;
use fusion_types::{Class, engine::CLASS_HEADER};
use http::{Method, StatusCode};
use tokio::runtime;

use self::{
    message::{Framing, Head, Malformed, Piece, Received},
    socket::Socket,
};

/// Idle connections that are kept.
const MOST_IDLE: usize = 32;
/// Bytes that are read at once at least, and at most.
const LEAST_READ: usize = 8 << 10;
const MOST_READ: usize = 256 << 10;

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
    socket: Socket,
    received: Received,
}

/// An answer whose head has arrived. Dropped before its end, it closes the connection.
#[derive(Debug)]
pub(crate) struct Response {
    pub(crate) status: StatusCode,
    body: Framing,
    stays: bool,
    /// Until the body has ended.
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
        let request = self.request(class, &method, path, &body);
        let request = request.map_err(io::Error::from)?;
        let mut connection = match self.idle() {
            Some(connection) => connection,
            None => Box::pin(Connection::open(&self.0.address)).await?,
        };
        let head = connection.exchange(&request).await?;
        Ok(Response {
            status: head.status,
            body: head.body,
            stays: head.stays,
            connection: Some(connection),
            wire: self.clone(),
        })
    }

    fn request(
        &self,
        class: Option<Class>,
        method: &Method,
        path: &str,
        body: &[u8],
    ) -> Result<Vec<u8>, Malformed> {
        const JSON: (&str, &str) = ("content-type", "application/json");
        match (&self.0.address, class) {
            // The host is never looked at: the socket is the address.
            (Address::Socket(_), None) => {
                message::request(method, path, &[("host", "engine"), JSON], body)
            }
            (Address::Socket(_), Some(class)) => {
                let class = (CLASS_HEADER, class.as_str());
                message::request(method, path, &[("host", "engine"), JSON, class], body)
            }
            (Address::Port(address), _) => {
                let (host, close) = (address.to_string(), ("connection", "close"));
                message::request(method, path, &[("host", &host), JSON, close], body)
            }
        }
    }

    fn idle(&self) -> Option<Connection> {
        let mut idle = self.0.idle.lock().unwrap_or_else(PoisonError::into_inner);
        let here = runtime::Handle::current().id();
        let index = idle
            .iter()
            .rposition(|connection| connection.home == here)?;
        Some(idle.swap_remove(index))
    }

    fn keep(&self, connection: Connection) {
        let mut idle = self.0.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < MOST_IDLE {
            idle.push(connection);
        }
    }
}

impl Connection {
    async fn open(address: &Address) -> io::Result<Self> {
        Ok(Self {
            home: runtime::Handle::current().id(),
            socket: Socket::connect(address).await?,
            received: Received::default(),
        })
    }

    /// Sends a request and reads the head of its answer.
    async fn exchange(&mut self, request: &[u8]) -> Result<Head, WireError> {
        let Self {
            socket, received, ..
        } = self;
        let written = async {
            // A child may refuse before it has read all, so that the answer tells and not whether it took everything.
            let _ = socket.write(request).await;
            std::future::pending().await
        };
        tokio::select! {
            biased;
            never = written => never,
            answered = answered(socket, received) => answered,
        }
    }
}

async fn answered(socket: &Socket, received: &mut Received) -> Result<Head, WireError> {
    loop {
        if read(socket, received).await? == 0 {
            return Err(closed());
        }
        if let Some(head) = Head::read(received).map_err(io::Error::from)? {
            return Ok(head);
        }
    }
}

/// Reads what has come, and waits for it where nothing has; 0 at the end.
async fn read(socket: &Socket, received: &mut Received) -> io::Result<usize> {
    let mut room = received.bytes.capacity();
    // More comes than was read at once.
    if received.bytes.len() == room {
        room *= 2;
    }
    received.make_room(room.clamp(LEAST_READ, MOST_READ));
    socket.read(&mut received.bytes).await
}

impl Response {
    /// The next piece of the body; `None` at its end.
    ///
    /// # Errors
    /// When the child breaks off.
    pub(crate) async fn chunk(&mut self) -> Result<Option<Bytes>, WireError> {
        let Some(connection) = &mut self.connection else {
            return Ok(None);
        };
        loop {
            let received = &mut connection.received;
            match self.body.next(received).map_err(io::Error::from)? {
                Piece::Data(data) => return Ok(Some(data)),
                Piece::End => break,
                Piece::More => match read(&connection.socket, received).await? {
                    0 if self.body == Framing::Close => break,
                    0 => return Err(closed()),
                    _ => {}
                },
            }
        }
        self.end();
        Ok(None)
    }

    /// Read to its end, the connection can be used again.
    fn end(&mut self) {
        if let Some(mut connection) = self.connection.take()
            && self.stays
            && connection.received.rest().is_empty()
        {
            // What a large answer took isn't kept for small ones.
            if connection.received.bytes.capacity() > LEAST_READ {
                connection.received = Received::default();
            }
            self.wire.keep(connection);
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
        let mut whole = [first, second].concat();
        while let Some(more) = self.chunk().await? {
            whole.extend_from_slice(&more);
        }
        Ok(whole.into())
    }
}

impl From<Malformed> for io::Error {
    fn from(Malformed(what): Malformed) -> Self {
        Self::new(io::ErrorKind::InvalidData, format!("not HTTP: {what}"))
    }
}

fn closed() -> WireError {
    io::Error::from(io::ErrorKind::UnexpectedEof).into()
}
