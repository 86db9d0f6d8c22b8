//! Ceph's libraries librados and librbd, loaded at run time, behind safe types.
//!
//! This is the only file with unsafe code (ADR 21). Each type owns one handle of the libraries and everything that the handle depends
//! on. A buffer belongs to the library from the call until the callback, whatever happens to the caller meanwhile.
//!
//! A method blocks until the cluster has answered, unless it is `async`. Handles are closed on threads of their own, because closing
//! blocks, and because a callback must not close the image that it belongs to.

#![expect(unsafe_code, reason = "calls of C functions")]

use std::{
    ffi::{CStr, CString, c_char, c_int, c_void},
    io,
    path::Path,
    ptr,
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use libloading::Library;
use rustix::io::Errno;
use tokio::sync::oneshot;

use crate::error::with_causes;

/// An error of a call to Ceph.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{call}: {}", io::Error::from(*.errno))]
pub(super) struct CephError {
    /// The name of the function.
    pub(super) call: &'static str,
    /// Its error.
    pub(super) errno: Errno,
}

pub(super) type Result<T, E = CephError> = std::result::Result<T, E>;

/// The timeout of an operation, unless the configuration has one.
pub(super) const TIMEOUT: Duration = Duration::from_secs(30);
/// The features of an image that can be cloned, if the cluster's configuration names none.
const LAYERING: u64 = 1;

type Handle = *mut c_void;
type Progress = extern "C" fn(done: u64, total: u64, argument: *mut c_void) -> c_int;
type Callback = extern "C" fn(completion: Handle, argument: *mut c_void);

/// `rbd_image_spec_t`
#[repr(C)]
#[derive(Clone, Copy)]
struct ImageSpec {
    id: *mut c_char,
    name: *mut c_char,
}

/// `struct iovec`
#[repr(C)]
struct IoVec {
    base: *const c_void,
    len: usize,
}

/// `struct timespec`
#[repr(C)]
#[derive(Default)]
struct TimeSpec {
    seconds: i64,
    nanoseconds: i64,
}

/// Declares the functions that are looked up in a library, and a struct of them.
macro_rules! functions {
    ($name:ident { $($function:ident($($argument:ty),*) $(-> $result:ty)?;)+ }) => {
        struct $name { $($function: unsafe extern "C" fn($($argument),*) $(-> $result)?,)+ }

        impl $name {
            fn find(library: &Library) -> Result<Self, libloading::Error> {
                // SAFETY: these are the declarations of the library's header, for this version of its interface.
                unsafe { Ok(Self { $($function: *library.get(concat!(stringify!($function), "\0").as_bytes())?,)+ }) }
            }
        }
    };
}

functions! { Rados {
    rados_create(*mut Handle, *const c_char) -> c_int;
    rados_conf_read_file(Handle, *const c_char) -> c_int;
    rados_conf_set(Handle, *const c_char, *const c_char) -> c_int;
    rados_conf_get(Handle, *const c_char, *mut c_char, usize) -> c_int;
    rados_connect(Handle) -> c_int;
    rados_cluster_fsid(Handle, *mut c_char, usize) -> c_int;
    rados_shutdown(Handle);
    rados_ioctx_create(Handle, *const c_char, *mut Handle) -> c_int;
    rados_set_pool_full_try(Handle);
    rados_ioctx_destroy(Handle);
} }

functions! { Rbd {
    rbd_create2(Handle, *const c_char, u64, u64, *mut c_int) -> c_int;
    rbd_open(Handle, *const c_char, *mut Handle, *const c_char) -> c_int;
    rbd_open_read_only(Handle, *const c_char, *mut Handle, *const c_char) -> c_int;
    rbd_close(Handle) -> c_int;
    rbd_rename(Handle, *const c_char, *const c_char) -> c_int;
    rbd_remove_with_progress(Handle, *const c_char, Progress, *mut c_void) -> c_int;
    rbd_trash_move(Handle, *const c_char, u64) -> c_int;
    rbd_list2(Handle, *mut ImageSpec, *mut usize) -> c_int;
    rbd_image_spec_list_cleanup(*mut ImageSpec, usize);
    rbd_get_size(Handle, *mut u64) -> c_int;
    rbd_get_modify_timestamp(Handle, *mut TimeSpec) -> c_int;
    rbd_resize_with_progress(Handle, u64, Progress, *mut c_void) -> c_int;
    rbd_snap_create(Handle, *const c_char) -> c_int;
    rbd_snap_remove(Handle, *const c_char) -> c_int;
    rbd_snap_protect(Handle, *const c_char) -> c_int;
    rbd_snap_unprotect(Handle, *const c_char) -> c_int;
    rbd_metadata_get(Handle, *const c_char, *mut c_char, *mut usize) -> c_int;
    rbd_metadata_set(Handle, *const c_char, *const c_char) -> c_int;
    rbd_flush(Handle) -> c_int;
    rbd_aio_create_completion(*mut c_void, Callback, *mut Handle) -> c_int;
    rbd_aio_get_return_value(Handle) -> isize;
    rbd_aio_release(Handle);
    rbd_aio_read(Handle, u64, usize, *mut c_char, Handle) -> c_int;
    rbd_aio_writev(Handle, *const IoVec, c_int, u64, Handle) -> c_int;
} }

/// The functions of both libraries.
struct Api {
    rados: Rados,
    rbd: Rbd,
}

/// Loads the libraries, once per process. They are never unloaded.
///
/// # Errors
/// Which library cannot be loaded, and why.
fn api() -> Result<&'static Api, &'static str> {
    static API: OnceLock<Result<Api, String>> = OnceLock::new();
    let load = || {
        let open = |name: &str| {
            // SAFETY: Ceph's libraries may be loaded at any time, by any thread.
            let library = unsafe { Library::new(name) };
            library.map(|library| &*Box::leak(Box::new(library))).map_err(|error| with_causes(&error))
        };
        let (rados, rbd) = (open("librados.so.2")?, open("librbd.so.1")?);
        let rados = Rados::find(rados).map_err(|error| with_causes(&error))?;
        let rbd = Rbd::find(rbd).map_err(|error| with_causes(&error))?;
        Ok(Api { rados, rbd })
    };
    API.get_or_init(load).as_ref().map_err(String::as_str)
}

/// Checks that the libraries can be loaded.
pub(super) fn check() -> Result<(), &'static str> {
    api().map(drop)
}

