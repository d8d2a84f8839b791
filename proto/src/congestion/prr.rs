//! Proportional Rate Reduction (RFC 9937): while a window shrinks after a loss, what leaves follows
//! what arrives, instead of half a round trip of silence and then a burst.

/// State of one recovery period.
#[derive(Clone, Copy, Debug)]
pub(super) struct Prr {
    ssthresh: u64,
    /// In flight when recovery began (RecoverFS).
    flight: u64,
    delivered: u64,
    out: u64,
    /// Delivered since the last acknowledgement was done.
    fresh: u64,
    /// Something was lost since then.
    unsafe_now: bool,
    window: u64,
}

impl Prr {
    /// Recovery begins: `ssthresh` is where the window is to end, `flight` what was in flight,
    /// `acked` what of it the acknowledgement that showed the loss delivered.
    pub const fn new(ssthresh: u64, flight: u64, acked: u64) -> Self {
        let flight = if flight == 0 { 1 } else { flight };
        Self { ssthresh, flight, delivered: 0, out: 0, fresh: acked, unsafe_now: true, window: ssthresh }
    }

    pub const fn on_sent(&mut self, bytes: u64) {
        self.out = self.out.saturating_add(bytes);
    }

    pub const fn on_delivered(&mut self, bytes: u64) {
        self.fresh = self.fresh.saturating_add(bytes);
    }

    pub const fn on_lost(&mut self) {
        self.unsafe_now = true;
    }

    /// An acknowledgement is processed and `in_flight` remains.
    pub fn done(&mut self, in_flight: u64, mtu: u64) {
        self.delivered = self.delivered.saturating_add(self.fresh);
        let mut more = if in_flight > self.ssthresh {
            let share = u128::from(self.delivered) * u128::from(self.ssthresh);
            let share = share.div_ceil(u128::from(self.flight));
            u64::try_from(share).unwrap_or(u64::MAX).saturating_sub(self.out)
        } else {
            // Conservative bound; one packet more per acknowledgement while nothing further is lost.
            let mut more = self.delivered.saturating_sub(self.out).max(self.fresh);
            if !self.unsafe_now && self.fresh > 0 {
                more = more.saturating_add(mtu);
            }
            more.min(self.ssthresh - in_flight)
        };
        if self.out == 0 {
            // The first retransmission leaves at once.
            more = more.max(mtu);
        }
        self.window = in_flight.saturating_add(more);
        self.fresh = 0;
        self.unsafe_now = false;
    }

    pub const fn window(&self) -> u64 {
        self.window
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sends_at_most_in_proportion_to_what_was_delivered() {
        let (mtu, ssthresh, flight) = (1200, 70 * 1200, 100 * 1200);
        let mut prr = Prr::new(ssthresh, flight, 0);
        let (mut in_flight, mut delivered, mut sent) = (99 * mtu, 0, 0);
        for _ in 0..99 {
            in_flight -= mtu;
            delivered += mtu;
            prr.on_delivered(mtu);
            prr.done(in_flight, mtu);
            while in_flight + mtu <= prr.window() {
                prr.on_sent(mtu);
                in_flight += mtu;
                sent += mtu;
            }
            assert!(sent <= delivered * 7 / 10 + mtu, "{sent} of {delivered}");
        }
        assert!(in_flight >= ssthresh - 2 * mtu && in_flight <= ssthresh, "{in_flight}");
    }

    #[test]
    fn after_heavy_loss_sends_no_more_than_arrives_while_losses_go_on() {
        let (mtu, ssthresh, flight) = (1200, 70 * 1200, 100 * 1200);
        let mut prr = Prr::new(ssthresh, flight, 0);
        let (mut in_flight, mut delivered, mut sent) = (30 * mtu, 0, 0);
        for _ in 0..20 {
            in_flight -= mtu;
            delivered += mtu;
            prr.on_delivered(mtu);
            prr.on_lost();
            prr.done(in_flight, mtu);
            while in_flight + mtu <= prr.window() {
                prr.on_sent(mtu);
                in_flight += mtu;
                sent += mtu;
            }
            assert!(sent <= delivered, "{sent} of {delivered}");
        }
    }
}
