//! Copies of staged data to several stores at once.
//!
//! One row in `glimpse_uploads` owns the paths in all of these stores until the step ends. A store that is finished is no longer in the
//! image's list of stores that it is imported to; so a step that is repeated continues with the other ones.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use futures_util::{FutureExt as _, StreamExt as _, future::BoxFuture, stream::FuturesUnordered};

use super::{Import, Stop, check_same, guard, next};
use crate::{
    data::{acls, ingest::Ingested, recovery, transfer::Transfer},
    db::{
        self, jobs, leftovers,
        uploads::{self, Upload},
    },
    error::with_causes,
    import::{change_list, property},
    model::{DataFacts, IMPORTING_TO, Image, Status},
    store::{Store, Stored},
};

/// The copy to one store.
struct Part<'i> {
    name: &'i str,
    /// Its part of the row.
    record: Upload,
    transfer: Transfer,
    /// Whether the store has some of the data, as far as this process knows.
    has_data: AtomicBool,
}

impl Part<'_> {
    fn store(&self) -> Arc<Store> {
        Arc::clone(self.transfer.store())
    }

    /// Whether the store may have some of the data.
    fn may_have_data(&self) -> bool {
        self.has_data.load(Ordering::Relaxed) || self.transfer.take_leftovers()
    }
}