/// Turns a function's result into an error if it is one.
fn done(call: &'static str, result: c_int) -> Result<()> {
    if result < 0 { Err(CephError { call, errno: Errno::from_raw_os_error(-result) }) } else { Ok(()) }
}

fn text(call: &'static str, text: &str) -> Result<CString> {
    CString::new(text).map_err(|_| CephError { call, errno: Errno::INVAL })
}

fn pointer(text: Option<&CString>) -> *const c_char {
    text.map_or(ptr::null(), |text| text.as_ptr())
}

/// Counts the steps of a long call, so that others see that it proceeds.
#[derive(Default)]
pub(super) struct Steps(AtomicU64);

impl Steps {
    pub(super) fn count(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    fn argument(&self) -> *mut c_void {
        ptr::from_ref(&self.0).cast_mut().cast()
    }
}

extern "C" fn count_step(_: u64, _: u64, argument: *mut c_void) -> c_int {
    // SAFETY: this is the argument of `Steps::argument`, which outlives the call that this callback is for.
    unsafe { &*argument.cast::<AtomicU64>() }.fetch_add(1, Ordering::Relaxed);
    0
}

/// A connection to a cluster.
pub(super) struct Cluster {
    api: &'static Api,
    raw: Handle,
    /// The cluster's id.
    pub(super) fsid: String,
    /// The features that the cluster's configuration gives new images.
    pub(super) features: u64,
    /// The timeout of an operation.
    pub(super) timeout: Duration,
}

// SAFETY: the handle may be used by any thread, and by several at a time.
unsafe impl Send for Cluster {}
// SAFETY: as above.
unsafe impl Sync for Cluster {}

impl Cluster {
    /// Connects to a cluster. `config` is the path of its configuration; the default is where Ceph looks for it. `timeout` is the
    /// timeout of every operation; without it, the configuration decides, or [`TIMEOUT`].
    ///
    /// # Errors
    /// The libraries are missing, the configuration cannot be read, or the cluster does not respond or rejects the user.
    pub(super) fn connect(
        user: Option<&str>,
        config: Option<&Path>,
        timeout: Option<Duration>,
    ) -> Result<Self, String> {
        let api = api()?;
        let describe = |error: CephError| error.to_string();
        let user = user.map(|user| text("rados_create", user)).transpose().map_err(describe)?;
        let config = config.map(|path| CString::new(path.as_os_str().as_encoded_bytes())).transpose();
        let config = config.map_err(|error| error.to_string())?;
        let mut raw = ptr::null_mut();
        // SAFETY: the strings end with a zero byte, and the function only writes the handle.
        let created = unsafe { (api.rados.rados_create)(&raw mut raw, pointer(user.as_ref())) };
        done("rados_create", created).map_err(describe)?;
        // From here on, the handle is closed when this is dropped.
        let mut cluster = Self { api, raw, fsid: String::new(), features: LAYERING, timeout: TIMEOUT };
        // SAFETY: the handle is valid, and the path ends with a zero byte.
        let read = unsafe { (api.rados.rados_conf_read_file)(raw, pointer(config.as_ref())) };
        done("rados_conf_read_file", read).map_err(describe)?;
        let configured = cluster.option(c"rados_osd_op_timeout").and_then(|value| value.parse::<f64>().ok());
        let configured = configured.filter(|seconds| *seconds > 0.0);
        let configured = configured.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
        cluster.timeout = timeout.or(configured).unwrap_or(TIMEOUT);
        let seconds = cluster.timeout.as_secs_f64().to_string();
        for option in [c"rados_osd_op_timeout", c"rados_mon_op_timeout", c"client_mount_timeout"] {
            cluster.set_option(option, &seconds).map_err(describe)?;
        }
        // An operation that waits asks the monitors where its OSD is now: after ten seconds, if this was not set. If it timed out before,
        // a restarted OSD would not be found again.
        let seconds = cluster.timeout.as_secs_f64();
        for (option, share) in [(c"objecter_timeout", 0.4), (c"objecter_tick_interval", 0.2)] {
            cluster.set_option(option, &(seconds * share).to_string()).map_err(describe)?;
        }
        // A write is complete when the cluster has it.
        cluster.set_option(c"rbd_cache", "false").map_err(describe)?;
        // SAFETY: the handle is valid.
        let connected = unsafe { (api.rados.rados_connect)(raw) };
        done("rados_connect", connected).map_err(describe)?;
        let mut fsid = [0; 64];
        // SAFETY: the function writes at most this many bytes.
        let length = unsafe { (api.rados.rados_cluster_fsid)(raw, fsid.as_mut_ptr().cast(), fsid.len()) };
        done("rados_cluster_fsid", length).map_err(describe)?;
        cluster.fsid = until_zero(&fsid);
        let features = cluster.option(c"rbd_default_features").and_then(|features| features.parse().ok());
        cluster.features = features.filter(|features| *features != 0).unwrap_or(LAYERING);
        Ok(cluster)
    }

