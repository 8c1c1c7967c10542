//! A blocking AMP client on the same transports as the session client: it signs a HELLO to the relay's DID, checks the
//! relay's pin before and its proof after, sends signed messages, matches answers to requests, and checks the signature
//! of each message that comes. It gives no ACKs, keeps nothing for later and does not connect again by itself: that is
//! its caller's.
//!
//! ```no_run
//! use std::time::Duration;
//!
//! use amp_relay::client::{Identity, KnownRelays, Target, amp};
//!
//! let identity = Identity::from_file("/home/anna/.ssh/id_ed25519".as_ref(), &mut |_| None)?;
//! let mut known = KnownRelays::load("/home/anna/.local/state/amp-relay/known_relays".into())?;
//! let target = Target::parse("ws://127.0.0.1:5711")?;
//! let mut agent = amp::Connection::connect(&target, &identity, &amp::Options::new("script"), &mut known)?;
//! let body = amp::body_of_json(&serde_json::json!({"action": "time"}))?;
//! let relay = agent.relay().to_owned();
//! let answer = agent.request(&relay, &body, Duration::from_secs(10))?;
//! println!("{}", amp::json_of_body(answer.body.as_deref().unwrap_or_default()));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod connection;
mod hello;
mod json;
mod message;

pub use connection::{Connection, Received, RequestError, SendError, Sender};
pub use hello::{ConnectError, Options};
pub use json::{base64url, body_of_json, json_of_body};
pub use message::{Draft, ErrorAnswer, Message, SignedBy, Unacceptable};

pub use crate::wire::amp::{Code, Id, Type, did_base};
