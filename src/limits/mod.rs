//! Quotas: how much a project may have, and how much it has.
//!
//! With `use_keystone_limits`, Keystone's unified limits apply to the caller's project. Without it,
//! `user_storage_quota` bounds the bytes that a project stores.
//!
//! A request is checked early, so that it is refused before it moves data. Concurrent requests may all pass that check, so the
//! transaction that adds to the project's usage checks again, under the project's lock: see [`Admission`].

mod keystone;
mod storage;

use chrono::{DateTime, Utc};

use self::keystone::Keystone;
pub(crate) use self::storage::StorageLeft;
use crate::{
    config::Config,
    context::Context,
    db::{self, Db, Session, Tx},
    error::{Error, Result},
};

/// A resource that Keystone can limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Resource {
    /// The size of all images in the stores, in MiB.
    SizeTotal,
    /// The size of the data that waits for an import, in MiB.
    StageTotal,
    /// The number of images.
    CountTotal,
    /// The number of images whose data is being uploaded, imported or copied.
    CountUploading,
}

impl Resource {
    /// All resources, in the order of Glance's responses.
    const ALL: [Self; 4] = [Self::SizeTotal, Self::StageTotal, Self::CountTotal, Self::CountUploading];

    /// Its name in Keystone and in responses.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::SizeTotal => "image_size_total",
            Self::StageTotal => "image_stage_total",
            Self::CountTotal => "image_count_total",
            Self::CountUploading => "image_count_uploading",
        }
    }
}

/// A project's usage of a resource, and its limit.
#[derive(Debug)]
pub(crate) struct Usage {
    /// The resource.
    pub(crate) resource: Resource,
    /// How much the project has.
    pub(crate) used: u128,
    /// How much the project may have. A negative number means no limit.
    pub(crate) limit: i64,
}

/// A check that a transaction makes under the lock of the caller's project, before it adds to what the project has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Admission {
    project: Option<String>,
    bound: Bound,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Bound {
    /// There is no limit.
    None,
    /// `user_storage_quota`, in bytes.
    Storage(u64),
    /// A limit from Keystone, and how much more of the resource the request needs, in the resource's unit.
    Keystone { resource: Resource, limit: i64, delta: u64 },
}

impl Admission {
    /// Makes the check of Keystone's limit outside of a transaction, so that a request is refused before it moves data.
    /// `user_storage_quota` is checked while the data arrives. At most one statement.
    ///
    /// # Errors
    /// `LimitExceeded`, `Unavailable`.
    pub(crate) async fn check_early(&self, db: &Db) -> Result<()> {
        let Bound::Keystone { resource, limit, delta } = self.bound else { return Ok(()) };
        let project = self.project.as_deref();
        let used = used(&mut db.acquire().await?, project, resource, None).await?;
        check(resource, project, limit, used, delta)
    }

    /// Takes the project's lock, and checks that the project may have more. The stored data of `image` does not count, because
    /// `size` bytes replace it. Two statements, none without a limit.
    ///
    /// # Errors
    /// `LimitExceeded`, `Unavailable`.
    pub(crate) async fn enforce(&self, tx: &mut Tx, image: Option<&str>, size: u64) -> Result<()> {
        let project = self.project.as_deref();
        match self.bound {
            Bound::None => Ok(()),
            Bound::Storage(quota) => {
                db::project_locks::take(tx, project).await?;
                let used = db::usage::stored(tx, project, image).await?;
                StorageLeft::of(quota, used).admits(Some(size)).map_err(over_quota)
            }
            Bound::Keystone { resource, limit, delta } => {
                db::project_locks::take(tx, project).await?;
                check(resource, project, limit, used(tx, project, resource, image).await?, delta)
            }
        }
    }
}

impl Admission {
    /// Takes the project's lock, and checks that the project, including what this transaction has added, is within Keystone's limit.
    /// Two statements, none without a limit.
    ///
    /// # Errors
    /// `LimitExceeded`, `Unavailable`.
    pub(crate) async fn enforce_reached(&self, tx: &mut Tx) -> Result<()> {
        let Bound::Keystone { resource, limit, .. } = self.bound else { return Ok(()) };
        let project = self.project.as_deref();
        db::project_locks::take(tx, project).await?;
        check(resource, project, limit, used(tx, project, resource, None).await?, 0)
    }
}

/// The error for data that does not fit into the rest of `user_storage_quota`.
pub(crate) fn over_quota(why: String) -> Error {
    Error::LimitExceeded(format!("Image exceeds the storage quota: {why}"))
}

/// The limits in force.
pub(crate) struct Limits {
    /// Set if Keystone's limits apply. An error names the option that is missing or invalid.
    keystone: Option<Result<Keystone, String>>,
    storage_quota: u64,
}

