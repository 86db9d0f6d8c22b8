//! Issues, describes and revokes tokens.

use std::{collections::BTreeSet, sync::Arc};

use super::{
    Claims, DOMAIN_ID, DOMAIN_NAME, Method, Standalone,
    directory::{denied, is_admin},
    token,
};
use crate::{
    auth::{identity_file::IdentityFile, with_implied},
    config::Secret,
    context::Context,
    error::{Error, Result},
};

/// A request for a token.
#[derive(Debug)]
pub(crate) struct Login {
    /// The proofs of the user's identity. All of them must be valid, and for the same user.
    pub(crate) proofs: Vec<Proof>,
    /// The requested scope.
    pub(crate) scope: RequestedScope,
}

/// A proof of a user's identity.
#[derive(Debug)]
pub(crate) enum Proof {
    /// The user's password.
    Password {
        /// The user.
        user: Reference,
        /// The password.
        password: Secret,
    },
    /// A signed token of the user.
    Token(Secret),
}

/// The scope that a client requests.
#[derive(Debug)]
pub(crate) enum RequestedScope {
    /// None: the user's project, which is the default project.
    Default,
    /// Explicitly no scope.
    Unscoped,
    /// A project.
    Project(Reference),
    /// A domain, the system or a trust, to which no user of this server has access.
    Other,
}

/// A user or project as a client names it. Its id is its name.
#[derive(Debug)]
pub(crate) enum Reference {
    /// By its id.
    Id(String),
    /// By its name in a domain.
    Name(String, DomainReference),
}

/// A domain as a client names it.
#[derive(Debug)]
pub(crate) enum DomainReference {
    /// By its id.
    Id(String),
    /// By its name.
    Name(String),
}

impl Reference {
    /// The name of the user or project; `None` if it is in a domain that does not exist.
    fn resolve(&self) -> Option<&str> {
        match self {
            Self::Id(id) => Some(id),
            Self::Name(name, DomainReference::Id(id)) => (id == DOMAIN_ID).then_some(name),
            Self::Name(name, DomainReference::Name(domain)) => domain.eq_ignore_ascii_case(DOMAIN_NAME).then_some(name),
        }
    }
}

/// A token, with what it means at present.
pub(crate) struct Issued {
    /// The token.
    pub(crate) text: Secret,
    /// What the token says.
    pub(crate) claims: Claims,
    /// The user's roles; none if the token is unscoped.
    pub(crate) roles: Vec<String>,
}

/// A user who has proved its identity.
struct Proved {
    user: String,
    methods: BTreeSet<Method>,
    /// The earliest end of the tokens among the proofs.
    expires: Option<i64>,
    /// The audit id of the first token in the chain.
    parent_audit_id: Option<String>,
}

impl Standalone {
    /// Issues a token. A token that is derived from another one expires with it.
    ///
    /// # Errors
    /// `Unauthenticated` if a proof is wrong, or the user has no access to the scope; `NotFound` if a token among the proofs is
    /// invalid, as Keystone answers; `Unavailable` if too many passwords wait for their verification.
    pub(crate) async fn log_in(&self, login: Login) -> Result<Issued> {
        let users = self.current_users().await;
        let mut proved: Option<Proved> = None;
        for proof in &login.proofs {
            let next = self.check(&users, proof).await?;
            proved = Some(match proved {
                None => next,
                Some(before) => before.and(next)?,
            });
        }
        let proved = proved.ok_or(Error::Unauthenticated)?;
        let user = users.users.get(&proved.user).ok_or(Error::Unauthenticated)?;
        let project = match &login.scope {
            RequestedScope::Unscoped => None,
            RequestedScope::Default => Some(user.project.clone()),
            RequestedScope::Project(project) if project.resolve() == Some(&user.project) => Some(user.project.clone()),
            RequestedScope::Project(_) | RequestedScope::Other => return Err(Error::Unauthenticated),
        };
        let issued = self.now();
        let claims = Claims {
            user: proved.user,
            project,
            methods: proved.methods.into_iter().collect(),
            issued,
            expires: proved.expires.unwrap_or_else(|| issued + self.lifetime),
            audit_id: token::generate_audit_id(),
            parent_audit_id: proved.parent_audit_id,
        };
        let text = Secret::new(self.signer.sign(&claims, user));
        Ok(issued_token(text, claims, &users))
    }

