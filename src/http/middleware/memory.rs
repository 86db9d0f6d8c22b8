//! Bounds the memory of JSON bodies that clients do not finish, and of responses that they do not read.
//!
//! All of them share one budget. A request that exceeds it gets 503. Otherwise, the system could kill the whole process for its use
//! of memory. Image data is not counted: it passes in chunks.

use std::{
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll, ready},
};

use axum::{
    body::{Body, Bytes},
    extract::{Request, State},
    middleware::Next,
    response::Response,
};
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::http::error;

/// Bodies up to this size in bytes are not counted: their number is limited by that of the connections, and a client that is not
/// the cause of the shortage is served.
const FREE: usize = 16 * 1024;
/// A response is handed to the connection in parts of this size in bytes, because a part that is handed over counts as sent.
const PART: usize = 64 * 1024;

/// The budget.
#[derive(Clone)]
pub(in crate::http) struct Memory {
    left: Arc<Semaphore>,
    total: usize,
}

/// The budget is exhausted.
#[derive(Debug)]
pub(in crate::http) struct Exhausted;

impl Memory {
    /// A budget of this size in bytes; 0 means no limit.
    pub(in crate::http) fn new(bytes: u64) -> Self {
        let total = usize::try_from(bytes).ok().filter(|total| *total > 0).unwrap_or(Semaphore::MAX_PERMITS);
        let total = total.min(Semaphore::MAX_PERMITS);
        Self { left: Arc::new(Semaphore::new(total)), total }
    }

    /// Takes this number of bytes out of the budget. A body that is larger than the whole budget takes all of it.
    fn take(&self, bytes: usize) -> Result<OwnedSemaphorePermit, Exhausted> {
        let bytes = u32::try_from(bytes.min(self.total)).unwrap_or(u32::MAX);
        Arc::clone(&self.left).try_acquire_many_owned(bytes).map_err(|_| Exhausted)
    }
}

/// The memory that a request's body takes, until the request is answered.
#[derive(Clone)]
pub(in crate::http) struct Charge {
    memory: Memory,
    held: Arc<Mutex<Held>>,
}

#[derive(Default)]
struct Held {
    bytes: usize,
    permit: Option<OwnedSemaphorePermit>,
}

impl Charge {
    /// Adds this number of bytes.
    pub(in crate::http) fn add(&self, bytes: usize) -> Result<(), Exhausted> {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        held.bytes += bytes;
        let counted = held.permit.as_ref().map_or(0, OwnedSemaphorePermit::num_permits);
        let missing = held.bytes.saturating_sub(FREE).min(self.memory.total).saturating_sub(counted);
        let more = self.memory.take(missing)?;
        match &mut held.permit {
            Some(permit) => permit.merge(more),
            none => *none = Some(more),
        }
        Ok(())
    }
}

/// Middleware: charges the bodies of the request and of its response.
pub(in crate::http) async fn charge(State(memory): State<Memory>, mut request: Request, next: Next) -> Response {
    let charge = Charge { memory: memory.clone(), held: Arc::default() };
    request.extensions_mut().insert(charge);
    let response = next.run(request).await;
    // A stream has no exact size: its data is not in memory.
    let size = response.body().size_hint().exact().and_then(|size| usize::try_from(size).ok()).unwrap_or_default();
    if size <= FREE {
        return response;
    }
    match memory.take(size) {
        Ok(permit) => response.map(|body| Body::new(Charged { body, part: Bytes::new(), _permit: permit })),
        Err(Exhausted) => exhausted(),
    }
}

/// 503: there is no memory for a body.
pub(in crate::http) fn exhausted() -> Response {
    tracing::warn!("request refused: bodies in memory have reached [glimpse] body_memory");
    error::unavailable()
}

/// A body in memory, which returns its memory to the budget when it is sent or dropped.
struct Charged {
    body: Body,
    /// The rest of the current frame.
    part: Bytes,
    _permit: OwnedSemaphorePermit,
}

impl HttpBody for Charged {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        if self.part.is_empty() {
            let frame = match ready!(Pin::new(&mut self.body).poll_frame(cx)) {
                Some(Ok(frame)) => frame,
                end => return Poll::Ready(end),
            };
            match frame.into_data() {
                Ok(data) => self.part = data,
                Err(frame) => return Poll::Ready(Some(Ok(frame))),
            }
        }
        let size = self.part.len().min(PART);
        Poll::Ready(Some(Ok(Frame::data(self.part.split_to(size)))))
    }

    fn is_end_stream(&self) -> bool {
        self.part.is_empty() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let left = self.body.size_hint().exact().map(|size| size + self.part.len() as u64);
        left.map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn charge(memory: &Memory) -> Charge {
        Charge { memory: memory.clone(), held: Arc::default() }
    }

    #[test]
    fn a_budget_is_shared_and_returned() {
        let memory = Memory::new(100_000);
        let (first, second) = (charge(&memory), charge(&memory));
        assert!(first.add(FREE).is_ok() && memory.left.available_permits() == 100_000);
        assert!(first.add(50_000).is_ok() && first.add(10_000).is_ok());
        assert_eq!(memory.left.available_permits(), 40_000);
        assert!(second.add(FREE).is_ok() && second.add(40_001).is_err());
        drop(first);
        assert!(second.add(1).is_ok());
        drop(second);
        // A body that is larger than the budget takes all of it.
        let all = memory.take(1_000_000).unwrap();
        assert!(memory.take(1).is_err());
        drop(all);
        assert_eq!(memory.left.available_permits(), 100_000);
        assert!(Memory::new(0).take(1 << 31).is_ok());
    }

    #[tokio::test]
    async fn a_charged_body_is_unchanged_and_keeps_its_length() {
        use http_body_util::BodyExt as _;
        let memory = Memory::new(1 << 20);
        let data: Vec<u8> = (0..200_001_u32).flat_map(u32::to_le_bytes).collect();
        let permit = memory.take(data.len()).unwrap();
        let mut body = Charged { body: Body::from(data.clone()), part: Bytes::new(), _permit: permit };
        let mut read = Vec::new();
        while !body.is_end_stream() {
            assert_eq!(body.size_hint().exact(), Some((data.len() - read.len()) as u64));
            let part = body.frame().await.unwrap().unwrap().into_data().unwrap();
            assert!(part.len() <= PART);
            read.extend_from_slice(&part);
        }
        assert!(read == data && memory.left.available_permits() < 1 << 20);
        drop(body);
        assert_eq!(memory.left.available_permits(), 1 << 20);
    }
}
