//! What the system says of processes and of the machine, from `/proc`. Where that does not exist, nothing is said.

use std::{fs, time::Instant};

use serde::Serialize;

/// CPU time of a process, all its threads, in seconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Cpu {
    /// In its own code.
    pub user: f64,
    /// In the kernel.
    pub system: f64,
}

impl Cpu {
    /// Both.
    pub fn total(&self) -> f64 {
        self.user + self.system
    }

    /// What was spent since then.
    pub(crate) fn since(&self, before: &Self) -> Self {
        Self { user: self.user - before.user, system: self.system - before.system }
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
            server: server.and_then(|pid| cpu_of(&pid.to_string())),
            own: cpu_of("self"),
            machine: machine_cpu(),
        }
    }
}

fn tick() -> f64 {
    1.0 / rustix::param::clock_ticks_per_second() as f64
}

fn cpu_of(process: &str) -> Option<Cpu> {
    parse_stat(&fs::read_to_string(format!("/proc/{process}/stat")).ok()?, tick())
}

/// `utime` and `stime` of proc_pid_stat(5). The name before them may hold anything but ends with the last bracket.
fn parse_stat(stat: &str, tick: f64) -> Option<Cpu> {
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace().skip(11);
    let mut next = || fields.next()?.parse::<f64>().ok().map(|ticks| ticks * tick);
    Some(Cpu { user: next()?, system: next()? })
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

/// Bytes of anonymous memory that a process holds: what it allocated and touched, without its program text.
pub(crate) fn memory_of(pid: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let kib = status.lines().find_map(|line| line.strip_prefix("RssAnon:"))?;
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
        }
    }
}

/// The load averages.
pub(crate) fn load_average() -> String {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split_ascii_whitespace().take(3).collect::<Vec<_>>().join(" ")
}

/// Pins the calling thread to a CPU.
pub(crate) fn pin(cpu: usize) -> Result<(), String> {
    if cpu >= rustix::thread::CpuSet::MAX_CPU {
        return Err(format!("there is no CPU {cpu}"));
    }
    let mut set = rustix::thread::CpuSet::new();
    set.set(cpu);
    rustix::thread::sched_setaffinity(None, &set).map_err(|error| format!("cannot run on CPU {cpu}: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proc_is_read() {
        let stat = "42 (a) b) S 1 42 42 0 -1 4194560 100 0 0 0 250 50 7 8 20 0 3 0 100 1000 200";
        assert_eq!(parse_stat(stat, 0.01), Some(Cpu { user: 2.5, system: 0.5 }));
        assert_eq!(parse_stat("42 (a", 0.01), None);
        let machine = "cpu  100 10 50 1000 500 5 5 30 7 7\ncpu0 1 1 1\n";
        assert_eq!(parse_machine(machine, 0.01), Some(2.0));
        assert_eq!(parse_machine("cpu  1 2", 0.01), None);
        let before = Sample::take(Some(std::process::id()));
        assert!(before.server.is_some() && before.own.is_some() && before.machine.is_some());
        assert!(memory_of(std::process::id()).is_some_and(|bytes| bytes > 0));
        assert!(Sample::take(Some(u32::MAX)).server.is_none());
    }
}