    async fn check(&self, users: &IdentityFile, proof: &Proof) -> Result<Proved> {
        match proof {
            Proof::Password { user, password } => {
                // A domain that does not exist takes the same time: no user has an empty name.
                let name = user.resolve().unwrap_or_default();
                let user = self.verify_password(users, name, password.expose()).await?;
                user.ok_or(Error::Unauthenticated)?;
                let methods = BTreeSet::from([Method::Password]);
                Ok(Proved { user: name.to_owned(), methods, expires: None, parent_audit_id: None })
            }
            Proof::Token(text) => {
                let claims = self.verify_token(users, text.expose()).ok_or_else(invalid_token)?;
                let methods = claims.methods.into_iter().chain([Method::Token]).collect();
                let parent = claims.parent_audit_id.unwrap_or(claims.audit_id);
                Ok(Proved { user: claims.user, methods, expires: Some(claims.expires), parent_audit_id: Some(parent) })
            }
        }
    }

    /// Describes a token of the caller; an admin, or a service, may have any token described.
    ///
    /// # Errors
    /// `NotFound` if it is not a valid token, `Forbidden` if it is another user's.
    pub(crate) async fn describe_token(&self, caller: &Context, subject: Option<Secret>) -> Result<Issued> {
        let rule = "identity:validate_token";
        let may_see_all =
            |caller: &Context| is_admin(caller) || caller.identity.roles.iter().any(|role| role == "service");
        let (users, text, claims) = self.subject(caller, subject, rule, may_see_all).await?;
        Ok(issued_token(text, claims, &users))
    }

    /// Revokes a token of the caller; an admin may revoke any token. Tokens that were derived from it stay valid, as in Keystone.
    ///
    /// # Errors
    /// As [`Self::describe_token`].
    pub(crate) async fn revoke_token(&self, caller: &Context, subject: Option<Secret>) -> Result<()> {
        let (_, _, claims) = self.subject(caller, subject, "identity:revoke_token", is_admin).await?;
        self.revocations.revoke(&claims, self.now(), self.lifetime);
        tracing::info!(user = claims.user, audit_id = claims.audit_id, "token was revoked");
        Ok(())
    }

    /// The token that a request is about, if the caller may know of it.
    async fn subject(
        &self,
        caller: &Context,
        subject: Option<Secret>,
        rule: &str,
        may_all: impl Fn(&Context) -> bool,
    ) -> Result<(Arc<IdentityFile>, Secret, Claims)> {
        let Some(text) = subject else {
            return Err(if may_all(caller) { invalid_token() } else { denied(rule) });
        };
        let users = self.current_users().await;
        let claims = self.verify_token(&users, text.expose()).ok_or_else(invalid_token)?;
        let is_own = caller.identity.user_id.as_deref() == Some(&claims.user);
        if is_own || may_all(caller) { Ok((users, text, claims)) } else { Err(denied(rule)) }
    }
}

impl Proved {
    /// Both proofs together.
    fn and(self, other: Self) -> Result<Self> {
        if self.user != other.user {
            return Err(Error::Unauthenticated);
        }
        Ok(Self {
            user: self.user,
            methods: self.methods.into_iter().chain(other.methods).collect(),
            expires: self.expires.into_iter().chain(other.expires).min(),
            parent_audit_id: self.parent_audit_id.or(other.parent_audit_id),
        })
    }
}

fn issued_token(text: Secret, claims: Claims, users: &IdentityFile) -> Issued {
    let user = users.users.get(&claims.user).filter(|_| claims.project.is_some());
    let roles = user.map(|user| with_implied(user.roles.iter().map(String::as_str)));
    Issued { text, claims, roles: roles.unwrap_or_default() }
}

fn invalid_token() -> Error {
    Error::NotFound("Failed to validate token".to_owned())
}
