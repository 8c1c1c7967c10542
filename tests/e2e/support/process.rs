//! Processes seen through `/proc`: who belongs to a test, who is whose child, what a process holds.

use std::{fs, path::Path};

use rustix::process::{Pid, Signal, kill_process};

use super::until;

/// A process as `/proc` shows it.
#[derive(Clone, Debug)]
pub struct Process {
    pub pid: i32,
    pub parent: i32,
    /// `Z` for one that has ended and was not waited for.
    pub state: char,
    /// Its arguments, joined by blanks.
    pub command: String,
    environment: Vec<u8>,
    folder: Option<std::path::PathBuf>,
}

/// Every process that can be read.
pub fn all() -> Vec<Process> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).filter_map(read).collect()
}

fn read(pid: i32) -> Option<Process> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name stands in parentheses and may hold anything, so what follows is read from its last closing one.
    let mut fields = stat[stat.rfind(')')? + 1..].split_whitespace();
    let state = fields.next()?.chars().next()?;
    let parent = fields.next()?.parse().ok()?;
    let command = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    let command = String::from_utf8_lossy(&command).replace('\0', " ").trim().to_owned();
    let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
    let folder = fs::read_link(format!("/proc/{pid}/cwd")).ok();
    Some(Process { pid, parent, state, command, environment, folder })
}

/// The living processes that belong to the scratch folder of a test: by their environment, their arguments or the
/// folder they run in. Survives any change of parent, session or process group.
pub fn of(scratch: &Path) -> Vec<Process> {
    let needle = scratch.to_string_lossy().into_owned();
    let me = i32::try_from(std::process::id()).unwrap_or(0);
    all()
        .into_iter()
        .filter(|process| process.pid != me && process.state != 'Z')
        .filter(|process| {
            process.command.contains(&needle)
                || contains(&process.environment, needle.as_bytes())
                || process.folder.as_ref().is_some_and(|folder| folder.starts_with(scratch))
        })
        .collect()
}

fn contains(hay: &[u8], needle: &[u8]) -> bool {
    !needle.is_empty() && hay.windows(needle.len()).any(|window| window == needle)
}

/// Among the processes of a scratch folder whose command matches, the one deepest in the tree: the agent itself
/// rather than the guard or the relay above it.
pub fn agent(scratch: &Path, is_agent: impl Fn(&Process) -> bool) -> Option<Process> {
    let candidates: Vec<_> = of(scratch).into_iter().filter(is_agent).collect();
    candidates.iter().find(|one| !candidates.iter().any(|other| other.parent == one.pid)).cloned()
}

/// Waits until no process of the scratch folder is left.
#[track_caller]
pub fn none_left(scratch: &Path) {
    let mut last = Vec::new();
    let looked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        until("no process of the test is left", || {
            last = of(scratch);
            last.is_empty().then_some(())
        });
    }));
    assert!(looked.is_ok(), "still running: {:?}", last.iter().map(|p| (p.pid, &p.command)).collect::<Vec<_>>());
}

/// Sends a signal; a process that is gone already is none of our business.
pub fn signal(pid: i32, signal: Signal) {
    if let Some(pid) = Pid::from_raw(pid) {
        let _ = kill_process(pid, signal);
    }
}

/// How many descriptors a process has open.
pub fn descriptors(pid: u32) -> usize {
    fs::read_dir(format!("/proc/{pid}/fd")).map(Iterator::count).unwrap_or(0)
}

/// Resident memory of a process in bytes.
pub fn resident(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib: u64 = line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or(0);
    kib * 1024
}
