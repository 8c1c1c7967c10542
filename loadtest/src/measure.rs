//! What the system says of processes and of the machine, from `/proc`. Where that does not exist, nothing is said.

use std::{
    fs, io,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use serde::Serialize;

/// CPU time of a process, all its threads, in seconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Cpu {
    /// In its own code.
    pub user: f64,
    /// In the kernel.
    pub system: f64,
    /// Both, by the process's own clock, which counts nanoseconds; the two above are known to the tick.
    pub total: f64,
}

impl Cpu {
    /// What was spent since then.
    pub(crate) fn since(&self, before: &Self) -> Self {
        Self { user: self.user - before.user, system: self.system - before.system, total: self.total - before.total }
    }
}

/// All that is read at one moment.
#[derive(Clone, Debug)]
pub(crate) struct Sample {
    pub(crate) at: Instant,
    pub(crate) server: Option<Cpu>,
    pub(crate) own: Option<Cpu>,
    /// CPU seconds that anything on the machine spent.
    pub(crate) machine: Option<f64>,
}

impl Sample {
    /// Reads it.
    pub(crate) fn take(server: Option<u32>) -> Self {
        Self {
            at: Instant::now(),
            server: server.and_then(cpu_of),
            own: cpu_of(std::process::id()),
            machine: machine_cpu(),
        }
    }

    /// CPU seconds that neither the server nor the harness spent since then; not known where the server is not.
    pub(crate) fn other_since(&self, before: &Self) -> Option<f64> {
        let machine = self.machine? - before.machine?;
        let own = self.own?.since(&before.own?);
        let server = self.server?.since(&before.server?);
        Some((machine - own.total - server.total).max(0.0))
    }
}

fn tick() -> f64 {
    1.0 / rustix::param::clock_ticks_per_second() as f64
}

/// CPU time of a process so far.
pub(crate) fn cpu_of(pid: u32) -> Option<Cpu> {
    let mut cpu = parse_stat(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?, tick())?;
    if let Some(exact) = cpu_clock(pid) {
        cpu.total = exact.as_secs_f64();
    }
    Some(cpu)
}

/// The CPU-time clock of a process, all its threads.
fn cpu_clock(pid: u32) -> Option<Duration> {
    let pid = nix::unistd::Pid::from_raw(i32::try_from(pid).ok()?);
    Some(nix::time::clock_getcpuclockid(pid).ok()?.now().ok()?.into())
}

/// `utime` and `stime` of proc_pid_stat(5). The name before them may hold anything but ends with the last bracket.
fn parse_stat(stat: &str, tick: f64) -> Option<Cpu> {
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace().skip(11);
    let mut next = || fields.next()?.parse::<f64>().ok().map(|ticks| ticks * tick);
    let (user, system) = (next()?, next()?);
    Some(Cpu { user, system, total: user + system })
}

fn machine_cpu() -> Option<f64> {
    parse_machine(&fs::read_to_string("/proc/stat").ok()?, tick())
}

/// Everything but idle and iowait in the first line of proc_stat(5); guest time is in user time already.
fn parse_machine(stat: &str, tick: f64) -> Option<f64> {
    let line = stat.lines().next()?.strip_prefix("cpu ")?;
    let fields: Vec<f64> = line.split_ascii_whitespace().take(8).filter_map(|field| field.parse().ok()).collect();
    (fields.len() == 8).then(|| (fields.iter().sum::<f64>() - fields[3] - fields[4]) * tick)
}

/// Memory of a process, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Memory {
    /// What it allocated and touched, without its program text.
    pub(crate) anonymous: u64,
    /// Proportional set size: what it shares counts in part.
    pub(crate) pss: Option<u64>,
    /// The kernel's slab, where sockets and open files are: of the whole machine, not of the process.
    pub(crate) slab: Option<u64>,
}

/// Memory that a process holds.
pub(crate) fn memory_of(pid: u32) -> Option<Memory> {
    Some(Memory { anonymous: anonymous_of(pid)?, pss: pss_of(pid), slab: slab() })
}

/// Bytes of its anonymous memory.
pub(crate) fn anonymous_of(pid: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let kib = status.lines().find_map(|line| line.strip_prefix("RssAnon:"))?;
    kib.trim().strip_suffix("kB")?.trim().parse::<u64>().ok().map(|kib| kib * 1024)
}

fn pss_of(pid: u32) -> Option<u64> {
    let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?;
    let kib = rollup.lines().find_map(|line| line.strip_prefix("Pss:"))?;
    kib.trim().strip_suffix("kB")?.trim().parse::<u64>().ok().map(|kib| kib * 1024)
}

fn slab() -> Option<u64> {
    let meminfo = fs::read_to_string("/proc/meminfo").ok()?;
    let kib = meminfo.lines().find_map(|line| line.strip_prefix("Slab:"))?;
    kib.trim().strip_suffix("kB")?.trim().parse::<u64>().ok().map(|kib| kib * 1024)
}

/// The machine that a run was made on.
#[derive(Clone, Debug, Serialize)]
pub struct Machine {
    /// Model of the CPU.
    pub cpu: String,
    /// CPUs that may be used.
    pub cores: usize,
    /// Kernel and its version.
    pub kernel: String,
    /// Load averages of 1, 5 and 15 minutes before the run.
    pub load_before: String,
    /// The same after it.
    pub load_after: String,
    /// When it was read, UTC.
    pub date: String,
}