    fn option(&self, name: &CStr) -> Option<String> {
        let mut value = [0; 256];
        // SAFETY: the handle is valid, and the function writes at most this many bytes.
        let got =
            unsafe { (self.api.rados.rados_conf_get)(self.raw, name.as_ptr(), value.as_mut_ptr().cast(), value.len()) };
        done("rados_conf_get", got).ok().map(|()| until_zero(&value))
    }

    fn set_option(&mut self, name: &CStr, value: &str) -> Result<()> {
        let value = text("rados_conf_set", value)?;
        // SAFETY: the handle is valid, and the strings end with a zero byte.
        done("rados_conf_set", unsafe { (self.api.rados.rados_conf_set)(self.raw, name.as_ptr(), value.as_ptr()) })
    }
}

/// The text in front of the first zero byte.
fn until_zero(bytes: &[u8]) -> String {
    let text = bytes.split(|byte| *byte == 0).next().unwrap_or_default();
    String::from_utf8_lossy(text).into_owned()
}

impl Drop for Cluster {
    fn drop(&mut self) {
        let (api, raw) = (self.api, Owned(self.raw));
        // SAFETY: nothing else has the handle any more.
        on_a_thread(move || unsafe { (api.rados.rados_shutdown)(raw.into_raw()) });
    }
}

/// A handle on its way to another thread.
struct Owned(Handle);

// SAFETY: the libraries' handles may be used by any thread.
unsafe impl Send for Owned {}

impl Owned {
    fn into_raw(self) -> Handle {
        self.0
    }
}

/// Runs work that blocks. If there is no thread for it, it is not done: the system has no resources left.
fn on_a_thread(work: impl FnOnce() + Send + 'static) {
    if let Err(error) = std::thread::Builder::new().name("rbd-close".to_owned()).spawn(work) {
        tracing::error!(%error, "cannot close a handle of Ceph");
    }
}

/// A pool of a cluster.
pub(super) struct Pool {
    raw: Handle,
    pub(super) cluster: Arc<Cluster>,
}

// SAFETY: the handle may be used by any thread, and by several at a time.
unsafe impl Send for Pool {}
// SAFETY: as above.
unsafe impl Sync for Pool {}

impl Drop for Pool {
    fn drop(&mut self) {
        // SAFETY: nothing else has the handle any more. The cluster is dropped later.
        unsafe { (self.cluster.api.rados.rados_ioctx_destroy)(self.raw) }
    }
}

impl Pool {
    pub(super) fn open(cluster: &Arc<Cluster>, name: &str) -> Result<Arc<Self>> {
        const CALL: &str = "rados_ioctx_create";
        let (api, name) = (&cluster.api.rados, text(CALL, name)?);
        let mut raw = ptr::null_mut();
        // SAFETY: the cluster is connected, and the name ends with a zero byte.
        done(CALL, unsafe { (api.rados_ioctx_create)(cluster.raw, name.as_ptr(), &raw mut raw) })?;
        // A write to a full pool fails. Otherwise it would wait until there is space.
        // SAFETY: the handle was just created.
        unsafe { (api.rados_set_pool_full_try)(raw) };
        Ok(Arc::new(Self { raw, cluster: Arc::clone(cluster) }))
    }

