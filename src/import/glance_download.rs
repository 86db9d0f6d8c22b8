//! `glance-download`: imports an image from the image service of another region.
//!
//! The source is in the caller's service catalog, and gets the caller's token. The token is only in the memory of the process that
//! has received the request, never in the database. If this process ends before the data is staged, the import fails.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use uuid::Uuid;

use super::{Formats, download};
use crate::{
    app::App,
    auth::Credentials,
    context::{Context, Identity},
    error::{Error, Result},
};

/// The maximum length of the source image's metadata in bytes.
const MAX_METADATA: usize = 1024 * 1024;
/// The interface of the catalog that is used if the request names none.
const PUBLIC: &str = "public";
/// The names of an image's attributes, which are not custom properties.
const ATTRIBUTES: [&str; 26] = [
    "id",
    "name",
    "status",
    "visibility",
    "owner",
    "protected",
    "disk_format",
    "container_format",
    "min_disk",
    "min_ram",
    "size",
    "virtual_size",
    "checksum",
    "os_hash_algo",
    "os_hash_value",
    "os_hidden",
    "tags",
    "created_at",
    "updated_at",
    "locations",
    "direct_url",
    "file",
    "self",
    "schema",
    "stores",
    "deleted_at",
];
/// The maximum length of a format's name in characters, which is that of its column.
const MAX_FORMAT: usize = 20;

/// The image that a request names.
#[derive(Debug)]
pub(super) struct Named {
    region: String,
    image_id: Uuid,
    interface: String,
}

impl Named {
    /// Reads the method of a request.
    ///
    /// # Errors
    /// `Invalid`, with Glance's messages.
    pub(super) fn parse(method: &Value) -> Result<Self> {
        let missing =
            |name: &str| Error::Invalid(format!("'{name}' needs to be set for glance-download import method"));
        let given = |name: &str| method.get(name).and_then(Value::as_str).ok_or_else(|| missing(name));
        let (region, image_id) = (given("glance_region")?, given("glance_image_id")?);
        let not_uuid = |_| Error::Invalid(format!("Remote image id does not look like a UUID: {image_id}"));
        Ok(Self {
            region: region.to_owned(),
            image_id: Uuid::try_parse(image_id).map_err(not_uuid)?,
            interface: method.get("glance_service_interface").and_then(Value::as_str).unwrap_or(PUBLIC).to_owned(),
        })
    }

    /// Finds the image service in the caller's catalog.
    ///
    /// # Errors
    /// `Unavailable` if Keystone cannot be reached.
    pub(super) async fn resolve(self, app: &App, context: &Context, credentials: &Credentials) -> Result<Origin> {
        let endpoint = app.authenticator.endpoint(credentials, "image", Some(&self.region), &self.interface).await?;
        let Identity { user_id, roles, .. } = &*context.identity;
        Ok(Origin {
            region: self.region,
            image_id: self.image_id.to_string(),
            interface: self.interface,
            endpoint,
            holder: app.process.id.clone(),
            user_id: user_id.clone(),
            roles: roles.clone(),
            is_admin: context.is_admin,
            size: None,
            properties: Vec::new(),
        })
    }
}

/// Where an import's image comes from, among the parameters of its job.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Origin {
    region: String,
    image_id: String,
    interface: String,
    /// The URL of the image service; `None` if the caller's catalog has none.
    endpoint: Option<String>,
    /// The process that has the caller's token.
    pub(super) holder: String,
    user_id: Option<String>,
    roles: Vec<String>,
    is_admin: bool,
    /// The size in bytes of the source image's data, once it is known.
    pub(super) size: Option<u64>,
    /// The properties that the import has changed, with their former values.
    pub(super) properties: Vec<(String, Option<String>)>,
}

/// What an import copies of its source image, besides the data.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Metadata {
    pub(super) disk_format: String,
    pub(super) container_format: String,
    pub(super) size: u64,
    pub(super) properties: Vec<(String, String)>,
}

impl Origin {
    /// The URL of the source image.
    ///
    /// # Errors
    /// `Invalid` if the caller's catalog has no such service.
    fn url(&self) -> Result<String> {
        let missing = || format!("{} glance endpoint not found for region {}", self.interface, self.region);
        let endpoint = self.endpoint.as_deref().ok_or_else(|| Error::Invalid(missing()))?;
        Ok(format!("{}/v2/images/{}", endpoint.trim_end_matches('/'), self.image_id))
    }

    /// Whether the import needs the caller's token until the data is staged.
    pub(super) fn needs_token(&self) -> bool {
        self.endpoint.is_some()
    }

    /// The URL of the source image's data.
    ///
    /// # Errors
    /// `Invalid` if the caller's catalog has no such service.
    pub(super) fn data_url(&self) -> Result<String> {
        Ok(format!("{}/file", self.url()?))
    }

