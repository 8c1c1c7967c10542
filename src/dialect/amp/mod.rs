//! AMP over WebSocket: agents on `/amp/v1/ws`, one CBOR message a binary frame. The messages are the core's own
//! ([`delivery`](crate::relay::delivery)); this is how they come and go.

use crate::{
    relay::{api::Text, message::MESSAGE_MAX},
    wire::{
        amp::{PATH, RELAY_DID_HEADER, SIZE_HEADER},
        http::{Head, Response},
    },
};

pub use crate::wire::amp::SUBPROTOCOL;

/// The headers of the answer to an upgrade.
///
/// # Errors
/// The answer to a request that is no upgrade to AMP.
pub fn upgrade(head: &Head<'_>, did: &Text) -> Result<Vec<(&'static str, String)>, Response> {
    if !head.wants_upgrade() {
        let line = "/amp/v1/ws speaks WebSocket, subprotocol amp.v1";
        return Err(Response::upgrade_required(line));
    }
    if !head.subprotocols().any(|name| name == SUBPROTOCOL) {
        return Err(Response::text(400, "the upgrade must offer the subprotocol amp.v1"));
    }
    Ok(vec![(RELAY_DID_HEADER, did.to_string()), (SIZE_HEADER, MESSAGE_MAX.to_string())])
}

/// Where agents connect.
pub const fn path() -> &'static str {
    PATH
}
