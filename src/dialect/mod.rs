//! How clients speak: their paths, frames to commands of the core, what the core says to frames. Keeps no state that the
//! core should own.
//!
//! A [`Dialect`] is the state of one connection. Those that a relay serves stand in one table
//! (`server/worker/dialects.rs`), a line for each.

pub mod admin;
pub mod amp;
pub mod session;

use std::sync::Arc;

use crate::{
    base::{ConnToken, Fault, Now},
    relay::{
        api::Out,
        delivery::{Delivery, Net},
        keys::KeySet,
    },
    wire::http::{Head, Response},
};

/// How a connection came to us.
#[derive(Clone, Copy, Debug)]
pub struct Arrival {
    /// Its token.
    pub peer: ConnToken,
    /// Over the Unix socket.
    pub is_local: bool,
    /// When.
    pub now: Now,
}

/// The answer to an upgrade that is taken.
#[derive(Debug)]
pub struct Upgrade<D> {
    /// The connection's state.
    pub conn: D,
    /// The subprotocol that is agreed on.
    pub subprotocol: &'static str,
    /// Headers besides.
    pub headers: Vec<(&'static str, String)>,
}

/// A whole message as it came.
#[derive(Clone, Copy, Debug)]
pub enum Incoming<'a> {
    /// Text.
    Text(&'a str),
    /// Bytes.
    Binary(&'a [u8]),
}

/// The state of one connection that speaks this dialect, and what is done for it. It is the current connection of `net`
/// unless a method says otherwise.
pub trait Dialect<N: Net>: Sized {
    /// What all its connections of one worker share.
    type State;

    /// Where its clients connect.
    const PATH: &'static str;

    /// A request came for its path.
    ///
    /// # Errors
    /// The answer to a request that is no upgrade to it.
    fn request(
        head: &Head<'_>,
        arrival: Arrival,
        state: &mut Self::State,
        delivery: &mut Delivery<N::Shared>,
    ) -> Result<Upgrade<Self>, Response>;

    /// The upgrade was answered.
    fn opened(&mut self, state: &mut Self::State, delivery: &mut Delivery<N::Shared>, net: &mut N);

    /// A message came; `current` is the same message in the buffer that it was read into.
    ///
    /// # Errors
    /// The peer's fault, which closes the connection.
    fn message(
        &mut self,
        state: &mut Self::State,
        delivery: &mut Delivery<N::Shared>,
        net: &mut N,
        message: Incoming<'_>,
        current: N::Current<'_>,
    ) -> Result<(), Fault>;

    /// The time that was set has come.
    fn timeout(&mut self, state: &mut Self::State, delivery: &mut Delivery<N::Shared>, net: &mut N);

    /// The queue, which was above its high mark, has drained.
    fn writable(&mut self, state: &mut Self::State, delivery: &mut Delivery<N::Shared>, net: &mut N);

    /// The connection is over.
    fn closed(self, state: &mut Self::State, delivery: &mut Delivery<N::Shared>, token: ConnToken);

    /// The sessions say this to connections of this worker that speak the dialect. There is no current connection.
    fn out(state: &mut Self::State, delivery: &mut Delivery<N::Shared>, net: &mut N, peers: &[ConnToken], out: &Out) {
        let _ = (state, delivery, net, peers, out);
    }

    /// The keys in force have changed: a peer that may not stay is closed. There is no current connection.
    fn keys_changed(
        state: &mut Self::State,
        delivery: &mut Delivery<N::Shared>,
        net: &mut N,
        peer: ConnToken,
        keys: &Arc<KeySet>,
    );
}
