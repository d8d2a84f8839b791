//! A hint to the processor.

/// `place` will be written, and not soon: fetches its cache line for writing, without waiting.
///
/// Who sends to many peers in turn comes back to a queue when its next line is in another core's cache
/// or in none, and would wait for it inside the lock. On processors without such a hint nothing happens.
#[inline]
pub fn for_writing(place: *const u8) {
    #[cfg(target_arch = "x86_64")]
    if *x86_64::HAS_PREFETCHW {
        x86_64::prefetchw(place);
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = place;
}

#[cfg(target_arch = "x86_64")]
#[allow(unsafe_code)]
mod x86_64 {
    use std::sync::LazyLock;

    /// CPUID leaf 0x8000_0001, ECX bit 8 (Intel SDM volume 2, CPUID). The intrinsic of the standard
    /// library falls back to a fetch for reading where a build does not name the processor.
    #[allow(unused_unsafe)] // newer compilers call it safe
    pub static HAS_PREFETCHW: LazyLock<bool> = LazyLock::new(|| {
        // SAFETY: every processor in long mode has the instruction and this leaf, which tells of that mode.
        let leaf = unsafe { core::arch::x86_64::__cpuid(0x8000_0001) };
        leaf.ecx & (1 << 8) != 0
    });

    #[inline]
    pub fn prefetchw(place: *const u8) {
        // SAFETY: the instruction reads and writes nothing that a program can see, and does not fault,
        // whatever the address.
        unsafe { core::arch::asm!("prefetchw [{}]", in(reg) place, options(nostack, preserves_flags)) };
    }
}
