//! The bodies of requests and responses.

use serde::Serialize;
use serde_json::{Map, Value};

use crate::{
    error::{Error, Result},
    http::json,
    metadefs::namespaces::NamespaceView,
    model::metadefs::{
        Association, MetadefObject, Namespace, NamespaceAttributes, NamespaceVisibility, Properties, Stored,
    },
    python,
    schemas::NamedSchema,
};

/// The longest part of a request that a message repeats, in characters.
const MAX_REPEATED: usize = 80;

/// Checks that the body is an object without read-only attributes which its schema allows.
pub(super) fn check<'b>(body: &'b Value, read_only: &[&str], schema: &NamedSchema) -> Result<&'b Map<String, Value>> {
    for name in read_only {
        let is_present = match body {
            Value::Object(object) => object.contains_key(*name),
            // As in Glance.
            Value::Array(items) => items.iter().any(|item| item == name),
            _ => false,
        };
        if is_present {
            return Err(Error::Forbidden(format!("Attribute '{name}' is read-only.")));
        }
    }
    let Value::Object(object) = body else {
        return Err(Error::Invalid("Unexpected body type. Expected a JSON object.".to_owned()));
    };
    schema.check(object)?;
    Ok(object)
}

/// An object inside of a body, and its place for messages.
struct Part<'b> {
    object: &'b Map<String, Value>,
    place: String,
}

impl<'b> Part<'b> {
    /// The items of a list, which may only have these attributes.
    fn list(body: &'b Map<String, Value>, name: &str, known: &[&str]) -> Result<Option<Vec<Self>>> {
        let Some(Value::Array(items)) = body.get(name) else { return Ok(None) };
        let part = |(n, item): (usize, &'b Value)| {
            let place = format!("{name}[{n}]");
            let Value::Object(object) = item else {
                return Err(Error::Invalid(format!("{place} must be an object.")));
            };
            if let Some(other) = object.keys().find(|other| !known.contains(&other.as_str())) {
                let other = python::string_repr(other, MAX_REPEATED);
                return Err(Error::Invalid(format!("{place} has an unknown attribute: {other}")));
            }
            Ok(Self { object, place })
        };
        items.iter().enumerate().map(part).collect::<Result<_>>().map(Some)
    }

    /// A text, if it is there and not null.
    fn text(&self, name: &str) -> Result<Option<String>> {
        match self.object.get(name) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(text)) => Ok(Some(text.clone())),
            Some(_) => Err(Error::Invalid(format!("{}['{name}'] must be a text.", self.place))),
        }
    }

    fn name(&self) -> Result<String> {
        self.text("name")?.ok_or_else(|| Error::Invalid(format!("{} must have a name.", self.place)))
    }
}

/// A text of an object that its schema allows.
fn text(object: &Map<String, Value>, name: &str) -> Option<String> {
    object.get(name).and_then(Value::as_str).map(str::to_owned)
}

/// The association of a namespace with a resource type.
#[derive(Debug, Serialize)]
pub(super) struct AssociationBody {
    name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    prefix: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    properties_target: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    created_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    updated_at: Option<String>,
}

impl AssociationBody {
    pub(super) fn list(associations: Vec<Stored<Association>>) -> Vec<Self> {
        associations.into_iter().map(Self::from).collect()
    }
}

impl From<Stored<Association>> for AssociationBody {
    fn from(stored: Stored<Association>) -> Self {
        let Association { name, prefix, properties_target } = stored.value;
        let (created_at, updated_at) = (Some(json::time(stored.created_at)), stored.updated_at.map(json::time));
        Self { name, prefix, properties_target, created_at, updated_at }
    }
}

/// Reads the association of a request, which its schema allows.
pub(super) fn association(body: &Map<String, Value>) -> Association {
    Association {
        name: text(body, "name").unwrap_or_default(),
        prefix: text(body, "prefix"),
        properties_target: text(body, "properties_target"),
    }
}

