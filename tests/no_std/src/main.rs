//! A program without the standard library: a panic handler of its own would clash with std's if
//! any dependency of net-proto linked it. Exit status 0 if everything below worked.

#![no_std]
#![no_main]

extern crate alloc;

use alloc::string::ToString;
use core::alloc::{GlobalAlloc, Layout};
use core::cell::UnsafeCell;
use core::sync::atomic::{AtomicUsize, Ordering};

use net_proto::identity::{Identity, Ticket};
use net_proto::registry::decoders;
use net_proto::session::aead::{Cipher, CipherSuite, Portable};

/// Hands out a fixed arena and takes nothing back.
struct Bump {
    arena: UnsafeCell<[u8; ARENA]>,
    used: AtomicUsize,
}

const ARENA: usize = 1 << 20;

// SAFETY: every byte of the arena is handed out at most once.
unsafe impl Sync for Bump {}

// SAFETY: `used` only grows, so the ranges returned do not overlap; they are aligned and inside the arena.
unsafe impl GlobalAlloc for Bump {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let base = self.arena.get().cast::<u8>();
        let from = self.used.fetch_add(layout.size() + layout.align(), Ordering::Relaxed);
        if from + layout.size() + layout.align() > ARENA {
            return core::ptr::null_mut();
        }
        let at = base.wrapping_add(from);
        at.wrapping_add(at.align_offset(layout.align()))
    }

    unsafe fn dealloc(&self, _: *mut u8, _: Layout) {}
}

#[global_allocator]
static ALLOCATOR: Bump = Bump { arena: UnsafeCell::new([0; ARENA]), used: AtomicUsize::new(0) };

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

/// The precompiled `core` refers to it; with `panic = "abort"` nothing calls it.
#[unsafe(no_mangle)]
extern "C" fn rust_eh_personality() {}

// The C library provides the start-up code and memcpy; nothing else of it is used.
#[link(name = "c")]
unsafe extern "C" {}

/// Called by the start-up code of the C library.
#[unsafe(no_mangle)]
extern "C" fn main(_: i32, _: *const *const u8) -> i32 {
    let me = Identity::from_seed(&[7; 32]);
    let ticket = Ticket { entity: me.id(), addrs: alloc::vec![([127, 0, 0, 1], 9000).into()] };
    if ticket.to_string().parse() != Ok(ticket) {
        return 1;
    }
    let signature = me.sign("probe", b"hello");
    if me.id().verify("probe", b"hello", &signature).is_err() {
        return 2;
    }
    let key = Portable.key(Cipher::ChaCha20Poly1305, &[1; 32]);
    let mut payload = *b"hello";
    let tag = key.seal(1, b"", &mut payload);
    if key.open(1, b"", &mut payload, &tag).is_err() || payload != *b"hello" {
        return 3;
    }
    for decoder in decoders() {
        (decoder.check)(&[]);
    }
    0
}
