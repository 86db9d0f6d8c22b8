//! Definition files: one JSON file per namespace, in the form in which Glance ships them. Loads them into the database, exports the
//! database to them, and removes everything from the database.

use std::{
    collections::HashSet,
    fs, io,
    path::{Path, PathBuf},
};

use chrono::NaiveDateTime;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::{
    db::{
        self, Db, Tx,
        metadefs::{
            associations::{self, Inserted},
            namespaces, objects, properties, tags,
        },
    },
    error::{Error, Result},
    model::metadefs::{Association, Namespace, NamespaceAttributes, Stored, TagName, check_name, check_text},
    python,
};

/// The owner of a namespace whose file names none.
const DEFAULT_OWNER: &str = "admin";

/// The definitions that are part of Glimpse: name and text of each file.
pub(crate) const BUILT_IN: [(&str, &str); 7] = [
    ("flavor-machine.json", include_str!("../../config/metadefs/flavor-machine.json")),
    ("flavor-traits.json", include_str!("../../config/metadefs/flavor-traits.json")),
    ("image-devices.json", include_str!("../../config/metadefs/image-devices.json")),
    ("image-handling.json", include_str!("../../config/metadefs/image-handling.json")),
    ("image-machine.json", include_str!("../../config/metadefs/image-machine.json")),
    ("image-system.json", include_str!("../../config/metadefs/image-system.json")),
    ("image-traits.json", include_str!("../../config/metadefs/image-traits.json")),
];

/// What happens with a namespace that exists already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Existing {
    /// It stays as it is.
    Skip,
    /// What is missing in it is added.
    Merge,
    /// What is missing in it is added, and what the file contains, too, is replaced.
    PreferNew,
    /// It is removed first.
    Overwrite,
}

/// What was done with a file.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Loaded {
    /// The namespace was loaded. `replaced` says that an existing one was removed first.
    Yes { namespace: String, replaced: bool },
    /// The namespace exists already.
    Skipped { namespace: String },
}

