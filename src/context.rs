//! The caller of a request. The request's id is not in it: the log's span has that.

use std::sync::Arc;

/// The scope of a token.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Scope {
    /// A project. It need not be a project of Keystone: users of this server have one, too.
    #[default]
    Project,
    /// A domain.
    Domain,
    /// The whole cloud.
    System,
    /// Unscoped: the token proves its user's identity, and authorises nothing.
    None,
}

/// A caller's identity, as an authenticator established it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Identity {
    /// The user's id, if the caller is a user.
    pub(crate) user_id: Option<String>,
    /// The project that the caller acts for. It owns the images that the caller creates.
    pub(crate) project_id: Option<String>,
    /// Role names in lower case, as Glance compares them.
    pub(crate) roles: Vec<String>,
    /// The scope of the caller's token.
    pub(crate) scope: Scope,
    /// The domain of the user.
    pub(crate) user_domain_id: Option<String>,
    /// The domain of the project.
    pub(crate) project_domain_id: Option<String>,
    /// The domain that the token is scoped to.
    pub(crate) domain_id: Option<String>,
    /// Whether Keystone has a project for the cloud's admins, and the token is scoped to another project.
    pub(crate) outside_admin_project: bool,
    /// The service that sends the request on behalf of the user, if a token of its own proves it.
    pub(crate) service: Option<Arc<Identity>>,
}

/// The caller, as every service function gets it.
#[derive(Debug, Clone)]
pub(crate) struct Context {
    /// The caller.
    pub(crate) identity: Arc<Identity>,
    /// Whether the caller satisfies the policy's `context_is_admin` rule: an admin sees every image.
    pub(crate) is_admin: bool,
}

impl Context {
    /// The project that owns the images that this caller creates.
    pub(crate) fn project_id(&self) -> Option<&str> {
        self.identity.project_id.as_deref()
    }
}
