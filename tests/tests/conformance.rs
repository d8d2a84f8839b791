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

/// Two runtimes in one process.
mod tokio_and_smol {
    sdk_on!(TokioAndSmol);
}

mod threads_and_tokio {
    sdk_on!(ThreadsAndTokio);
}
