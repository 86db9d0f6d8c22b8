//! `/v3/auth/catalog` and `/v3/regions`: where the services are.

use axum::response::Response;
use serde_json::{Value, json};

use super::Urls;
use crate::{
    context::{Context, Scope},
    error::{Error, Result},
    http::{extract::PathVariables, json},
};

/// The only region, named as by Keystone's installation guide.
const REGION: &str = "RegionOne";

pub(super) async fn show(context: Context, urls: Urls) -> Result<Response> {
    if context.identity.scope == Scope::None {
        return Err(Error::Forbidden("You are not authorized to perform the requested action.".to_owned()));
    }
    Ok(json::response(&json!({ "catalog": services(&urls), "links": { "self": urls.own } })))
}

/// The services: this one under both of its names.
pub(super) fn services(urls: &Urls) -> Value {
    let service = |id: &str, kind: &str, url: &str| {
        let endpoints = ["public", "internal", "admin"].map(|interface| {
            json!({
                "id": format!("{id}-{interface}"),
                "interface": interface,
                "region_id": REGION,
                "url": url,
                "region": REGION,
            })
        });
        json!({ "endpoints": endpoints, "id": id, "type": kind, "name": id })
    };
    let identity = format!("{}/v3", urls.base);
    Value::from_iter([service("keystone", "identity", &identity), service("glance", "image", &urls.base)])
}

pub(super) async fn regions(_: Context, urls: Urls) -> Response {
    json::response(&urls.listing("regions", [region_body(&urls)]))
}

pub(super) async fn region(_: Context, urls: Urls, PathVariables([id]): PathVariables<1>) -> Result<Response> {
    if id != REGION {
        return Err(Error::NotFound(format!("Could not find region: {id}.")));
    }
    Ok(json::response(&json!({ "region": region_body(&urls) })))
}

fn region_body(urls: &Urls) -> Value {
    let link = urls.identity("regions", REGION);
    json!({ "id": REGION, "description": "", "parent_region_id": null, "links": { "self": link } })
}
