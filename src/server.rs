//! Listens, hands connections to the router, and drains.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use axum::{Router, extract::ConnectInfo, http::Request};
use hyper::{body::Incoming, server::conn::http1};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::graceful::GracefulShutdown,
    service::TowerToHyperService,
};
use listenfd::ListenFd;
use sd_notify::NotifyState;
use tokio::{
    net::{TcpListener, TcpSocket, TcpStream, lookup_host},
    signal::unix::{Signal, SignalKind, signal},
    sync::Semaphore,
    time::Instant,
};
use tokio_io_timeout::TimeoutWriter;
use tokio_util::task::{AbortOnDropHandle, TaskTracker};
use tower::ServiceExt as _;

use crate::{
    app::App,
    error::Error,
    http,
    images::{
        audit::Audit,
        housekeeping::{self, Watch},
        uploads,
    },
};

/// Connections at a time; one more waits in the listener's backlog.
const MAX_CONNECTIONS: usize = 4096;
/// Bytes of a connection's read buffer. What a request's head may have of them is bounded behind it, exactly.
const MAX_BUFFER: usize = 128 * 1024;
/// How often the policy's files are looked at for a change.
const POLICY_LOOK: Duration = Duration::from_secs(1);
/// Signs of life more often than this say nothing more.
const SHORTEST_HEARTBEAT: Duration = Duration::from_millis(100);
/// Signs of life that are tried in the time from one to the next, where they fail: before others take us for dead, there are
/// several, each on another connection.
const TRIES: u32 = 4;
/// A try that is given up sooner would be one at a database that is merely busy.
const SHORTEST_TRY: Duration = Duration::from_secs(1);
/// Heartbeats after which deletions that were broken off, and files that nobody knows, are looked for again.
const TIDY_EVERY: u32 = 360;
/// SIGXFSZ on Linux, which has no name in tokio.
const FILE_TOO_LARGE: i32 = 25;
/// How long to wait when the system has no descriptor for a new connection.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Serves until SIGTERM or SIGINT, then finishes what is under way, for as long as the configuration allows. SIGHUP calls
/// `reload`.
///
/// # Errors
/// When it cannot listen.
pub(crate) async fn run(app: Arc<App>, reload: impl Fn() + Send + Sync + 'static) -> io::Result<()> {
    let listener = listen(&app).await?;
    // Before the first upload, and until the last has ended: whatever else we are busy with, others must not take us for dead.
    let mut beats = Told::new(
        "other processes cannot be shown that this one lives: they may take it for dead",
        "other processes are shown again that this one lives",
    );
    beat(&app, &mut beats).await;
    let beating = AbortOnDropHandle::new(tokio::spawn(beat_for_ever(Arc::clone(&app), beats)));
    let mut looking = Box::pin(async { tokio::join!(look_for_ever(&app), tidy_for_ever(&app)) });
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hangup = signal(SignalKind::hangup())?;
    // Caught once, it does not end the program any more: who writes too large a file is told so, and it is a full disk.
    let _never_read = signal(SignalKind::from_raw(FILE_TOO_LARGE))?;
    tracing::info!("Glimpse {} listens on http://{}", env!("CARGO_PKG_VERSION"), listener.local_addr()?);
    tell_systemd(&[NotifyState::Ready]);
    let server = Server::new(listener, Arc::clone(&app));
    let serve = async {
        tokio::select! {
            () = server.accept_for_ever() => {}
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    };
    tokio::select! {
        () = serve => {}
        () = reload_for_ever(&mut hangup, Arc::new(reload)) => {}
        () = watch_policy_for_ever(&app) => {}
        _ = &mut looking => {}
    }
    tell_systemd(&[NotifyState::Stopping]);
    tracing::info!("draining: requests under way are finished, new ones are refused");
    app.drain();
    let mut deadline = Instant::now() + app.config.glimpse.drain_timeout;
    server.requests.close();
    app.work.close();
    // Meanwhile it goes on answering, so that a load balancer's check finds out.
    tokio::select! {
        () = server.accept_for_ever() => {}
        _ = &mut looking => {}
        () = server.requests.wait() => {}
        () = tokio::time::sleep_until(deadline) => {}
        () = told_again(&mut terminate, &mut interrupt) => deadline = Instant::now(),
    }
    let end = async {
        // Left where it stands, it would keep what others wait for: a connection, a lock.
        drop(looking);
        server.close().await;
        app.work.wait().await;
        drop(beating);
        app.db.close().await;
    };
    tokio::select! {
        () = end => tracing::info!("stopped"),
        () = tokio::time::sleep_until(deadline) => tracing::warn!("stopped: what was still under way is cut off"),
        () = told_again(&mut terminate, &mut interrupt) => tracing::warn!("stopped: what was still under way is cut off"),
    }
    Ok(())
}

/// Takes the socket that systemd opened for us, or opens one.
async fn listen(app: &App) -> io::Result<TcpListener> {
    if let Some(listener) = ListenFd::from_env().take_tcp_listener(0)? {
        listener.set_nonblocking(true)?;
        return TcpListener::from_std(listener);
    }
    let (host, port) = (app.config.bind_host(), app.config.default.bind_port);
    let listener = bind(host, port, app.config.default.backlog).await;
    listener.map_err(|error| io::Error::new(error.kind(), format!("cannot listen on {host}:{port}: {error}")))
}

/// Listens on the first of the host's addresses that can be had.
async fn bind(host: &str, port: u16, backlog: u32) -> io::Result<TcpListener> {
    let mut last = io::Error::from(io::ErrorKind::AddrNotAvailable);
    for address in lookup_host((host, port)).await? {
        let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() };
        let listener = socket.and_then(|socket| {
            // A server that starts again must not wait for the connections of the one before.
            socket.set_reuseaddr(true)?;
            socket.bind(address)?;
            socket.listen(backlog)
        });
        match listener {
            Ok(listener) => return Ok(listener),
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// Tells how far we are, if systemd started us and waits to be told.
fn tell_systemd(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::warn!(%error, "systemd cannot be told");
    }
}

/// SIGHUP: takes up what can change in a running server.
async fn reload_for_ever(hangup: &mut Signal, reload: Arc<impl Fn() + Send + Sync + 'static>) {
    while hangup.recv().await.is_some() {
        let reload = Arc::clone(&reload);
        // It reads files, and requests must not wait for a disk. What went wrong in it is in the log.
        let _ = tokio::task::spawn_blocking(move || reload()).await;
    }
    // The signal can come no more; the server goes on.
    std::future::pending().await
}

/// Takes up the policy's files when they change, beside the requests.
async fn watch_policy_for_ever(app: &Arc<App>) {
    loop {
        tokio::time::sleep(POLICY_LOOK).await;
        let app = Arc::clone(app);
        if let Err(error) = tokio::task::spawn_blocking(move || app.policy.refresh()).await {
            tracing::error!(%error, "the policy's files could not be looked at");
        }
    }
}

fn heartbeat(app: &App) -> Duration {
    app.config.glimpse.heartbeat.max(SHORTEST_HEARTBEAT)
}

/// What is done again and again, and said when it fails for the first time, and when it works again.
struct Told {
    fails: &'static str,
    works_again: &'static str,
    is_failing: bool,
}

impl Told {
    fn new(fails: &'static str, works_again: &'static str) -> Self {
        Self { fails, works_again, is_failing: false }
    }

    fn tell(&mut self, done: Result<(), Error>) {
        let (fails, works_again) = (self.fails, self.works_again);
        match &done {
            Err(error) if self.is_failing => tracing::debug!(%error, "{fails}"),
            Err(error) => tracing::warn!(%error, "{fails}"),
            Ok(()) if self.is_failing => tracing::info!("{works_again}"),
            Ok(()) => {}
        }
        self.is_failing = done.is_err();
    }
}

/// Shows other processes that this one lives.
async fn beat(app: &App, told: &mut Told) {
    let every = heartbeat(app);
    told.tell(uploads::beat(app, every, (every / TRIES).max(SHORTEST_TRY)).await);
}

async fn beat_for_ever(app: Arc<App>, mut told: Told) {
    let every = heartbeat(&app);
    let mut begun = Instant::now();
    loop {
        tokio::time::sleep_until(begun + if told.is_failing { every / TRIES } else { every }).await;
        begun = Instant::now();
        beat(&app, &mut told).await;
    }
}

/// Undoes what others had begun who are dead.
async fn look_for_ever(app: &App) {
    let every = heartbeat(app);
    let mut watch = Watch::default();
    let mut told = Told::new(
        "uploads that were cut off cannot be looked for now",
        "uploads that were cut off are looked for again",
    );
    loop {
        told.tell(watch.look(app, every).await);
        tokio::time::sleep(every).await;
    }
}

/// Ends what was broken off, by others or here, and can wait.
async fn tidy_for_ever(app: &App) {
    let every = heartbeat(app);
    let mut audit = Audit::default();
    // Not at once: clients wait for who has just started.
    let mut pause = every;
    loop {
        tokio::time::sleep(pause).await;
        if let Err(error) = housekeeping::tidy(app, every).await {
            tracing::warn!(%error, "deletions that were broken off, and what uploads have left, cannot be looked for now");
        }
        if let Err(error) = audit.next(app, every * housekeeping::STILL).await {
            tracing::warn!(%error, "images cannot be audited now");
        }
        pause = every * TIDY_EVERY;
    }
}

/// A second signal means now.
async fn told_again(terminate: &mut Signal, interrupt: &mut Signal) {
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
}

struct Server {
    listener: TcpListener,
    router: Router,
    connections: Arc<Semaphore>,
    /// Those whose answer is not made yet.
    requests: TaskTracker,
    graceful: GracefulShutdown,
    http: http1::Builder,
    client_timeout: Duration,
}

impl Server {
    fn new(listener: TcpListener, app: Arc<App>) -> Self {
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

    async fn accept_for_ever(&self) {
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
    async fn close(self) {
        drop(self.listener);
        self.graceful.shutdown().await;
    }
}
