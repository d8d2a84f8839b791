//! ECN validation of one path, after RFC 9000 section 13.4.2.

/// ECN counts as an acknowledgement carries them: packets received with each mark, since the
/// association began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EcnCounts {
    /// Packets that arrived as ECT(0).
    pub ect0: u64,
    /// Packets that arrived as ECT(1).
    pub ect1: u64,
    /// Packets that arrived with congestion experienced.
    pub ce: u64,
}

/// What the counts of one acknowledgement mean.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
#[non_exhaustive]
pub enum EcnVerdict {
    /// Nothing to do.
    Fine,
    /// The network marked packets: one congestion signal.
    Congestion {
        /// How many more packets arrived with CE.
        marked: u64,
    },
    /// The path or the peer mangles the marks: no more marking on this path.
    Failed,
}

/// Packets that are marked before the first verdict (RFC 9000 appendix A.4).
const TEST_PACKETS: u8 = 10;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Marking {
    /// Not wanted.
    Off,
    /// So many more packets are marked on trial.
    Testing(u8),
    /// The trial packets are out; unmarked until one of them is acknowledged.
    Unknown,
    /// The path keeps the marks.
    Capable,
    /// It does not.
    Failed,
}

impl Marking {
    pub(super) const fn new(wanted: bool) -> Self {
        if wanted { Self::Testing(TEST_PACKETS) } else { Self::Off }
    }

    pub(super) const fn marks(self) -> bool {
        matches!(self, Self::Testing(_) | Self::Capable)
    }

    pub(super) const fn sent(&mut self) {
        if let Self::Testing(left) = self {
            *left = left.saturating_sub(1);
            if *left == 0 {
                *self = Self::Unknown;
            }
        }
    }

    /// `sent`: packets ever marked in this association.
    pub(super) fn counts(
        &mut self,
        newly_acked: u64,
        before: EcnCounts,
        after: Option<EcnCounts>,
        sent: u64,
    ) -> EcnVerdict {
        if matches!(self, Self::Off | Self::Failed) {
            return EcnVerdict::Fine;
        }
        let Some(after) = after else {
            // The peer, or the path, swallowed the marks of packets that it acknowledges.
            return if newly_acked > 0 { self.fail() } else { EcnVerdict::Fine };
        };
        let (Some(ect0), Some(ce)) = (after.ect0.checked_sub(before.ect0), after.ce.checked_sub(before.ce))
        else {
            return self.fail();
        };
        let claimed = after.ect0.saturating_add(after.ce);
        if after.ect1 != before.ect1 || ect0.saturating_add(ce) < newly_acked || claimed > sent {
            return self.fail();
        }
        if newly_acked > 0 {
            *self = Self::Capable;
        }
        if ce > 0 { EcnVerdict::Congestion { marked: ce } } else { EcnVerdict::Fine }
    }

    const fn fail(&mut self) -> EcnVerdict {
        *self = Self::Failed;
        EcnVerdict::Failed
    }
}
