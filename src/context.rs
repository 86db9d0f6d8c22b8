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
    /// The domain of the user.
    pub(crate) user_domain_id: Option<String>,
    /// The domain of the project.
    pub(crate) project_domain_id: Option<String>,
    /// The domain that the token is for.
    pub(crate) domain_id: Option<String>,
    /// Whether Keystone has a project for the cloud's admins, and the token is for another one.
    pub(crate) outside_admin_project: bool,
    /// The service that sends the request for its user, where a token of its own proves it.
    pub(crate) service: Option<Arc<Identity>>,
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
