//! The credentials of a login to Keystone, and its scope.

use serde_json::{Value, json};

use super::options::ClientOptions;
use crate::config::{KeystoneLogin, Password};

/// Credentials, and the scope that is requested with them.
#[derive(Clone)]
pub(super) struct Credentials {
    identity: Identity,
    scope: Option<Scope>,
}

/// What proves the identity of the service user.
#[derive(Clone)]
enum Identity {
    Password { user: User, password: Password },
    ApplicationCredential { credential: ApplicationCredential, secret: Password },
    Token(Password),
}

#[derive(Clone)]
enum ApplicationCredential {
    Id(String),
    Name(String, User),
}

#[derive(Clone)]
enum User {
    Id(String),
    Name(String, Domain),
}

#[derive(Clone)]
enum Domain {
    Id(String),
    Name(String),
}

#[derive(Clone)]
enum Scope {
    System,
    /// The trust with this id.
    Trust(String),
    Domain(Domain),
    ProjectId(String),
    ProjectName(String, Domain),
}

impl Credentials {
    /// Reads them from the options.
    ///
    /// # Errors
    /// The option that is missing, or whose value is not supported.
    pub(super) fn new(options: &ClientOptions) -> Result<Self, String> {
        let identity = Identity::new(options)?;
        // An application credential has the scope in which it was created; Keystone rejects a request for another one. Options for
        // a scope often remain in a section whose auth_type was changed.
        let scope = match identity {
            Identity::ApplicationCredential { .. } => None,
            Identity::Password { .. } | Identity::Token(_) => Scope::new(options)?,
        };
        Ok(Self { identity, scope })
    }

    /// The same credentials, for a trust. `None` if they are bound to another scope.
    pub(super) fn for_trust(&self, id: &str) -> Option<Self> {
        match self.identity {
            Identity::Password { .. } => {
                Some(Self { identity: self.identity.clone(), scope: Some(Scope::Trust(id.to_owned())) })
            }
            Identity::ApplicationCredential { .. } | Identity::Token(_) => None,
        }
    }

    /// The body of the request that logs in.
    pub(super) fn to_json(&self) -> Value {
        let mut auth = json!({ "identity": self.identity.to_json() });
        if let Some(scope) = &self.scope {
            auth["scope"] = scope.to_json();
        }
        json!({ "auth": auth })
    }
}

impl Identity {
    fn new(options: &ClientOptions) -> Result<Self, String> {
        let login = &options.login;
        let require = |secret: &Option<Password>, name| secret.clone().ok_or_else(|| options.missing(name));
        match login.auth_type.as_deref() {
            None | Some("password" | "v3password") => {
                Ok(Self::Password { user: User::new(options)?, password: require(&login.password, "password")? })
            }
            Some("v3applicationcredential") => Ok(Self::ApplicationCredential {
                credential: ApplicationCredential::new(options)?,
                secret: require(&login.application_credential_secret, "application_credential_secret")?,
            }),
            Some("token" | "v3token") => Ok(Self::Token(require(&login.token, "token")?)),
            Some(other) => Err(format!(
                "[{}] auth_type: {other:?} is not supported; password, v3applicationcredential and v3token are",
                options.section
            )),
        }
    }

    fn to_json(&self) -> Value {
        match self {
            Self::Password { user, password } => {
                let mut user = user.to_json();
                user["password"] = json!(password.expose());
                json!({ "methods": ["password"], "password": { "user": user } })
            }
            Self::ApplicationCredential { credential, secret } => {
                let mut credential = credential.to_json();
                credential["secret"] = json!(secret.expose());
                json!({ "methods": ["application_credential"], "application_credential": credential })
            }
            Self::Token(token) => json!({ "methods": ["token"], "token": { "id": token.expose() } }),
        }
    }
}

impl ApplicationCredential {
    fn new(options: &ClientOptions) -> Result<Self, String> {
        let login = &options.login;
        match (&login.application_credential_id, &login.application_credential_name) {
            (Some(id), _) => Ok(Self::Id(id.clone())),
            (None, Some(name)) => Ok(Self::Name(name.clone(), User::new(options)?)),
            (None, None) => Err(options.missing("application_credential_id")),
        }
    }

    fn to_json(&self) -> Value {
        match self {
            Self::Id(id) => json!({ "id": id }),
            Self::Name(name, user) => json!({ "name": name, "user": user.to_json() }),
        }
    }
}

impl User {
    fn new(options: &ClientOptions) -> Result<Self, String> {
        let login = &options.login;
        match (&login.user_id, &login.username) {
            (Some(id), _) => Ok(Self::Id(id.clone())),
            (None, Some(name)) => {
                let domain = Domain::or_default(&login.user_domain_id, &login.user_domain_name, login);
                Ok(Self::Name(name.clone(), domain))
            }
            (None, None) => Err(options.missing("username")),
        }
    }

    fn to_json(&self) -> Value {
        match self {
            Self::Id(id) => json!({ "id": id }),
            Self::Name(name, domain) => json!({ "name": name, "domain": domain.to_json() }),
        }
    }
}

