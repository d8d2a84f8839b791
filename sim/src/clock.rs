//! A node's clock: an offset, a drift, jumps ahead. Never back: it is a monotonic clock.

/// Maps world time to a node's time, piece by piece.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Clock {
    /// World time at which the present piece began,
    since: u64,
    /// and what the clock read then.
    base: u64,
    ppm: i32,
}

impl Clock {
    pub const fn new(offset: u64) -> Self {
        Self { since: 0, base: offset, ppm: 0 }
    }

    /// What the clock reads at a world time.
    pub fn read(&self, world: u64) -> u64 {
        self.base.saturating_add(drifted(world.saturating_sub(self.since), self.ppm))
    }

    /// The first world time at which it reads at least `local`.
    pub fn world_time(&self, local: u64) -> u64 {
        let target = local.saturating_sub(self.base);
        if self.ppm == 0 {
            return self.since.saturating_add(target);
        }
        let scaled = u128::from(target) * 1_000_000 / (1_000_000 + i128::from(self.ppm)) as u128;
        // Never, for a clock that is slow and a time that is at the end of all.
        let Ok(ahead) = u64::try_from(scaled) else { return u64::MAX };
        let mut ahead = ahead.saturating_sub(2);
        while drifted(ahead, self.ppm) < target {
            ahead += 1;
        }
        self.since.saturating_add(ahead)
    }

    /// Goes on from `world` at another speed.
    pub fn set_drift(&mut self, world: u64, ppm: i32) {
        self.base = self.read(world);
        self.since = world;
        self.ppm = ppm;
    }

    /// Is ahead by so much more.
    pub const fn jump(&mut self, by: u64) {
        self.base = self.base.saturating_add(by);
    }
}

fn drifted(span: u64, ppm: i32) -> u64 {
    if ppm == 0 {
        return span;
    }
    let span = i128::from(span);
    u64::try_from(span + span * i128::from(ppm) / 1_000_000).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_never_goes_back_and_both_ways_agree() {
        let mut clock = Clock::new(1_000);
        let (mut last, mut world) = (0, 0);
        for step in 0..1_000u64 {
            world += 1 + crate::keyed::mix(step) % 1_000_000_000;
            match step % 4 {
                0 => clock.set_drift(world, (step as i32 % 400) - 200),
                1 => clock.jump(step * 1_000_003),
                _ => {}
            }
            let local = clock.read(world);
            assert!(local >= last);
            last = local;
            let due = local + 12_345_678;
            let at = clock.world_time(due);
            assert!(clock.read(at) >= due && clock.read(at - 1) < due, "step {step}");
        }
        clock.set_drift(world, -200);
        assert_eq!(clock.world_time(u64::MAX), u64::MAX);
    }
}
