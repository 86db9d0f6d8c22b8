//! What is found out of an upload's data while it passes: its digests, what it is, and whether it may stay.

use std::{iter::once, ops::ControlFlow, sync::Arc};

use crate::{
    app::App,
    config::HashAlgorithm,
    error::{Error, Result},
    inspect::{self, Inspection, Inspector, Refusal, Rules},
    model::{DataFacts, Image},
    stream::{self, Chunk, Digest, Look, Tap},
};

/// Those who look at an upload's data. Digests have threads of their own; to hand the data to another thread, too, costs more than to
/// look at what it is.
pub(super) struct Observers {
    algorithm: HashAlgorithm,
    content_and_md5: Tap<(Content, Digest)>,
    /// None where it is the MD5.
    secure: Option<Tap<Digest>>,
}

impl Observers {
    /// For data of this image.
    pub(super) fn start(app: &Arc<App>, image: &Image) -> Result<Self> {
        let algorithm = image.os_hash_algo.as_deref().and_then(stream::algorithm);
        let algorithm = algorithm.unwrap_or(app.config.default.hashing_algorithm);
        let digest = |algorithm| Digest::new(algorithm).map_err(Error::Internal);
        let content = Content {
            app: Arc::clone(app),
            image_id: image.id.to_string(),
            disk_format: image.disk_format.clone().unwrap_or_default(),
            container_format: image.container_format.clone().unwrap_or_default(),
            inspector: Inspector::new(),
            refusal: None,
        };
        Ok(Self {
            algorithm,
            content_and_md5: Tap::start((content, digest(HashAlgorithm::Md5)?)),
            secure: (algorithm != HashAlgorithm::Md5).then(|| digest(algorithm)).transpose()?.map(Tap::start),
        })
    }

    /// Where the data goes.
    pub(super) fn ends(&self) -> Vec<flume::Sender<Chunk>> {
        once(self.content_and_md5.end()).chain(self.secure.as_ref().map(Tap::end)).collect()
    }

    /// What they found, after all of the data.
    ///
    /// # Errors
    /// `UnfitData` when the data may not stay.
    pub(super) async fn facts(self, size: u64) -> Result<DataFacts> {
        let (content, md5) = self.content_and_md5.finish().await.map_err(Error::Internal)?;
        let virtual_size = content.virtual_size()?;
        let checksum = md5.hex().map_err(Error::Internal)?;
        let os_hash_value = match self.secure {
            None => checksum.clone(),
            Some(secure) => secure.finish().await.map_err(Error::Internal)?.hex().map_err(Error::Internal)?,
        };
        Ok(DataFacts {
            size: i64::try_from(size).map_err(|error| Error::Internal(error.into()))?,
            virtual_size,
            checksum,
            os_hash_algo: stream::name(self.algorithm),
            os_hash_value,
        })
    }

    /// Why one of them wanted no more of the data.
    pub(super) async fn objection(self) -> Error {
        let nothing = || Error::Internal("the data was not looked at to its end, and nobody said why".into());
        self.facts(0).await.err().unwrap_or_else(nothing)
    }
}

/// Finds out what the data is. It wants no more of it once it is certain that it may not stay.
struct Content {
    app: Arc<App>,
    image_id: String,
    disk_format: String,
    container_format: String,
    inspector: Inspector,
    /// Why it may not stay, where that is certain already.
    refusal: Option<Refusal>,
}

impl Look for Content {
    fn see(&mut self, bytes: &[u8]) -> Result<ControlFlow<()>, Box<dyn std::error::Error + Send + Sync>> {
        if self.inspector.feed(bytes) {
            self.refusal =
                inspect::early_refusal(&self.inspector, &self.disk_format, &self.container_format, self.rules());
        }
        Ok(if self.refusal.is_some() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
    }
}

impl Content {
    fn rules(&self) -> Rules<'_> {
        let options = &self.app.config.image_format;
        Rules { require_match: options.require_image_format_match, nonfatal: &options.gpt_safety_checks_nonfatal }
    }

    /// The size of the disk in it, where that is known.
    fn virtual_size(self) -> Result<Option<i64>> {
        let inspection = self.inspector.clone().finish();
        let verdict = |rules| inspect::verdict(&inspection, &self.disk_format, &self.container_format, rules);
        // After an early refusal the rest is missing, which is not why.
        match self.refusal.clone().map_or_else(|| verdict(self.rules()), Err) {
            Err(refusal) => {
                self.tell(&inspection, &refusal, "the data is refused");
                Err(Error::UnfitData(refusal.to_string()))
            }
            Ok(size) => {
                if let Err(refusal) = verdict(Rules { require_match: true, ..self.rules() }) {
                    self.tell(&inspection, &refusal, "the data is not what the image says, and is taken all the same");
                }
                size.map(|size| i64::try_from(size).map_err(|error| Error::Internal(error.into()))).transpose()
            }
        }
    }

    fn tell(&self, inspection: &Inspection, refusal: &Refusal, what: &str) {
        let reasons: Vec<_> =
            inspection.found.iter().flat_map(|found| &found.failures).map(|failure| failure.reason).collect();
        tracing::warn!(image = self.image_id, reason = %refusal, safety = reasons.join("; "), "{what}");
    }
}
