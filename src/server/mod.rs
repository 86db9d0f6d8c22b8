//! Start and stop of the server: it listens, serves connections, and drains.

mod connections;
mod listen;

use std::{io, sync::Arc};

use sd_notify::NotifyState;
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    time::Instant,
};
use tokio_util::task::AbortOnDropHandle;

use self::connections::Server;
pub(crate) use self::listen::BoundSocket;
use crate::{
    app::App,
    background::{self, Heartbeat},
    import,
};

/// SIGXFSZ on Linux, for which tokio has no name.
const FILE_TOO_LARGE: i32 = 25;
const ABORTED: &str = "stopped: the work still in progress is aborted";

/// Serves on this socket until SIGTERM or SIGINT, and then drains: it finishes the work in progress, for at most `drain_timeout`.
/// SIGHUP calls `reload`.
///
/// # Errors
/// The server cannot listen, or cannot install its signal handlers.
pub(crate) async fn run(
    app: Arc<App>,
    socket: BoundSocket,
    reload: impl Fn() + Send + Sync + 'static,
) -> io::Result<()> {
    import::warn_of_missing_methods(&app);
    let listener = socket.listen()?;
    // The heartbeat runs from before the first upload until after the last one, in a task of its own: other processes must not
    // treat this one as dead, however busy it is.
    let heartbeat = Heartbeat::start(&app).await;
    let heartbeat = AbortOnDropHandle::new(tokio::spawn(heartbeat.run()));
    let mut background = Box::pin(background::run(&app));
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hangup = signal(SignalKind::hangup())?;
    // With a handler, the signal does not kill the process. A write beyond the file size limit then fails with an error, which the
    // store treats like a full disk.
    let _never_read = signal(SignalKind::from_raw(FILE_TOO_LARGE))?;
    tracing::info!("Glimpse {} listens on http://{}", env!("CARGO_PKG_VERSION"), listener.local_addr()?);
    notify_systemd(&[NotifyState::Ready]);
    let server = Server::new(listener, Arc::clone(&app));
    let serve = async {
        tokio::select! {
            () = server.accept_connections() => {}
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    };
    tokio::select! {
        () = serve => {}
        () = reload_on_hangup(&mut hangup, Arc::new(reload)) => {}
        () = background::reload_policy(&app) => {}
        () = &mut background => {}
    }
    notify_systemd(&[NotifyState::Stopping]);
    tracing::info!("draining: requests in progress are finished, new ones are refused");
    app.drain();
    let mut deadline = Instant::now() + app.config.glimpse.drain_timeout;
    server.requests.close();
    app.work.close();
    // The server keeps answering while it drains, so that a load balancer's health check notices.
    tokio::select! {
        () = server.accept_connections() => {}
        () = &mut background => {}
        () = server.requests.wait() => {}
        () = tokio::time::sleep_until(deadline) => {}
        () = second_signal(&mut terminate, &mut interrupt) => deadline = Instant::now(),
    }
    let end = async {
        // A suspended job would keep a connection or a lock for which the requests in progress wait.
        drop(background);
        server.close().await;
        app.work.wait().await;
        background::record_hits(&app).await;
        drop(heartbeat);
        app.db.close().await;
    };
    tokio::select! {
        () = end => tracing::info!("stopped"),
        () = tokio::time::sleep_until(deadline) => tracing::warn!("{ABORTED}"),
        () = second_signal(&mut terminate, &mut interrupt) => tracing::warn!("{ABORTED}"),
    }
    Ok(())
}

/// Notifies systemd of the server's state, if systemd has started the process and waits for notifications.
fn notify_systemd(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::warn!(%error, "cannot notify systemd");
    }
}

/// Reloads at each SIGHUP the configuration that can change in a running server.
async fn reload_on_hangup(hangup: &mut Signal, reload: Arc<impl Fn() + Send + Sync + 'static>) {
    while hangup.recv().await.is_some() {
        let reload = Arc::clone(&reload);
        // A reload reads files, which must not block the requests. It logs its own errors.
        let _ = tokio::task::spawn_blocking(move || reload()).await;
    }
    // No further signal can arrive, but the server must go on.
    std::future::pending().await
}

/// Waits for a second SIGTERM or SIGINT, which stops the server immediately.
async fn second_signal(terminate: &mut Signal, interrupt: &mut Signal) {
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
}
