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
