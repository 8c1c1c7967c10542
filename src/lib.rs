//! amp-relay: a relay for live Claude Code sessions and for messages between agents, the clients that speak to one, and
//! the event loop underneath. The program is `amp-relay`; as a crate it is used in three ways.
//!
//! # Run a relay
//!
//! What `amp-relay serve` runs, in a process of your own. Keys sign in; each has a role.
//!
//! ```
//! fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # #[cfg(feature = "relay")] {
//!     use amp_relay::{
//!         reactor::Listen,
//!         server::{Agent, DataFolder, Options, Server},
//!     };
//!
//!     let folder = std::env::temp_dir().join(format!("relay-{}", std::process::id()));
//!     let data = DataFolder::open(&folder)?; // a host key, a client key, a lock
//!     let keys = folder.join("authorized_keys");
//!     let mine = data.client_key()?.public_key().to_openssh()?;
//!     data.ensure_keys_file(&keys, &[format!("amp-role=\"admin\" {mine}")])?;
//!
//!     let mut options = Options::new(keys, Agent::Demo); // or Agent::Claude(None): the `claude` that is found
//!     options.listen = vec![Listen::Tcp("127.0.0.1:0".parse()?)];
//!     let relay = Server::start(&options, data.host_key()?)?;
//!     println!("listening on {:?}", relay.addresses());
//!     relay.stopper().drain(); // here a program would wait for its signal
//!     relay.join()?;
//!     std::fs::remove_dir_all(folder)?; // and would keep its keys
//! # }
//!     Ok(())
//! }
//! ```
//!
//! `loadtest`, in the same repository, measures one: `cargo run --release -p loadtest -- table`.
//!
//! # Speak to one
//!
//! As a device that shares sessions (`client`), or as an agent among others (`client::amp`). AMP, the Agent Messaging
//! Protocol, carries signed CBOR envelopes from one DID to another; a DID here is an Ed25519 key.
//!
//! ```
//! fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # #[cfg(feature = "relay")] {
//!     use amp_relay::{
//!         client::{Connection, Identity, KnownRelays, Options, Target},
//!         reactor::Listen,
//!         server::{self, Agent, DataFolder, Server},
//!     };
//!
//!     // A relay to speak to, as above; one that `amp-relay up` started listens on `relay.sock` in its data folder.
//!     let folder = std::env::temp_dir().join(format!("speak-{}", std::process::id()));
//!     let data = DataFolder::open(&folder)?;
//!     let keys = folder.join("authorized_keys");
//!     let mine = data.client_key()?.public_key().to_openssh()?;
//!     data.ensure_keys_file(&keys, &[format!("amp-role=\"admin\" {mine}")])?;
//!     let mut options = server::Options::new(keys, Agent::Demo);
//!     options.listen = vec![Listen::Unix(data.socket())];
//!     let relay = Server::start(&options, data.host_key()?)?;
//!
//!     let target = Target::Unix(data.socket()); // or Target::parse("ws://127.0.0.1:5711")?
//!     let identity = Identity::from_file(&folder.join("client_key"), &mut |_| None)?;
//!     let mut known = KnownRelays::load(folder.join("known_relays"))?;
//!     let options = Options::new("9f86d081884c7d65", "laptop", "script");
//!     let (mut connection, welcome) = Connection::connect(&target, &identity, &options, &mut known)?;
//!     assert_eq!(welcome.role, "admin");
//!     connection.send(r#"{"type":"list","id":"1"}"#)?;
//!     println!("{:?}", connection.receive(None)?);
//!
//!     drop(connection);
//!     relay.stopper().drain();
//!     relay.join()?;
//!     std::fs::remove_dir_all(folder)?;
//! # }
//!     Ok(())
//! }
//! ```
//!
//! # Embed the loop
//!
//! With `default-features = false` only [`base`], [`wire`] and [`reactor`] are built: a WebSocket server on a mio loop, one
//! worker a core, without an async runtime, that knows nothing of AMP or of sessions. A chat room:
//!
//! ```
//! use amp_relay::{
//!     base::Fault,
//!     reactor::ws::{Answer, Data, Framed, Ws, WsHandler, WsIo, WsOptions},
//!     reactor::{Listen, Options, Peer, Reactor},
//!     wire::http::{Head, Response},
//! };
//!
//! struct Room;
//!
//! impl WsHandler for Room {
//!     type Conn = String; // the name under which one speaks
//!     type Mail = ();
//!
//!     fn request(&mut self, head: &Head<'_>, _: &Peer, _: &mut WsIo<'_, Self>) -> Answer<String> {
//!         match head.path.strip_prefix("/chat/") {
//!             Some(name) => Answer::upgrade(name.to_owned()),
//!             None => Answer::Respond(Response::text(404, "try /chat/NAME")),
//!         }
//!     }
//!
//!     fn message(&mut self, name: &mut String, io: &mut WsIo<'_, Self>, message: Data<'_>) -> Result<(), Fault> {
//!         if let Data::Text(text) = message {
//!             io.broadcast(&Framed::text(&format!("{name}: {text}")), Some(io.token()));
//!         }
//!         Ok(())
//!     }
//! }
//!
//! fn main() -> Result<(), Box<dyn std::error::Error>> {
//!     // One worker is one room; rooms across workers send each other mail.
//!     let listeners = vec![Listen::Tcp("127.0.0.1:0".parse()?)];
//!     let bound = Reactor::bind::<Ws<Room>>(Options { workers: 1, listeners, ..Options::default() })?;
//!     println!("ws://{}/chat/NAME", bound.local_addrs()[0]);
//!     let handle = bound.start(|_worker, _mailers| Ws::new(Room, WsOptions::default()))?;
//!     handle.drain(); // here a program would wait for its signal
//!     Ok(handle.join()?)
//! }
//! ```
//!
//! # Layers
//!
//! They point one way, `base <- wire <- store, claude <- relay <- dialect <- server <- cli`; `reactor` and `client` stand
//! beside `store`. The feature `relay` builds all but the program, `cli` the program too.

pub mod base;
pub mod reactor;
pub mod wire;

#[cfg(feature = "relay")]
pub mod claude;
#[cfg(feature = "relay")]
pub mod client;
#[cfg(feature = "relay")]
pub mod dialect;
#[cfg(feature = "relay")]
pub mod relay;
#[cfg(feature = "relay")]
pub mod server;
#[cfg(feature = "relay")]
pub mod store;

#[cfg(feature = "cli")]
pub mod cli;
