//! What ever more idle connections need, and which limit ends them first: those of the machine as `/proc` has them, those
//! of the relay from its own code.
//!
//! Owns the reading of limits and the arithmetic. Must not measure: what a connection costs is given.

use std::{fmt::Write as _, fs, path::Path};

use amp_relay::{base::ConnToken, reactor, relay::directory};
use serde::Serialize;

/// Numbers of connections that are extrapolated to.
const TARGETS: [u64; 2] = [100_000, 1_000_000];
/// Descriptors that the relay keeps from connections, for its files and the pipes of its sessions.
const RELAY_RESERVES: u64 = 768;

/// What connections cost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Cost {
    /// Anonymous memory of the relay's process without connections, in bytes.
    pub fixed_bytes: f64,
    /// What one more connection adds to that while it is not used, in bytes.
    pub unused_bytes: f64,
    /// The same after use, in bytes.
    pub user_bytes: f64,
    /// Kernel memory of the server's end of one more connection, in bytes, where that was measured.
    pub kernel_bytes: Option<f64>,
}

/// Limits that a machine sets; `None` where it does not say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Machine {
    /// Open files of the server's process: the hard limit, to which it raises itself.
    pub(crate) open_files: Option<u64>,
    /// What that may be raised to.
    pub(crate) nr_open: Option<u64>,
    /// Open files of all processes that are not open already.
    pub(crate) files_free: Option<u64>,
    /// Watches of one user's epoll instances.
    pub(crate) watches: Option<u64>,
    /// Ports from which one client address dials one server address.
    pub(crate) ports: Option<u64>,
    /// Pages for the buffers of all TCP sockets.
    pub(crate) tcp_pages: Option<u64>,
    /// Connections that the packet filter tracks, where it does.
    pub(crate) tracked: Option<u64>,
    /// Bytes of memory that are free, or could be made so.
    pub(crate) memory: Option<u64>,
}

impl Machine {
    /// Reads them below `proc`, which is `/proc` but in tests; open files are those of the process `server`, or ours,
    /// which a server that we start inherits.
    pub(crate) fn read(proc: &Path, server: Option<u32>) -> Self {
        let text = |name: &str| fs::read_to_string(proc.join(name)).ok();
        let number = |name: &str, column: usize| -> Option<u64> {
            text(name)?.split_ascii_whitespace().nth(column)?.parse().ok()
        };
        let limits = text(&server.map_or("self/limits".into(), |pid| format!("{pid}/limits")));
        let free = number("sys/fs/file-max", 0);
        Self {
            open_files: limits.as_deref().and_then(hard_open_files),
            nr_open: number("sys/fs/nr_open", 0),
            files_free: free.map(|most| most.saturating_sub(number("sys/fs/file-nr", 0).unwrap_or(0))),
            watches: number("sys/fs/epoll/max_user_watches", 0),
            ports: text("sys/net/ipv4/ip_local_port_range").and_then(|range| {
                let reserved = text("sys/net/ipv4/ip_local_reserved_ports").unwrap_or_default();
                ports(&range, &reserved)
            }),
            tcp_pages: number("sys/net/ipv4/tcp_mem", 2),
            tracked: number("sys/net/netfilter/nf_conntrack_max", 0),
            memory: text("meminfo").and_then(|meminfo| {
                let line = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
                Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? * 1024)
            }),
        }
    }
}

/// The hard limit in a line of proc_pid_limits(5): name, soft, hard, unit.
fn hard_open_files(limits: &str) -> Option<u64> {
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    match line.split_ascii_whitespace().nth(1)? {
        "unlimited" => Some(u64::MAX),
        hard => hard.parse().ok(),
    }
}

/// Ports of a range, both ends in it, without the reserved ones: `8080,9000-9100`.
fn ports(range: &str, reserved: &str) -> Option<u64> {
    let mut ends = range.split_ascii_whitespace().map(str::parse::<u16>);
    let (first, last) = (ends.next()?.ok()?, ends.next()?.ok()?);
    let is_reserved = |port: u16| {
        reserved.trim().split(',').any(|part| {
            let (from, to) = part.split_once('-').unwrap_or((part, part));
            from.parse().is_ok_and(|from: u16| from <= port) && to.parse().is_ok_and(|to: u16| port <= to)
        })
    };
    Some((first..=last).filter(|&port| !is_reserved(port)).count() as u64)
}

/// Limits that the relay sets itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Relay {
    /// Connections of a process.
    pub(crate) connections: u64,
    /// Slots that tokens can name, of all workers.
    pub(crate) slots: u64,
    /// DIDs with connections, of all workers.
    pub(crate) dids: u64,
}

