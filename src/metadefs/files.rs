//! Definition files: one JSON file per namespace, in the form in which Glance ships them. Loads them into the database, exports the
//! database to them, and removes everything from the database.

use std::{
    collections::{HashMap, HashSet, hash_map::Entry},
    fs, io,
    path::{Path, PathBuf},
};

use chrono::NaiveDateTime;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::{
    db::{
        self, Db, Session as _, Tx,
        metadefs::{
            associations::{self, Inserted},
            namespaces, objects, properties, tags,
        },
    },
    error::{Error, Result},
    model::metadefs::{
        Association, Namespace, NamespaceAttributes, Stored, TagName, check_name, check_owner, check_required,
        check_text,
    },
    python,
};

/// The owner of a namespace whose file names none.
const DEFAULT_OWNER: &str = "admin";

/// The maximum length in bytes of a name of a namespace in the name of its file. File systems allow 255 in total.
const MAX_IN_FILE_NAME: usize = 100;

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
    /// The definition cannot be stored.
    #[error("{0}")]
    Definition(Error),
    /// The database fails, so that no other file can be loaded, either.
    #[error("{0}")]
    Database(Error),
}

impl From<Error> for FileError {
    fn from(error: Error) -> Self {
        match error {
            Error::Invalid(_) | Error::Conflict(_) => Self::Definition(error),
            error => Self::Database(error),
        }
    }
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
    #[serde(skip_serializing_if = "Option::is_none")]
    required: Option<Vec<String>>,
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
        if path.as_os_str().as_encoded_bytes().ends_with(b".json") && path.is_file() {
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
        let visibility = |text: &str| {
            let invalid = |_| Error::Invalid(format!("the visibility must be public or private, and is {text:?}"));
            text.parse().map_err(invalid)
        };
        let visibility = definition.visibility.as_deref().map(visibility).transpose()?;
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
            required: object.required.as_ref().map(|names| names.join(",")),
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
        definition.objects.iter().flat_map(|object| &object.required).try_for_each(|names| check_required(names))?;
        rows.check()?;
        Ok(rows)
    }

    fn check(&self) -> Result<()> {
        check_owner(&self.owner)?;
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
        let mut found = namespaces::get_same_locked(tx, name).await?;
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
                match namespaces::insert(tx, &self.attributes, &self.owner, now, None).await {
                    // Another process has added it: the next attempt finds it.
                    Err(db::Error::Duplicate) => {
                        return Err(Error::Contended("a namespace was added concurrently".into()));
                    }
                    inserted => inserted?,
                }
                let created = namespaces::get_locked(tx, name).await?;
                created.ok_or_else(|| Error::Internal("the new namespace has no row".into()))?.id
            }
        };
        self.store_content(tx, id, existing == Existing::PreferNew, now).await?;
        Ok(Loaded::Yes { namespace: name.to_owned(), replaced })
    }

    /// Adds what is missing. `replace` says whether the rest is replaced.
    async fn store_content(&self, tx: &mut Tx, id: i32, replace: bool, now: NaiveDateTime) -> Result<()> {
        if replace {
            associations::touch_resource_types(tx, &self.associations, now).await?;
        }
        let stored = associations::of_namespaces(tx, &[id]).await?.remove(&id).unwrap_or_default();
        let stored = stored.into_iter().map(|stored| (stored.value.name.clone(), stored.value.name));
        let (old, new) = split(tx, &self.associations, |association| &association.name, stored, replace);
        let inserted = or_repeated(associations::insert_all(tx, id, &new, now, None).await, "resource types")?;
        if let Inserted::Taken(Association { name, .. }) = inserted {
            return Err(Error::Conflict(format!("resource type {name:?} is repeated")));
        }
        for (name, association) in old.into_iter().filter(|_| replace) {
            associations::replace(tx, id, &Association { name, ..association }, now).await?;
        }

        let stored = properties::rows(tx, id).await?.into_iter().map(|(id, row)| (row.name, id));
        let (old, new) = split(tx, &self.properties, |row| &row.name, stored, replace);
        or_repeated(properties::insert_all(tx, id, &new, now, None).await, "properties")?;
        for (id, row) in old.into_iter().filter(|_| replace) {
            properties::update(tx, id, &row, now).await?;
        }

        let stored = objects::rows(tx, id).await?.into_iter().map(|(id, row)| (row.name, (id, row.required)));
        let (old, new) = split(tx, &self.objects, |row| &row.name, stored, replace);
        or_repeated(objects::insert_all(tx, id, &new, now, None).await, "objects")?;
        for ((id, required), mut row) in old.into_iter().filter(|_| replace) {
            // As in Glance, a file without required names does not remove those that exist.
            row.required = row.required.or(required);
            objects::update(tx, id, &row, now).await?;
        }

        let stored = tags::all(tx, id).await?.into_iter().map(|tag| (tag.value, tag.id));
        let (old, new) = split(tx, &self.tags, TagName::as_str, stored, replace);
        or_repeated(tags::insert_all(tx, id, &new, now, None).await, "tags")?;
        for (id, tag) in old.into_iter().filter(|_| replace) {
            tags::rename(tx, id, &tag, now).await?;
        }
        Ok(())
    }
}

