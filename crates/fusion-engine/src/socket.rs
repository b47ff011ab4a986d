//! The socket that an engine listens on. Only news of bytes to read wakes its thread: a socket says as well that the other
//! end has read what was sent, which would be a wake-up for nothing with every answer.

use std::{
    io,
    net::Shutdown,
    os::unix::net::UnixStream,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use axum::serve;
use rustix::{
    io::Errno,
    net::{RecvFlags, SendFlags, recv, send},
};
use tokio::{
    io::{AsyncRead, AsyncWrite, Interest, ReadBuf, unix::AsyncFd},
    net::{UnixListener, unix::SocketAddr},
};

/// Between tries where the system has no room for another connection.
const NO_ROOM_PAUSE: Duration = Duration::from_millis(100);
/// Bytes that are read at once, at most.
const MOST_READ: usize = 16 << 10;

pub(crate) struct Listener(pub(crate) UnixListener);

impl serve::Listener for Listener {
    type Io = Connection;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Connection, SocketAddr) {
        loop {
            let accepted = self.0.accept().await;
            match accepted
                .and_then(|(stream, from)| Ok((Connection::new(stream.into_std()?)?, from)))
            {
                Ok(accepted) => return accepted,
                Err(error) => {
                    tracing::warn!(%error, "can't accept a connection");
                    tokio::time::sleep(NO_ROOM_PAUSE).await;
                }
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.0.local_addr()
    }
}

pub(crate) struct Connection {
    stream: AsyncFd<UnixStream>,
    /// What is read comes here first: to clear the reader's own room for it each time costs more than to copy what came.
    received: Box<[u8]>,
    /// Tells when there is room again, once there was none.
    full: Option<AsyncFd<UnixStream>>,
}

impl Connection {
    fn new(stream: UnixStream) -> io::Result<Self> {
        Ok(Self {
            stream: registered(stream, Interest::READABLE)?,
            received: vec![0; MOST_READ].into(),
            full: None,
        })
    }

    fn poll_send(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let stream = self.stream.get_ref();
        loop {
            match send(stream, bytes, SendFlags::empty()) {
                Err(Errno::WOULDBLOCK) => {}
                Err(Errno::INTR) => continue,
                sent => return Poll::Ready(Ok(sent?)),
            }
            let full = match &self.full {
                Some(full) => full,
                None => {
                    let other = registered(stream.try_clone()?, Interest::WRITABLE)?;
                    self.full.insert(other)
                }
            };
            ready!(full.poll_write_ready(cx))?.clear_ready();
        }
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let Self {
            stream, received, ..
        } = self.get_mut();
        let room = buffer.remaining().min(MOST_READ);
        loop {
            let mut ready = ready!(stream.poll_read_ready(cx))?;
            match recv(stream.get_ref(), &mut received[..room], RecvFlags::empty()) {
                Ok((count, _)) => {
                    buffer.put_slice(&received[..count]);
                    // There is no more, which need not be asked for to be known.
                    if count < room {
                        ready.clear_ready();
                    }
                    return Poll::Ready(Ok(()));
                }
                Err(Errno::WOULDBLOCK) => ready.clear_ready(),
                Err(Errno::INTR) => {}
                Err(error) => return Poll::Ready(Err(error.into())),
            }
        }
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.get_mut().poll_send(cx, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(self.stream.get_ref().shutdown(Shutdown::Write))
    }
}

#[expect(
    deprecated,
    reason = "what took its place is unsafe, for descriptors that may be closed meanwhile; a stream's own isn't"
)]
fn registered(stream: UnixStream, interest: Interest) -> io::Result<AsyncFd<UnixStream>> {
    AsyncFd::with_interest(stream, interest)
}
