//! One seed is one run, in every process, and nothing here depends on `--cfg tokio_unstable`.

use std::process::Command;

use net_sim::Sim;
use net_sim::hosts::unbiased_selects;

use crate::scenarios;

/// Tells the child process which seed to run.
const CHILD: &str = "NET_L2_CHILD";

/// The traces of all scenarios with a seed, one a line.
fn traces(seed: u64) -> String {
    let line = |(name, scenario): &(&str, scenarios::Scenario)| {
        let hosts = scenario(Sim::new(seed)).unwrap_or_else(|failure| panic!("{name}: {failure}"));
        format!("trace {name} {:016x}", hosts.trace())
    };
    scenarios::ALL.iter().map(line).collect::<Vec<_>>().join("\n")
}

/// Runs in the child process only.
#[test]
fn child() {
    if let Ok(seed) = std::env::var(CHILD) {
        println!("\n{}", traces(seed.parse().unwrap()));
    }
}

#[test]
fn two_processes_agree() {
    let run = |seed: &str| {
        let me = std::env::current_exe().expect("this program");
        let out = Command::new(me)
            .args(["--exact", "determinism::child", "--nocapture"])
            .env(CHILD, seed)
            .output()
            .expect("it runs");
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        let text = String::from_utf8(out.stdout).unwrap();
        text.lines().filter(|l| l.starts_with("trace ")).collect::<Vec<_>>().join("\n")
    };
    let there = run("11");
    assert_eq!(there.lines().count(), scenarios::ALL.len());
    assert_eq!(there, run("11"));
    assert_eq!(there, traces(11), "this process");
    for (a, b) in there.lines().zip(traces(12).lines()) {
        assert_ne!(a, b, "another seed");
    }
}

/// `select!` without `biased;` picks its branch with randomness of the system.
#[test]
fn no_select_picks_by_chance() {
    let root = net_tests::root();
    for dir in ["drivers/tokio/src", "drivers/shell/src", "drivers/sdk/src", "sim/src", "tests/tests/l2"] {
        assert_eq!(unbiased_selects(root.join(dir)).unwrap(), [""; 0]);
    }
}
