//! The log, on standard error: text for people or one JSON object a line.
//!
//! `RUST_LOG` overrides the levels, for whoever hunts a fault.

use std::{io::IsTerminal as _, panic};

use tracing_subscriber::EnvFilter;

use crate::config::{Config, LogFormat};

/// Starts the log. Events before this are lost.
pub(crate) fn start(config: &Config) {
    let level = if config.default.debug { "debug" } else { "info" };
    // sqlx tells of every statement at debug; that is a fault hunter's wish, not a developer's.
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(format!("{level},sqlx=warn")));
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal());
    // A panic is a line of the log like any other, with the request that it is about.
    panic::set_hook(Box::new(|panic| {
        let message = panic.payload_as_str().unwrap_or("no message");
        tracing::error!(place = panic.location().map(tracing::field::display), "panic: {message}");
    }));
    match config.glimpse.log_format {
        LogFormat::Text => log.with_target(false).init(),
        LogFormat::Json => log.json().flatten_event(true).init(),
    }
}