/// An object.
#[derive(Debug, Serialize)]
pub(super) struct ObjectBody {
    name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    required: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    description: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    properties: Option<Properties>,
    #[serde(skip_serializing_if = "Option::is_none")]
    created_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    updated_at: Option<String>,
    #[serde(rename = "self", skip_serializing_if = "Option::is_none")]
    link: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    schema: Option<String>,
}

impl ObjectBody {
    pub(super) fn new(namespace: &str, stored: Stored<MetadefObject>) -> Self {
        let MetadefObject { name, required, description, properties } = stored.value;
        Self {
            link: Some(format!("/v2/metadefs/namespaces/{namespace}/objects/{name}")),
            name,
            required,
            description,
            properties,
            created_at: Some(json::time(stored.created_at)),
            updated_at: stored.updated_at.map(json::time),
            schema: Some("/v2/schemas/metadefs/object".to_owned()),
        }
    }
}

/// Reads the object of a request, which its schema allows.
pub(super) fn object(body: &Map<String, Value>) -> Result<MetadefObject> {
    let required = body.get("required").and_then(Value::as_array);
    let required = required.map(|names| names.iter().filter_map(Value::as_str).map(str::to_owned).collect());
    let properties = body.get("properties").and_then(Value::as_object).map(Properties::parse).transpose()?;
    let name = text(body, "name").unwrap_or_default();
    Ok(MetadefObject { name, required, description: text(body, "description"), properties })
}

/// A tag. A listing has only the name.
#[derive(Debug, Serialize)]
pub(super) struct TagBody {
    name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    created_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    updated_at: Option<String>,
}

impl TagBody {
    pub(super) fn name(name: impl Into<String>) -> Self {
        Self { name: name.into(), created_at: None, updated_at: None }
    }

    pub(super) fn list(tags: Vec<Stored<String>>) -> Vec<Self> {
        tags.into_iter().map(|tag| Self::name(tag.value)).collect()
    }
}

impl From<Stored<String>> for TagBody {
    fn from(tag: Stored<String>) -> Self {
        let (created_at, updated_at) = (Some(json::time(tag.created_at)), tag.updated_at.map(json::time));
        Self { name: tag.value, created_at, updated_at }
    }
}

/// A namespace, with the parts that a response has.
#[derive(Debug, Serialize)]
pub(super) struct NamespaceBody {
    namespace: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    display_name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    description: Option<String>,
    visibility: String,
    protected: bool,
    owner: String,
    created_at: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    updated_at: Option<String>,
    #[serde(flatten)]
    content: ContentBody,
    #[serde(rename = "self")]
    link: String,
    schema: &'static str,
}

/// The content of a namespace.
#[derive(Debug, Default, Serialize)]
pub(super) struct ContentBody {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) resource_type_associations: Option<Vec<AssociationBody>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) properties: Option<Properties>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) objects: Option<Vec<ObjectBody>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) tags: Option<Vec<TagBody>>,
}

impl NamespaceBody {
    pub(super) fn new(namespace: Namespace, content: ContentBody) -> Self {
        Self {
            link: link(&namespace.namespace),
            visibility: namespace.visibility().to_owned(),
            protected: namespace.is_protected(),
            namespace: namespace.namespace,
            display_name: namespace.display_name,
            description: namespace.description,
            owner: namespace.owner,
            created_at: json::time(namespace.created_at),
            updated_at: namespace.updated_at.map(json::time),
            content,
            schema: "/v2/schemas/metadefs/namespace",
        }
    }

    /// A stored namespace. As in Glance, empty lists are left out.
    pub(super) fn stored(view: NamespaceView) -> Self {
        let NamespaceView { namespace, associations, properties, objects, tags } = view;
        let name = namespace.namespace.as_str();
        let objects: Vec<_> = objects.into_iter().map(|object| ObjectBody::new(name, object)).collect();
        let content = ContentBody {
            resource_type_associations: some(AssociationBody::list(associations)),
            properties: Some(properties).filter(|properties| !properties.0.is_empty()),
            objects: some(objects),
            tags: some(TagBody::list(tags)),
        };
        Self::new(namespace, content)
    }
}

fn some<T>(items: Vec<T>) -> Option<Vec<T>> {
    Some(items).filter(|items| !items.is_empty())
}

