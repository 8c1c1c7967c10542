//! Every call that only some systems have: parent-death signals, subreapers, process descriptors, the list of a
//! process's children, descriptors passed over a socket. Each has a portable answer, if only "not here".

use std::{
    io::{self, IoSlice, IoSliceMut},
    mem::MaybeUninit,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
};

use rustix::{
    fs::{Mode, OFlags},
    net::{
        RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
        recvmsg, sendmsg,
    },
    process::{Pid, Signal},
};

/// The program that runs now, also after its file was replaced by a newer one.
pub(super) fn own_program() -> PathBuf {
    let link = Path::new("/proc/self/exe");
    if cfg!(target_os = "linux") && link.exists() {
        return link.to_path_buf();
    }
    std::env::current_exe().unwrap_or_else(|_| link.to_path_buf())
}

/// Closes every descriptor above the standard three. To be called where a process begins, before it opens anything of its
/// own: they are what its parents forgot, a shell's lock for instance, which would be held as long as this process runs.
/// Where the system has no list of them they stay.
pub fn close_inherited() {
    let Ok(entries) = std::fs::read_dir("/dev/fd") else { return };
    let numbers: Vec<i32> = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
    for number in numbers.into_iter().filter(|number| *number > 2) {
        // The list's own is closed already.
        let _ = nix::unistd::close(number);
    }
}

/// Whether the path is a file that may be executed.
pub fn is_program(path: &Path) -> bool {
    path.is_file() && rustix::fs::access(path, rustix::fs::Access::EXEC_OK).is_ok()
}

/// The folder at a path without links, and a path that goes on leading to it while the descriptor is open, whatever is put
/// in its place.
///
/// # Errors
/// It is not there, or is not the folder of that path: the error says what is.
pub(super) fn folder(path: &Path) -> Result<(OwnedFd, PathBuf), NoFolder> {
    let missing = |_| NoFolder::Missing;
    let flags = OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::RDONLY;
    let folder = rustix::fs::open(path, flags, Mode::empty()).map_err(missing)?;
    let held = PathBuf::from(format!("/proc/self/fd/{}", folder.as_raw_fd()));
    let (real, stays) = match std::fs::read_link(&held) {
        Ok(real) => (real, held),
        // Without /proc, the time between this and the start remains.
        Err(_) => (path.canonicalize().map_err(|_| NoFolder::Missing)?, path.to_owned()),
    };
    if real == path { Ok((folder, stays)) } else { Err(NoFolder::Elsewhere(real)) }
}

/// Why a folder is not taken.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum NoFolder {
    /// There is none.
    Missing,
    /// A link on the way leads here.
    Elsewhere(PathBuf),
}

/// Makes this process the parent of all its orphaned descendants. False where the system knows no such thing.
pub(super) fn become_subreaper() -> bool {
    #[cfg(target_os = "linux")]
    {
        // The children are found by /proc; without it being a subreaper would only collect zombies.
        Path::new("/proc/self/stat").exists()
            && rustix::process::set_child_subreaper(Some(rustix::process::getpid())).is_ok()
    }
    #[cfg(not(target_os = "linux"))]
    {
        false
    }
}

/// Asks for a signal at the death of the parent. False where the system knows no such thing.
pub(super) fn set_death_signal(signal: Signal) -> bool {
    #[cfg(target_os = "linux")]
    {
        rustix::process::set_parent_process_death_signal(Some(signal)).is_ok()
    }
    #[cfg(not(target_os = "linux"))]
    {
        let _ = signal;
        false
    }
}

/// A descriptor of a process, readable once it has exited. `None` where the system has none.
pub(super) fn process_descriptor(pid: u32) -> Option<OwnedFd> {
    #[cfg(target_os = "linux")]
    {
        let pid = Pid::from_raw(i32::try_from(pid).ok()?)?;
        rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::NONBLOCK).ok()
    }
    #[cfg(not(target_os = "linux"))]
    {
        let _ = pid;
        None
    }
}

/// Signals the process behind a descriptor; a process that is gone already is no error.
pub(super) fn signal_descriptor(descriptor: BorrowedFd<'_>, signal: Signal) {
    #[cfg(target_os = "linux")]
    {
        let _ = rustix::process::pidfd_send_signal(descriptor, signal);
    }
    #[cfg(not(target_os = "linux"))]
    {
        let _ = (descriptor, signal);
    }
}

/// The children of a process as /proc lists them; empty where there is no /proc.
pub(super) fn children(of: Pid) -> Vec<Pid> {
    let Ok(entries) = std::fs::read_dir("/proc") else { return Vec::new() };
    let pid = |name: &std::ffi::OsStr| name.to_str()?.parse().ok().and_then(Pid::from_raw);
    let found = entries.flatten().filter_map(|entry| {
        let pid = pid(&entry.file_name())?;
        (parent(&std::fs::read_to_string(entry.path().join("stat")).ok()?)? == of.as_raw_nonzero().get()).then_some(pid)
    });
    found.collect()
}

