//! `/v2/images/{image_id}/members` and `/v2/images/{image_id}/members/{member_id}`: shares images with projects.

use axum::{extract::State, http::StatusCode, response::Response};
use serde::Serialize;
use serde_json::Value;

use crate::{
    app::SharedApp,
    context::Context,
    error::{Error, Result},
    http::{
        extract::{ImagePath, Json, MemberPath, NoBody},
        json,
    },
    images::members,
    model::{Member, MemberId},
};

#[derive(Serialize)]
struct MemberBody {
    member_id: String,
    image_id: String,
    status: &'static str,
    created_at: String,
    updated_at: String,
    schema: &'static str,
}

impl From<Member> for MemberBody {
    fn from(member: Member) -> Self {
        Self {
            member_id: member.member,
            image_id: member.image_id,
            status: member.status.as_str(),
            created_at: json::time(member.created_at),
            updated_at: json::time(member.updated_at.unwrap_or(member.created_at)),
            schema: "/v2/schemas/member",
        }
    }
}

#[derive(Serialize)]
struct MembersBody {
    members: Vec<MemberBody>,
    schema: &'static str,
}

pub(super) async fn add(
    State(app): State<SharedApp>,
    context: Context,
    ImagePath(image): ImagePath,
    Json(body): Json,
) -> Result<Response> {
    let member = members::add(&app, &context, &image, &new_member(&body)?).await?;
    Ok(json::response(&MemberBody::from(member)))
}

pub(super) async fn list(
    State(app): State<SharedApp>,
    context: Context,
    ImagePath(image): ImagePath,
    _: NoBody,
) -> Result<Response> {
    let members = members::list(&app, &context, &image).await?;
    let members = members.into_iter().map(MemberBody::from).collect();
    Ok(json::response(&MembersBody { members, schema: "/v2/schemas/members" }))
}

pub(super) async fn get(
    State(app): State<SharedApp>,
    context: Context,
    MemberPath(image, member): MemberPath,
    _: NoBody,
) -> Result<Response> {
    let member = members::get(&app, &context, &image, &member).await?;
    Ok(json::response(&MemberBody::from(member)))
}

pub(super) async fn set_status(
    State(app): State<SharedApp>,
    context: Context,
    MemberPath(image, member): MemberPath,
    Json(body): Json,
) -> Result<Response> {
    let status = required(&body, "status", "Status not specified", "{\"status\": \"status\"}")?;
    let status = status.as_str().and_then(|text| text.parse().ok());
    let member = members::set_status(&app, &context, &image, &member, status).await?;
    Ok(json::response(&MemberBody::from(member)))
}

pub(super) async fn remove(
    State(app): State<SharedApp>,
    context: Context,
    MemberPath(image, member): MemberPath,
    _: NoBody,
) -> Result<StatusCode> {
    members::remove(&app, &context, &image, &member).await?;
    Ok(StatusCode::NO_CONTENT)
}

const MEMBER_FORM: &str = "{\"member\": \"image_id\"}";

fn new_member(body: &Value) -> Result<MemberId> {
    let member = required(body, "member", "Member to be added not specified", MEMBER_FORM)?;
    match member {
        Value::String(text) => MemberId::parse(text),
        falsy if is_falsy(falsy) => MemberId::parse(""),
        // Depending on the database engine, Glance stores a number as text, or fails.
        _ => Err(not_in_form("member", MEMBER_FORM)),
    }
}

/// The value of this name in the body. `form` is the expected form of the body, as Glance's message shows it.
fn required<'b>(body: &'b Value, name: &str, missing: &str, form: &str) -> Result<&'b Value> {
    match body {
        Value::Object(body) => body.get(name).ok_or_else(|| Error::Invalid(missing.to_owned())),
        _ => Err(not_in_form(name, form)),
    }
}

fn not_in_form(name: &str, form: &str) -> Error {
    Error::Invalid(format!("Expected a {name} in the form: {form}"))
}

/// Whether the value is false in Python.
fn is_falsy(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::Bool(true) => false,
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(object) => object.is_empty(),
    }
}
