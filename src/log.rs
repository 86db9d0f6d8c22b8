//! The log, on standard error: text for people or one JSON object a line.
//!
//! `RUST_LOG` overrides the levels, for whoever hunts a fault.

use std::{io::IsTerminal as _, panic, sync::OnceLock};

use tracing_subscriber::{EnvFilter, Registry, fmt, prelude::*, reload};

use crate::config::{Config, LogFormat};

/// Changes the filter of the running log.
static FILTER: OnceLock<reload::Handle<EnvFilter, Registry>> = OnceLock::new();

/// Starts the log. Events before this are lost.
pub(crate) fn start(config: &Config) {
    let (filter, handle) = reload::Layer::new(filter(config));
    let lines = fmt::layer().with_writer(std::io::stderr).with_ansi(std::io::stderr().is_terminal());
    let lines = match config.glimpse.log_format {
        LogFormat::Text => lines.with_target(false).boxed(),
        LogFormat::Json => lines.json().flatten_event(true).boxed(),
    };
    tracing_subscriber::registry().with(filter).with(lines).init();
    // The first log is the one that writes.
    let _ = FILTER.set(handle);
    // A panic is a line of the log like any other, with the request that it is about.
    panic::set_hook(Box::new(|panic| {
        let message = panic.payload_as_str().unwrap_or("no message");
        tracing::error!(place = panic.location().map(tracing::field::display), "panic: {message}");
    }));
}

/// Takes up a changed level.
pub(crate) fn reload(config: &Config) {
    if let Some(handle) = FILTER.get()
        && let Err(error) = handle.reload(filter(config))
    {
        tracing::error!(%error, "the log's level cannot be changed");
    }
}

fn filter(config: &Config) -> EnvFilter {
    let level = if config.default.debug { "debug" } else { "info" };
    // sqlx tells of every statement at debug; that is a fault hunter's wish, not a developer's.
    EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(format!("{level},sqlx=warn")))
}
