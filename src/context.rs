//! Who asks. Which request it is, the log's span knows.

use std::sync::Arc;

/// What a token is good for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Scope {
    /// A project, or whatever stands for one.
    #[default]
    Project,
    /// A domain.
    Domain,
    /// The whole cloud.
    System,
    /// Nothing but proving who its user is.
    None,
}

/// What an authenticator found out about the caller.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Identity {
    /// The user's id, where there is a user.
    pub(crate) user_id: Option<String>,
    /// The project that the caller acts for: the owner of what they create.
    pub(crate) project_id: Option<String>,
    /// Role names in lower case, as Glance compares them.
    pub(crate) roles: Vec<String>,
    /// What the caller's token is good for.
    pub(crate) scope: Scope,
}

/// The caller, handed to every service function.
#[derive(Debug, Clone)]
pub(crate) struct Context {
    /// The caller.
    pub(crate) identity: Arc<Identity>,
    /// Whether the policy's `context_is_admin` holds: an admin sees every image.
    pub(crate) is_admin: bool,
}

impl Context {
    /// The project that owns what this caller creates.
    pub(crate) fn project_id(&self) -> Option<&str> {
        self.identity.project_id.as_deref()
    }
}
