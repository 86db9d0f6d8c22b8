//! Limits of a request: the size of its head, and its duration. The size of its body is limited where the body is read.

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
    http::error::{self, ErrorResponse},
};

/// The maximum size of a request's head in bytes, as Glance's deployers set uWSGI's `buffer-size`. A Keystone token with a large
/// catalog fits. hyper limits only its read buffer, which a fast client can exceed.
const MAX_HEAD: usize = 64 * 1024;

/// The length of `: ` and the line end.
const AROUND_VALUE: usize = 4;
/// The length of the request line without its method and target, and of the empty line.
const AROUND_TARGET: usize = "  HTTP/1.1\r\n\r\n".len();

pub(in crate::http) async fn refuse_large_head(State(app): State<SharedApp>, request: Request, next: Next) -> Response {
    let max_line = app.config.default.max_header_line as usize;
    let headers = request.headers();
    let lines = || headers.iter().map(|(name, value)| name.as_str().len() + value.len() + AROUND_VALUE);
    if lines().any(|line| line > max_line) {
        let explanation = format!("A header's line is longer than {max_line} bytes.");
        return ErrorResponse::new(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, explanation).into_response();
    }
    let target = request.uri().path_and_query().map_or(0, |target| target.as_str().len());
    if lines().sum::<usize>() + request.method().as_str().len() + target + AROUND_TARGET > MAX_HEAD {
        let explanation = format!("The request's head is larger than {MAX_HEAD} bytes.");
        return ErrorResponse::new(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, explanation).into_response();
    }
    next.run(request).await
}

/// The deadline of a request. A handler that transfers image data lifts it, because each chunk of the data has its own timeout.
#[derive(Debug, Clone, Default)]
pub(in crate::http) struct Deadline(Arc<AtomicBool>);

impl Deadline {
    /// Removes the deadline: from now on, the request can take any time.
    pub(in crate::http) fn lift(&self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Responds with 503 if a handler exceeds `request_timeout`, no matter what it waits for: an unresponsive database, a locked row,
/// or a client that sends its body byte by byte. The handler is dropped, which rolls back its transaction.
pub(in crate::http) async fn enforce_deadline(
    State(app): State<SharedApp>,
    mut request: Request,
    next: Next,
) -> Response {
    let limit = app.config.glimpse.request_timeout;
    let deadline = Deadline::default();
    request.extensions_mut().insert(deadline.clone());
    let mut response = pin!(next.run(request));
    match tokio::time::timeout(limit, &mut response).await {
        Ok(response) => response,
        Err(_) if deadline.0.load(Ordering::Relaxed) => response.await,
        Err(_) => {
            tracing::error!(seconds = limit.as_secs_f64(), "request cancelled: it exceeded [glimpse] request_timeout");
            error::unavailable()
        }
    }
}
