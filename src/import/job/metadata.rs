//! The step that copies the metadata of another region's image.

use super::{Import, RESTART_PAUSE, RESTARTS, Stop, guard, next};
use crate::{
    db::{self, Tx, jobs, locations::ascii_json},
    error::Error,
    import::{
        Formats,
        glance_download::{self, Metadata, Origin},
        properties,
    },
    model::ImageId,
    policy::protections::Operation,
};

impl Import<'_> {
    /// Copies the formats and properties of the source image.
    pub(super) async fn copy_metadata(&mut self, step: usize) -> Result<(), Stop> {
        match self.try_copy_metadata(step).await {
            Err(Stop::Failed(error, _)) => Err(Stop::Failed(error, self.all_stores())),
            done => done,
        }
    }

    fn origin(&self) -> Result<&Origin, Stop> {
        let missing = || Error::Internal("the import's parameters have no source image".into());
        Ok(self.input.origin.as_ref().ok_or_else(missing)?)
    }

    /// The URL of the source image's data, with the caller's token.
    pub(super) fn data_of_origin(&self) -> Result<(String, reqwest::header::HeaderValue), Stop> {
        let url = self.origin()?.data_url()?;
        let token = self.app.process.token(&self.job.id).ok_or_else(glance_download::token_is_lost)?;
        Ok((url, token))
    }

    async fn read_metadata(&self) -> Result<Metadata, Stop> {
        let mut restarts = 0;
        loop {
            let token = self.app.process.token(&self.job.id);
            match self.origin()?.metadata(self.app, self.job.project_id.as_deref(), token).await {
                Err(error @ Error::StoreUnavailable(_)) if restarts < RESTARTS => {
                    restarts += 1;
                    tracing::warn!(%error, restarts, "the metadata of the source image is requested again");
                    tokio::time::sleep(RESTART_PAUSE * restarts).await;
                }
                done => return Ok(done?),
            }
        }
    }

    /// Gives the properties that the import has changed their former values.
    pub(super) async fn restore_properties(&self, tx: &mut Tx, image: &ImageId) -> Result<(), Error> {
        let Some(origin) = &self.input.origin else { return Ok(()) };
        let added = origin.properties.iter().filter(|(_, former)| former.is_none());
        let added: Vec<&str> = added.map(|(name, _)| name.as_str()).collect();
        if !added.is_empty() {
            db::properties::delete(tx, image, &added).await?;
        }
        let changed = origin.properties.iter().filter_map(|(name, former)| Some((name.clone(), former.clone()?)));
        properties::set(self.app, tx, image, &changed.collect::<Vec<_>>()).await
    }

    async fn try_copy_metadata(&mut self, step: usize) -> Result<(), Stop> {
        let metadata = &self.read_metadata().await?;
        let (this, app, job) = (&*self, &**self.app, self.job);
        let caller = &self.origin()?.caller(job.project_id.as_deref());
        let copied = app.db.transaction(|mut tx| async move {
            let Some(mut image) = guard(&mut tx, this.job).await? else { return Ok((tx, None)) };
            let existing = db::properties::list(&mut tx, &image.id).await?;
            let mut input = this.input.clone();
            input.formats.get_or_insert_with(|| Formats::of(&image));
            let mut before = Vec::new();
            for (name, _) in &metadata.properties {
                let former = existing.iter().find(|property| property.name == *name);
                let operation = if former.is_some() { Operation::Update } else { Operation::Create };
                app.protections.check(&app.policy, caller, operation, name)?;
                before.push((name.clone(), former.map(|former| former.value.clone().unwrap_or_default())));
            }
            let own = existing.iter().filter(|property| !property.name.starts_with("os_glance")).count();
            let attempted = own + before.iter().filter(|(_, former)| former.is_none()).count();
            if let Some(maximum) = app.config.default.image_property_quota().filter(|max| attempted > *max as usize) {
                let message = format!(
                    "The limit has been exceeded on the number of allowed image properties. Attempted: {attempted}, \
                     Maximum: {maximum}"
                );
                return Err(Error::LimitExceeded(message));
            }
            if let Some(origin) = &mut input.origin {
                origin.size = Some(metadata.size);
                origin.properties = before;
            }
            metadata.formats().apply(&mut image);
            db::images::set_imported(&mut tx, &image, app.now()).await?;
            properties::set(app, &mut tx, &image.id, &metadata.properties).await?;
            jobs::set_input(&mut tx, job, &ascii_json(&input)?).await?;
            let recorded = jobs::set_step(&mut tx, job, next(step)).await?;
            Ok((tx, recorded.then_some(input)))
        });
        self.input = copied.await?.ok_or(Stop::Lost)?;
        Ok(())
    }
}