    fn rbd(&self) -> &'static Rbd {
        &self.cluster.api.rbd
    }

    /// Creates an image of `size` bytes, with objects of `2^order` bytes.
    ///
    /// # Errors
    /// `EXIST`
    pub(super) fn create(&self, name: &str, size: u64, features: u64, order: i32) -> Result<()> {
        const CALL: &str = "rbd_create2";
        let (name, mut order) = (text(CALL, name)?, order);
        // SAFETY: the pool is open, and the name ends with a zero byte.
        done(CALL, unsafe { (self.rbd().rbd_create2)(self.raw, name.as_ptr(), size, features, &raw mut order) })
    }

    /// # Errors
    /// `NOENT`, `EXIST` if there is an image of the new name.
    pub(super) fn rename(&self, name: &str, to: &str) -> Result<()> {
        const CALL: &str = "rbd_rename";
        let (name, to) = (text(CALL, name)?, text(CALL, to)?);
        // SAFETY: the pool is open, and the names end with a zero byte.
        done(CALL, unsafe { (self.rbd().rbd_rename)(self.raw, name.as_ptr(), to.as_ptr()) })
    }

    /// # Errors
    /// `NOENT`, `NOTEMPTY` if the image has snapshots, `BUSY` if a client has it open.
    pub(super) fn remove(&self, name: &str, steps: &Steps) -> Result<()> {
        const CALL: &str = "rbd_remove";
        let (remove, name) = (self.rbd().rbd_remove_with_progress, text(CALL, name)?);
        // SAFETY: the pool is open, the name ends with a zero byte, and the steps outlive the call.
        done(CALL, unsafe { remove(self.raw, name.as_ptr(), count_step, steps.argument()) })
    }

    /// Moves an image into the trash, which frees its name.
    ///
    /// # Errors
    /// `BUSY` if a client has it open.
    pub(super) fn move_to_trash(&self, name: &str) -> Result<()> {
        const CALL: &str = "rbd_trash_move";
        let name = text(CALL, name)?;
        // SAFETY: the pool is open, and the name ends with a zero byte.
        done(CALL, unsafe { (self.rbd().rbd_trash_move)(self.raw, name.as_ptr(), 0) })
    }

