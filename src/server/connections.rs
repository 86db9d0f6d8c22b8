//! Connections and their limits.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use axum::{Router, extract::ConnectInfo, http::Request};
use hyper::{body::Incoming, server::conn::http1};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::graceful::GracefulShutdown,
    service::TowerToHyperService,
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
};
use tokio_io_timeout::TimeoutWriter;
use tokio_util::task::TaskTracker;
use tower::ServiceExt as _;

use crate::{app::App, http};

/// The maximum number of open connections. Further ones wait in the listener's backlog.
const MAX_CONNECTIONS: usize = 4096;
/// The size of a connection's read buffer in bytes. The exact limit for a request's head is enforced by a middleware.
const MAX_BUFFER: usize = 128 * 1024;
/// The pause after a failed accept, which usually means that the process has no file descriptor left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Accepts connections, and hands their requests to the router.
pub(super) struct Server {
    listener: TcpListener,
    router: Router,
    connections: Arc<Semaphore>,
    /// The requests whose response is not ready yet.
    pub(super) requests: TaskTracker,
    graceful: GracefulShutdown,
    http: http1::Builder,
    client_timeout: Duration,
}

impl Server {
    pub(super) fn new(listener: TcpListener, app: Arc<App>) -> Self {
        let client_timeout = app.config.glimpse.client_timeout;
        let mut http = http1::Builder::new();
        http.timer(TokioTimer::new());
        // This timeout applies to a request's head, and also to an idle connection that waits for its next request.
        http.header_read_timeout(client_timeout);
        http.max_buf_size(MAX_BUFFER);
        // Some clients and proxies shut down their sending side after the request, and wait for the response.
        http.half_close(true);
        Self {
            listener,
            router: http::router(app),
            connections: Arc::new(Semaphore::new(MAX_CONNECTIONS)),
            requests: TaskTracker::new(),
            graceful: GracefulShutdown::new(),
            http,
            client_timeout,
        }
    }

    /// Accepts connections for ever.
    pub(super) async fn accept_connections(&self) {
        loop {
            let Ok(permit) = Arc::clone(&self.connections).acquire_owned().await else {
                return;
            };
            match self.listener.accept().await {
                Ok((stream, client)) => {
                    let connection = self.serve_connection(stream, client);
                    tokio::spawn(async move {
                        connection.await;
                        drop(permit);
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection; retrying in {ACCEPT_PAUSE:?}");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    /// Serves one connection until it ends.
    fn serve_connection(&self, stream: TcpStream, client: SocketAddr) -> impl Future<Output = ()> + use<> {
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "cannot set TCP_NODELAY");
        }
        // A client that does not read its response times out as well.
        let mut stream = Box::pin(TimeoutWriter::new(stream));
        stream.as_mut().set_timeout_pinned(Some(self.client_timeout));
        let (router, requests) = (self.router.clone(), self.requests.clone());
        let service = tower::service_fn(move |mut request: Request<Incoming>| {
            request.extensions_mut().insert(ConnectInfo(client));
            let router = router.clone();
            requests.track_future(router.oneshot(request))
        });
        let connection = self.http.serve_connection(TokioIo::new(stream), TowerToHyperService::new(service));
        let connection = self.graceful.watch(connection);
        async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, %client, "connection ended");
            }
        }
    }

    /// Stops listening, and closes each connection after its current response.
    pub(super) async fn close(self) {
        drop(self.listener);
        self.graceful.shutdown().await;
    }
}