    /// The caller, for the protection of properties.
    pub(super) fn caller(&self, project: Option<&str>) -> Context {
        let identity = Identity {
            user_id: self.user_id.clone(),
            project_id: project.map(str::to_owned),
            roles: self.roles.clone(),
            ..Identity::default()
        };
        Context { identity: identity.into(), is_admin: self.is_admin }
    }

    /// Reads the source image's metadata.
    ///
    /// # Errors
    /// `Invalid` if another attempt would fail as well, otherwise `StoreUnavailable`.
    pub(super) async fn metadata(
        &self,
        app: &App,
        project: Option<&str>,
        token: Option<reqwest::header::HeaderValue>,
    ) -> Result<Metadata> {
        let uri = &self.url()?;
        let source = download::Source { uri, project, token: Some(token.ok_or_else(token_is_lost)?) };
        let text = download::read(app, source, MAX_METADATA).await?;
        let prefixes = &app.config.glance_download_properties.extra_properties.0;
        parse(&text, prefixes, &self.image_id)
    }
}

/// Adds what the request leaves out to the task's record of it, as Glance does.
pub(super) fn complete(body: &mut Map<String, Value>) {
    if let Some(Value::Object(method)) = body.get_mut("method") {
        method.entry("glance_service_interface").or_insert_with(|| PUBLIC.into());
    }
}

/// The token is not in this process.
pub(super) fn token_is_lost() -> Error {
    let message =
        "The process that had the caller's token has ended before the data was copied. Import the image again.";
    Error::Invalid(message.to_owned())
}

fn parse(text: &[u8], prefixes: &[String], image_id: &str) -> Result<Metadata> {
    let invalid = |message: String| Error::Invalid(message);
    let image: Map<String, Value> =
        serde_json::from_slice(text).map_err(|_| invalid("The source does not answer with an image.".to_owned()))?;
    let status = image.get("status").and_then(Value::as_str).unwrap_or("None");
    if status != "active" {
        return Err(invalid(format!("Source image status should be active instead of {status}")));
    }
    let is_format =
        |format: &&str| (1..=MAX_FORMAT).contains(&format.len()) && format.bytes().all(|b| b.is_ascii_graphic());
    let format = |name: &str| {
        let format = image.get(name).and_then(Value::as_str).filter(is_format).map(str::to_owned);
        format.ok_or_else(|| invalid(format!("The source image has no valid {name}.")))
    };
    let size = image.get("size").and_then(Value::as_u64).filter(|size| i64::try_from(*size).is_ok());
    let unknown = || invalid(format!("Size attribute of remote image {image_id} could not be determined."));
    let is_copied =
        |name: &str| prefixes.iter().any(|prefix| name.starts_with(prefix.as_str())) && !ATTRIBUTES.contains(&name);
    let properties = image.iter().filter(|(name, _)| is_copied(name));
    Ok(Metadata {
        disk_format: format("disk_format")?,
        container_format: format("container_format")?,
        size: size.ok_or_else(unknown)?,
        properties: properties.filter_map(|(name, value)| Some((name.clone(), value.as_str()?.to_owned()))).collect(),
    })
}

impl Metadata {
    pub(super) fn formats(&self) -> Formats {
        Formats { disk: Some(self.disk_format.clone()), container: Some(self.container_format.clone()) }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::{Metadata, parse};

    fn parsed(image: &Value) -> Result<Metadata, String> {
        let prefixes = ["hw_", "os_"].map(str::to_owned);
        parse(image.to_string().as_bytes(), &prefixes, "x").map_err(|error| error.to_string())
    }

    #[test]
    fn only_properties_with_the_configured_prefixes_are_copied() {
        let mut image = json!({"status": "active", "disk_format": "raw", "container_format": "bare", "size": 3,
            "hw_a": "1", "os_hash_value": "ff", "os_type": "linux", "os_list": ["x"], "other": "x"});
        let copied = parsed(&image).unwrap();
        let expected = [("hw_a", "1"), ("os_type", "linux")].map(|(name, value)| (name.to_owned(), value.to_owned()));
        assert_eq!((copied.properties, copied.size), (expected.to_vec(), 3));
        for (name, value, message) in [
            ("size", Value::Null, "Size attribute of remote image x could not be determined."),
            ("size", json!(-1), "Size attribute of remote image x could not be determined."),
            ("disk_format", Value::Null, "The source image has no valid disk_format."),
            ("container_format", json!("x".repeat(21)), "The source image has no valid container_format."),
            ("status", json!("queued"), "Source image status should be active instead of queued"),
        ] {
            let before = std::mem::replace(&mut image[name], value);
            assert_eq!(parsed(&image), Err(message.to_owned()));
            image[name] = before;
        }
        assert_eq!(parsed(&json!([])), Err("The source does not answer with an image.".to_owned()));
    }
}
