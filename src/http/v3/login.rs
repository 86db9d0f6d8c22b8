//! The body of `POST /v3/auth/tokens`.
//!
//! It is read by hand, because a deserialiser's error message would repeat values of the body, and so a password.

use axum::{
    extract::{FromRequest, Request},
    response::{IntoResponse, Response},
};
use serde_json::{Map, Value};

use super::error::{METHODS, expected, unsupported_method};
use crate::{
    app::SharedApp,
    auth::standalone::{DomainReference, Login, Proof, Reference, RequestedScope},
    config::Secret,
    error::{Error, Result},
    http::extract,
};

/// The maximum size of the body in bytes: anyone may send one.
const MAX_BODY: usize = 16 * 1024;

/// A request for a token.
pub(super) struct LoginBody(pub(super) Login);

impl FromRequest<SharedApp> for LoginBody {
    type Rejection = Response;

    async fn from_request(request: Request, app: &SharedApp) -> Result<Self, Response> {
        let is_json = extract::media_type(&request) == "application/json";
        let body = extract::read_bytes(request, app, MAX_BODY).await?;
        let login =
            if is_json || body.is_empty() { parse(&body) } else { expected("application/json", "Content-Type header") };
        login.map(Self).map_err(|error| match error {
            // Nothing was verified yet.
            Error::Unauthenticated => unsupported_method(),
            error => error.into_response(),
        })
    }
}

type Object = Map<String, Value>;

/// `Unauthenticated` means that the client asks for a way to log in that does not exist here.
fn parse(body: &[u8]) -> Result<Login> {
    // serde_json limits the nesting depth to 128.
    let body = match serde_json::from_slice(body) {
        Ok(Value::Object(body)) => body,
        Err(_) if body.is_empty() => Map::new(),
        _ => return expected("valid JSON", "request body"),
    };
    let auth = object(&body, "auth", "request body")?;
    let identity = object(auth, "identity", "auth")?;
    let Some(Value::Array(names)) = identity.get("methods") else {
        return expected("methods", "identity");
    };
    let mut methods: Vec<&str> = Vec::new();
    for name in names {
        let Value::String(name) = name else {
            return expected("strings", "methods");
        };
        if !METHODS.contains(&name.as_str()) {
            return Err(Error::Unauthenticated);
        }
        if !methods.contains(&name.as_str()) {
            methods.push(name);
        }
    }
    let scope = scope(auth.get("scope"))?;
    let proofs = methods.into_iter().map(|name| proof(name, object(identity, name, "identity")?));
    Ok(Login { proofs: proofs.collect::<Result<_>>()?, scope })
}

fn proof(method: &str, value: &Object) -> Result<Proof> {
    if method == "token" {
        return Ok(Proof::Token(Secret::new(string(value, "id", "token")?)));
    }
    let user = object(value, "user", "password")?;
    let password = Secret::new(string(user, "password", "user")?);
    Ok(Proof::Password { user: reference(user, "user")?, password })
}

fn scope(scope: Option<&Value>) -> Result<RequestedScope> {
    let names = "system, project, domain, OS-TRUST:trust or unscoped";
    let scope = match scope {
        None | Some(Value::Null) => return Ok(RequestedScope::Default),
        Some(Value::String(text)) if text == "unscoped" => return Ok(RequestedScope::Unscoped),
        Some(Value::Object(scope)) => scope,
        Some(_) => return expected(names, "scope"),
    };
    let kinds = ["system", "project", "domain", "OS-TRUST:trust", "unscoped"];
    let mut given = kinds.into_iter().filter(|kind| scope.contains_key(*kind));
    match (given.next(), given.next()) {
        (None, _) => expected(names, "scope"),
        (Some(_), Some(_)) => expected("only one of system, project, domain, OS-TRUST:trust and unscoped", "scope"),
        (Some("project"), None) => {
            reference(object(scope, "project", "scope")?, "project").map(RequestedScope::Project)
        }
        (Some("unscoped"), None) => Ok(RequestedScope::Unscoped),
        (Some(_), None) => Ok(RequestedScope::Other),
    }
}

/// A user or project: by id, or by name and domain.
fn reference(object: &Object, kind: &str) -> Result<Reference> {
    if let Some(id) = optional(object, "id", kind)? {
        return Ok(Reference::Id(id.to_owned()));
    }
    let Some(name) = optional(object, "name", kind)? else {
        return expected("id or name", kind);
    };
    let domain = self::object(object, "domain", kind)?;
    let domain = match (optional(domain, "id", "domain")?, optional(domain, "name", "domain")?) {
        (Some(id), _) => DomainReference::Id(id.to_owned()),
        (None, Some(name)) => DomainReference::Name(name.to_owned()),
        (None, None) => return expected("id or name", "domain"),
    };
    Ok(Reference::Name(name.to_owned(), domain))
}

/// A text, unless it is missing or empty.
fn optional<'v>(object: &'v Object, name: &str, place: &str) -> Result<Option<&'v str>> {
    match object.contains_key(name) {
        true => string(object, name, place).map(|text| Some(text).filter(|text| !text.is_empty())),
        false => Ok(None),
    }
}

fn object<'v>(object: &'v Object, name: &str, place: &str) -> Result<&'v Object> {
    match object.get(name) {
        Some(Value::Object(value)) => Ok(value),
        _ => expected(name, place),
    }
}

fn string<'v>(object: &'v Object, name: &str, place: &str) -> Result<&'v str> {
    match object.get(name) {
        Some(Value::String(text)) => Ok(text),
        _ => expected(name, place),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::parse;

    proptest! {
        #[test]
        fn no_body_makes_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..256)) {
            let _ = parse(&bytes);
        }
    }
}