impl Relay {
    /// Of a relay with so many workers.
    pub(crate) fn of(workers: u32) -> Self {
        let all = |of_one: usize| of_one as u64 * u64::from(workers);
        Self {
            connections: reactor::Options::default().connections_max as u64,
            slots: all(ConnToken::SLOTS_MAX),
            dids: all(directory::Options::new(0, 1, 0).dids_max),
        }
    }
}

/// When a limit counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Counts {
    /// Idle connections reach it.
    Idle,
    /// Only connections that all have data under way at once reach it.
    Busy,
    /// Clients reach it, each address by itself; the server does not.
    Client,
}

/// A limit, and how far it reaches.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Limit {
    /// What is limited.
    pub name: &'static str,
    /// Where the limit is set.
    pub setting: &'static str,
    /// The limit as it is set, in its own unit.
    pub value: u64,
    /// Connections that it allows.
    pub connections: u64,
    /// When it counts.
    pub counts: Counts,
    /// What changes it.
    pub raised_by: &'static str,
}

/// What a number of connections needs.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Target {
    /// The number.
    pub connections: u64,
    /// Anonymous memory of the relay while they are not used, in bytes.
    pub unused_bytes: f64,
    /// The same after use, in bytes.
    pub user_bytes: f64,
    /// Kernel memory of its sockets, in bytes, where that was measured.
    pub kernel_bytes: Option<f64>,
    /// Open files of the relay.
    pub descriptors: u64,
    /// Client addresses, each with all its ports, where the range of ports is known.
    pub client_addresses: Option<u64>,
    /// Names of the limits that idle connections break on the way, in the order in which they break.
    pub breaks: Vec<&'static str>,
}

/// What ever more connections need, and what ends them.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Forecast {
    /// What it is computed from.
    pub cost: Cost,
    /// The limits, in the order in which they break.
    pub limits: Vec<Limit>,
    /// Numbers of connections.
    pub targets: Vec<Target>,
}

impl Forecast {
    /// Of a cost and the limits.
    pub(crate) fn new(cost: Cost, relay: Relay, machine: &Machine) -> Self {
        let mut limits = limits(&cost, relay, machine);
        // The sort is stable: equal limits break in the order in which they are named.
        limits.sort_by_key(|limit| limit.connections);
        let target = |connections: u64| Target {
            connections,
            unused_bytes: cost.fixed_bytes + cost.unused_bytes * connections as f64,
            user_bytes: cost.fixed_bytes + cost.user_bytes * connections as f64,
            kernel_bytes: cost.kernel_bytes.map(|bytes| bytes * connections as f64),
            descriptors: connections + RELAY_RESERVES,
            client_addresses: machine.ports.filter(|&ports| ports > 0).map(|ports| connections.div_ceil(ports)),
            breaks: limits
                .iter()
                .filter(|limit| limit.counts == Counts::Idle && limit.connections < connections)
                .map(|limit| limit.name)
                .collect(),
        };
        let targets = TARGETS.map(target).into();
        Self { cost, limits, targets }
    }

    /// What idle connections break first, however many.
    pub fn first(&self) -> Option<&Limit> {
        self.limits.iter().find(|limit| limit.counts == Counts::Idle)
    }

    /// In words.
    pub(crate) fn write(&self, out: &mut String) -> std::fmt::Result {
        let gib = |bytes: f64| format!("{:.2} GiB", bytes / f64::from(1 << 30));
        let kernel = match self.cost.kernel_bytes {
            Some(bytes) => format!(
                "and {bytes:.0} of the kernel's for the server's end of it (growth of the machine's slab, halved, because both \
                 ends are on it; whatever else ran counts too)"
            ),
            None => "the kernel's was not measured".into(),
        };
        writeln!(
            out,
            "\nOne more connection costs {:.0} bytes of user space before use and {:.0} after, {kernel}.\n",
            self.cost.unused_bytes, self.cost.user_bytes
        )?;
        writeln!(
            out,
            "| extrapolated to | relay, unused | relay, used | kernel, sockets | descriptors | client addresses | breaks |"
        )?;
        writeln!(out, "|---|---|---|---|---|---|---|")?;
        for target in &self.targets {
            writeln!(
                out,
                "| {} | {} | {} | {} | {} | {} | {} |",
                grouped(target.connections),
                gib(target.unused_bytes),
                gib(target.user_bytes),
                target.kernel_bytes.map_or("not measured".into(), gib),
                grouped(target.descriptors),
                target.client_addresses.map_or("-".into(), grouped),
                if target.breaks.is_empty() { "nothing".into() } else { target.breaks.join(", then ") }
            )?;
        }
        writeln!(out, "\n| limit | set by | value | connections | raised by |\n|---|---|---|---|---|")?;
        for limit in &self.limits {
            let Limit { name, setting, value, connections, counts, raised_by } = limit;
            let note = match counts {
                Counts::Idle => "",
                Counts::Busy => " if all have data under way at once",
                Counts::Client => " from each client address",
            };
            let (value, connections) = (grouped(*value), grouped(*connections));
            writeln!(out, "| {name} | {setting} | {value} | {connections}{note} | {raised_by} |")?;
        }
        match self.first() {
            Some(first) => writeln!(
                out,
                "\nFirst to break: {} ({} = {}), at {} connections.",
                first.name,
                first.setting,
                grouped(first.value),
                grouped(first.connections)
            ),
            None => Ok(()),
        }
    }
}

