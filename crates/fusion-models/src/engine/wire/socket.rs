//! A child's socket or port. Only news of bytes to read wakes who waits: a socket says as well that the other end has read
//! what was sent, and each time that would be a wake-up for nothing.

use std::{
    future::poll_fn,
    io,
    os::fd::OwnedFd,
    task::{Context, Poll, ready},
};

use rustix::{
    buffer::spare_capacity,
    io::Errno,
    net::{RecvFlags, SendFlags, recv, send},
};
use tokio::{
    io::{Interest, unix::AsyncFd},
    net::{TcpStream, UnixStream},
};

use super::Address;

#[derive(Debug)]
pub(super) struct Socket(AsyncFd<OwnedFd>);

impl Socket {
    pub(super) async fn connect(address: &Address) -> io::Result<Self> {
        let descriptor: OwnedFd = match address {
            Address::Socket(path) => UnixStream::connect(path).await?.into_std()?.into(),
            Address::Port(address) => {
                let stream = TcpStream::connect(address).await?;
                stream.set_nodelay(true)?;
                stream.into_std()?.into()
            }
        };
        registered(descriptor, Interest::READABLE).map(Self)
    }

    /// Adds what has come to the buffer, as much as it has room for; 0 at the end.
    pub(super) async fn read(&self, buffer: &mut Vec<u8>) -> io::Result<usize> {
        poll_fn(|cx| self.poll_read(cx, buffer)).await
    }

    fn poll_read(&self, cx: &mut Context<'_>, buffer: &mut Vec<u8>) -> Poll<io::Result<usize>> {
        loop {
            let mut ready = ready!(self.0.poll_read_ready(cx))?;
            let room = buffer.capacity() - buffer.len();
            match recv(self.0.get_ref(), spare_capacity(buffer), RecvFlags::empty()) {
                Ok((count, _)) => {
                    // There is no more, which need not be asked for to be known.
                    if count < room {
                        ready.clear_ready();
                    }
                    return Poll::Ready(Ok(count));
                }
                Err(Errno::WOULDBLOCK) => ready.clear_ready(),
                Err(Errno::INTR) => {}
                Err(error) => return Poll::Ready(Err(error.into())),
            }
        }
    }

    pub(super) async fn write(&self, mut bytes: &[u8]) -> io::Result<()> {
        let descriptor = self.0.get_ref();
        let mut full: Option<AsyncFd<OwnedFd>> = None;
        while !bytes.is_empty() {
            match send(descriptor, bytes, SendFlags::empty()) {
                Ok(count) => bytes = &bytes[count..],
                Err(Errno::INTR) => {}
                Err(Errno::WOULDBLOCK) => {
                    let room = match &full {
                        Some(full) => full,
                        None => {
                            let other = descriptor.try_clone()?;
                            full.insert(registered(other, Interest::WRITABLE)?)
                        }
                    };
                    room.writable().await?.clear_ready();
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }
}

#[expect(
    deprecated,
    reason = "what took its place is unsafe, for descriptors that may be closed meanwhile; an owned one isn't"
)]
fn registered(descriptor: OwnedFd, interest: Interest) -> io::Result<AsyncFd<OwnedFd>> {
    AsyncFd::with_interest(descriptor, interest)
}