/// The path of a namespace. As in Glance, the name is not percent-encoded.
pub(super) fn link(namespace: &str) -> String {
    format!("/v2/metadefs/namespaces/{namespace}")
}

/// Reads the attributes of a namespace in a request, which its schema allows.
pub(super) fn attributes(body: &Map<String, Value>) -> NamespaceAttributes {
    let visibility = body.get("visibility").and_then(Value::as_str).and_then(|text| text.parse().ok());
    NamespaceAttributes {
        namespace: text(body, "namespace").unwrap_or_default(),
        display_name: text(body, "display_name"),
        description: text(body, "description"),
        visibility: Some(visibility.unwrap_or(NamespaceVisibility::Private)),
        protected: Some(body.get("protected").and_then(Value::as_bool).unwrap_or(false)),
        owner: text(body, "owner"),
    }
}

/// Reads the content of a new namespace, which its schema allows. The response repeats it.
pub(super) fn content(body: &Map<String, Value>) -> Result<ContentBody> {
    let associations = Part::list(
        body,
        "resource_type_associations",
        &["name", "prefix", "properties_target", "created_at", "updated_at"],
    )?;
    let association = |part: Part<'_>| {
        Ok(AssociationBody {
            name: part.name()?,
            prefix: part.text("prefix")?,
            properties_target: part.text("properties_target")?,
            created_at: part.text("created_at")?,
            updated_at: part.text("updated_at")?,
        })
    };
    let objects = Part::list(
        body,
        "objects",
        &["name", "required", "description", "properties", "created_at", "updated_at", "self", "schema"],
    )?;
    let read_object = |part: Part<'_>| {
        part.name()?;
        let MetadefObject { name, required, description, properties } = object(part.object)?;
        Ok(ObjectBody {
            name,
            required,
            description,
            properties,
            created_at: part.text("created_at")?,
            updated_at: part.text("updated_at")?,
            link: part.text("self")?,
            schema: part.text("schema")?,
        })
    };
    let tags = Part::list(body, "tags", &["name", "created_at", "updated_at"])?;
    let tag = |part: Part<'_>| {
        let (created_at, updated_at) = (part.text("created_at")?, part.text("updated_at")?);
        Ok(TagBody { name: part.name()?, created_at, updated_at })
    };
    Ok(ContentBody {
        resource_type_associations: read(associations, association)?,
        properties: body.get("properties").and_then(Value::as_object).map(Properties::parse).transpose()?,
        objects: read(objects, read_object)?,
        tags: read(tags, tag)?,
    })
}

fn read<P, T>(parts: Option<Vec<P>>, read: impl Fn(P) -> Result<T>) -> Result<Option<Vec<T>>> {
    parts.map(|parts| parts.into_iter().map(read).collect()).transpose()
}

impl ContentBody {
    /// Rejects links of objects, which only a change of a namespace may have: clients send back what they have read.
    pub(super) fn check_new(&self) -> Result<()> {
        match self.objects.iter().flatten().position(|object| object.link.is_some()) {
            Some(n) => Err(Error::Invalid(format!("objects[{n}] must not have the attribute 'self'."))),
            None => Ok(()),
        }
    }

    /// The associations to be stored.
    pub(super) fn new_associations(&self) -> Vec<Association> {
        let association = |body: &AssociationBody| Association {
            name: body.name.clone(),
            prefix: body.prefix.clone(),
            properties_target: body.properties_target.clone(),
        };
        self.resource_type_associations.iter().flatten().map(association).collect()
    }

    /// The objects to be stored.
    pub(super) fn new_objects(&self) -> Vec<MetadefObject> {
        let object = |body: &ObjectBody| MetadefObject {
            name: body.name.clone(),
            required: body.required.clone(),
            description: body.description.clone(),
            properties: body.properties.clone(),
        };
        self.objects.iter().flatten().map(object).collect()
    }

    /// The names of the tags to be stored.
    pub(super) fn tag_names(&self) -> impl Iterator<Item = &str> {
        self.tags.iter().flatten().map(|tag| tag.name.as_str())
    }
}