impl Limits {
    /// Reads the options. No request is sent to Keystone yet.
    pub(crate) fn new(config: &Config, clock: fn() -> DateTime<Utc>) -> Self {
        let is_used = config.default.use_keystone_limits;
        let cache_time = config.glimpse.limits_cache_time;
        Self {
            keystone: is_used.then(|| Keystone::new(&config.oslo_limit, cache_time, clock)),
            storage_quota: config.default.user_storage_quota.0,
        }
    }

    /// A warning for the operator if requests that need a limit will fail.
    pub(crate) fn warning(&self) -> Option<String> {
        let error = self.keystone.as_ref()?.as_ref().err()?;
        Some(format!("{error}; with use_keystone_limits, requests that need a limit are answered 503"))
    }

    /// Keystone, if its limits apply.
    fn keystone(&self) -> Result<Option<&Keystone>> {
        let unusable = |error: &String| Error::Unavailable { service: "Keystone", source: error.clone().into() };
        self.keystone.as_ref().map(|keystone| keystone.as_ref().map_err(unusable)).transpose()
    }

    /// Checks that the caller's project may have `delta` more of the resource: MiB, rounded down, or images. With a `delta` of 0,
    /// checks that the project's usage does not exceed the limit already, as for `CountUploading` when the image is included in
    /// it. One statement, none without a limit.
    ///
    /// # Errors
    /// `LimitExceeded`; `Unavailable` if Keystone is unreachable, so that an outage does not lift the limits.
    pub(crate) async fn enforce(&self, db: &Db, context: &Context, resource: Resource, delta: u64) -> Result<()> {
        self.admission(context, resource, delta).await?.check_early(db).await
    }

    /// The check of [`Limits::enforce`], to be made in a transaction. No statement.
    ///
    /// # Errors
    /// `Unavailable` if Keystone is unreachable.
    pub(crate) async fn admission(&self, context: &Context, resource: Resource, delta: u64) -> Result<Admission> {
        let project = context.project_id();
        let limit = match self.keystone()? {
            Some(keystone) => keystone.limit(project, resource.name()).await?,
            None => -1,
        };
        let bound = if limit < 0 { Bound::None } else { Bound::Keystone { resource, limit, delta } };
        Ok(Admission { project: project.map(str::to_owned), bound })
    }

    /// The check for an image's data, to be made in the transaction that makes the image active: by `user_storage_quota`, or by
    /// Keystone's limit, which counts the MiB that the client announced, as in Glance. No statement.
    ///
    /// # Errors
    /// `Unavailable` if Keystone is unreachable.
    pub(crate) async fn data_admission(&self, context: &Context, announced: u64) -> Result<Admission> {
        if !self.bounds_storage() {
            return self.admission(context, Resource::SizeTotal, announced).await;
        }
        let project = context.project_id().map(str::to_owned);
        Ok(Admission { project, bound: Bound::Storage(self.storage_quota) })
    }

    /// The usage and limits of the caller's project; empty if Keystone's limits do not apply. Four statements.
    ///
    /// # Errors
    /// `Unavailable`.
    pub(crate) async fn usage(&self, db: &Db, context: &Context) -> Result<Vec<Usage>> {
        let Some(keystone) = self.keystone()? else { return Ok(Vec::new()) };
        let project = context.project_id();
        let mut usage = Vec::with_capacity(Resource::ALL.len());
        for resource in Resource::ALL {
            let limit = keystone.limit(project, resource.name()).await?;
            let used = used(&mut db.acquire().await?, project, resource, None).await?;
            usage.push(Usage { resource, used, limit });
        }
        Ok(usage)
    }

    /// The rest of the project's `user_storage_quota` for the data of this image, which replaces data that it already has. One
    /// statement, none without a quota.
    ///
    /// # Errors
    /// `Unavailable`.
    pub(crate) async fn storage_left(&self, db: &Db, context: &Context, image: &str) -> Result<StorageLeft> {
        if !self.bounds_storage() {
            return Ok(StorageLeft::unbounded());
        }
        self.storage_left_in(&mut db.acquire().await?, context, Some(image)).await
    }

    /// Takes the lock of the caller's project if there is a storage quota, so that no other transaction adds to what the project
    /// stores. One statement.
    ///
    /// # Errors
    /// `Unavailable`.
    pub(crate) async fn lock_storage(&self, tx: &mut Tx, context: &Context) -> Result<()> {
        if self.bounds_storage() {
            db::project_locks::take(tx, context.project_id()).await?;
        }
        Ok(())
    }

