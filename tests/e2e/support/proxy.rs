//! A wire that can be cut, and on which what the relay sends can be altered: forwards connections to the relay until the
//! test says otherwise.

use std::{
    io::{self, Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    os::unix::net::{UnixListener, UnixStream},
    path::Path,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
};

/// What becomes of a message of the relay.
type Alter = dyn Fn(String) -> String + Send + Sync;

/// The forwarder. Its threads end with the test's process.
pub struct Proxy {
    pub address: SocketAddr,
    open: Arc<Mutex<Vec<TcpStream>>>,
    away: Arc<Away>,
}

/// The relay at the other end cannot be reached.
#[derive(Default)]
struct Away {
    is: AtomicBool,
    /// Connections that were closed without an answer since it is.
    turned: AtomicUsize,
}

impl Proxy {
    /// Forwards a free port of the loopback to `target`.
    pub fn to(target: SocketAddr) -> Self {
        Self::new(target, None)
    }

    /// The same, and what the relay says goes through `alter`, message by message.
    pub fn altering(target: SocketAddr, alter: impl Fn(String) -> String + Send + Sync + 'static) -> Self {
        Self::new(target, Some(Arc::new(alter)))
    }

    fn new(target: SocketAddr, alter: Option<Arc<Alter>>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("its address");
        let open = Arc::new(Mutex::new(Vec::new()));
        let kept = Arc::clone(&open);
        let away = Arc::new(Away::default());
        let is_away = Arc::clone(&away);
        thread::spawn(move || {
            for mut near in listener.incoming().flatten() {
                if is_away.is.load(Ordering::SeqCst) {
                    // What it was asked is read, so that the close is one and no reset.
                    let _ = head(&mut near);
                    drop(near);
                    is_away.turned.fetch_add(1, Ordering::SeqCst);
                    continue;
                }
                let Ok(far) = TcpStream::connect(target) else { continue };
                let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
                if join(&near, &far, alter.clone()).is_ok() {
                    kept.extend([near, far]);
                }
            }
        });
        Self { address, open, away }
    }

    /// Ends every connection, and closes new ones without an answer, as `ssh -L` does while the relay at its other end is
    /// away.
    pub fn goes_away(&self) {
        self.away.turned.store(0, Ordering::SeqCst);
        self.away.is.store(true, Ordering::SeqCst);
        self.cut();
    }

    /// Forwards again.
    pub fn comes_back(&self) {
        self.away.is.store(false, Ordering::SeqCst);
    }

    /// How many connections were closed without an answer since it went away.
    pub fn turned_away(&self) -> usize {
        self.away.turned.load(Ordering::SeqCst)
    }

    /// Ends every connection at once, in both directions. New ones are forwarded again.
    pub fn cut(&self) {
        for stream in self.open.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

/// Stands at `socket`, from where the relay's own was moved to `target`, and alters what it says.
pub fn altering_socket(socket: &Path, target: &Path, alter: impl Fn(String) -> String + Send + Sync + 'static) {
    let listener = UnixListener::bind(socket).expect("a socket");
    let (target, alter): (_, Arc<Alter>) = (target.to_owned(), Arc::new(alter));
    thread::spawn(move || {
        for near in listener.incoming().flatten() {
            let _ = UnixStream::connect(&target).and_then(|far| join(&near, &far, Some(Arc::clone(&alter))));
        }
    });
}

/// A stream of either kind.
trait Wire: Read + Write + Send + Sized + 'static {
    fn twin(&self) -> io::Result<Self>;
    fn end(&self);
}

impl Wire for TcpStream {
    fn twin(&self) -> io::Result<Self> {
        self.try_clone()
    }

    fn end(&self) {
        let _ = self.shutdown(Shutdown::Write);
    }
}

impl Wire for UnixStream {
    fn twin(&self) -> io::Result<Self> {
        self.try_clone()
    }

    fn end(&self) {
        let _ = self.shutdown(Shutdown::Write);
    }
}

/// Forwards in both directions.
fn join<W: Wire>(near: &W, far: &W, alter: Option<Arc<Alter>>) -> io::Result<()> {
    for (mut from, mut to, alter) in [(near.twin()?, far.twin()?, None), (far.twin()?, near.twin()?, alter)] {
        thread::spawn(move || {
            let _ = match alter {
                Some(alter) => altered(&mut from, &mut to, &*alter),
                None => io::copy(&mut from, &mut to).map(drop),
            };
            to.end();
        });
    }
    Ok(())
}

/// The head of a request or of an answer.
fn head(from: &mut impl Read) -> io::Result<Vec<u8>> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(0);
        let last = head.len() - 1;
        from.read_exact(&mut head[last..])?;
    }
    Ok(head)
}

/// Forwards the head of the answer as it is, then the frames of a WebSocket server: unmasked, and each text in one.
fn altered(from: &mut impl Read, to: &mut impl Write, alter: &Alter) -> io::Result<()> {
    to.write_all(&head(from)?)?;
    loop {
        let mut start = [0; 2];
        from.read_exact(&mut start)?;
        let mut length = [0; 8];
        let bytes = match start[1] {
            126 => 2,
            127 => 8,
            short => {
                length[7] = short;
                0
            }
        };
        from.read_exact(&mut length[8 - bytes..])?;
        let mut payload = vec![0; usize::try_from(u64::from_be_bytes(length)).expect("a length")];
        from.read_exact(&mut payload)?;
        if start[0] == 0x81 {
            payload = alter(String::from_utf8(payload).expect("a text")).into_bytes();
        }
        let mut frame = vec![start[0]];
        match payload.len() {
            short @ ..126 => frame.push(u8::try_from(short).expect("a short one")),
            middle @ ..65_536 => {
                frame.push(126);
                frame.extend(u16::try_from(middle).expect("a middle one").to_be_bytes());
            }
            long => {
                frame.push(127);
                frame.extend((long as u64).to_be_bytes());
            }
        }
        frame.extend(payload);
        to.write_all(&frame)?;
    }
}
