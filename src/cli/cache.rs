//! `glimpse cache …`, and `glance-cache-pruner`, `-cleaner` and `-prefetcher`: the image cache of this machine.

use std::{
    io::{self, Write as _},
    process::ExitCode,
    sync::Arc,
};

use clap::Subcommand;

use super::CommandResult;
use crate::{
    app::{App, StartError},
    cache::Cache,
    config::Config,
    data::prefetch,
    db::Db,
    log,
    model::ImageId,
};

/// The commands for the image cache.
#[derive(Debug, Clone, PartialEq, Eq, Subcommand)]
pub(super) enum Command {
    /// Print the cached images and the queued ones
    ///
    /// A line has the image, its size in bytes, the number of its downloads from the cache, and the time of the last one.
    List,
    /// Queue images; a running server fetches them at its next housekeeping, and `glimpse cache prefetch` at once
    Queue {
        /// The ids of the images
        #[arg(required = true)]
        images: Vec<String>,
    },
    /// Remove images from the cache and from the queue
    Delete {
        /// The ids of the images
        #[arg(required = true)]
        images: Vec<String>,
    },
    /// Remove all images from the cache and from the queue
    Clear {
        /// Remove only the cached images
        #[arg(long, conflicts_with = "queue")]
        cache: bool,
        /// Remove only the queued images
        #[arg(long)]
        queue: bool,
    },
    /// Remove the images that were not downloaded for the longest time, until the cache is at most image_cache_max_size large
    Prune,
    /// Remove invalid files, files without progress for image_cache_stall_time, and records that do not match the files
    Clean,
    /// Fetch the queued images from their stores
    Prefetch,
}

/// Runs a command on the cache that the configuration names.
pub(super) fn run(config: Config, command: Command) -> CommandResult {
    log::start(&config)?;
    super::install_tls()?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(async {
        if config.default.image_cache_dir.is_none() {
            return Err("[DEFAULT] image_cache_dir is not set".into());
        }
        if command == Command::Prefetch {
            return prefetch(config).await;
        }
        let url = config.database_url();
        let error = |source| StartError::Database { url: url.to_string(), source };
        let db = Db::open(&url, (&config.database).into()).await.map_err(error)?;
        let cache = Cache::open(&config, &db, now).await?.ok_or("[DEFAULT] image_cache_dir is not set")?;
        run_on(&cache, command).await?;
        db.close().await;
        Ok(ExitCode::SUCCESS)
    })
}

async fn run_on(cache: &Arc<Cache>, command: Command) -> Result<(), Box<dyn std::error::Error>> {
    let mut out = io::stdout().lock();
    match command {
        Command::List => {
            for record in cache.list().await? {
                #[expect(clippy::cast_possible_truncation, reason = "whole seconds are printed")]
                let accessed = chrono::DateTime::from_timestamp(record.last_accessed as i64, 0).unwrap_or_default();
                let (id, size, hits) = (&record.image_id, record.size, record.hits);
                writeln!(out, "{id}  cached  {size} bytes  {hits} hits  {}", accessed.format("%Y-%m-%dT%H:%M:%SZ"))?;
            }
            for id in cache.queued().await? {
                writeln!(out, "{id}  queued")?;
            }
        }
        Command::Queue { images } => {
            for image in images {
                cache.queue(&parse(&image)?).await?;
            }
        }
        Command::Delete { images } => {
            for image in images {
                let id = parse(&image)?;
                cache.remove(&id).await?;
                cache.dequeue(&id).await?;
            }
        }
        Command::Clear { cache: only_cache, queue: only_queue } => {
            if !only_queue {
                writeln!(out, "{} cached images removed", cache.clear().await?)?;
            }
            if !only_cache {
                writeln!(out, "{} queued images removed", cache.clear_queue().await?)?;
            }
        }
        Command::Prune => {
            let pruned = cache.prune().await?;
            writeln!(out, "{} images of {} bytes removed", pruned.files, pruned.bytes)?;
        }
        Command::Clean => cache.clean().await?,
        // It needs the stores as well.
        Command::Prefetch => {}
    }
    Ok(())
}

async fn prefetch(config: Config) -> CommandResult {
    let app = Arc::new(App::start(config).await?);
    let (queued, fetched) = prefetch::fetch_queued(&app).await?;
    app.work.close();
    app.work.wait().await;
    app.db.close().await;
    writeln!(io::stdout(), "{fetched} of {queued} queued images are cached")?;
    Ok(if fetched == queued { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn parse(image: &str) -> Result<ImageId, String> {
    ImageId::parse(image).ok_or_else(|| format!("{image:?} is not the id of an image"))
}

#[expect(clippy::disallowed_methods, reason = "a command chooses the clock itself")]
fn now() -> chrono::DateTime<chrono::Utc> {
    chrono::Utc::now()
}
