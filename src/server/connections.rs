//! Connections, and what bounds them.

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

/// Connections at a time; one more waits in the listener's backlog.
const MAX_CONNECTIONS: usize = 4096;
/// Bytes of a connection's read buffer. What a request's head may have of them is bounded behind it, exactly.
const MAX_BUFFER: usize = 128 * 1024;
/// How long to wait when the system has no descriptor for a new connection.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Accepts connections, and hands their requests to the router.
pub(super) struct Server {
    listener: TcpListener,
    router: Router,
    connections: Arc<Semaphore>,
    /// Those whose answer is not made yet.
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
        // Bounds the wait for a request's head, which includes an idle connection's wait for its next request.
        http.header_read_timeout(client_timeout);
        http.max_buf_size(MAX_BUFFER);
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

    pub(super) async fn accept_for_ever(&self) {
        loop {
            let Ok(place) = Arc::clone(&self.connections).acquire_owned().await else {
                return;
            };
            match self.listener.accept().await {
                Ok((stream, client)) => {
                    let connection = self.connection(stream, client);
                    tokio::spawn(async move {
                        connection.await;
                        drop(place);
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    fn connection(&self, stream: TcpStream, client: SocketAddr) -> impl Future<Output = ()> + use<> {
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "cannot set TCP_NODELAY");
        }
        // A client that does not read what it asked for is given up too.
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

    /// Stops listening; connections end after the response that they are sending.
    pub(super) async fn close(self) {
        drop(self.listener);
        self.graceful.shutdown().await;
    }
}
