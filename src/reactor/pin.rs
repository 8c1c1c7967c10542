//! A worker's thread on a CPU of its own. Owns the one platform call; whether it is worth it is the caller's decision.

use std::io;

/// Keeps this thread on one of the CPUs that the process may use: the one at this place among them, counted anew from the
/// first when there are fewer. Says which.
///
/// # Errors
/// The system refuses, or knows no such thing.
#[cfg(target_os = "linux")]
pub(super) fn pin(place: usize) -> io::Result<usize> {
    use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
    let allowed = sched_getaffinity(None)?;
    let cpus: Vec<usize> = (0..CpuSet::MAX_CPU).filter(|&cpu| allowed.is_set(cpu)).collect();
    let cpu = *cpus.get(place % cpus.len().max(1)).ok_or(io::ErrorKind::Unsupported)?;
    let mut one = CpuSet::new();
    one.set(cpu);
    sched_setaffinity(None, &one)?;
    Ok(cpu)
}

/// There is no portable way.
///
/// # Errors
/// Always.
#[cfg(not(target_os = "linux"))]
pub(super) fn pin(_place: usize) -> io::Result<usize> {
    Err(io::ErrorKind::Unsupported.into())
}

#[cfg(all(test, not(loom), target_os = "linux"))]
mod tests {
    use rustix::thread::sched_getaffinity;

    use super::*;

    #[test]
    fn a_thread_stays_on_one_cpu_and_more_threads_than_cpus_share_them() {
        let all = sched_getaffinity(None).expect("an affinity").count() as usize;
        let on = |place| {
            let thread = std::thread::spawn(move || (pin(place), sched_getaffinity(None).expect("an affinity")));
            let (cpu, set) = thread.join().expect("the thread ends");
            let cpu = cpu.expect("a CPU");
            assert!(set.count() == 1 && set.is_set(cpu));
            cpu
        };
        assert_eq!(on(0), on(all));
        assert!(all == 1 || on(0) != on(1));
    }
}
