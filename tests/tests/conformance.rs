//! Every case of the conformance suite on every runtime: a test's name is its runtime and its case.

macro_rules! on {
    ($module:ident $on:ident) => {
        mod $module {
            mod runtime {
                fn run(name: &str) {
                    net_tests::conformance::runtime_case(net_tests::conformance::On::$on, name);
                }
                net_shell::runtime_conformance!(run);
            }
            sdk_on!($on);
        }
    };
}

macro_rules! sdk_on {
    ($on:ident) => {
        mod sdk {
            fn run(name: &str) {
                net_tests::conformance::sdk_case(net_tests::conformance::On::$on, name);
            }
            net_tests::sdk_cases! { conformance_tests run; }
        }
    };
}

on!(tokio_current_thread TokioCurrentThread);
on!(tokio_multi_thread TokioMultiThread);
on!(smol Smol);
on!(threads Threads);
on!(simulator Simulator);
on!(turmoil Turmoil);

/// Two runtimes in one process.
mod tokio_and_smol {
    sdk_on!(TokioAndSmol);
}

mod threads_and_tokio {
    sdk_on!(ThreadsAndTokio);
}

/// Runtimes that end while a mesh lives on them. Smol's executor never ends.
mod a_runtime_ends_under_a_mesh {
    use std::sync::Arc;

    use net_shell::conformance::watch;
    use net_tests::blocking_runtime::Threads;
    use net_tests::conformance::{runtime_ends, tokio};
    use net_tokio::Tokio;

    #[test]
    fn tokio_multi_thread() {
        watch("a runtime ends", "tokio", || {
            let tokio = tokio(2);
            let runtime = Arc::new(Tokio::new(tokio.handle().clone()));
            runtime_ends(runtime, || drop(tokio));
        });
    }

    #[test]
    fn tokio_current_thread() {
        watch("a runtime ends", "tokio with one thread", || {
            // Somebody has to run it: until it is told to stop.
            let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
            let (give, handle) = std::sync::mpsc::channel();
            let thread = std::thread::spawn(move || {
                let tokio = tokio(0);
                give.send(tokio.handle().clone()).expect("the test waits");
                let _ = tokio.block_on(stopped);
            });
            let runtime = Arc::new(Tokio::new(handle.recv().expect("a runtime")));
            runtime_ends(runtime, || {
                drop(stop);
                thread.join().expect("the runtime ends");
            });
        });
    }

    #[test]
    fn threads() {
        watch("a runtime ends", "threads", || {
            let threads = Threads::new();
            runtime_ends(Arc::new(threads.clone()), move || threads.end());
        });
    }
}