impl Import<'_> {
    /// Copies the data to all stores, at most `[image_import_opts] max_parallel_stores` at a time.
    pub(super) async fn copy_to_all(&self, step: usize) -> Result<(), Stop> {
        self.clear().await?;
        let (app, job) = (&**self.app, self.job);
        let id = Upload::new_job_id();
        // Until this is dropped, recovery does not take the transfers for abandoned ones.
        let _active = app.process.begin_upload(&id);
        let id_ref = &id;
        let begun = app.db.transaction(|mut tx| async move {
            let Some(image) = guard(&mut tx, self.job).await? else { return Ok((tx, None)) };
            let list = property(&mut tx, &image.id, IMPORTING_TO).await?.unwrap_or_default();
            let mut names = self.input.named_stores();
            names.retain(|name| list.split(',').any(|other| other == *name));
            let row = Upload {
                image_id: image.id.clone(),
                upload_id: id_ref.clone(),
                process_id: app.process.id.clone(),
                store: names.join(","),
            };
            if !names.is_empty() {
                uploads::begin(&mut tx, &row).await?;
            }
            Ok((tx, Some((image, names, row))))
        });
        let (image, names, row) = begun.await?.ok_or(Stop::Lost)?;
        let mut parts = Vec::new();
        for (name, record) in names.into_iter().zip(row.parts()) {
            match self.store(name) {
                Ok(store) => {
                    let transfer = Transfer::for_part(self.app, &row, &record, &store);
                    parts.push(Part { name, record, transfer, has_data: AtomicBool::new(false) });
                }
                Err(error) if self.input.must_succeed => return Err(Stop::Failed(error, vec![name.to_owned()])),
                Err(error) => {
                    tracing::warn!(error = with_causes(&error), store = name, "the import to a store has failed");
                    self.remove_from_lists(name).await?;
                }
            }
        }
        let left = match self.copy_parts(&image, &parts).await {
            Err(Stop::Failed(error, failed)) => {
                let stores: Vec<_> = parts.iter().filter(|part| part.may_have_data()).map(Part::store).collect();
                recovery::roll_back(app, &row, &stores).await?;
                return Err(Stop::Failed(error, failed));
            }
            copied => copied?,
        };
        let (row, left) = (&row, &left);
        let completed = app.db.transaction(|mut tx| async move {
            let is_ours = guard(&mut tx, self.job).await?.is_some();
            if is_ours {
                uploads::end(&mut tx, row).await?;
                for left in left {
                    leftovers::insert(&mut tx, left).await?;
                }
                jobs::set_step(&mut tx, job, next(step)).await?;
            }
            Ok((tx, is_ours))
        });
        if completed.await? { Ok(()) } else { Err(Stop::Lost) }
    }

    /// Copies the data to these stores. Returns the transfers of those that failed, need not succeed, and may still have some of the data.
    async fn copy_parts(&self, image: &Image, parts: &[Part<'_>]) -> Result<Vec<Upload>, Stop> {
        self.begin_count();
        let mut left = Vec::new();
        let copy = |part| async move { Ok((part, self.copy_part(image, part).await?)) }.boxed();
        let mut waiting = parts.iter();
        let limit = self.app.config.image_import_opts.max_parallel_stores as usize;
        let mut copies: FuturesUnordered<BoxFuture<'_, Result<(&Part<'_>, bool), Stop>>> =
            waiting.by_ref().take(limit).map(copy).collect();
        while let Some(copied) = copies.next().await {
            let (part, has_leftovers) = copied?;
            if has_leftovers {
                left.push(part.record.clone());
            }
            copies.extend(waiting.next().map(copy));
        }
        Ok(left)
    }

    /// Copies the data to one store. If the store fails and need not succeed, goes on without it, and returns whether it may still
    /// have some of the data.
    async fn copy_part(&self, image: &Image, part: &Part<'_>) -> Result<bool, Stop> {
        match self.try_copy_part(image, part).await {
            Ok(()) => Ok(false),
            Err(Stop::Failed(error, _)) if self.input.must_succeed => {
                Err(Stop::Failed(error, vec![part.name.to_owned()]))
            }
            Err(Stop::Failed(error, _)) => {
                tracing::warn!(error = with_causes(&error), store = part.name, "the import to a store has failed");
                let has_leftovers = part.may_have_data() && part.transfer.discard_part().await;
                self.remove_from_lists(part.name).await?;
                Ok(has_leftovers)
            }
            Err(stop) => Err(stop),
        }
    }

    async fn try_copy_part(&self, image: &Image, part: &Part<'_>) -> Result<(), Stop> {
        let object = &part.transfer.object;
        part.has_data.store(true, Ordering::Relaxed);
        let received = self.receive(image, object, part.transfer.store()).await;
        // A store that fails has removed what it has received. One that is cancelled may not have.
        part.has_data.store(!matches!(received, Err(Stop::Failed(..))), Ordering::Relaxed);
        let Ingested { stored, facts } = received?;
        let facts = facts.finish().await?;
        let hold = part.transfer.place(&stored).await?;
        let published = self.publish_part(part, &stored, &facts).await;
        hold.release().await;
        published
    }

    /// Adds the location to the image. The image becomes active with the first store if the others need not succeed, and otherwise
    /// with the last one.
    async fn publish_part(&self, part: &Part<'_>, stored: &Stored, facts: &DataFacts) -> Result<(), Stop> {
        let (app, job) = (&**self.app, self.job);
        let admission = &app.limits.data_admission(&self.context, 0).await?;
        let published = app.db.transaction(|mut tx| async move {
            let Some(image) = guard(&mut tx, self.job).await? else { return Ok((tx, false)) };
            if !uploads::holds(&mut tx, &part.transfer.record).await? {
                return Ok((tx, false));
            }
            check_same(&image, facts)?;
            let now = app.now();
            let copies = db::locations::list(&mut tx, &image.id).await?.len() as u64 + 1;
            let size = u64::try_from(facts.size).unwrap_or_default();
            admission.enforce(&mut tx, Some(&image.id), size.saturating_mul(copies)).await?;
            change_list(app, &mut tx, &image.id, IMPORTING_TO, &[], &[part.name]).await?;
            let is_last = property(&mut tx, &image.id, IMPORTING_TO).await?.unwrap_or_default().is_empty();
            let activates = image.status == Status::Importing && (is_last || !self.input.must_succeed);
            let to = if activates { Status::Active } else { image.status };
            db::images::set_facts(&mut tx, &image, facts, to, now).await?;
            db::locations::insert(&mut tx, &image.id, &[(&stored.url, &stored.metadata)], now).await?;
            db::tasks::set_message(&mut tx, &job.id, &(self.message)(size), now).await?;
            Ok((tx, true))
        });
        if !published.await? {
            return Err(Stop::Lost);
        }
        acls::apply_to_new(app, &job.image_id).await;
        Ok(())
    }
}