    /// As [`Self::storage_left`], on an open connection. Without an image, for data in addition to everything that the project has.
    ///
    /// # Errors
    /// `Unavailable`.
    pub(crate) async fn storage_left_in(
        &self,
        s: &mut impl Session,
        context: &Context,
        image: Option<&str>,
    ) -> Result<StorageLeft> {
        if !self.bounds_storage() {
            return Ok(StorageLeft::unbounded());
        }
        let used = db::usage::stored(s, context.project_id(), image).await?;
        Ok(StorageLeft::of(self.storage_quota, used))
    }

    fn bounds_storage(&self) -> bool {
        self.keystone.is_none() && self.storage_quota > 0
    }
}

/// A project's usage of a resource, in the resource's unit. The stored data of the image `except` does not count. One statement.
async fn used(s: &mut impl Session, project: Option<&str>, resource: Resource, except: Option<&str>) -> Result<u128> {
    Ok(match resource {
        Resource::SizeTotal => db::usage::stored(s, project, except).await? >> 20,
        Resource::StageTotal => db::usage::staged(s, project).await? >> 20,
        Resource::CountTotal => db::usage::images(s, project).await?,
        Resource::CountUploading => db::usage::uploading(s, project).await?,
    })
}

/// Checks that a project that has `used` may have `delta` more.
fn check(resource: Resource, project: Option<&str>, limit: i64, used: u128, delta: u64) -> Result<()> {
    if u128::try_from(limit).map_or(true, |limit| used + u128::from(delta) <= limit) {
        return Ok(());
    }
    let (name, project) = (resource.name(), project.unwrap_or("None"));
    tracing::warn!(project, resource = name, limit, used, delta, "the project is over its limit");
    Err(Error::LimitExceeded(format!(
        "The request returned a 413 Request Entity Too Large. This generally means that rate limiting or a quota \
         threshold was breached.\n\nThe response body:\nProject {project} is over a limit for [Resource {name} is \
         over limit of {limit} due to current usage {used} and delta {delta}]"
    )))
}

#[cfg(test)]
mod tests {
    use chrono::DateTime;

    use super::Limits;
    use crate::{
        config::{Config, Database, Source, Sources},
        context::{Context, Identity},
        db::Db,
    };

    const IMAGES: &str = "INSERT INTO images (id, owner, status, size, created_at, deleted, min_disk, min_ram, visibility, \
        protected, os_hidden) VALUES ('a', 'p', 'active', 60, '2020-01-01', 0, 0, 0, 'shared', 0, 0), \
        ('b', 'p', 'active', 50, '2020-01-01', 0, 0, 0, 'shared', 0, 0)";
    const LOCATIONS: &str = "INSERT INTO image_locations (image_id, value, status, created_at, deleted) VALUES \
        ('a', 'x', 'active', '2020-01-01', 0), ('b', 'x', 'active', '2020-01-01', 0)";

    #[tokio::test]
    async fn data_that_replaces_an_images_data_has_its_share_of_the_quota() {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let dir = tempfile::tempdir().unwrap();
        let db = Db::open(&dir.path().join("test.sqlite").into(), (&Database::default()).into()).await.unwrap();
        db.sync().await.unwrap();
        let Db::Sqlite { write, .. } = &db else { panic!("{db:?}") };
        for sql in [IMAGES, LOCATIONS] {
            sqlx::query(sql).execute(write.acquire().await.unwrap().connection().unwrap()).await.unwrap();
        }
        let left = async |options: &str, project: &str, image: &str| {
            let file = dir.path().join("test.conf");
            std::fs::write(&file, format!("[DEFAULT]\n{options}\n")).unwrap();
            let config = Config::load(&Sources { files: vec![Source::File(file)], ..Sources::default() }).unwrap();
            let limits = Limits::new(&config, || DateTime::UNIX_EPOCH);
            let identity = Identity { project_id: Some(project.to_owned()), ..Default::default() };
            let context = Context { identity: identity.into(), is_admin: false };
            limits.storage_left(&db, &context, image).await.unwrap().bound()
        };
        assert_eq!(left("user_storage_quota = 200B", "p", "c").await, Some(90));
        assert_eq!(left("user_storage_quota = 200B", "p", "a").await, Some(150));
        assert_eq!(left("user_storage_quota = 100B", "p", "c").await, Some(0));
        assert_eq!(left("user_storage_quota = 100B", "other", "c").await, Some(100));
        assert_eq!(left("user_storage_quota = 0B", "p", "c").await, None);
        // Keystone's limits replace the quota.
        let keystone = "user_storage_quota = 100\nuse_keystone_limits = true\n[oslo_limit]\nauth_url = http://127.0.0.1:1\n\
            username = u\npassword = p\nendpoint_id = e";
        assert_eq!(left(keystone, "p", "c").await, None);
    }
}
