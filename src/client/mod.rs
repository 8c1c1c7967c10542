//! A blocking client of the session protocol, to embed: it signs in by key, checks the relay's pin and proof, gives
//! every command an id, and goes on after a break where it stopped. It knows nothing of the relay's insides, starts no
//! thread and holds no policy: what to print and what to ask a person is its caller's.
//!
//! ```no_run
//! use amp_relay::client::{Connection, Identity, KnownRelays, Options, Target};
//!
//! let identity = Identity::from_file("/home/anna/.ssh/id_ed25519".as_ref(), &mut |_| None)?;
//! let mut known = KnownRelays::load("/home/anna/.local/state/amp-relay/known_relays".into())?;
//! let target = Target::parse("ws://127.0.0.1:5711")?;
//! let options = Options::new("9f86d081884c7d65", "laptop", "script");
//! let (mut connection, welcome) = Connection::connect(&target, &identity, &options, &mut known)?;
//! println!("signed in as {}", welcome.role);
//! connection.send(r#"{"type":"list","id":"1"}"#)?;
//! println!("{:?}", connection.receive(None)?);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod agent;
pub mod amp;
mod backoff;
mod connection;
mod handshake;
mod identity;
mod link;
mod message;
mod pins;
mod sign_in;
mod socket;
mod target;

pub use agent::{Agent, AgentError, AgentKey};
#[cfg(feature = "cli")]
pub(crate) use backoff::Backoff;
pub use connection::{Connection, Received};
pub use handshake::HandshakeError;
pub use identity::{Identity, IdentityError};
pub use link::{Do, Link, LinkFull, NOTHING_SEEN_MS, RETRY_MS_MAX};
pub use message::{
    Attachment, Blob, Block, By, DeviceInfo, ErrorMessage, Event, Fact, Incoming, OpenPermission, Page, Position,
    QueuedPrompt, Reply, Snapshot, Summary, Turn, Unreadable, is_busy,
};
#[cfg(feature = "cli")]
pub(crate) use pins::replace_file;
pub use pins::{KnownRelays, PinError, Pins, Question};
pub use sign_in::{ConnectError, Options};
pub use socket::{Ended, Writer};
pub use target::{Target, TargetError};
