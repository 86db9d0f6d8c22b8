//! Observers of an upload's data: they compute its digests, inspect its format, and reject unsafe data while it passes.

use std::{iter::once, ops::ControlFlow, sync::Arc};

use crate::{
    app::App,
    config::HashAlgorithm,
    error::{Error, Result},
    inspect::{self, Inspection, Inspector, Rejection, Rules},
    model::{DataFacts, Image},
    stream::{self, Chunk, Digest, Observer, Tap},
};

/// The observers of one upload. Each digest has a thread of its own. The inspection of the format shares one of them: it costs less
/// than passing the data to another thread.
pub(crate) struct Observers {
    algorithm: HashAlgorithm,
    content_and_md5: Tap<(ContentInspector, Digest)>,
    /// `None` if the configured algorithm is MD5.
    secure: Option<Tap<Digest>>,
}

impl Observers {
    /// Starts the observers for data of this image.
    pub(super) fn start(app: &Arc<App>, image: &Image) -> Result<Self> {
        let algorithm = image.os_hash_algo.as_deref().and_then(stream::algorithm);
        let algorithm = algorithm.unwrap_or(app.config.default.hashing_algorithm);
        let digest = |algorithm| Digest::new(algorithm).map_err(Error::Internal);
        let content = ContentInspector {
            app: Arc::clone(app),
            image_id: image.id.to_string(),
            disk_format: image.disk_format.clone().unwrap_or_default(),
            container_format: image.container_format.clone().unwrap_or_default(),
            inspector: Inspector::new(),
            rejection: None,
        };
        Ok(Self {
            algorithm,
            content_and_md5: Tap::start((content, digest(HashAlgorithm::Md5)?)),
            secure: (algorithm != HashAlgorithm::Md5).then(|| digest(algorithm)).transpose()?.map(Tap::start),
        })
    }

    /// Returns the channels that the data must be sent to.
    pub(super) fn inputs(&self) -> Vec<flume::Sender<Chunk>> {
        once(self.content_and_md5.end()).chain(self.secure.as_ref().map(Tap::end)).collect()
    }

    /// Returns the observers' results after the end of the data.
    ///
    /// # Errors
    /// `UnfitData` when the data is rejected.
    pub(crate) async fn finish(self, size: u64) -> Result<DataFacts> {
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

    /// Returns the reason why an observer stopped before the end of the data.
    pub(super) async fn into_error(self) -> Error {
        let unknown = || Error::Internal("an observer stopped without a reason".into());
        self.finish(0).await.err().unwrap_or_else(unknown)
    }
}

/// Inspects the data's format. It stops as soon as it is certain that the data is rejected.
struct ContentInspector {
    app: Arc<App>,
    image_id: String,
    disk_format: String,
    container_format: String,
    inspector: Inspector,
    /// The reason for a rejection, once it is certain.
    rejection: Option<Rejection>,
}

impl Observer for ContentInspector {
    fn observe(&mut self, bytes: &[u8]) -> Result<ControlFlow<()>, Box<dyn std::error::Error + Send + Sync>> {
        if self.inspector.feed(bytes) {
            self.rejection =
                inspect::early_rejection(&self.inspector, &self.disk_format, &self.container_format, self.rules());
        }
        Ok(if self.rejection.is_some() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
    }
}

impl ContentInspector {
    fn rules(&self) -> Rules<'_> {
        let options = &self.app.config.image_format;
        Rules { require_match: options.require_image_format_match, nonfatal: &options.gpt_safety_checks_nonfatal }
    }

    /// Returns the size of the disk in the data, if it is known.
    fn virtual_size(self) -> Result<Option<i64>> {
        let inspection = self.inspector.clone().finish();
        let verdict = |rules| inspect::verdict(&inspection, &self.disk_format, &self.container_format, rules);
        // After an early rejection the rest of the data is missing, so another verdict would name the wrong reason.
        match self.rejection.clone().map_or_else(|| verdict(self.rules()), Err) {
            Err(rejection) => {
                self.log_rejection(&inspection, &rejection, "the image's data is rejected");
                Err(Error::UnfitData(rejection.to_string()))
            }
            Ok(size) => {
                if let Err(rejection) = verdict(Rules { require_match: true, ..self.rules() }) {
                    let message = "the data's format is not the image's; accepted, as the configuration allows";
                    self.log_rejection(&inspection, &rejection, message);
                }
                size.map(|size| i64::try_from(size).map_err(|error| Error::Internal(error.into()))).transpose()
            }
        }
    }

    fn log_rejection(&self, inspection: &Inspection, rejection: &Rejection, message: &str) {
        let reasons: Vec<_> =
            inspection.found.iter().flat_map(|found| &found.failures).map(|failure| failure.reason).collect();
        tracing::warn!(image = self.image_id, reason = %rejection, safety = reasons.join("; "), "{message}");
    }
}
