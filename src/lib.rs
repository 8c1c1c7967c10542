//! amp-relay: an event loop to embed, a WebSocket layer on it, and the relay built from both.
//!
//! Layers point one way, `base <- wire <- reactor <- store, claude <- relay <- dialect <- server <- cli`; `client`
//! stands beside `reactor`. With `default-features = false` only `base`, `wire` and `reactor` are built: a WebSocket
//! server that knows nothing of AMP or of sessions.

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
