//! A row of the route table: a path and its methods.

use axum::{
    Router,
    extract::Request,
    handler::Handler,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
    routing::MethodRouter,
};

use super::error::ErrorResponse;
use crate::app::SharedApp;

/// A path with the methods that it supports. Other methods get 405, with an `Allow` header that lists the supported ones. This
/// includes HEAD, which Glance supports on no route of the API.
pub(super) struct Resource {
    path: &'static str,
    methods: Vec<&'static str>,
    routes: MethodRouter<SharedApp>,
}

macro_rules! method {
    ($name:ident, $text:literal) => {
        pub(super) fn $name<H: Handler<T, SharedApp>, T: 'static>(mut self, handler: H) -> Self {
            self.methods.push($text);
            self.routes = self.routes.$name(handler);
            self
        }
    };
}

impl Resource {
    pub(super) fn new(path: &'static str) -> Self {
        Self { path, methods: Vec::new(), routes: MethodRouter::new() }
    }

    method!(get, "GET");
    method!(post, "POST");
    method!(put, "PUT");
    method!(patch, "PATCH");
    method!(delete, "DELETE");

    pub(super) fn add_to(self, router: Router<SharedApp>) -> Router<SharedApp> {
        let allow = HeaderValue::from_str(&self.methods.join(", ")).unwrap_or(HeaderValue::from_static(""));
        let reject = move |request: Request| std::future::ready(not_allowed(&request, allow.clone()));
        router.route(self.path, self.routes.head(reject.clone()).fallback(reject))
    }
}

fn not_allowed(request: &Request, allow: HeaderValue) -> Response {
    let mut response = ErrorResponse::method(StatusCode::METHOD_NOT_ALLOWED, request.method().clone()).into_response();
    response.headers_mut().insert(header::ALLOW, allow);
    response
}
