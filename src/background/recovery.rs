//! Rolls back the uploads of processes that died, and resumes their imports.
//!
//! Each process adds to a number of its own in the database, its heartbeat, and inspects the numbers of the others. A process whose
//! number did not change during [`MISSED`] of its heartbeats is dead: the process that detects this first rolls back the uploads of
//! the dead one. No clocks are compared.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use super::MISSED;
use crate::{
    app::App,
    data::recovery::{remove_leftover, roll_back},
    db::{
        self, Conn, in_time,
        jobs::Job,
        processes::{self, Process},
        uploads::Upload,
    },
    error::Result,
    import::{self, JobLog},
};

/// The number of checks for which this process leaves an upload into a store that is not configured here to other processes.
const FOREIGN: u32 = 30;
const CANNOT_ROLL_BACK: &str = "an interrupted upload cannot be rolled back now; retrying at the next heartbeat";

/// The state of the other processes as of the last check.
#[derive(Default)]
pub(crate) struct ProcessWatch {
    /// For each process its number, if it has one, and the number of consecutive checks that found the same.
    seen: HashMap<String, (Option<i64>, u32)>,
    /// Uploads into stores that are not configured here, and the number of checks that found them.
    foreign: HashMap<String, u32>,
    /// Jobs that wait, and the number of checks that found them.
    waiting: HashMap<String, u32>,
    /// What the log shows of the jobs.
    log: JobLog,
    /// Images whose upload could not be rolled back at the last check, and the reason, which was logged.
    stuck: HashMap<String, String>,
}

impl ProcessWatch {
    /// Checks the heartbeats of the other processes, and rolls back the uploads of dead ones. Then removes what failed uploads have
    /// left in stores that were away. Four statements if there is nothing to do.
    ///
    /// # Errors
    /// `Unavailable`: the check does not count.
    pub(crate) async fn check(&mut self, app: &Arc<App>, every: Duration) -> Result<()> {
        let timeout = app.config.glimpse.request_timeout;
        let load = async |conn: &mut Conn| {
            let (uploads, leftovers) = (db::uploads::all(conn).await?, db::leftovers::all(conn).await?);
            let jobs = db::jobs::all(conn).await?;
            Ok((processes::all(conn).await?, uploads, leftovers, jobs))
        };
        let (processes, uploads, leftovers, jobs) = app.db.acquire().await?.in_time(timeout, load).await?;
        let living = self.observe(&app.process.id, every, &processes, &uploads, &jobs);
        let before = std::mem::take(&mut self.foreign);
        let logged = std::mem::take(&mut self.stuck);
        for upload in &uploads {
            // An upload of this process that is not in progress: its rollback failed, for example because the database was
            // unavailable.
            let abandoned = upload.process_id == app.process.id && !app.process.is_uploading(&upload.upload_id);
            if !abandoned && living.contains(&upload.process_id) {
                continue;
            }
            if app.stores.all_for_upload(&upload.store).is_none() && living.len() > 1 {
                let checks = before.get(&upload.upload_id).map_or(0, |checks| checks + 1);
                if checks == 0 {
                    let (image, store) = (upload.image_id.as_str(), &upload.store);
                    tracing::warn!(image, store, "an upload into a store that is not configured here was interrupted");
                }
                if checks < FOREIGN {
                    self.foreign.insert(upload.upload_id.clone(), checks);
                    continue;
                }
            }
            let image = upload.image_id.as_str();
            if let Err(why) = roll_back_dead(app, upload).await {
                match logged.get(image) == Some(&why) {
                    true => tracing::debug!(image, why, "{CANNOT_ROLL_BACK}"),
                    false => tracing::warn!(image, why, "{CANNOT_ROLL_BACK}"),
                }
                self.stuck.insert(image.to_owned(), why);
            }
        }
        for Process { id, .. } in processes.iter().filter(|process| !living.contains(&process.id)) {
            let has_work =
                uploads.iter().any(|upload| upload.process_id == *id) || jobs.iter().any(|job| job.process_id == *id);
            if !has_work {
                in_time(timeout, remove_process(app, id)).await?;
            }
        }
        // Each process that lives takes care of its own.
        let is_ours = |left: &&Upload| left.process_id == app.process.id || !living.contains(&left.process_id);
        remove_leftovers(app, leftovers.iter().filter(is_ours)).await;
        // A job that waits longer than others: no living process has its data.
        let waited = std::mem::take(&mut self.waiting);
        let waiting = jobs.iter().filter(|job| job.process_id.is_empty());
        self.waiting =
            waiting.map(|job| (job.id.clone(), waited.get(&job.id).map_or(0, |checks| checks + 1))).collect();
        self.log.write(&jobs, &self.waiting);
        let given_up =
            self.waiting.iter().filter(|(_, checks)| **checks >= FOREIGN).map(|(id, _)| id.clone()).collect();
        import::release_abandoned(app, &jobs, &living, &given_up).await
    }

