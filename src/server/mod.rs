//! Listens, hands connections to the router, and drains.

mod connections;
mod listen;

use std::{io, sync::Arc};

use sd_notify::NotifyState;
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    time::Instant,
};
use tokio_util::task::AbortOnDropHandle;

use self::{connections::Server, listen::listen};
use crate::{
    app::App,
    background::{self, Heartbeat},
};

/// SIGXFSZ on Linux, which has no name in tokio.
const FILE_TOO_LARGE: i32 = 25;

/// Serves until SIGTERM or SIGINT, then finishes what is under way, for as long as the configuration allows. SIGHUP calls
/// `reload`.
///
/// # Errors
/// When it cannot listen.
pub(crate) async fn run(app: Arc<App>, reload: impl Fn() + Send + Sync + 'static) -> io::Result<()> {
    let listener = listen(&app).await?;
    // Before the first upload, and until the last has ended: whatever else we are busy with, others must not take us for dead.
    let heartbeat = Heartbeat::start(&app).await;
    let beating = AbortOnDropHandle::new(tokio::spawn(heartbeat.go_on()));
    let mut background = Box::pin(background::run(&app));
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
        () = background::reload_policy(&app) => {}
        () = &mut background => {}
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
        () = &mut background => {}
        () = server.requests.wait() => {}
        () = tokio::time::sleep_until(deadline) => {}
        () = told_again(&mut terminate, &mut interrupt) => deadline = Instant::now(),
    }
    let end = async {
        // Left where it stands, it would keep what others wait for: a connection, a lock.
        drop(background);
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

/// A second signal means now.
async fn told_again(terminate: &mut Signal, interrupt: &mut Signal) {
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
}
