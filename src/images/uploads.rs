//! Uploads that were cut off, and how they are undone.
//!
//! Every process adds to a number of its own in the database, and looks at those of the others. One whose number stood still
//! for [`STILL`] looks in a row is dead: whichever process sees that first undoes what it had begun. Nobody's clock counts.

use std::{
    collections::{HashMap, HashSet},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use uuid::Uuid;

use crate::{
    app::App,
    db::{self, processes, uploads::Upload},
    error::{Error, Result},
    store::{self, Object, Store},
};

/// Looks in a row at which a dead process's number stands still.
const STILL: u32 = 3;
/// Looks after which unknown files are looked for.
const SWEEP_EVERY: u32 = 360;

/// This process, and what it is busy with.
pub(crate) struct Process {
    /// Its id, new at every start.
    pub(crate) id: String,
    uploads: Mutex<HashSet<String>>,
}

/// While this lives, an upload is under way.
pub(crate) struct Busy<'p> {
    process: &'p Process,
    upload: String,
}

impl Process {
    pub(crate) fn new() -> Self {
        Self { id: Uuid::new_v4().to_string(), uploads: Mutex::default() }
    }

    pub(super) fn is_busy_with(&self, upload_id: &str) -> Busy<'_> {
        self.uploads.lock().unwrap_or_else(PoisonError::into_inner).insert(upload_id.to_owned());
        Busy { process: self, upload: upload_id.to_owned() }
    }

    fn is_doing(&self, upload_id: &str) -> bool {
        self.uploads.lock().unwrap_or_else(PoisonError::into_inner).contains(upload_id)
    }
}

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        self.process.uploads.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.upload);
    }
}

/// Undoes an upload: takes it, removes what it may have put into the given store, and lets its image wait for data again.
/// `false` when the upload has ended, or somebody else undoes it. Five statements.
pub(super) async fn undo(app: &App, upload: &Upload, store: Option<&Store>) -> Result<bool> {
    let ours = Upload { upload_id: Uuid::new_v4().to_string(), process_id: app.process.id.clone(), ..upload.clone() };
    let _alive = app.process.is_busy_with(&ours.upload_id);
    let ours_ref = &ours;
    let taken = app
        .db
        .transaction(|mut tx| async move {
            let taken = db::uploads::take_over(&mut tx, upload, ours_ref).await?;
            Ok((tx, taken))
        })
        .await?;
    if !taken {
        return Ok(false);
    }
    if let Some(store) = store {
        let object = Object { image_id: upload.image_id.clone(), upload_id: upload.upload_id.clone() };
        let cannot = |error: store::Error| Error::Unavailable { service: "an image's store", source: error.into() };
        let hold = store.hold(&object).await.map_err(cannot)?;
        // Waiting for it, we may have been taken for dead ourselves; what is in place is another upload's then.
        if !db::uploads::holds(&mut app.db.acquire().await?, &ours).await? {
            hold.release().await;
            return Ok(false);
        }
        store.discard(&object, Some(hold)).await.map_err(cannot)?;
    }
    app.db
        .transaction(|mut tx| async move {
            if db::uploads::end(&mut tx, ours_ref).await? {
                db::images::requeue(&mut tx, &upload.image_id, app.now()).await?;
            }
            Ok((tx, ()))
        })
        .await?;
    Ok(true)
}

/// What was seen of the other processes.
#[derive(Default)]
pub(crate) struct Watch {
    /// Their numbers, and at how many looks in a row.
    seen: HashMap<String, (i64, u32)>,
    looks: u32,
}

impl Watch {
    /// Shows that this process lives, looks at the others, and undoes what dead ones had begun. Three statements, where
    /// nothing is to be done.
    ///
    /// # Errors
    /// `Unavailable`: this look did not count.
    pub(crate) async fn look(&mut self, app: &App, every: Duration) -> Result<()> {
        let (processes, uploads) = app
            .db
            .transaction(|mut tx| async move {
                processes::beat(&mut tx, &app.process.id).await?;
                let seen = (processes::all(&mut tx).await?, db::uploads::all(&mut tx).await?);
                Ok((tx, seen))
            })
            .await?;
        let mut living = HashSet::from([app.process.id.clone()]);
        let before = std::mem::take(&mut self.seen);
        for process in processes.into_iter().filter(|process| process.id != app.process.id) {
            let still = match before.get(&process.id) {
                Some((beat, still)) if *beat == process.beat => still + 1,
                _ => 0,
            };
            if still < STILL {
                living.insert(process.id.clone());
            }
            self.seen.insert(process.id, (process.beat, still));
        }
        let is_dead = |upload: &&Upload| {
            // One of ours that nobody is busy with was given up where the database was away.
            let abandoned = upload.process_id == app.process.id && !app.process.is_doing(&upload.upload_id);
            abandoned || !living.contains(&upload.process_id)
        };
        for upload in uploads.iter().filter(is_dead) {
            undo_dead(app, upload).await;
        }
        for id in self.seen.keys().filter(|id| !living.contains(*id)) {
            let busy = uploads.iter().any(|upload| upload.process_id == **id);
            if !busy {
                forget(app, id).await?;
            }
        }
        // At the start, once what dead processes had begun is undone, and from time to time.
        if self.looks % SWEEP_EVERY == STILL + 1 {
            sweep(app, every * STILL).await?;
        }
        self.looks = self.looks.wrapping_add(1);
        Ok(())
    }
}

async fn undo_dead(app: &App, upload: &Upload) {
    let image = &upload.image_id;
    let Some(store) = app.stores.named(&upload.store) else {
        tracing::warn!(image, store = upload.store, "an upload was cut off into a store that is not configured here");
        return;
    };
    match undo(app, upload, Some(&*store)).await {
        Ok(true) => tracing::warn!(image, "an upload that was cut off is undone"),
        Ok(false) => {}
        Err(error) => tracing::error!(image, %error, "an upload that was cut off cannot be undone now"),
    }
}

async fn forget(app: &App, process: &str) -> Result<()> {
    app.db
        .transaction(|mut tx| async move {
            processes::remove(&mut tx, process).await?;
            Ok((tx, ()))
        })
        .await
}

/// Removes files of uploads that nobody knows: an upload is noted before its file is made, and until it is gone.
async fn sweep(app: &App, quiet: Duration) -> Result<()> {
    for store in app.stores.iter() {
        let found = match store.unfinished(quiet).await {
            Ok(found) => found,
            Err(error) => {
                tracing::warn!(store = store.id, %error, "the store cannot be looked through");
                continue;
            }
        };
        if found.is_empty() {
            continue;
        }
        let known = db::uploads::all(&mut app.db.acquire().await?).await?;
        let is_known = |object: &&Object| known.iter().any(|upload| upload.upload_id == object.upload_id);
        for object in found.iter().filter(|object| !is_known(object)) {
            match store.discard(object, None).await {
                Ok(()) => tracing::warn!(image = object.image_id, "what an upload had left is removed"),
                Err(error) => tracing::error!(image = object.image_id, %error, "what an upload had left stays"),
            }
        }
    }
    Ok(())
}