impl Domain {
    fn new(id: &Option<String>, name: &Option<String>) -> Option<Self> {
        id.clone().map(Self::Id).or_else(|| name.clone().map(Self::Name))
    }

    /// The domain of a user or a project: by default the one of `default_domain_id` or `default_domain_name`, else Keystone's own
    /// default.
    fn or_default(id: &Option<String>, name: &Option<String>, login: &KeystoneLogin) -> Self {
        Self::new(id, name)
            .or_else(|| Self::new(&login.default_domain_id, &login.default_domain_name))
            .unwrap_or_else(|| Self::Id("default".to_owned()))
    }

    fn to_json(&self) -> Value {
        match self {
            Self::Id(id) => json!({ "id": id }),
            Self::Name(name) => json!({ "name": name }),
        }
    }
}

impl Scope {
    fn new(options: &ClientOptions) -> Result<Option<Self>, String> {
        let login = &options.login;
        match login.system_scope.as_deref() {
            None => {}
            Some("all") => return Ok(Some(Self::System)),
            Some(other) => {
                return Err(format!("[{}] system_scope: {other:?} is not supported; all is", options.section));
            }
        }
        if let Some(domain) = Domain::new(&login.domain_id, &login.domain_name) {
            return Ok(Some(Self::Domain(domain)));
        }
        Ok(match (&login.project_id, &login.project_name) {
            (Some(id), _) => Some(Self::ProjectId(id.clone())),
            (None, Some(name)) => {
                let domain = Domain::or_default(&login.project_domain_id, &login.project_domain_name, login);
                Some(Self::ProjectName(name.clone(), domain))
            }
            (None, None) => None,
        })
    }

    fn to_json(&self) -> Value {
        match self {
            Self::System => json!({ "system": { "all": true } }),
            Self::Trust(id) => json!({ "OS-TRUST:trust": { "id": id } }),
            Self::Domain(domain) => json!({ "domain": domain.to_json() }),
            Self::ProjectId(id) => json!({ "project": { "id": id } }),
            Self::ProjectName(name, domain) => json!({ "project": { "name": name, "domain": domain.to_json() } }),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{ClientOptions, Credentials, Value};
    use crate::config::{KeystoneAuthtoken, OptionValue as _, Password};

    fn auth(auth_type: &str, options: &KeystoneAuthtoken) -> Value {
        let options = KeystoneAuthtoken { auth_type: Some(auth_type.to_owned()), ..options.clone() };
        Credentials::new(&ClientOptions::from(&options)).unwrap().to_json()["auth"].take()
    }

    /// keystoneauth sends the same, except that it also requests a scope with an application credential. Keystone rejects that.
    #[test]
    fn logins_have_the_form_of_their_method() {
        let text = |text: &str| Some(text.to_owned());
        let secret = |text: &str| Some(Password::parse(text).unwrap());
        let options = KeystoneAuthtoken {
            application_credential_id: text("i"),
            application_credential_secret: secret("s"),
            token: secret("t"),
            username: text("u"),
            password: secret("w"),
            project_name: text("p"),
            default_domain_name: text("D"),
            project_domain_id: text("d"),
            ..KeystoneAuthtoken::default()
        };
        let credential = json!({"id": "i", "secret": "s"});
        let identity = json!({"methods": ["application_credential"], "application_credential": credential});
        assert_eq!(auth("v3applicationcredential", &options), json!({"identity": identity}));
        let scope = json!({"project": {"name": "p", "domain": {"id": "d"}}});
        let identity = json!({"methods": ["token"], "token": {"id": "t"}});
        assert_eq!(auth("v3token", &options), json!({"identity": identity, "scope": scope}));
        let user = json!({"name": "u", "domain": {"name": "D"}, "password": "w"});
        assert_eq!(auth("password", &options)["identity"]["password"]["user"], user);
        let named =
            KeystoneAuthtoken { application_credential_id: None, application_credential_name: text("n"), ..options };
        let user = json!({"name": "u", "domain": {"name": "D"}});
        let credential = json!({"name": "n", "secret": "s", "user": user});
        assert_eq!(auth("v3applicationcredential", &named)["identity"]["application_credential"], credential);
        let system = KeystoneAuthtoken { system_scope: text("all"), ..named.clone() };
        assert_eq!(auth("password", &system)["scope"], json!({"system": {"all": true}}));
        let domain = KeystoneAuthtoken { domain_id: text("x"), ..named };
        assert_eq!(auth("password", &domain)["scope"], json!({"domain": {"id": "x"}}));
    }

    #[test]
    fn an_application_credential_ignores_options_for_a_scope() {
        let text = |text: &str| Some(text.to_owned());
        let options = KeystoneAuthtoken {
            application_credential_id: text("i"),
            application_credential_secret: Some(Password::parse("s").unwrap()),
            project_name: text("p"),
            domain_name: text("d"),
            system_scope: text("some"),
            ..KeystoneAuthtoken::default()
        };
        assert_eq!(auth("v3applicationcredential", &options)["scope"], json!(null));
    }
}