    /// The names of all images.
    pub(super) fn list(&self) -> Result<Vec<String>> {
        let mut specs = Vec::new();
        let mut count = 64;
        loop {
            specs.resize(count, ImageSpec { id: ptr::null_mut(), name: ptr::null_mut() });
            // SAFETY: the pool is open, and the function writes at most this many entries.
            let listed = unsafe { (self.rbd().rbd_list2)(self.raw, specs.as_mut_ptr(), &raw mut count) };
            match done("rbd_list2", listed) {
                Err(CephError { errno: Errno::RANGE, .. }) => {}
                listed => break listed?,
            }
        }
        let listed = specs.get(..count).unwrap_or_default();
        // SAFETY: the function has written strings into these entries.
        let name = |spec: &ImageSpec| unsafe { CStr::from_ptr(spec.name) }.to_string_lossy().into_owned();
        let names = listed.iter().map(name).collect();
        // SAFETY: the function has written these entries, and nothing refers to them any more.
        unsafe { (self.rbd().rbd_image_spec_list_cleanup)(specs.as_mut_ptr(), count) };
        Ok(names)
    }
}

/// An open image, or a snapshot of it. It is closed when the last reference is dropped, which operations in progress have, too.
pub(super) struct Image {
    raw: Handle,
    pool: Arc<Pool>,
    /// Dropped when the image is closed.
    closing: Mutex<Option<oneshot::Sender<()>>>,
}

// SAFETY: the handle may be used by any thread, and by several at a time.
unsafe impl Send for Image {}
// SAFETY: as above.
unsafe impl Sync for Image {}

impl Drop for Image {
    fn drop(&mut self) {
        let (raw, pool) = (Owned(self.raw), Arc::clone(&self.pool));
        let closing = self.closing.lock().unwrap_or_else(PoisonError::into_inner).take();
        on_a_thread(move || {
            // SAFETY: nothing else has the handle any more. The pool is still open.
            if let Err(error) = done("rbd_close", unsafe { (pool.rbd().rbd_close)(raw.into_raw()) }) {
                tracing::warn!(%error, "cannot close an RBD image");
            }
            drop((closing, pool));
        });
    }
}

impl Image {
    /// Opens an image for reading and writing.
    pub(super) fn open(pool: &Arc<Pool>, name: &str) -> Result<Arc<Self>> {
        Self::open_with("rbd_open", pool.rbd().rbd_open, pool, name, None)
    }

    /// Opens an image or its snapshot for reading. Others can remove and rename it meanwhile.
    pub(super) fn open_to_read(pool: &Arc<Pool>, name: &str, snapshot: Option<&str>) -> Result<Arc<Self>> {
        Self::open_with("rbd_open_read_only", pool.rbd().rbd_open_read_only, pool, name, snapshot)
    }

    fn open_with(
        call: &'static str,
        open: unsafe extern "C" fn(Handle, *const c_char, *mut Handle, *const c_char) -> c_int,
        pool: &Arc<Pool>,
        name: &str,
        snapshot: Option<&str>,
    ) -> Result<Arc<Self>> {
        let (name, snapshot) = (text(call, name)?, snapshot.map(|snapshot| text(call, snapshot)).transpose()?);
        let mut raw = ptr::null_mut();
        // SAFETY: the pool is open, and the strings end with a zero byte.
        done(call, unsafe { open(pool.raw, name.as_ptr(), &raw mut raw, pointer(snapshot.as_ref())) })?;
        Ok(Arc::new(Self { raw, pool: Arc::clone(pool), closing: Mutex::default() }))
    }

    /// Closes the image when nothing uses it any more. What is returned ends then, with an error.
    pub(super) fn close(self: Arc<Self>) -> oneshot::Receiver<()> {
        let (closing, closed) = oneshot::channel();
        *self.closing.lock().unwrap_or_else(PoisonError::into_inner) = Some(closing);
        closed
    }

