//! A panic anywhere in a run fails the run. Tokio catches panics of spawned tasks, and whoever does not
//! join a task never hears of them; so a hook listens.

use std::cell::{Cell, RefCell};
use std::panic;
use std::sync::Once;

thread_local! {
    static LISTENING: Cell<bool> = const { Cell::new(false) };
    static FIRST: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Runs `f`; the first panic in it, caught or not, is kept for [`take`].
pub(super) fn listen<R>(f: impl FnOnce() -> R) -> R {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let before = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            if LISTENING.get() {
                let place = info.location().map_or_else(String::new, |at| format!(" at {at}"));
                let payload = info.payload();
                let text = payload.downcast_ref::<String>().map(String::as_str);
                let words = text.or_else(|| payload.downcast_ref::<&str>().copied()).unwrap_or("no words");
                FIRST.with_borrow_mut(|first| {
                    first.get_or_insert_with(|| format!("panicked{place}: {words}"));
                });
            }
            before(info);
        }));
    });
    struct Stop(bool);
    impl Drop for Stop {
        fn drop(&mut self) {
            LISTENING.set(self.0);
        }
    }
    let _stop = Stop(LISTENING.replace(true));
    f()
}

/// The first panic since the last call.
pub(super) fn take() -> Option<String> {
    FIRST.take()
}
