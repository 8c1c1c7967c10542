//! The core of the relay, sans-io: sessions and who may do what with them. Knows no wire format, touches no thread,
//! reads no clock.

pub mod admission;
pub mod api;
pub mod card;
pub mod directory;
pub mod hub;
pub mod keys;
mod ledger;
mod principal;
pub mod profile;
mod replays;
mod role;
pub mod session;
mod shares;

pub use principal::{Principal, SignedIn};
pub use role::Role;