fn limits(cost: &Cost, relay: Relay, machine: &Machine) -> Vec<Limit> {
    use Counts::{Busy, Client, Idle};
    let files = |files: u64| files.saturating_sub(RELAY_RESERVES);
    let each = (cost.user_bytes + cost.kernel_bytes.unwrap_or(0.0)).max(1.0);
    // A cast from a float stops at the greatest integer.
    let by_memory = |bytes: u64| ((bytes as f64 - cost.fixed_bytes).max(0.0) / each) as u64;
    let limit = |name, setting, value: Option<u64>, connections: &dyn Fn(u64) -> u64, counts, raised_by| {
        value.map(|value| Limit { name, setting, value, connections: connections(value), counts, raised_by })
    };
    let same = |value: u64| value;
    let own = "a constant of the relay";
    let sysctl = "sysctl";
    let tracked = "sysctl; counts where rules track them";
    let nofile = "LimitNOFILE= of systemd, or limits.conf, up to fs.nr_open";
    [
        limit("open files of the relay", "RLIMIT_NOFILE (hard)", machine.open_files, &files, Idle, nofile),
        limit("connections of the relay", "connections_max", Some(relay.connections), &same, Idle, own),
        limit("open files of any process", "fs.nr_open", machine.nr_open, &files, Idle, sysctl),
        limit("DIDs of the relay", "dids_max, all workers", Some(relay.dids), &same, Idle, "more workers"),
        limit("open files of the machine", "fs.file-max, less those open", machine.files_free, &files, Idle, sysctl),
        limit("epoll watches of the user", "fs.epoll.max_user_watches", machine.watches, &same, Idle, sysctl),
        limit("connections the packet filter tracks", "nf_conntrack_max", machine.tracked, &same, Idle, tracked),
        limit("memory, in bytes", "MemAvailable", machine.memory, &by_memory, Idle, "more of it"),
        limit("slots that tokens name", "ConnToken::SLOTS_MAX", Some(relay.slots), &same, Idle, "more workers"),
        // The least that a socket with anything in a buffer is charged is a page; an idle one is charged nothing.
        limit("pages of TCP buffers", "net.ipv4.tcp_mem", machine.tcp_pages, &same, Busy, sysctl),
        limit(
            "ports of a client address",
            "net.ipv4.ip_local_port_range",
            machine.ports,
            &same,
            Client,
            "more client addresses, or sysctl there",
        ),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// `1,048,576`.
pub(crate) fn grouped(value: u64) -> String {
    let digits = value.to_string();
    let mut out = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            out.push(',');
        }
        let _ = out.write_char(digit);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    const RELAY: Relay = Relay { connections: 100_000, slots: 1 << 24, dids: 1 << 20 };
    const COST: Cost = Cost { fixed_bytes: 4e6, unused_bytes: 400.0, user_bytes: 500.0, kernel_bytes: Some(2500.0) };

    fn machine() -> Machine {
        Machine {
            open_files: Some(20_000),
            nr_open: Some(1 << 20),
            files_free: Some(2_000_000),
            watches: Some(5_000_000),
            ports: Some(28_232),
            tcp_pages: Some(500_000),
            tracked: None,
            memory: Some(3_004_000_000),
        }
    }

    #[test]
    fn the_first_limit_is_the_one_that_the_fewest_connections_reach() {
        let forecast = Forecast::new(COST, RELAY, &machine());
        let reach: Vec<_> = forecast.limits.iter().map(|limit| (limit.setting, limit.connections)).collect();
        let expected = [
            ("RLIMIT_NOFILE (hard)", 20_000 - 768),
            ("net.ipv4.ip_local_port_range", 28_232),
            ("connections_max", 100_000),
            ("net.ipv4.tcp_mem", 500_000),
            ("MemAvailable", 1_000_000),
            ("fs.nr_open", (1 << 20) - 768),
            ("dids_max, all workers", 1 << 20),
            ("fs.file-max, less those open", 2_000_000 - 768),
            ("fs.epoll.max_user_watches", 5_000_000),
            ("ConnToken::SLOTS_MAX", 1 << 24),
        ];
        assert_eq!(reach, expected);
        assert_eq!(forecast.first().map(|first| first.setting), Some("RLIMIT_NOFILE (hard)"));
        let raised = Machine { open_files: Some(1 << 20), ..machine() };
        let forecast = Forecast::new(COST, RELAY, &raised);
        assert_eq!(forecast.first().map(|first| first.setting), Some("connections_max"), "clients' ports are theirs");
    }

    #[test]
    fn targets_say_what_they_need_and_break() {
        let forecast = Forecast::new(COST, RELAY, &machine());
        let [near, far] = &forecast.targets[..] else { panic!("two targets") };
        assert_eq!((near.unused_bytes, far.unused_bytes), (44e6, 404e6));
        assert_eq!((near.connections, near.user_bytes, near.kernel_bytes), (100_000, 54e6, Some(2.5e8)));
        assert_eq!((near.descriptors, near.client_addresses), (100_768, Some(4)));
        assert_eq!(near.breaks, ["open files of the relay"], "the relay's own limit is just enough");
        assert_eq!((far.user_bytes, far.kernel_bytes, far.client_addresses), (504e6, Some(2.5e9), Some(36)));
        assert_eq!(far.breaks, ["open files of the relay", "connections of the relay"], "memory is just enough");
        let poor = Machine { memory: Some(100_000_000), ..machine() };
        let broken = Forecast::new(COST, RELAY, &poor);
        assert_eq!(broken.targets[0].breaks, ["open files of the relay", "memory, in bytes"]);
    }

    #[test]
    fn what_is_not_known_is_not_made_up() {
        let cost = Cost { kernel_bytes: None, ..COST };
        let forecast = Forecast::new(cost, RELAY, &Machine::default());
        assert_eq!(forecast.limits.len(), 3, "only the relay's own: {:?}", forecast.limits);
        assert!(forecast.targets.iter().all(|target| target.kernel_bytes.is_none()));
        let mut text = String::new();
        forecast.write(&mut text).expect("a string takes anything");
        assert!(text.contains("the kernel's was not measured") && text.contains("| not measured |"), "{text}");
    }

    #[test]
    fn limits_are_read_from_proc() {
        let folder = tempfile::tempdir().expect("a folder");
        let write = |name: &str, text: &str| {
            let path = folder.path().join(name);
            fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
            fs::write(path, text).expect("a file");
        };
        assert_eq!(Machine::read(folder.path(), None), Machine::default());
        write(
            "self/limits",
            "Limit  Soft Limit  Hard Limit  Units\nMax open files            1024      20000     files\n",
        );
        write("7/limits", "Max open files            1024      unlimited     files\n");
        write("sys/fs/nr_open", "1048576\n");
        write("sys/fs/file-max", "2466183\n");
        write("sys/fs/file-nr", "1008\t0\t2466183\n");
        write("sys/fs/epoll/max_user_watches", "5491533\n");
        write("sys/net/ipv4/ip_local_port_range", "32768\t60999\n");
        write("sys/net/ipv4/ip_local_reserved_ports", "80,40000-40009\n");
        write("sys/net/ipv4/tcp_mem", "287901\t383869\t575802\n");
        write("sys/net/netfilter/nf_conntrack_max", "262144\n");
        write("meminfo", "MemTotal:       24684096 kB\nMemAvailable:   2000 kB\n");
        let read = Machine::read(folder.path(), None);
        let expected = Machine {
            open_files: Some(20_000),
            nr_open: Some(1 << 20),
            files_free: Some(2_465_175),
            watches: Some(5_491_533),
            ports: Some(28_222),
            tcp_pages: Some(575_802),
            tracked: Some(262_144),
            memory: Some(2_048_000),
        };
        assert_eq!(read, expected);
        assert_eq!(Machine::read(folder.path(), Some(7)).open_files, Some(u64::MAX));
        assert!(Machine::read(Path::new("/proc"), None).open_files.is_some_and(|files| files > 0));
    }

    #[test]
    fn the_relay_names_its_own_limits() {
        let (one, four) = (Relay::of(1), Relay::of(4));
        assert_eq!((four.slots, four.dids, four.connections), (4 * one.slots, 4 * one.dids, one.connections));
        assert_eq!(one.slots, 16_777_216);
    }

    #[test]
    fn numbers_are_grouped_by_thousands() {
        assert_eq!([0, 999, 1000, 1_048_576].map(grouped), ["0", "999", "1,000", "1,048,576"]);
        assert_eq!(ports("32768 60999", ""), Some(28_232));
        assert_eq!((ports("32768", ""), ports("x y", "")), (None, None));
    }
}
