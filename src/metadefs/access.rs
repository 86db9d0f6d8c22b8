//! Whether a namespace is visible to the caller, and what the policy allows.

use std::borrow::Cow;

use crate::{
    app::App,
    context::Context,
    db::{self, Session, Tx},
    error::{Error, Result},
    model::metadefs::{Namespace, NamespaceVisibility},
    policy::{AttributeValue, Attributes, Target, rule},
};

/// How Glance's message calls a namespace that does not exist, which depends on the request.
#[derive(Debug, Clone, Copy)]
pub(super) enum Missing {
    /// `Namespace … not found`
    Short,
    /// `Metadata definition namespace=… was not found.`
    Long,
}

impl Missing {
    pub(super) fn error(self, name: &str) -> Error {
        Error::NotFound(match self {
            Self::Short => format!("Namespace {name} not found"),
            Self::Long => format!("Metadata definition namespace={name} was not found."),
        })
    }
}

/// Reads a namespace, if it is visible to the caller. One statement.
pub(super) async fn find(s: &mut impl Session, context: &Context, name: &str, missing: Missing) -> Result<Namespace> {
    let found = db::metadefs::namespaces::get(s, name).await?;
    found.filter(|namespace| is_visible(context, namespace)).ok_or_else(|| missing.error(name))
}

/// As [`find`], and takes the lock of the namespace's row until the transaction ends.
pub(super) async fn find_locked(tx: &mut Tx, context: &Context, name: &str, missing: Missing) -> Result<Namespace> {
    let found = db::metadefs::namespaces::get_locked(tx, name).await?;
    found.filter(|namespace| is_visible(context, namespace)).ok_or_else(|| missing.error(name))
}

/// Whether Glance's queries find the namespace for the caller, before any policy.
fn is_visible(context: &Context, namespace: &Namespace) -> bool {
    context.is_admin
        || namespace.visibility.as_deref() == Some(NamespaceVisibility::Public.as_str())
        || context.project_id() == Some(&namespace.owner)
}

/// A namespace as policy rules see it. Without one, the caller's project.
#[derive(Debug)]
struct PolicyView<'v> {
    project_id: &'v str,
    visibility: Option<&'v str>,
}

impl<'v> PolicyView<'v> {
    fn new(context: &'v Context, namespace: Option<&'v Namespace>) -> Self {
        match namespace {
            Some(namespace) => Self { project_id: &namespace.owner, visibility: Some(namespace.visibility()) },
            None => Self { project_id: context.project_id().unwrap_or("None"), visibility: None },
        }
    }
}

impl Attributes for PolicyView<'_> {
    fn attribute(&self, name: &str) -> Option<AttributeValue<'_>> {
        match name {
            "project_id" => Some(AttributeValue::Text(Cow::Borrowed(self.project_id))),
            "visibility" => self.visibility.map(|visibility| AttributeValue::Text(Cow::Borrowed(visibility))),
            _ => None,
        }
    }
}

/// Whether the policy allows the caller to do this to the namespace, or to namespaces in general.
pub(super) fn allows(app: &App, context: &Context, namespace: Option<&Namespace>, rule: &str) -> bool {
    let view = PolicyView::new(context, namespace);
    app.policy.allows(&context.identity, rule, &Target { attributes: Some(&view), ..Target::default() })
}

/// Checks that the policy allows the caller to do this to the namespace, or to namespaces in general.
///
/// # Errors
/// `Forbidden`, or `NotFound` if the policy does not allow the caller to see the namespace either.
pub(super) fn authorise(app: &App, context: &Context, namespace: Option<&Namespace>, rule: &str) -> Result<()> {
    if allows(app, context, namespace, rule) {
        return Ok(());
    }
    if rule == rule::GET_METADEF_NAMESPACE || !allows(app, context, namespace, rule::GET_METADEF_NAMESPACE) {
        return Err(Error::resource_not_found());
    }
    Err(Error::policy_denied(rule))
}

/// Checks that the namespace is not protected. `what` is the part of it that would be deleted, as Glance's message calls it.
///
/// # Errors
/// `Forbidden`
pub(super) fn check_unprotected(namespace: &Namespace, what: &str, name: &str) -> Result<()> {
    match namespace.is_protected() {
        true => Err(Error::Forbidden(format!("Metadata definition {what} {name} is protected and cannot be deleted."))),
        false => Ok(()),
    }
}

/// The result of a statement that may violate a unique key.
///
/// # Errors
/// `conflict` if it did.
pub(super) fn or_conflict<T>(done: db::Result<T>, conflict: impl FnOnce() -> String) -> Result<T> {
    done.map_err(|error| match error {
        db::Error::Duplicate => Error::Conflict(conflict()),
        error => error.into(),
    })
}

/// Begins the message about invalid input with what was attempted, as Glance does.
pub(super) fn attempted(what: &'static str) -> impl Fn(Error) -> Error {
    move |error| match error {
        Error::Invalid(message) => Error::Invalid(format!("Couldn't {what}: {message}")),
        error => error,
    }
}
