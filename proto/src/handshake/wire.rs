//! Layouts.
/// Most bytes of the stream module's limits.
pub const MAX_LIMITS: usize = 64;
/// Most bytes of a grant.
pub const MAX_GRANT: usize = 512;
