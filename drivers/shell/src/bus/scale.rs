//! The task that changes how many shards take events. It sleeps until a shard fills up.

use std::future::{Future, poll_fn};
use std::sync::{Arc, Weak};
use std::task::Poll;

use net_proto::bus::{ScaleConfig, Scaler};

use super::Bus;
use crate::bell::Bell;
use crate::runtime::Timer;

/// The task. It ends after [`Bus::close`], or with the bus.
pub(super) fn scale(
    bus: &Arc<Bus>,
    config: ScaleConfig,
    bell: Arc<Bell>,
) -> impl Future<Output = ()> + Send + 'static {
    let runtime = bus.runtime().clone();
    let mut scaler = Scaler::new(config, runtime.now());
    let mut timer: Box<dyn Timer> = runtime.timer();
    let bus: Weak<Bus> = Arc::downgrade(bus);
    poll_fn(move |cx| {
        loop {
            bell.doze(cx.waker());
            let Some(bus) = bus.upgrade().filter(|bus| !bus.is_closed()) else { return Poll::Ready(()) };
            let now = runtime.now();
            if let Some(active) = scaler.handle_fill(now, bus.fullest()) {
                tracing::debug!(active, "shards of the event bus");
                bus.set_active(active);
                bus.run();
            }
            let mark = config.mark(bus.config().limits.events);
            // A shard that is above the mark already is looked at again when its time has come.
            if !bus.watch(mark, &bell) && scaler.poll_timeout().is_none() {
                continue;
            }
            return match timer.poll(cx, scaler.poll_timeout()) {
                Poll::Ready(()) => continue,
                Poll::Pending => Poll::Pending,
            };
        }
    })
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::task::{Context, Waker};
    use std::time::Duration;

    use super::*;
    use crate::bus::by_hand::{ByHand, bus};

    /// The engine may refuse one shard for good. A turn of the task ends all the same.
    #[test]
    fn a_shard_that_is_closed_alone_is_not_waited_for() {
        let runtime = Arc::new(ByHand::default());
        let bus = bus(&runtime, 1);
        bus.cell(0).expect("a shard").close();
        let (told, tells) = mpsc::channel();
        // On a thread of its own, so that one that never ends is a failure.
        std::thread::spawn(move || {
            let task = scale(&bus, ScaleConfig::between(1, 2), Arc::default());
            let turn = std::pin::pin!(task).poll(&mut Context::from_waker(Waker::noop()));
            _ = told.send(turn.is_pending());
        });
        assert_eq!(tells.recv_timeout(Duration::from_secs(60)), Ok(true));
    }
}