    fn rbd(&self) -> &'static Rbd {
        self.pool.rbd()
    }

    /// The size in bytes.
    pub(super) fn size(&self) -> Result<u64> {
        let mut size = 0;
        // SAFETY: the image is open, and the function only writes the size.
        done("rbd_get_size", unsafe { (self.rbd().rbd_get_size)(self.raw, &raw mut size) })?;
        Ok(size)
    }

    /// When it was written to, up to a minute.
    pub(super) fn modified(&self) -> Result<SystemTime> {
        let mut time = TimeSpec::default();
        // SAFETY: the image is open, and the function only writes the time.
        let got = unsafe { (self.rbd().rbd_get_modify_timestamp)(self.raw, &raw mut time) };
        done("rbd_get_modify_timestamp", got)?;
        Ok(SystemTime::UNIX_EPOCH + Duration::from_secs(time.seconds.try_into().unwrap_or_default()))
    }

    pub(super) fn resize(&self, size: u64, steps: &Steps) -> Result<()> {
        let resize = self.rbd().rbd_resize_with_progress;
        // SAFETY: the image is open, and the steps outlive the call.
        done("rbd_resize", unsafe { resize(self.raw, size, count_step, steps.argument()) })
    }

    pub(super) fn flush(&self) -> Result<()> {
        // SAFETY: the image is open.
        done("rbd_flush", unsafe { (self.rbd().rbd_flush)(self.raw) })
    }

    fn with_name(
        &self,
        call: &'static str,
        function: unsafe extern "C" fn(Handle, *const c_char) -> c_int,
        name: &str,
    ) -> Result<()> {
        let name = text(call, name)?;
        // SAFETY: the image is open, and the name ends with a zero byte.
        done(call, unsafe { function(self.raw, name.as_ptr()) })
    }

    pub(super) fn create_snapshot(&self, name: &str) -> Result<()> {
        self.with_name("rbd_snap_create", self.rbd().rbd_snap_create, name)
    }

    /// # Errors
    /// `NOENT`, `BUSY` if it is protected.
    pub(super) fn remove_snapshot(&self, name: &str) -> Result<()> {
        self.with_name("rbd_snap_remove", self.rbd().rbd_snap_remove, name)
    }

    pub(super) fn protect_snapshot(&self, name: &str) -> Result<()> {
        self.with_name("rbd_snap_protect", self.rbd().rbd_snap_protect, name)
    }

    /// # Errors
    /// `NOENT`, `INVAL` if it is not protected, `BUSY` if it has clones.
    pub(super) fn unprotect_snapshot(&self, name: &str) -> Result<()> {
        self.with_name("rbd_snap_unprotect", self.rbd().rbd_snap_unprotect, name)
    }

    pub(super) fn set_metadata(&self, key: &str, value: &str) -> Result<()> {
        const CALL: &str = "rbd_metadata_set";
        let (key, value) = (text(CALL, key)?, text(CALL, value)?);
        // SAFETY: the image is open, and the strings end with a zero byte.
        done(CALL, unsafe { (self.rbd().rbd_metadata_set)(self.raw, key.as_ptr(), value.as_ptr()) })
    }

    /// The value of up to 255 bytes with this key, if the image has it.
    pub(super) fn metadata(&self, key: &str) -> Result<Option<String>> {
        const CALL: &str = "rbd_metadata_get";
        let key = text(CALL, key)?;
        let mut value = [0_u8; 256];
        let mut length = value.len();
        // SAFETY: the image is open, the key ends with a zero byte, and the function writes at most this many bytes.
        let got = unsafe {
            (self.rbd().rbd_metadata_get)(self.raw, key.as_ptr(), value.as_mut_ptr().cast(), &raw mut length)
        };
        match done(CALL, got) {
            Err(CephError { errno: Errno::NOENT | Errno::RANGE, .. }) => Ok(None),
            got => got.map(|()| Some(until_zero(&value))),
        }
    }

    /// Begins to write bytes. The frames are kept until the cluster has them, even if the caller does not wait.
    pub(super) fn write(
        self: &Arc<Self>,
        offset: u64,
        frames: Vec<Bytes>,
    ) -> impl Future<Output = Result<()>> + Send + use<> {
        const CALL: &str = "rbd_aio_writev";
        let to_vector = |frame: &Bytes| IoVec { base: frame.as_ptr().cast(), len: frame.len() };
        let vector: Vec<_> = frames.iter().map(to_vector).collect();
        let count = c_int::try_from(vector.len()).unwrap_or(c_int::MAX);
        let started = self.start(CALL, Buffer::Frames(frames), |completion| {
            // SAFETY: the image is open, and the bytes stay where they are until the callback. The vector is read in the call.
            unsafe { (self.rbd().rbd_aio_writev)(self.raw, vector.as_ptr(), count, offset, completion) }
        });
        async { Ended::wait(CALL, started?).await.map(drop) }
    }

    /// Begins to read bytes: `length`, or less at the end of the image.
    pub(super) fn read(
        self: &Arc<Self>,
        offset: u64,
        length: usize,
    ) -> impl Future<Output = Result<Bytes>> + Send + use<> {
        const CALL: &str = "rbd_aio_read";
        let mut memory = Vec::with_capacity(length);
        let start: *mut u8 = memory.as_mut_ptr();
        let started = self.start(CALL, Buffer::Memory(memory), |completion| {
            // SAFETY: the image is open, and the memory has this capacity and stays where it is until the callback.
            unsafe { (self.rbd().rbd_aio_read)(self.raw, offset, length, start.cast(), completion) }
        });
        async move {
            let (count, buffer) = Ended::wait(CALL, started?).await?;
            let Buffer::Memory(mut memory) = buffer else { return Ok(Bytes::new()) };
            // SAFETY: the library has written this many bytes.
            unsafe { memory.set_len(count.min(length)) };
            Ok(memory.into())
        }
    }

    /// Starts an operation on a buffer, which belongs to the operation until it has ended.
    fn start(
        self: &Arc<Self>,
        call: &'static str,
        buffer: Buffer,
        begin: impl FnOnce(Handle) -> c_int,
    ) -> Result<oneshot::Receiver<Ended>> {
        let (ended, receiver) = oneshot::channel();
        let operation = Box::into_raw(Box::new(Operation { image: Arc::clone(self), buffer, ended }));
        let mut completion = ptr::null_mut();
        // SAFETY: the argument is valid until the callback, which takes it back.
        let created =
            unsafe { (self.rbd().rbd_aio_create_completion)(operation.cast(), end_operation, &raw mut completion) };
        let begun = done(call, created).and_then(|()| {
            done(call, begin(completion)).inspect_err(|_| {
                // SAFETY: the library does not use the completion.
                unsafe { (self.rbd().rbd_aio_release)(completion) }
            })
        });
        match begun {
            Ok(()) => Ok(receiver),
            Err(error) => {
                // SAFETY: there is no callback for an operation that has not begun.
                drop(unsafe { Box::from_raw(operation) });
                Err(error)
            }
        }
    }
}

