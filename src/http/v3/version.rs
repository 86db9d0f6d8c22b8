//! `/v3`: the version of the Identity API.

use axum::response::Response;
use serde_json::json;

use super::Urls;
use crate::http::json;

/// The version that Keystone has had since 2020. Clients only check that it is 3.
const VERSION: &str = "v3.14";
const UPDATED: &str = "2020-04-07T00:00:00Z";

pub(super) async fn show(urls: Urls) -> Response {
    let link = format!("{}/v3/", urls.base);
    json::response(&json!({
        "version": {
            "id": VERSION,
            "status": "stable",
            "updated": UPDATED,
            "links": [{ "rel": "self", "href": link }],
            "media-types": [{ "base": "application/json", "type": "application/vnd.openstack.identity-v3+json" }],
        },
    }))
}