/// The parent in a `/proc/PID/stat` text. The second field is a name in parentheses that may hold anything.
fn parent(stat: &str) -> Option<i32> {
    stat.rsplit_once(") ")?.1.split(' ').nth(1)?.parse().ok()
}

/// A peer that is gone is an error and no signal. (Programs in Rust ignore that signal anyway.)
#[cfg(target_os = "linux")]
pub(super) const SEND: SendFlags = SendFlags::NOSIGNAL;
/// A peer that is gone is an error: programs in Rust ignore the signal.
#[cfg(not(target_os = "linux"))]
pub(super) const SEND: SendFlags = SendFlags::empty();

#[cfg(target_os = "linux")]
const RECEIVE: RecvFlags = RecvFlags::CMSG_CLOEXEC;
#[cfg(not(target_os = "linux"))]
const RECEIVE: RecvFlags = RecvFlags::empty();

/// Sends one byte and a descriptor over a Unix socket.
pub(super) fn send_descriptor(socket: impl AsFd, descriptor: BorrowedFd<'_>) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    let descriptors = [descriptor];
    if !ancillary.push(SendAncillaryMessage::ScmRights(&descriptors)) {
        return Err(io::Error::other("no room for a descriptor"));
    }
    sendmsg(socket, &[IoSlice::new(b"D")], &mut ancillary, SEND)?;
    Ok(())
}

/// Receives one byte and a descriptor from a Unix socket.
pub(super) fn receive_descriptor(socket: impl AsFd) -> io::Result<OwnedFd> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    rustix::io::retry_on_intr(|| recvmsg(&socket, &mut [IoSliceMut::new(&mut byte)], &mut ancillary, RECEIVE))?;
    for message in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(mut descriptors) = message {
            let descriptor = descriptors.next().ok_or(io::ErrorKind::UnexpectedEof)?;
            rustix::io::fcntl_setfd(&descriptor, rustix::io::FdFlags::CLOEXEC)?;
            return Ok(descriptor);
        }
    }
    Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the peer sent no descriptor"))
}

#[cfg(test)]
mod tests {
    use std::{io::Read, os::unix::net::UnixStream};

    use super::*;

    #[test]
    fn a_name_full_of_parentheses_hides_no_parent() {
        assert_eq!(parent("12 (a) S 9 (b) R 34 12 12 0"), Some(34));
        assert_eq!(parent("12 (sh) S 1 12 12 0"), Some(1));
        assert_eq!(parent("nonsense"), None);
    }

    #[test]
    fn a_folder_that_was_checked_is_the_one_that_is_used() {
        let scratch = tempfile::tempdir().expect("a folder");
        let root = scratch.path().canonicalize().expect("a path");
        let at = |name: &str| root.join(name);
        std::fs::create_dir(at("site")).expect("a folder");
        std::fs::write(at("site").join("ours"), "").expect("a file");
        let (_held, folder) = folder(&at("site")).expect("it is there");
        std::fs::rename(at("site"), at("away")).expect("moved");
        std::fs::create_dir(at("outside")).expect("a folder");
        std::os::unix::fs::symlink(at("outside"), at("site")).expect("a link");
        if cfg!(target_os = "linux") {
            assert!(folder.join("ours").exists(), "whatever stands in its place");
        }
        let why = super::folder(&at("site")).map(|(_, folder)| folder).unwrap_err();
        assert_eq!(why, NoFolder::Elsewhere(at("outside")));
        assert_eq!(super::folder(&at("no")).map(|_| ()).unwrap_err(), NoFolder::Missing);
    }

    #[test]
    fn a_descriptor_passes_and_the_other_end_closes_with_it() {
        let (here, there) = UnixStream::pair().expect("a pair");
        let (mut reader, writer) = io::pipe().expect("a pipe");
        send_descriptor(&here, writer.as_fd()).expect("sent");
        drop(writer);
        drop(receive_descriptor(&there).expect("received"));
        assert_eq!(reader.read(&mut [0]).expect("read"), 0);
        drop(here);
        assert!(receive_descriptor(&there).is_err());
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_child_is_listed_and_its_descriptor_tells_of_its_end() {
        let mut child = std::process::Command::new("cat").stdin(std::process::Stdio::piped()).spawn().expect("cat");
        let pid = Pid::from_child(&child);
        assert!(children(rustix::process::getpid()).contains(&pid));
        let descriptor = process_descriptor(child.id()).expect("Linux has them");
        drop(child.stdin.take());
        let mut poll = [rustix::event::PollFd::new(&descriptor, rustix::event::PollFlags::IN)];
        assert_eq!(rustix::event::poll(&mut poll, None), Ok(1));
        assert!(child.wait().expect("waited").success());
        signal_descriptor(descriptor.as_fd(), Signal::KILL);
    }
}
