//! The steps that run plugins.
//!
//! A plugin that changes the data writes a new version of the staged file. The transaction that records the step makes this version
//! the current one, and the former one is removed afterwards. So an interrupted step is repeated with the data that it began with.

use std::{path::PathBuf, sync::Arc};

use uuid::Uuid;

use super::{Import, Stop, guard, next};
use crate::{
    config::{ImportPlugin, OutputFormat},
    data::transfer::with_timeout,
    db::{self, jobs, locations::ascii_json},
    error::Error,
    import::{
        Formats, Input, Method,
        plugins::{self, Bound, Change, Files, Progress},
        properties,
    },
    model::Image,
    store::Object,
};

/// What a step begins with.
enum Beginning {
    /// The image.
    Image(Box<Image>),
    /// The step is completed: the database had committed it despite an error.
    Completed,
}

impl Import<'_> {
    /// Runs the plugin with this number.
    pub(super) async fn run_plugin(&mut self, number: usize, step: usize) -> Result<(), Stop> {
        let Some(plugin) = self.input.plugins.get(number).copied() else { return self.advance(step).await };
        tracing::debug!(plugin = plugin.name(), "a plugin runs");
        match plugin {
            ImportPlugin::NoOp => self.advance(step).await,
            ImportPlugin::InjectImageMetadata => self.inject(step).await,
            ImportPlugin::ImageDecompression | ImportPlugin::ImageConversion => {
                match self.change_data(plugin, step).await {
                    // As in Glance, no store has got the data.
                    Err(Stop::Failed(error, _)) => Err(Stop::Failed(error, self.all_stores())),
                    done => done,
                }
            }
        }
    }

    /// Adds the operator's properties to the image.
    async fn inject(&self, step: usize) -> Result<(), Stop> {
        let (app, job) = (&**self.app, self.job);
        let injected = &app.config.inject_metadata_properties.inject.0;
        let completed = app.db.transaction(|mut tx| async move {
            let Some(image) = guard(&mut tx, self.job).await? else { return Ok((tx, false)) };
            properties::set(app, &mut tx, &image.id, injected).await?;
            let recorded = jobs::set_step(&mut tx, job, next(step)).await?;
            Ok((tx, recorded))
        });
        if completed.await? { Ok(()) } else { Err(Stop::Lost) }
    }

    async fn change_data(&mut self, plugin: ImportPlugin, step: usize) -> Result<(), Stop> {
        let app = Arc::clone(self.app);
        let Beginning::Image(image) = self.begin_change(step).await? else { return Ok(()) };
        let version = Uuid::new_v4().to_string();
        let path = |version: Option<&str>| app.stores.staged_path(&image.id, version).map(PathBuf::from);
        let files = Files {
            source: path(self.input.staged.as_deref()).map_err(Error::store_failed)?,
            target: path(Some(&version)).map_err(Error::store_failed)?,
        };
        let left = app.limits.storage_left(&app.db, &self.context, &image.id).await?;
        let bound = Bound { cap: app.config.default.image_size_cap, left };
        self.begin_count();
        let progress = Arc::new(Progress::counted_by(&self.moved));
        let change = plugins::change_data(&app, plugin, &image, self.output_format(), files, bound, progress).await?;
        tracing::info!(plugin = plugin.name(), ?change, "a plugin has processed the data");
        let is_new = change.size.is_some();
        if !self.record_change(*image, change, version, step).await? {
            // The process that has the job removes the new version.
            return Err(Stop::Lost);
        }
        if is_new {
            self.discard_other_versions().await;
        }
        Ok(())
    }

    /// The format that data is converted to.
    fn output_format(&self) -> OutputFormat {
        let config = &self.app.config;
        let of_tasks = config.taskflow_executor.conversion_format.filter(|_| self.method == Method::Legacy);
        of_tasks.unwrap_or(config.image_conversion.output_format)
    }

    /// Removes what processes that have had the job before have left of this step.
    async fn begin_change(&mut self, step: usize) -> Result<Beginning, Stop> {
        let (app, job) = (&**self.app, self.job);
        let object = Object { image_id: job.image_id.to_string(), upload_id: Uuid::new_v4().to_string() };
        let store = app.stores.staging();
        // With the hold, a process that has lost the job removes nothing of the one that has it now.
        let hold = with_timeout(app, async { store.hold(&object).await.map_err(Error::store_failed) }).await?;
        let this = &*self;
        let begun = async {
            let read = app.db.transaction(|mut tx| async move {
                let image = guard(&mut tx, this.job).await?;
                let job = jobs::current(&mut tx, job).await?;
                Ok((tx, image.zip(job)))
            });
            let (image, current) = read.await?.ok_or(Stop::Lost)?;
            if usize::try_from(current.step).is_ok_and(|recorded| recorded > step) {
                return Ok((None, current));
            }
            this.discard_other_versions().await;
            Ok::<_, Stop>((Some(image), current))
        };
        let begun = begun.await;
        hold.release().await;
        match begun? {
            (Some(image), _) => Ok(Beginning::Image(Box::new(image))),
            (None, current) => {
                self.input = serde_json::from_str(&current.input).map_err(|error| Error::Internal(error.into()))?;
                Ok(Beginning::Completed)
            }
        }
    }

    async fn discard_other_versions(&self) {
        let discarded = self.app.stores.discard_other_versions(&self.job.image_id, self.input.staged.as_deref()).await;
        if let Err(error) = discarded {
            tracing::warn!(%error, "a former version of staged data cannot be removed now; the end of the import removes it");
        }
    }

    /// Records the step together with its effect. Returns `false` if this process has the job no more.
    async fn record_change(
        &mut self,
        before: Image,
        change: Change,
        version: String,
        step: usize,
    ) -> Result<bool, Stop> {
        let (app, job) = (&**self.app, self.job);
        let mut input = self.input.clone();
        let mut image = before.clone();
        let bytes = |size: u64| i64::try_from(size).map_err(|error| Error::Internal(error.into()));
        if let Some(size) = change.size {
            image.size = Some(bytes(size)?);
            input.staged = Some(version);
        }
        if let Some(size) = change.virtual_size {
            image.virtual_size = Some(bytes(size)?);
        }
        if let Some(format) = change.disk_format {
            image.disk_format = Some(format.to_owned());
            image.container_format = Some("bare".to_owned());
            input.formats.get_or_insert_with(|| Formats::of(&before));
        }
        let (this, image, text) = (&*self, &image, &ascii_json(&input)?);
        let recorded = app.db.transaction(|mut tx| async move {
            if guard(&mut tx, this.job).await?.is_none() {
                return Ok((tx, false));
            }
            db::images::set_imported(&mut tx, image, app.now()).await?;
            jobs::set_input(&mut tx, job, text).await?;
            let recorded = jobs::set_step(&mut tx, job, next(step)).await?;
            Ok((tx, recorded))
        });
        let recorded = recorded.await?;
        if recorded {
            self.input = input;
        }
        Ok(recorded)
    }

    /// Goes back to the step of the download if the data that it has staged is on a node that is gone, and no store has the data yet.
    /// Returns the step to execute.
    pub(super) async fn find_beginning(&mut self, step: usize, download: Option<usize>) -> Result<usize, Stop> {
        let (app, job) = (&**self.app, self.job);
        let first_store = |download| download + 1 + self.input.plugins.len();
        let is_between = |download: &usize| step > *download && step <= first_store(*download);
        let Some(download) = download.filter(is_between) else { return Ok(step) };
        if app.stores.has_staged(&job.image_id, self.input.staged.as_deref()).await {
            return Ok(step);
        }
        tracing::warn!("the staged data is not on this node; it is downloaded again");
        let input = Input { staged: None, formats: None, ..self.input.clone() };
        let (this, formats, text) = (&*self, &self.input.formats, &ascii_json(&input)?);
        let went_back = app.db.transaction(|mut tx| async move {
            let Some(mut image) = guard(&mut tx, this.job).await? else { return Ok((tx, false)) };
            if let Some(formats) = formats {
                formats.apply(&mut image);
                db::images::set_imported(&mut tx, &image, app.now()).await?;
            }
            jobs::set_input(&mut tx, job, text).await?;
            let recorded = jobs::set_step(&mut tx, job, i32::try_from(download).unwrap_or_default()).await?;
            Ok((tx, recorded))
        });
        if !went_back.await? {
            return Err(Stop::Lost);
        }
        self.input = input;
        Ok(download)
    }
}
