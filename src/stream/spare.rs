//! Work for which nobody waits, on threads of low priority: it gets the time that the processors have to spare.

use std::sync::LazyLock;

use thread_priority::{
    NormalThreadSchedulePolicy, ThreadPriority, ThreadSchedulePolicy, set_thread_priority_and_policy, thread_native_id,
};
use tokio::{
    runtime::{Builder, Runtime},
    task::{JoinHandle, spawn_blocking},
};

/// A runtime for its blocking threads alone, one per processor. A thread cannot get its priority back, so they are not those of other
/// work.
static THREADS: LazyLock<Option<Runtime>> = LazyLock::new(|| {
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    let mut threads = Builder::new_current_thread();
    threads.max_blocking_threads(processors).thread_name("glimpse-spare").on_thread_start(|| {
        // Without it, the work still gets done.
        let idle = ThreadSchedulePolicy::Normal(NormalThreadSchedulePolicy::Idle);
        let _ = set_thread_priority_and_policy(thread_native_id(), ThreadPriority::Min, idle);
    });
    threads.build().ok()
});

/// Runs a turn of the work on one of these threads. It should be short, because others wait for the thread.
pub(crate) fn in_spare_time<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
    match &*THREADS {
        Some(threads) => threads.spawn_blocking(work),
        None => spawn_blocking(work),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_system_runs_these_threads_when_it_has_nothing_else_to_do() {
        let stat = in_spare_time(|| std::fs::read_to_string("/proc/thread-self/stat").unwrap()).await.unwrap();
        // The fields after the name, which is in parentheses, begin with the third one. The 41st is the policy: 5 is SCHED_IDLE.
        let policy = stat.rsplit(')').next().unwrap().split_whitespace().nth(41 - 3);
        assert_eq!(policy, Some("5"));
    }
}