/// Splits rows of a file into those that exist already, each with what is stored, and new ones, in their order. Names are compared as by the
/// engine's unique keys. Of several rows with the same name, the first one counts, or the last one if `last_counts`.
fn split<T: Clone, S>(
    tx: &Tx,
    rows: &[T],
    name: fn(&T) -> &str,
    stored: impl Iterator<Item = (String, S)>,
    last_counts: bool,
) -> (Vec<(S, T)>, Vec<T>) {
    let mut distinct: Vec<&T> = Vec::new();
    let mut places = HashMap::new();
    for row in rows {
        match places.entry(tx.unique_key(name(row))) {
            Entry::Vacant(place) => {
                place.insert(distinct.len());
                distinct.push(row);
            }
            Entry::Occupied(place) if last_counts => distinct[*place.get()] = row,
            Entry::Occupied(_) => {}
        }
    }
    let mut stored: HashMap<String, S> = stored.map(|(name, stored)| (tx.unique_key(&name), stored)).collect();
    let (mut old, mut new) = (Vec::new(), Vec::new());
    for row in distinct {
        match stored.remove(&tx.unique_key(name(row))) {
            Some(stored) => old.push((stored, row.clone())),
            None => new.push(row.clone()),
        }
    }
    (old, new)
}

/// The result of an insertion. On MySQL, names that differ only in accents are the same.
fn or_repeated<T>(inserted: db::Result<T>, what: &str) -> Result<T> {
    inserted.map_err(|error| match error {
        db::Error::Duplicate => Error::Conflict(format!("the database takes the names of two {what} for the same")),
        error => error.into(),
    })
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
    /// Glance's export loses it.
    #[serde(skip_serializing_if = "Option::is_none")]
    owner: Option<&'e str>,
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
        let json = |name: &str, text: &str| -> Option<Value> {
            let read = serde_json::from_str(text);
            let namespace = &namespace.namespace;
            let warn = |error| tracing::warn!(%error, namespace, name, "a definition that is not JSON is not exported");
            read.map_err(warn).ok()
        };
        let properties = properties::rows(&mut conn, id).await?.into_iter();
        let object = |(_, row): (i32, objects::NewRow)| {
            let properties = json(&row.name, &row.json_schema).and_then(|read| read.as_object().cloned());
            let required = row.required.filter(|names| !names.is_empty());
            let required = required.map(|names| names.split(',').map(str::to_owned).collect());
            ObjectDefinition { name: row.name, description: row.description, required, properties }
        };
        // As in a file, the oldest tag comes first.
        let tags = tags::all(&mut conn, id).await?.into_iter().rev();
        let definition = Export {
            namespace: &namespace.namespace,
            display_name: &namespace.display_name,
            description: &namespace.description,
            visibility: &namespace.visibility,
            protected: namespace.protected,
            owner: Some(namespace.owner.as_str()).filter(|owner| *owner != DEFAULT_OWNER),
            resource_type_associations: associations.into_iter().map(association).collect(),
            properties: properties
                .filter_map(|(_, row)| json(&row.name, &row.json_schema).map(|read| (row.name, read)))
                .collect(),
            objects: objects::rows(&mut conn, id).await?.into_iter().map(object).collect(),
            tags: tags.map(|tag| TagDefinition { name: tag.value }).collect(),
        };
        let text = python::escape_non_ascii(&python::to_json(&definition));
        let file_name = file_name(&namespace, &mut names);
        exported.push(Exported { namespace: namespace.namespace, file_name, text });
    }
    Ok(exported)
}

/// The display name without anything but letters and digits, as in Glance. If another file has this name, the name of the namespace
/// follows, and then a number.
fn file_name(namespace: &Namespace, taken: &mut HashSet<String>) -> String {
    let letters = |text: &str| {
        let letters: String = text.chars().filter(|c| c.is_alphanumeric()).collect();
        letters[..letters.floor_char_boundary(MAX_IN_FILE_NAME)].to_owned()
    };
    let display_name = letters(namespace.display_name.as_deref().unwrap_or_default());
    let longer = format!("{display_name}{}", letters(&namespace.namespace));
    let numbered = (1..).map(|number| format!("{longer}-{number}"));
    let mut candidates = [display_name, longer.clone()].into_iter().filter(|name| !name.is_empty()).chain(numbered);
    let free = candidates.find(|name| taken.insert(name.to_lowercase()));
    format!("{}.json", free.unwrap_or(longer))
}
