//! Listeners: making them, and accepting from them. Owns the sockets and the Unix socket's file; where a stream goes
//! and how many there may be is the worker's.

use std::{
    fs, io,
    net::SocketAddr,
    os::unix::{
        fs::{FileTypeExt, MetadataExt, PermissionsExt},
        net as unix,
    },
    path::{Path, PathBuf},
};

use mio::{
    Interest, Registry, Token,
    event::Source,
    net::{TcpListener, UnixListener},
};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use super::{
    options::{BoundAddr, Listen, Options, PeerAddr},
    platform,
    stream::{Accepted, Stream},
};

/// One listening socket of one worker.
#[derive(Debug)]
pub(super) struct Listener {
    socket: ListenSocket,
    index: usize,
    /// An edge was seen and accepting has not come to its end yet.
    pub(super) pending: bool,
}

#[derive(Debug)]
enum ListenSocket {
    Tcp(TcpListener),
    Unix(UnixListener, #[expect(dead_code, reason = "removes the file when it is dropped")] SocketFile),
}

/// The file of a Unix socket; removed with the listener if it is still ours.
#[derive(Debug)]
struct SocketFile {
    path: PathBuf,
    identity: Option<(u64, u64)>,
}

impl SocketFile {
    fn identify(path: &Path) -> Option<(u64, u64)> {
        fs::symlink_metadata(path).ok().map(|meta| (meta.dev(), meta.ino()))
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if self.identity.is_some() && Self::identify(&self.path) == self.identity {
            // What cannot be removed is stale, and the next start replaces it.
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Opens every listener for every worker. The outer vector is by worker.
pub(super) fn bind_all(options: &Options, workers: usize) -> io::Result<(Vec<Vec<Listener>>, Vec<BoundAddr>)> {
    let mut by_worker: Vec<Vec<Listener>> = (0..workers).map(|_| Vec::new()).collect();
    let mut bound = Vec::new();
    for (index, listen) in options.listeners.iter().enumerate() {
        let context =
            |error: io::Error| io::Error::new(error.kind(), format!("cannot listen on {}: {error}", of(listen)));
        match listen {
            Listen::Tcp(address) => {
                let mut address = *address;
                if address.port() != 0 {
                    probe(address).map_err(context)?;
                }
                for listeners in &mut by_worker {
                    let socket = bind_tcp(address, options).map_err(context)?;
                    address = socket.local_addr()?;
                    listeners.push(Listener { socket: ListenSocket::Tcp(socket), index, pending: true });
                }
                bound.push(BoundAddr::Tcp(address));
            }
            Listen::Unix(path) => {
                let (socket, file) = bind_unix(path, options.backlog).map_err(context)?;
                by_worker[0].push(Listener { socket: ListenSocket::Unix(socket, file), index, pending: true });
                bound.push(BoundAddr::Unix(path.clone()));
            }
        }
    }
    Ok((by_worker, bound))
}

fn of(listen: &Listen) -> BoundAddr {
    match listen {
        Listen::Tcp(address) => BoundAddr::Tcp(*address),
        Listen::Unix(path) => BoundAddr::Unix(path.clone()),
    }
}

fn tcp_socket(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM.nonblocking().cloexec(), Some(Protocol::TCP))?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_reuse_address(true)?;
    Ok(socket)
}

/// SO_REUSEPORT would let two relays of one user share a port unnoticed; a bind without it finds the other one.
fn probe(address: SocketAddr) -> io::Result<()> {
    tcp_socket(address)?.bind(&SockAddr::from(address))
}

fn bind_tcp(address: SocketAddr, options: &Options) -> io::Result<TcpListener> {
    let socket = tcp_socket(address)?;
    socket.set_reuse_port(true)?;
    if options.unsent_max > 0 {
        platform::bound_unsent(&socket, u32::try_from(options.unsent_max).unwrap_or(u32::MAX))?;
    }
    socket.bind(&SockAddr::from(address))?;
    socket.listen(options.backlog)?;
    Ok(TcpListener::from_std(socket.into()))
}

fn bind_unix(path: &Path, backlog: i32) -> io::Result<(UnixListener, SocketFile)> {
    remove_stale(path)?;
    let socket = Socket::new(Domain::UNIX, Type::STREAM.nonblocking().cloexec(), None)?;
    socket.bind(&SockAddr::unix(path)?)?;
    // A client can connect only after `listen`, so the mode is right before the first one.
    let file = SocketFile { path: path.to_owned(), identity: SocketFile::identify(path) };
    fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
    socket.listen(backlog)?;
    let listener: unix::UnixListener = socket.into();
    Ok((UnixListener::from_std(listener), file))
}

/// A socket file without a listener is left over from a process that was killed.
fn remove_stale(path: &Path) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
        Ok(meta) if !meta.file_type().is_socket() => {
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, "there is a file that is no socket"));
        }
        Ok(_) => {}
    }
    match unix::UnixStream::connect(path) {
        Ok(_) => Err(io::Error::new(io::ErrorKind::AddrInUse, "another process answers there")),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => fs::remove_file(path),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

impl Listener {
    pub(super) fn is_unix(&self) -> bool {
        matches!(self.socket, ListenSocket::Unix(..))
    }

    pub(super) fn register(&mut self, registry: &Registry, token: Token) -> io::Result<()> {
        match &mut self.socket {
            ListenSocket::Tcp(socket) => socket.register(registry, token, Interest::READABLE),
            ListenSocket::Unix(socket, _) => socket.register(registry, token, Interest::READABLE),
        }
    }

    /// The next connection. `WouldBlock` is the end; other errors are of this one connection or of the system.
    pub(super) fn accept(&self) -> io::Result<Accepted> {
        match &self.socket {
            ListenSocket::Tcp(socket) => {
                let (stream, address) = socket.accept()?;
                // A connection that is already gone cannot be told; its first read reports that.
                let _ = stream.set_nodelay(true);
                Ok(Accepted { stream: Stream::Tcp(stream), addr: PeerAddr::Tcp(address), listener: self.index })
            }
            ListenSocket::Unix(socket, _) => {
                let (stream, _) = socket.accept()?;
                let uid = rustix::net::sockopt::socket_peercred(&stream).ok().map(|cred| cred.uid.as_raw());
                Ok(Accepted { stream: Stream::Unix(stream), addr: PeerAddr::Unix { uid }, listener: self.index })
            }
        }
    }
}

/// Whether accepting failed because the system has no more of something: accepting again at once would spin.
pub(super) fn is_exhausted(error: &io::Error) -> bool {
    use rustix::io::Errno;
    matches!(
        error.raw_os_error().map(Errno::from_raw_os_error),
        Some(Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM)
    )
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    fn options(listeners: Vec<Listen>) -> Options {
        Options { listeners, ..Options::default() }
    }

    #[test]
    fn workers_share_a_picked_port_and_a_second_relay_is_refused() {
        let any = Listen::Tcp("127.0.0.1:0".parse().unwrap());
        let (by_worker, bound) = bind_all(&options(vec![any]), 3).unwrap();
        assert_eq!(by_worker.iter().map(Vec::len).collect::<Vec<_>>(), [1, 1, 1]);
        let BoundAddr::Tcp(address) = bound[0] else { panic!("not TCP") };
        assert_ne!(address.port(), 0);
        let error = bind_all(&options(vec![Listen::Tcp(address)]), 1).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
        assert!(error.to_string().contains(&address.to_string()), "{error}");
    }

    #[cfg(any(target_os = "linux", target_os = "android"))]
    #[test]
    fn what_the_kernel_may_hold_of_a_connection_is_bounded_from_its_first_byte() {
        let any = vec![Listen::Tcp("127.0.0.1:0".parse().unwrap())];
        for (unsent_max, bound) in [(5_000, Some(5_000)), (0, None)] {
            let (by_worker, addrs) = bind_all(&Options { unsent_max, ..options(any.clone()) }, 1).unwrap();
            let BoundAddr::Tcp(address) = addrs[0] else { panic!("not TCP") };
            let _client = std::net::TcpStream::connect(address).unwrap();
            let Stream::Tcp(accepted) = by_worker[0][0].accept().unwrap().stream else { panic!("not TCP") };
            let lowat = socket2::SockRef::from(&accepted).tcp_notsent_lowat().unwrap();
            assert!(bound.is_none_or(|bound| bound == lowat), "{lowat}");
        }
    }

    #[test]
    fn a_stale_socket_is_replaced_a_live_one_is_not_and_the_file_goes_with_its_owner() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        drop(unix::UnixListener::bind(&path).unwrap());
        assert!(path.exists(), "stale");
        let listen = vec![Listen::Unix(path.clone())];
        let (first, _) = bind_all(&options(listen.clone()), 1).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(bind_all(&options(listen.clone()), 1).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        drop(first);
        assert!(!path.exists());
        fs::write(&path, "text").unwrap();
        assert_eq!(bind_all(&options(listen), 1).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(fs::read_to_string(&path).unwrap(), "text", "not ours, not touched");
    }
}
