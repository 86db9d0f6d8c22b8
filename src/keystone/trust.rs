//! Trusts: a user delegates roles to the service user, so that tokens can be renewed while a long transfer runs.

use std::{sync::Arc, time::SystemTime};

use chrono::{DateTime, TimeDelta, Utc};
use reqwest::{StatusCode, header::HeaderValue};
use serde::Deserialize;
use serde_json::json;

use super::client::{Client, KeystoneError, read_body};

/// How long a trust is valid. It is deleted with its transfer, unless the process is killed.
const LIFETIME: TimeDelta = TimeDelta::hours(24);

/// A trust, which is deleted in the background when it is dropped.
pub(crate) struct Trust {
    id: String,
    /// The service user, with the roles and in the name of the user.
    client: Arc<Client>,
    /// The token of the user.
    trustor: HeaderValue,
}

/// Keystone's description of a token.
#[derive(Deserialize)]
struct TokenBody {
    token: TokenOfUser,
}

#[derive(Deserialize)]
struct TokenOfUser {
    user: Named,
    project: Option<Named>,
    #[serde(default)]
    roles: Vec<Named>,
}

#[derive(Deserialize)]
struct Created {
    trust: Named,
}

#[derive(Deserialize)]
struct Named {
    id: String,
}

impl Trust {
    /// Creates a trust from the user of a token to the user of `service`, for the token's project and roles. `None` if the login of
    /// `service` cannot use one.
    ///
    /// # Errors
    /// Keystone is unreachable, or does not allow the user to create a trust.
    pub(crate) async fn create(service: &Client, user: &HeaderValue) -> Result<Option<Self>, KeystoneError> {
        if !service.can_have_trusts() {
            return Ok(None);
        }
        let now: DateTime<Utc> = SystemTime::now().into();
        let trustee = service.user_id(now).await?;
        let answered = |what: &str, status| Err(KeystoneError::Http(format!("Keystone answered {status} to {what}")));
        let url = service.url_of("/auth/tokens");
        let described = service
            .send(|| service.http().get(&url).header("X-Auth-Token", user).header("X-Subject-Token", user))
            .await?;
        if described.status() != StatusCode::OK {
            return answered("a request for the caller's token", described.status());
        }
        let TokenOfUser { user: trustor, project, roles } = read_body::<TokenBody>(described).await?.token;
        let project = project.ok_or_else(|| KeystoneError::Http("the caller's token has no project".to_owned()))?;
        let trust = json!({
            "trustor_user_id": trustor.id,
            "trustee_user_id": trustee,
            "project_id": project.id,
            "impersonation": true,
            "roles": roles.iter().map(|role| json!({ "id": role.id })).collect::<Vec<_>>(),
            "expires_at": (now + LIFETIME).format("%Y-%m-%dT%H:%M:%S%.6fZ").to_string(),
        });
        // It is not retried: another attempt could create another trust.
        let url = service.url_of("/OS-TRUST/trusts");
        let request = service.http().post(url).header("X-Auth-Token", user).json(&json!({ "trust": trust }));
        let created = request.send().await?;
        if created.status() != StatusCode::CREATED {
            return answered("the creation of a trust", created.status());
        }
        let id = read_body::<Created>(created).await?.trust.id;
        let Some(client) = service.for_trust(&id) else { return Ok(None) };
        let trust = Self { id, client: Arc::new(client), trustor: user.clone() };
        // If the login fails, the trust is of no use, and is deleted.
        trust.token(None, now).await?;
        Ok(Some(trust))
    }

    /// A token of the user, which is a new one if the current one is about to expire or was rejected.
    ///
    /// # Errors
    /// Keystone is unreachable, or rejects the login.
    pub(crate) async fn token(
        &self,
        rejected: Option<&HeaderValue>,
        now: DateTime<Utc>,
    ) -> Result<HeaderValue, KeystoneError> {
        self.client.token(rejected, now).await
    }
}

/// Deletes a trust in the name of the user: with a token that is renewed, or else with the user's own.
async fn delete(client: &Client, id: &str, trustor: HeaderValue) -> Result<(), KeystoneError> {
    let own = client.token(None, SystemTime::now().into()).await.ok();
    let url = client.url_of(&format!("/OS-TRUST/trusts/{id}"));
    let mut answer = StatusCode::UNAUTHORIZED;
    for token in own.into_iter().chain([trustor]) {
        let deleted = client.send(|| client.http().delete(&url).header("X-Auth-Token", token.clone())).await?;
        answer = deleted.status();
        if matches!(answer, StatusCode::NO_CONTENT | StatusCode::NOT_FOUND) {
            return Ok(());
        }
    }
    Err(KeystoneError::Http(format!("Keystone answered {answer} to the deletion of a trust")))
}

impl Drop for Trust {
    fn drop(&mut self) {
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        let (client, id, trustor) = (Arc::clone(&self.client), std::mem::take(&mut self.id), self.trustor.clone());
        runtime.spawn(async move {
            if let Err(error) = delete(&client, &id, trustor).await {
                tracing::warn!(%error, trust = id, "cannot delete a trust; Keystone ignores it after a day");
            }
        });
    }
}
