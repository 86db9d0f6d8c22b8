//! Bounds on a request: what it may carry beside its body, which its reader bounds, and how long it may take.

use std::{
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use axum::{
    extract::{Request, State},
    http::StatusCode,
    middleware::Next,
    response::{IntoResponse, Response},
};

use crate::{
    app::SharedApp,
    http::error::{self, Refusal},
};

/// Bytes of a request's target and headers: a Keystone token with a large catalog fits. hyper's own bound is on its
/// buffer, which a fast client overruns.
const MAX_HEAD: usize = 64 * 1024;

/// `: ` and the end of the line.
const AROUND_VALUE: usize = 4;

pub(in crate::http) async fn refuse_large_head(State(app): State<SharedApp>, request: Request, next: Next) -> Response {
    let max_line = app.config.default.max_header_line as usize;
    let mut lines = request.headers().iter().map(|(name, value)| name.as_str().len() + value.len() + AROUND_VALUE);
    if lines.any(|line| line > max_line) {
        let explanation = format!("A header's line is longer than {max_line} bytes.");
        return Refusal::new(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, explanation).into_response();
    }
    let headers = request.headers().iter().map(|(name, value)| name.as_str().len() + value.len()).sum::<usize>();
    let target = request.uri().path().len() + request.uri().query().map_or(0, str::len);
    if headers + target > MAX_HEAD {
        let explanation = format!("The request's target and headers are larger than {MAX_HEAD} bytes.");
        return Refusal::new(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, explanation).into_response();
    }
    next.run(request).await
}

/// The bound on a request's time, which a handler that moves an image's data lifts: each part of the data has a bound of
/// its own.
#[derive(Debug, Clone, Default)]
pub(in crate::http) struct Hurry(Arc<AtomicBool>);

impl Hurry {
    /// From now on, the request may take as long as it needs.
    pub(in crate::http) fn lift(&self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Answers for a handler that takes too long, whatever it waits for: a database that is silent, a row that somebody else
/// holds, a client that sends its body byte by byte. The handler is dropped, which rolls its transaction back.
pub(in crate::http) async fn deadline(State(app): State<SharedApp>, mut request: Request, next: Next) -> Response {
    let limit = app.config.glimpse.request_timeout;
    let hurry = Hurry::default();
    request.extensions_mut().insert(hurry.clone());
    let mut answer = pin!(next.run(request));
    match tokio::time::timeout(limit, &mut answer).await {
        Ok(response) => response,
        Err(_) if hurry.0.load(Ordering::Relaxed) => answer.await,
        Err(_) => {
            tracing::error!(seconds = limit.as_secs_f64(), "the request was given up: it took too long");
            error::unavailable()
        }
    }
}
