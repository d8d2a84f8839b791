//! A hint to the processor.

/// `place` will be written, and not soon: fetches its cache line for writing, without waiting.
///
/// Who sends to many peers in turn comes back to a queue when its next line is in another core's cache
/// or in none, and would wait for it inside the lock. On processors without such a hint nothing happens.
#[inline]
pub fn for_writing(place: *const u8) {
    #[cfg(target_arch = "x86_64")]
    #[allow(unsafe_code)]
    {
        use core::arch::x86_64::{_MM_HINT_ET0, _mm_prefetch};
        // SAFETY: the instruction reads and writes nothing that a program can see, and does not fault,
        // whatever the address; processors without it take it for no operation.
        unsafe { _mm_prefetch::<_MM_HINT_ET0>(place.cast()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = place;
}
