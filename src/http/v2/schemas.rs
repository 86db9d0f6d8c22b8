//! `/v2/schemas/…`: the JSON schemas of the API.

use axum::{extract::State, response::Response};

use crate::{
    app::SharedApp,
    http::{extract::NoBody, json},
};

pub(super) async fn image(State(app): State<SharedApp>, _: NoBody) -> Response {
    json::ascii_response(app.schemas.image())
}

pub(super) async fn images(State(app): State<SharedApp>, _: NoBody) -> Response {
    json::ascii_response(&app.schemas.images)
}

pub(super) async fn member(State(app): State<SharedApp>, _: NoBody) -> Response {
    json::ascii_response(&app.schemas.member)
}

pub(super) async fn members(State(app): State<SharedApp>, _: NoBody) -> Response {
    json::ascii_response(&app.schemas.members)
}

pub(super) async fn task(State(app): State<SharedApp>, _: NoBody) -> Response {
    json::ascii_response(app.schemas.task())
}

pub(super) async fn tasks(State(app): State<SharedApp>, _: NoBody) -> Response {
    json::ascii_response(&app.schemas.tasks)
}

/// `/v2/schemas/metadefs/…`: the schemas of metadata definitions.
pub(super) mod metadefs {
    use super::{NoBody, Response, SharedApp, State, json};

    pub(in crate::http::v2) async fn namespace(State(app): State<SharedApp>, _: NoBody) -> Response {
        json::ascii_response(app.schemas.metadefs.namespace.raw())
    }

    pub(in crate::http::v2) async fn namespaces(State(app): State<SharedApp>, _: NoBody) -> Response {
        json::ascii_response(&app.schemas.metadefs.namespaces)
    }

    pub(in crate::http::v2) async fn resource_type(State(app): State<SharedApp>, _: NoBody) -> Response {
        json::ascii_response(app.schemas.metadefs.association.raw())
    }

    pub(in crate::http::v2) async fn resource_types(State(app): State<SharedApp>, _: NoBody) -> Response {
        json::ascii_response(&app.schemas.metadefs.associations)
    }

    pub(in crate::http::v2) async fn property(State(app): State<SharedApp>, _: NoBody) -> Response {
        json::ascii_response(app.schemas.metadefs.property.raw())
    }

    pub(in crate::http::v2) async fn properties(State(app): State<SharedApp>, _: NoBody) -> Response {
        json::ascii_response(&app.schemas.metadefs.properties)
    }

    pub(in crate::http::v2) async fn object(State(app): State<SharedApp>, _: NoBody) -> Response {
        json::ascii_response(app.schemas.metadefs.object.raw())
    }

    pub(in crate::http::v2) async fn objects(State(app): State<SharedApp>, _: NoBody) -> Response {
        json::ascii_response(&app.schemas.metadefs.objects)
    }

    pub(in crate::http::v2) async fn tag(State(app): State<SharedApp>, _: NoBody) -> Response {
        json::ascii_response(app.schemas.metadefs.tag.raw())
    }

    pub(in crate::http::v2) async fn tags(State(app): State<SharedApp>, _: NoBody) -> Response {
        json::ascii_response(&app.schemas.metadefs.tags)
    }
}