    /// Records the numbers, and returns the living processes. A process is dead if its number has not changed for too long, or if
    /// it has had an upload and no number for too long.
    fn observe(
        &mut self,
        own: &str,
        every: Duration,
        processes: &[Process],
        uploads: &[Upload],
        jobs: &[Job],
    ) -> HashSet<String> {
        let known = processes.iter().map(|process| (&process.id, Some(process.beat), patience(process.every(), every)));
        let is_unknown = |id: &&String| !processes.iter().any(|process| process.id == **id);
        // A process without a number has just started, or was treated as dead although it is alive.
        let owners = uploads.iter().map(|upload| &upload.process_id);
        let owners = owners.chain(jobs.iter().map(|job| &job.process_id).filter(|id| !id.is_empty()));
        let unknown = owners.filter(is_unknown).map(|id| (id, None, MISSED));
        let mut living = HashSet::from([own.to_owned()]);
        let before = std::mem::take(&mut self.seen);
        for (id, beat, patience) in known.chain(unknown).filter(|(id, ..)| *id != own) {
            let still = match before.get(id) {
                Some((seen, still)) if *seen == beat => still.saturating_add(1),
                _ => 0,
            };
            if still < patience {
                living.insert(id.clone());
            }
            self.seen.insert(id.clone(), (beat, still));
        }
        living
    }
}

/// Returns the number of checks, one every `every`, during which a process with the heartbeat `theirs` must add to its number.
fn patience(theirs: Duration, every: Duration) -> u32 {
    let checks = (theirs * MISSED).as_millis().div_ceil(every.as_millis().max(1));
    u32::try_from(checks).unwrap_or(u32::MAX).max(MISSED)
}

/// Rolls back an interrupted upload, or returns why that is not possible now.
async fn roll_back_dead(app: &App, upload: &Upload) -> Result<(), String> {
    let (image, is_configured) = (upload.image_id.as_str(), app.stores.all_for_upload(&upload.store).is_some());
    let stores: Vec<_> = upload.store.split(',').filter_map(|store| app.stores.for_upload(store)).collect();
    // The process that has the hold on the image may stall indefinitely, and there are other uploads.
    let rollback = tokio::time::timeout(app.config.glimpse.request_timeout, roll_back(app, upload, &stores));
    let rolled_back = rollback
        .await
        .map_err(|_| "the database, the store, or the process that has the hold on the image's path takes too long")?;
    if rolled_back.map_err(|error| error.to_string())? {
        tracing::warn!(image, "an interrupted upload was rolled back");
        if !is_configured {
            let store = &upload.store;
            tracing::warn!(image, store, "its data may remain in the store, which is not configured here");
        }
    }
    Ok(())
}

/// Removes what failed uploads have left. A store that is still unreachable is tried once.
async fn remove_leftovers(app: &App, leftovers: impl Iterator<Item = &Upload>) {
    let mut away = HashSet::new();
    for left in leftovers {
        let Some(store) = app.stores.for_upload(&left.store).filter(|store| !away.contains(&store.id)) else {
            continue;
        };
        let (image, timeout) = (left.image_id.as_str(), app.config.glimpse.request_timeout);
        if let Err(error) = in_time(timeout, remove_leftover(app, left, &store)).await {
            tracing::debug!(image, store = store.id, %error, "what a failed upload has left cannot be removed now");
            away.insert(store.id.clone());
        }
    }
}

async fn remove_process(app: &App, process: &str) -> Result<()> {
    app.db
        .transaction(|mut tx| async move {
            processes::remove(&mut tx, process).await?;
            Ok((tx, ()))
        })
        .await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ImageId;

    #[test]
    fn a_process_with_a_longer_heartbeat_is_given_more_checks() {
        let seconds = Duration::from_secs;
        assert_eq!(patience(seconds(10), seconds(10)), MISSED);
        assert_eq!(patience(seconds(60), seconds(10)), 18);
        assert_eq!(patience(seconds(1), seconds(10)), MISSED);
        assert_eq!(patience(Duration::MAX / 4, seconds(1)), u32::MAX);
    }
    #[test]
    fn a_process_is_dead_once_its_number_has_not_changed_for_long_enough() {
        let every = Duration::from_millis(100);
        let process = |id: &str, beat| Process { id: id.to_owned(), beat };
        let upload = |process: &str| Upload {
            image_id: ImageId::new(),
            upload_id: process.to_owned(),
            process_id: process.to_owned(),
            store: String::new(),
        };
        let (quick, slow) = (process("quick", 100), process("slow", 200));
        let mut watch = ProcessWatch::default();
        // `new` has an upload and no number yet.
        let uploads = ["own", "quick", "slow", "new"].map(upload);
        let mut check = |processes: &[Process]| {
            let mut living: Vec<_> = watch.observe("own", every, processes, &uploads, &[]).into_iter().collect();
            living.sort();
            living
        };
        let still = [quick.clone(), slow.clone()];
        for _ in 0..3 {
            assert_eq!(check(&still), ["new", "own", "quick", "slow"]);
        }
        for _ in 0..3 {
            assert_eq!(check(&still), ["own", "slow"]);
        }
        assert_eq!(check(&still), ["own"]);
        // `quick` was treated as dead although it is alive.
        let beating = [process("quick", 101), slow, process("new", 100)];
        assert_eq!(check(&beating), ["new", "own", "quick"]);
    }
}
