//! `world exhaust`: every order of events of two nodes, within limits.

use std::process::ExitCode;

use net_sim::exhaust::{self, Found, Limits, Report, Scenario, watched};

struct Options {
    scenarios: Vec<Scenario>,
    limits: Limits,
    json: bool,
}

/// Looks at one scenario, or at all, and prints a table of states.
pub fn run(args: &[String]) -> Result<ExitCode, String> {
    let Options { scenarios, limits, json } = options(args)?;
    // Panics of invariants are told at the end.
    std::panic::set_hook(Box::new(|_| {}));
    if !json {
        println!("at most {limits}");
        println!(
            "{:<10} {:>10} {:>11} {:>10} {:>8} {:>6} {:>8}  outcome",
            "scenario", "states", "steps", "of a node", "ends", "depth", "seconds"
        );
    }
    let mut sound = true;
    for scenario in scenarios {
        sound &= look(scenario, limits, json);
    }
    Ok(if sound { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn options(args: &[String]) -> Result<Options, String> {
    let mut o = Options { scenarios: exhaust::ALL.to_vec(), limits: Limits::default(), json: false };
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        if arg == "--json" {
            o.json = true;
            continue;
        }
        let value = args.next().ok_or_else(|| format!("{arg} needs a value"))?;
        let number = || value.parse::<u64>().map_err(|e| format!("{arg} {value}: {e}"));
        let few = || u8::try_from(number()?).map_err(|e| format!("{arg} {value}: {e}"));
        match arg.as_str() {
            "--what" if value == "all" => {}
            "--what" => {
                let known: Vec<&str> = exhaust::ALL.iter().map(|s| s.name).collect();
                let one = exhaust::named(value)
                    .ok_or_else(|| format!("no scenario is called {value}; there are {known:?}"))?;
                o.scenarios = vec![one];
            }
            "--losses" => o.limits.losses = few()?,
            "--duplicates" => o.limits.duplicates = few()?,
            "--reorders" => o.limits.reorders = few()?,
            "--crashes" => o.limits.crashes = few()?,
            "--timers" => o.limits.timers = few()?,
            "--states" => o.limits.states = number()? as usize,
            "--bug" => plant(value)?,
            _ => return Err(format!("unknown option {arg}")),
        }
    }
    Ok(o)
}

fn look(scenario: Scenario, limits: Limits, json: bool) -> bool {
    // The wall clock only measures the search; nothing in it sees it.
    #[allow(clippy::disallowed_methods)]
    let start = std::time::Instant::now();
    let name = scenario.name;
    let outcome = watched(scenario, limits, |r| {
        eprintln!("{name}: {} states, depth {}, {:.0} s", r.states, r.depth, start.elapsed().as_secs_f64());
    });
    let seconds = start.elapsed().as_secs_f64();
    let (report, word) = match &outcome {
        Ok(report) if report.complete => (*report, "all of them hold"),
        Ok(report) => (*report, "cut off at the limit of states"),
        Err(found) => (found.report, "BROKEN"),
    };
    let Report { states, steps, locals, ends, depth, complete } = report;
    let found = outcome.as_ref().err();
    if json {
        let broken = found.map_or_else(|| "null".into(), |found| object(found));
        println!(
            "{{\"what\":\"{name}\",\"losses\":{},\"duplicates\":{},\"reorders\":{},\"crashes\":{},\
             \"timers\":{},\"states\":{states},\"steps\":{steps},\"of_a_node\":{locals},\"ends\":{ends},\
             \"depth\":{depth},\"complete\":{complete},\"seconds\":{seconds:.1},\"broken\":{broken}}}",
            limits.losses, limits.duplicates, limits.reorders, limits.crashes, limits.timers,
        );
    } else {
        println!(
            "{name:<10} {states:>10} {steps:>11} {locals:>10} {ends:>8} {depth:>6} {seconds:>8.1}  {word}"
        );
        if let Some(found) = found {
            print!("{found}");
        }
    }
    found.is_none()
}

/// What broke, and the way there.
fn object(found: &Found) -> String {
    let way: Vec<String> = found.way.iter().map(|step| text(step)).collect();
    format!("{{\"what\":{},\"way\":[{}]}}", text(&found.what), way.join(","))
}

fn text(plain: &str) -> String {
    let mut out = String::from("\"");
    for c in plain.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            c if c.is_control() => out.push(' '),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

#[cfg(not(feature = "planted"))]
fn plant(_name: &str) -> Result<(), String> {
    Err("this build has no planted bugs: build with --features planted".into())
}

#[cfg(feature = "planted")]
fn plant(name: &str) -> Result<(), String> {
    use net_proto::planted::{ALL, choose};
    let known = ALL.iter().find(|(_, known, _)| *known == name);
    let (bug, ..) = known.ok_or_else(|| format!("no bug is called {name}"))?;
    choose(*bug);
    Ok(())
}
