//! What a benchmark asks of the operating system: a core, processor time, memory.

use std::time::Duration;

use crate::failure::{Failure, Result};

/// Cores that this process may use.
pub fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// Keeps this process and those that it starts on one core. Called before any thread starts.
#[cfg(target_os = "linux")]
pub fn pin(core: Option<usize>) -> Result<()> {
    use rustix::thread::{CpuSet, sched_setaffinity};
    let Some(core) = core else { return Ok(()) };
    if core >= CpuSet::MAX_CPU {
        return Err(Failure::usage(format_args!("there is no core {core}")));
    }
    let mut set = CpuSet::new();
    set.set(core);
    sched_setaffinity(None, &set)
        .map_err(|e| Failure::usage(format_args!("cannot run on core {core} only: {e}")))
}

/// Elsewhere there is no such call.
#[cfg(not(target_os = "linux"))]
pub fn pin(core: Option<usize>) -> Result<()> {
    core.map_or(Ok(()), |_| Err(Failure::usage("--pin is for Linux")))
}

/// Processor time of this process so far, user and system.
#[cfg(target_os = "linux")]
pub fn processor_time() -> Option<Duration> {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Some(Duration::new(u64::try_from(time.tv_sec).ok()?, u32::try_from(time.tv_nsec).ok()?))
}

/// Elsewhere it is not asked for.
#[cfg(not(target_os = "linux"))]
pub fn processor_time() -> Option<Duration> {
    None
}

/// Bytes of this process that are in memory.
pub fn resident() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok().map(|kib| kib << 10)
}
