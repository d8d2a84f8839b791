//! Mixed load for an hour, and the slope of memory: `cargo run --release -p net-tests --bin soak -- 60`.

use std::process::ExitCode;
use std::time::Duration;

use net_tests::lab::child::Child;
use net_tests::lab::memory::Counting;
use net_tests::lab::soak::{Plan, run, slope};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// The most that memory may rise in an hour.
const BAR: f64 = 1024.0;

fn main() -> ExitCode {
    let mut words = std::env::args().skip(1).peekable();
    // The nodes are this program too.
    if words.next_if(|word| word == "node").is_some() {
        net_tests::lab::node::main(words);
        return ExitCode::SUCCESS;
    }
    let minutes = words.next().map_or(Some(60.0), |word| word.parse::<f64>().ok());
    let pause_ms = words.next().map_or(Some(10), |word| word.parse::<u64>().ok());
    let (Some(minutes), Some(pause_ms)) = (minutes.filter(|m| *m > 0.0), pause_ms) else {
        eprintln!(
            "soak [MINUTES] [MS]: mixed load for so long (60), each worker resting MS (10) after a stream"
        );
        return ExitCode::from(2);
    };
    let plan =
        Plan { laps: 16, time: Duration::from_secs_f64(minutes * 60.0), rounds: 300, pause_ms, rekey_s: 10 };
    let program = std::env::current_exe().expect("this program");
    let program = program.to_str().expect("a name in UTF-8").to_owned();
    let kib = |bytes: [u64; 2]| format!("{:>6} + {:>6} KiB", bytes[0] >> 10, bytes[1] >> 10);
    let samples = run(
        plan,
        |line| Child::start("node", &[&program], line),
        |s| {
            println!(
                "{:>7.1} s  lap {:>4}  {:>9} messages  {:>7} MiB  held {}  resident {}  epoch {}",
                s.at.as_secs_f64(),
                s.lap,
                s.messages,
                s.bytes >> 20,
                kib(s.live),
                kib(s.resident),
                s.epochs
            );
        },
    );
    let mut met = true;
    for (n, who) in ["the one that dials (tokio)", "the other (smol)"].into_iter().enumerate() {
        let hour = |value: &dyn Fn(&net_tests::lab::soak::Sample) -> f64| {
            slope(&samples, |s| s.at.as_secs_f64() / 3600.0, value) / 1024.0
        };
        let (live, resident) = (hour(&|s| s.live[n] as f64), hour(&|s| s.resident[n] as f64));
        met &= live < BAR;
        println!("{who}: held {live:+.1} KiB an hour, resident {resident:+.1} KiB an hour");
    }
    println!("less than {BAR} KiB an hour held: {}", if met { "met" } else { "missed" });
    ExitCode::from(u8::from(!met))
}
