//! Child processes with limits on their time, memory and output.
//!
//! `prlimit` and `setpriv` of util-linux set the limits, and have the kernel kill the child if this process dies.

use std::{
    io::{self, Read},
    os::unix::process::{CommandExt as _, ExitStatusExt as _},
    process::{Child, Command, ExitStatus, Stdio},
    thread::JoinHandle,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process_group};

use crate::error::{Error, Result};

/// How often it is checked whether the child has ended, or must be killed.
const POLL: Duration = Duration::from_millis(20);
/// The maximum number of bytes of the child's output that are kept, of each stream. The rest is read and dropped.
const MAX_OUTPUT: usize = 1024 * 1024;

/// The limits of a child.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// The processor time and the time on the clock, in seconds each.
    pub(super) seconds: u32,
    /// The size of the address space in bytes.
    pub(super) memory: u64,
    /// The maximum size in bytes of a file that the child writes.
    pub(super) file: u64,
}

/// A child that has ended.
#[derive(Debug)]
pub(super) struct Ended {
    status: ExitStatus,
    pub(super) stdout: Vec<u8>,
    pub(super) stderr: String,
}

impl Ended {
    pub(super) fn succeeded(&self) -> bool {
        self.status.success()
    }

    /// The child's exit code, if no signal has ended it.
    pub(super) fn code(&self) -> Option<i32> {
        self.status.code()
    }

    /// Whether the child was killed because its file had exceeded the limit.
    pub(super) fn wrote_too_much(&self) -> bool {
        self.status.signal() == Some(Signal::XFSZ.as_raw())
    }

    /// Whether the child was killed because its processor time was over.
    pub(super) fn took_too_long(&self) -> bool {
        [Some(Signal::XCPU.as_raw()), Some(Signal::KILL.as_raw())].contains(&self.status.signal())
    }
}

/// Kills the child and its process group when it is dropped.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        if matches!(self.0.try_wait(), Ok(Some(_))) {
            return;
        }
        if let Some(group) = Pid::from_raw(self.0.id().cast_signed()) {
            // The child may have ended meanwhile. It is not reaped yet, so its id belongs to no other process.
            let _ = kill_process_group(group, Signal::KILL);
        }
        let _ = self.0.wait();
    }
}

/// Runs a program to its end, and calls `check` now and then. The thread that calls this must live until then, because the kernel
/// kills the child when this thread ends.
///
/// # Errors
/// Those of `check`; `Invalid` after the limit of time. The child is killed then.
pub(super) fn run(
    program: &str,
    arguments: &[&str],
    limits: Limits,
    mut check: impl FnMut() -> Result<()>,
) -> Result<Ended> {
    let failed = |error: io::Error| Error::Internal(format!("{program} cannot be started: {error}").into());
    let Limits { seconds, memory, file } = limits;
    let child = Command::new("setpriv")
        .args(["--pdeathsig", "KILL", "prlimit", "--core=0"])
        .args([format!("--cpu={seconds}"), format!("--as={memory}"), format!("--fsize={file}")])
        .arg(program)
        .args(arguments)
        .env("LC_ALL", "C")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .spawn();
    let mut running = Running(child.map_err(failed)?);
    let (stdout, stderr) = (running.0.stdout.take().map(collect), running.0.stderr.take().map(collect));
    let end = Instant::now() + Duration::from_secs(seconds.into());
    let status = loop {
        if let Some(status) = running.0.try_wait().map_err(failed)? {
            break status;
        }
        if Instant::now() >= end {
            return Err(too_slow(program));
        }
        check()?;
        std::thread::sleep(POLL);
    };
    let output = |thread: Option<JoinHandle<Vec<u8>>>| thread.and_then(|thread| thread.join().ok()).unwrap_or_default();
    Ok(Ended { status, stdout: output(stdout), stderr: String::from_utf8_lossy(&output(stderr)).trim().to_owned() })
}

pub(super) fn too_slow(program: &str) -> Error {
    Error::Invalid(format!("{program} takes too long to process the image's data."))
}

/// Reads a stream to its end on a thread, and returns its beginning.
fn collect(mut stream: impl Read + Send + 'static) -> JoinHandle<Vec<u8>> {
    std::thread::spawn(move || {
        let (mut kept, mut buffer) = (Vec::new(), [0; 8192]);
        while let Ok(read) = stream.read(&mut buffer) {
            if read == 0 {
                break;
            }
            let kept_now = read.min(MAX_OUTPUT - kept.len());
            kept.extend_from_slice(&buffer[..kept_now]);
        }
        kept
    })
}
