//! The users and projects of this server, as far as a caller may see them: its own ones, and all of them with the role admin. The
//! rules are the defaults of Keystone.

use std::collections::BTreeSet;

use super::{DOMAIN_ID, Standalone};
use crate::{
    auth::identity_file::User,
    context::Context,
    error::{Error, Result},
};

/// A user. Its id is its name.
pub(crate) struct UserEntry {
    /// The user's name.
    pub(crate) name: String,
    /// The user's project.
    pub(crate) project: String,
}

/// A project. Its id is its name.
pub(crate) struct Project(pub(crate) String);

/// What a listing is restricted to.
#[derive(Debug, Default)]
pub(crate) struct Filter {
    /// The name.
    pub(crate) name: Option<String>,
    /// The id of the domain.
    pub(crate) domain_id: Option<String>,
}

impl Filter {
    fn matches(&self, name: &str) -> bool {
        self.name.as_deref().is_none_or(|wanted| wanted == name)
            && self.domain_id.as_deref().is_none_or(|domain| domain == DOMAIN_ID)
    }
}

impl Standalone {
    /// A user.
    ///
    /// # Errors
    /// `Forbidden` unless it is the caller or the caller is an admin; `NotFound` if there is no such user.
    pub(crate) async fn user(&self, caller: &Context, id: &str) -> Result<UserEntry> {
        self.visible_user(caller, id, "identity:get_user").await
    }

    /// The users that match.
    ///
    /// # Errors
    /// `Forbidden` unless the caller is an admin.
    pub(crate) async fn users(&self, caller: &Context, filter: &Filter) -> Result<Vec<UserEntry>> {
        require_admin(caller, "identity:list_users")?;
        let file = self.current_users().await;
        let users = file.users.iter().filter(|(name, _)| filter.matches(name));
        Ok(users.map(|(name, user)| entry(name, user)).collect())
    }

    /// The project of a user.
    ///
    /// # Errors
    /// As [`Self::user`].
    pub(crate) async fn project_of(&self, caller: &Context, user: &str) -> Result<Project> {
        self.visible_user(caller, user, "identity:list_user_projects").await.map(|user| Project(user.project))
    }

    /// A project.
    ///
    /// # Errors
    /// `Forbidden` unless the caller acts for it or is an admin; `NotFound` if no user has this project.
    pub(crate) async fn project(&self, caller: &Context, id: &str) -> Result<Project> {
        if caller.project_id() != Some(id) {
            require_admin(caller, "identity:get_project")?;
        }
        let file = self.current_users().await;
        let is_there = file.users.values().any(|user| user.project == id);
        is_there.then(|| Project(id.to_owned())).ok_or_else(|| not_found("project", id))
    }

    /// The projects that match.
    ///
    /// # Errors
    /// `Forbidden` unless the caller is an admin.
    pub(crate) async fn projects(&self, caller: &Context, filter: &Filter) -> Result<Vec<Project>> {
        require_admin(caller, "identity:list_projects")?;
        let file = self.current_users().await;
        let names: BTreeSet<&str> = file.users.values().map(|user| user.project.as_str()).collect();
        Ok(names.into_iter().filter(|name| filter.matches(name)).map(|name| Project(name.to_owned())).collect())
    }

    async fn visible_user(&self, caller: &Context, id: &str, rule: &str) -> Result<UserEntry> {
        if caller.identity.user_id.as_deref() != Some(id) {
            require_admin(caller, rule)?;
        }
        let file = self.current_users().await;
        file.users.get(id).map(|user| entry(id, user)).ok_or_else(|| not_found("user", id))
    }
}

fn entry(name: &str, user: &User) -> UserEntry {
    UserEntry { name: name.to_owned(), project: user.project.clone() }
}

/// Whether the caller is an admin in Keystone's sense.
pub(super) fn is_admin(caller: &Context) -> bool {
    caller.identity.roles.iter().any(|role| role == "admin")
}

/// Refuses a caller that is not an admin.
pub(crate) fn require_admin(caller: &Context, rule: &str) -> Result<()> {
    if is_admin(caller) { Ok(()) } else { Err(denied(rule)) }
}

/// A caller that a rule of Keystone refuses. The sentence is Keystone's.
pub(super) fn denied(rule: &str) -> Error {
    Error::Forbidden(format!("You are not authorized to perform the requested action: {rule}."))
}

fn not_found(kind: &str, id: &str) -> Error {
    Error::NotFound(format!("Could not find {kind}: {id}."))
}
