//! Connections: accepted, bounded in number and in patience, and ended in good order.

use std::{pin::pin, sync::Arc, time::Duration};

use axum::{Extension, Router, middleware::AddExtension};
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    time::sleep,
};
use tower::Layer;

use super::{lanes::Lanes, limit::ClientAddress};
use crate::drain::Group;

/// Beyond it new connections wait in the system's queue.
const MOST_CONNECTIONS: usize = 4096;
/// A connection that sends no request, or not all of its head, for this long is closed.
const HEAD_PATIENCE: Duration = Duration::from_secs(60);
/// Between tries where the system has no room for another connection.
const NO_ROOM_PAUSE: Duration = Duration::from_millis(100);

/// Answers on the lanes until the group is asked to end; running requests go on as tasks of the group.
pub(crate) async fn serve(listener: TcpListener, router: Router, group: &Group, lanes: &Lanes) {
    let room = Arc::new(Semaphore::new(MOST_CONNECTIONS));
    loop {
        let accepted = async {
            let permit = room.clone().acquire_owned().await;
            (permit, listener.accept().await)
        };
        let Some((permit, accepted)) = group.token.run_until_cancelled(accepted).await else {
            return;
        };
        match accepted {
            Ok((stream, address)) => {
                let (Some((lane, place)), Ok(stream)) = (lanes.join(), stream.into_std()) else {
                    continue;
                };
                // Not a layer of the router, which would make all routes anew.
                let service = Extension(ClientAddress(address.ip())).layer(router.clone());
                let connection = answer(stream, service, group.clone());
                let task = async move {
                    connection.await;
                    drop((permit, place));
                };
                group.tasks.spawn_on(task, &lane.runtime);
            }
            Err(error) => {
                tracing::warn!(%error, "can't accept a connection");
                sleep(NO_ROOM_PAUSE).await;
            }
        }
    }
}

async fn answer(
    stream: std::net::TcpStream,
    service: AddExtension<Router, ClientAddress>,
    group: Group,
) {
    let Ok(stream) = TcpStream::from_std(stream) else {
        return;
    };
    // Events of a stream are small and must not wait for each other.
    let _ = stream.set_nodelay(true);
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_PATIENCE)
        // Most answers are small: to put their parts together costs less than to have the system gather them.
        .writev(false)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(service));
    let mut connection = pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = group.token.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection broke off");
    }
}