/// A file cannot be loaded.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FileError {
    /// The file cannot be read.
    #[error("{0}")]
    Read(#[from] io::Error),
    /// The file is not a definition.
    #[error("{0}")]
    Json(#[from] serde_json::Error),
    /// The definition cannot be stored, or the database fails.
    #[error("{0}")]
    Store(#[from] Error),
}

/// The content of a file.
#[derive(Debug, Deserialize)]
struct Definition {
    namespace: String,
    display_name: Option<String>,
    description: Option<String>,
    visibility: Option<String>,
    protected: Option<bool>,
    owner: Option<String>,
    #[serde(default)]
    resource_type_associations: Vec<AssociationDefinition>,
    #[serde(default)]
    properties: Map<String, Value>,
    #[serde(default)]
    objects: Vec<ObjectDefinition>,
    #[serde(default)]
    tags: Vec<TagDefinition>,
}

#[derive(Debug, Deserialize, Serialize)]
struct AssociationDefinition {
    name: String,
    prefix: Option<String>,
    properties_target: Option<String>,
}

#[derive(Debug, Deserialize, Serialize)]
struct ObjectDefinition {
    name: String,
    description: Option<String>,
    /// Glance's loader and export lose these.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    required: Vec<String>,
    properties: Option<Map<String, Value>>,
}

#[derive(Debug, Deserialize, Serialize)]
struct TagDefinition {
    name: String,
}

/// The `*.json` files of a folder, sorted by their names, or the one file that the path names.
///
/// # Errors
/// If the folder cannot be read.
pub(crate) fn find(path: &Path) -> io::Result<Vec<PathBuf>> {
    if path.is_file() {
        return Ok(vec![path.to_owned()]);
    }
    let mut files = Vec::new();
    for entry in fs::read_dir(path)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "json") && path.is_file() {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

/// Loads a file, in one transaction.
///
/// # Errors
/// If the file or its content cannot be used, or the database fails. Then nothing was changed.
pub(crate) async fn load_file(
    db: &Db,
    path: &Path,
    existing: Existing,
    now: NaiveDateTime,
) -> Result<Loaded, FileError> {
    load(db, &fs::read_to_string(path)?, existing, now).await
}

/// Loads the text of a file. See [`load_file`].
pub(crate) async fn load(db: &Db, text: &str, existing: Existing, now: NaiveDateTime) -> Result<Loaded, FileError> {
    let definition: Definition = serde_json::from_str(text)?;
    let rows = &Rows::new(&definition)?;
    let loaded = db.transaction(|mut tx| async move {
        let loaded = rows.store(&mut tx, existing, now).await?;
        Ok((tx, loaded))
    });
    Ok(loaded.await?)
}

/// The rows of a namespace and its content.
struct Rows {
    attributes: NamespaceAttributes,
    owner: String,
    associations: Vec<Association>,
    properties: Vec<properties::NewRow>,
    objects: Vec<objects::NewRow>,
    tags: Vec<TagName>,
}

impl Rows {
    fn new(definition: &Definition) -> Result<Self> {
        let visibility =
            definition.visibility.as_deref().map(|text| text.parse().map_err(Error::Invalid)).transpose()?;
        let attributes = NamespaceAttributes {
            namespace: definition.namespace.clone(),
            display_name: definition.display_name.clone(),
            description: definition.description.clone(),
            visibility,
            protected: definition.protected,
            owner: definition.owner.clone(),
        };
        check_name("A namespace's name", &attributes.namespace)?;
        check_name("A namespace's display_name", attributes.display_name.as_deref().unwrap_or_default())?;
        check_text("A namespace's description", attributes.description.as_deref().unwrap_or_default())?;
        let json = |value: &Map<String, Value>| python::escape_non_ascii(&python::to_json(value));
        let mut properties = Vec::new();
        for (name, value) in &definition.properties {
            let value =
                value.as_object().ok_or_else(|| Error::Invalid(format!("property {name:?} is not an object")))?;
            properties.push(properties::NewRow { name: name.clone(), json_schema: json(value) });
        }
        let object = |object: &ObjectDefinition| objects::NewRow {
            name: object.name.clone(),
            description: object.description.clone(),
            required: Some(object.required.join(",")).filter(|names| !names.is_empty()),
            json_schema: object.properties.as_ref().map_or_else(|| "{}".to_owned(), json),
        };
        let association = |association: &AssociationDefinition| Association {
            name: association.name.clone(),
            prefix: association.prefix.clone(),
            properties_target: association.properties_target.clone(),
        };
        let rows = Self {
            owner: definition.owner.clone().unwrap_or_else(|| DEFAULT_OWNER.to_owned()),
            attributes,
            associations: definition.resource_type_associations.iter().map(association).collect(),
            properties,
            objects: definition.objects.iter().map(object).collect(),
            tags: definition.tags.iter().map(|tag| TagName::parse(&tag.name)).collect::<Result<_>>()?,
        };
        rows.check()?;
        Ok(rows)
    }

    fn check(&self) -> Result<()> {
        self.associations.iter().try_for_each(Association::check_storable)?;
        for properties::NewRow { name, json_schema } in &self.properties {
            check_name("A property's name", name)?;
            check_text("The JSON of a property", json_schema)?;
        }
        for object in &self.objects {
            check_name("An object's name", &object.name)?;
            check_text("An object's description", object.description.as_deref().unwrap_or_default())?;
            check_text("The JSON of an object's properties", &object.json_schema)?;
        }
        Ok(())
    }

    async fn store(&self, tx: &mut Tx, existing: Existing, now: NaiveDateTime) -> Result<Loaded> {
        let name = self.attributes.namespace.as_str();
        let mut found = namespaces::get_locked(tx, name).await?;
        let mut replaced = false;
        match (&found, existing) {
            (None, _) | (_, Existing::Merge) => {}
            (Some(_), Existing::Skip) => return Ok(Loaded::Skipped { namespace: name.to_owned() }),
            (Some(namespace), Existing::PreferNew) => {
                namespaces::update(tx, namespace.id, &self.attributes, &self.owner, now).await?;
            }
            (Some(namespace), Existing::Overwrite) => {
                namespaces::delete(tx, namespace.id).await?;
                replaced = true;
                found = None;
            }
        }
        let id = match found {
            Some(namespace) => namespace.id,
            None => {
                namespaces::insert(tx, &self.attributes, &self.owner, now, None).await?;
                let created = namespaces::get_locked(tx, name).await?;
                created.ok_or_else(|| Error::Internal("the new namespace has no row".into()))?.id
            }
        };
        self.store_content(tx, id, existing == Existing::PreferNew, now).await?;
        Ok(Loaded::Yes { namespace: name.to_owned(), replaced })
    }

    /// Adds what is missing. `replace` says whether the rest is replaced.
    async fn store_content(&self, tx: &mut Tx, id: i32, replace: bool, now: NaiveDateTime) -> Result<()> {
        let stored = associations::of_namespaces(tx, &[id]).await?.remove(&id).unwrap_or_default();
        let stored: HashSet<&str> = stored.iter().map(|association| association.value.name.as_str()).collect();
        let (old, new) = split(&self.associations, |association| stored.contains(association.name.as_str()));
        if let Inserted::Taken(Association { name, .. }) = associations::insert_all(tx, id, &new, now, None).await? {
            return Err(Error::Conflict(format!("resource type {name:?} is repeated")));
        }
        for association in old.iter().filter(|_| replace) {
            associations::replace(tx, id, association, now).await?;
        }

        let stored: HashSet<String> = properties::rows(tx, id).await?.into_iter().map(|row| row.name).collect();
        let (old, new) = split(&self.properties, |row| stored.contains(&row.name));
        properties::insert_all(tx, id, &new, now, None).await?;
        for row in old.iter().filter(|_| replace) {
            properties::replace(tx, id, row, now).await?;
        }

        let stored: HashSet<String> = objects::rows(tx, id).await?.into_iter().map(|row| row.name).collect();
        let (old, new) = split(&self.objects, |row| stored.contains(&row.name));
        objects::insert_all(tx, id, &new, now, None).await?;
        for row in old.iter().filter(|_| replace) {
            objects::replace(tx, id, row, now).await?;
        }

        let stored: HashSet<String> = tags::all(tx, id).await?.into_iter().map(|tag| tag.value).collect();
        let (_, new) = split(&self.tags, |tag| stored.contains(tag.as_str()));
        Ok(tags::insert_all(tx, id, &new, now, None).await?)
    }
}

/// The rows that exist already, and the others.
fn split<T: Clone>(rows: &[T], exists: impl Fn(&T) -> bool) -> (Vec<T>, Vec<T>) {
    rows.iter().cloned().partition(exists)
}

/// Removes all definitions from the database, in one transaction. Returns the names of the tables.
///
/// # Errors
/// If the database fails.
pub(crate) async fn unload(db: &Db) -> Result<[&'static str; 6]> {
    db.transaction(|mut tx| async move {
        let tables = db::metadefs::delete_everything(&mut tx).await?;
        Ok((tx, tables))
    })
    .await
}

/// A namespace as a file.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Exported {
    /// The namespace.
    pub(crate) namespace: String,
    /// The name of its file, which no other namespace has.
    pub(crate) file_name: String,
    /// The text of the file.
    pub(crate) text: String,
}

#[derive(Serialize)]
struct Export<'e> {
    namespace: &'e str,
    display_name: &'e Option<String>,
    description: &'e Option<String>,
    visibility: &'e Option<String>,
    protected: Option<bool>,
    resource_type_associations: Vec<AssociationDefinition>,
    properties: Map<String, Value>,
    objects: Vec<ObjectDefinition>,
    tags: Vec<TagDefinition>,
}

/// Reads all namespaces as files. One statement, and four per namespace.
///
/// # Errors
/// If the database fails.
pub(crate) async fn export(db: &Db) -> Result<Vec<Exported>> {
    let mut conn = db.acquire().await?;
    let mut exported = Vec::new();
    let mut names = HashSet::new();
    for namespace in namespaces::all(&mut conn).await? {
        let id = namespace.id;
        let associations = associations::of_namespaces(&mut conn, &[id]).await?.remove(&id).unwrap_or_default();
        let association = |stored: Stored<Association>| AssociationDefinition {
            name: stored.value.name,
            prefix: stored.value.prefix,
            properties_target: stored.value.properties_target,
        };
        let json = |text: &str| serde_json::from_str(text).unwrap_or(Value::Null);
        let properties = properties::rows(&mut conn, id).await?.into_iter();
        let object = |row: objects::NewRow| ObjectDefinition {
            name: row.name,
            description: row.description,
            required: row
                .required
                .filter(|names| !names.is_empty())
                .map(|names| names.split(',').map(str::to_owned).collect())
                .unwrap_or_default(),
            properties: json(&row.json_schema).as_object().cloned(),
        };
        // As in a file, the oldest tag comes first.
        let tags = tags::all(&mut conn, id).await?.into_iter().rev();
        let definition = Export {
            namespace: &namespace.namespace,
            display_name: &namespace.display_name,
            description: &namespace.description,
            visibility: &namespace.visibility,
            protected: namespace.protected,
            resource_type_associations: associations.into_iter().map(association).collect(),
            properties: properties.map(|row| (row.name, json(&row.json_schema))).collect(),
            objects: objects::rows(&mut conn, id).await?.into_iter().map(object).collect(),
            tags: tags.map(|tag| TagDefinition { name: tag.value }).collect(),
        };
        let text = python::escape_non_ascii(&python::to_json(&definition));
        let file_name = file_name(&namespace, &mut names);
        exported.push(Exported { namespace: namespace.namespace, file_name, text });
    }
    Ok(exported)
}

/// The display name without anything but letters and digits, as in Glance. If another namespace has this name, too, the name of the
/// namespace follows.
fn file_name(namespace: &Namespace, taken: &mut HashSet<String>) -> String {
    let letters = |text: &str| text.chars().filter(|c| c.is_alphanumeric()).collect::<String>();
    let display_name = letters(namespace.display_name.as_deref().unwrap_or_default());
    let longer = format!("{display_name}{}", letters(&namespace.namespace));
    let numbered = format!("{longer}{}", namespace.id);
    let candidates = [display_name, longer, numbered.clone()];
    let free = candidates.into_iter().find(|name| !name.is_empty() && taken.insert(name.to_lowercase()));
    format!("{}.json", free.unwrap_or(numbered))
}