/// The bytes of an operation.
enum Buffer {
    /// To be written.
    Frames(#[expect(dead_code, reason = "the library reads them")] Vec<Bytes>),
    /// To be read into.
    Memory(Vec<u8>),
}

/// An operation in progress.
struct Operation {
    image: Arc<Image>,
    buffer: Buffer,
    ended: oneshot::Sender<Ended>,
}

/// An operation that has ended.
struct Ended {
    /// The number of bytes that were read, or an error.
    result: isize,
    buffer: Buffer,
}

impl Ended {
    /// Waits until an operation has ended. Returns the number of bytes that were read, and the buffer.
    async fn wait(call: &'static str, ended: oneshot::Receiver<Self>) -> Result<(usize, Buffer)> {
        let Self { result, buffer } = ended.await.map_err(|_| CephError { call, errno: Errno::CANCELED })?;
        match usize::try_from(result) {
            Ok(count) => Ok((count, buffer)),
            Err(_) => done(call, c_int::try_from(result).unwrap_or(c_int::MIN + 1)).map(|()| (0, buffer)),
        }
    }
}

/// The callback of an operation, on a thread of the library.
extern "C" fn end_operation(completion: Handle, argument: *mut c_void) {
    // SAFETY: the library calls this once per operation, with the argument of `Image::start`.
    let operation = unsafe { Box::from_raw(argument.cast::<Operation>()) };
    let Operation { image, buffer, ended } = *operation;
    // SAFETY: the completion belongs to this operation, and nothing else refers to it.
    let result = unsafe {
        let result = (image.rbd().rbd_aio_get_return_value)(completion);
        (image.rbd().rbd_aio_release)(completion);
        result
    };
    // The caller may not wait any more. If this is the last reference to the image, another thread closes it.
    drop(image);
    let _ = ended.send(Ended { result, buffer });
}