impl Machine {
    /// Reads it; the load after the run is filled in later.
    pub(crate) fn read() -> Self {
        let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let model = cpuinfo.lines().find_map(|line| line.strip_prefix("model name")?.split_once(':'));
        let name = rustix::system::uname();
        Self {
            cpu: model.map_or("unknown", |(_, model)| model.trim()).to_owned(),
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            kernel: format!("{} {}", name.sysname().to_string_lossy(), name.release().to_string_lossy()),
            load_before: load_average(),
            load_after: String::new(),
            date: date(SystemTime::now()),
        }
    }
}

/// The load averages.
pub(crate) fn load_average() -> String {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split_ascii_whitespace().take(3).collect::<Vec<_>>().join(" ")
}

/// `2026-11-21 08:17 UTC`.
fn date(time: SystemTime) -> String {
    let seconds = time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let (days, minutes) = (seconds / 86_400, seconds / 60 % 1440);
    // Years begin in March here, so that the day that may be missing is the last one; eras have 400 of them.
    let day = days + 719_468;
    let (era, of_era) = (day / 146_097, day % 146_097);
    let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    let year = era * 400 + year + u64::from(month <= 2);
    format!("{year}-{month:02}-{day:02} {:02}:{:02} UTC", minutes / 60, minutes % 60)
}

fn cpu_set(cpus: &[usize]) -> Result<CpuSet, String> {
    let mut set = CpuSet::new();
    for &cpu in cpus {
        if cpu >= CpuSet::MAX_CPU {
            return Err(format!("there is no CPU {cpu}"));
        }
        set.set(cpu);
    }
    Ok(set)
}

/// Pins the calling thread to a CPU.
pub(crate) fn pin(cpu: usize) -> Result<(), String> {
    sched_setaffinity(None, &cpu_set(&[cpu])?).map_err(|error| format!("cannot run on CPU {cpu}: {error}"))
}

/// The CPUs that the calling thread may run on.
pub(crate) fn cpus() -> Vec<usize> {
    let Ok(set) = sched_getaffinity(None) else { return Vec::new() };
    (0..CpuSet::MAX_CPU).filter(|&cpu| set.is_set(cpu)).collect()
}

/// Starts a process that runs on these CPUs only: it inherits them from this thread, which has its own again afterwards.
///
/// # Errors
/// The CPUs are not there, or `start` failed.
pub(crate) fn on_cpus<T>(cpus: Option<&[usize]>, start: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    let Some(cpus) = cpus else { return start() };
    let own = sched_getaffinity(None)?;
    let set = cpu_set(cpus).map_err(io::Error::other)?;
    sched_setaffinity(None, &set)
        .map_err(|error| io::Error::other(format!("cannot run on the CPUs {cpus:?}: {error}")))?;
    let started = start();
    sched_setaffinity(None, &own)?;
    started
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proc_is_read() {
        let stat = "42 (a) b) S 1 42 42 0 -1 4194560 100 0 0 0 250 50 7 8 20 0 3 0 100 1000 200";
        assert_eq!(parse_stat(stat, 0.01), Some(Cpu { user: 2.5, system: 0.5, total: 3.0 }));
        assert_eq!(parse_stat("42 (a", 0.01), None);
        let machine = "cpu  100 10 50 1000 500 5 5 30 7 7\ncpu0 1 1 1\n";
        assert_eq!(parse_machine(machine, 0.01), Some(2.0));
        assert_eq!(parse_machine("cpu  1 2", 0.01), None);
        let before = Sample::take(Some(std::process::id()));
        assert!(before.server.is_some() && before.own.is_some() && before.machine.is_some());
        let memory = memory_of(std::process::id()).expect("a process");
        assert!(memory.anonymous > 0 && memory.pss.is_none_or(|pss| pss > 0) && memory.slab.is_some());
        assert!(Sample::take(Some(u32::MAX)).server.is_none());
    }

    #[test]
    fn the_cpu_clock_counts_what_is_spent() {
        let before = cpu_clock(std::process::id()).expect("a clock");
        let mut random = 1u64;
        while cpu_clock(std::process::id()).expect("a clock") == before {
            random = random.wrapping_mul(0x9E37_79B9_7F4A_7C15) + 1;
        }
        assert!(random != 0 && cpu_clock(u32::MAX).is_none());
    }

    #[test]
    fn dates_are_of_the_calendar() {
        let at = |seconds| date(UNIX_EPOCH + Duration::from_secs(seconds));
        assert_eq!(at(0), "1970-01-01 00:00 UTC");
        assert_eq!(at(951_782_400), "2000-02-29 00:00 UTC");
        assert_eq!(at(1_795_249_021), "2026-11-21 08:17 UTC");
        assert_eq!(at(4_107_542_340), "2100-02-28 23:59 UTC");
        assert_eq!(at(4_107_542_400), "2100-03-01 00:00 UTC");
    }

    #[test]
    fn a_process_starts_on_the_cpus_it_is_given() {
        let all = cpus();
        let first = &all[..1];
        let seen = on_cpus(Some(first), || Ok(cpus())).expect("a CPU that we may use");
        assert_eq!((seen.as_slice(), cpus()), (first, all.clone()));
        assert!(on_cpus(Some(&[CpuSet::MAX_CPU]), || Ok(())).is_err());
    }
}
