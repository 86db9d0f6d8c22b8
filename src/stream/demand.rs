//! Splits data into a producer half and a consumer half that can run in different tasks.
//!
//! The task that reads a request body also gathers its frames into chunks. Handing over each frame instead would wake another
//! thread for each of them.

use tokio::sync::oneshot;

use super::{
    ByteStream,
    chunk::Chunk,
    feed::{Incomplete, Limits, feed},
    queue::Feed,
};

/// Splits the data into its two halves.
pub(crate) fn apart(data: ByteStream) -> (Supply, Demand) {
    let (order, orders) = oneshot::channel();
    (Supply { data, orders }, Demand(order))
}

/// The producer half, which owns the data.
pub(crate) struct Supply {
    data: ByteStream,
    orders: oneshot::Receiver<Order>,
}

/// The consumer half, which asks for the data.
pub(crate) struct Demand(oneshot::Sender<Order>);

struct Order {
    limits: Limits,
    taps: Vec<flume::Sender<Chunk>>,
    to: Feed,
    fed: oneshot::Sender<Result<u64, Incomplete>>,
}

impl Supply {
    /// Waits until the consumer asks for the data, and sends it. If this future is dropped, the consumer gets
    /// [`Incomplete::Disconnected`].
    pub(crate) async fn send(self) {
        let Ok(Order { limits, taps, to, fed }) = self.orders.await else { return };
        // The consumer may have been dropped meanwhile.
        let _ = fed.send(feed(self.data, limits, taps, to).await);
    }
}

impl Demand {
    /// Makes the producer half run [`feed`] and returns its result.
    pub(crate) async fn feed(
        self,
        limits: Limits,
        taps: Vec<flume::Sender<Chunk>>,
        to: Feed,
    ) -> Result<u64, Incomplete> {
        let (fed, done) = oneshot::channel();
        // If the producer was dropped, so is the order, and `done` fails.
        let _ = self.0.send(Order { limits, taps, to, fed });
        done.await.unwrap_or(Err(Incomplete::Disconnected))
    }
}
