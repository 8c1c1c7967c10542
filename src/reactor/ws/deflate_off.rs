//! What stands in for permessage-deflate where it was not built in: nothing is ever agreed on, and all of this is
//! compiled away.

use super::WsOptions;
use crate::{
    base::{CloseCode, Fault},
    wire::http::Head,
};

/// What a connection has of it: nothing.
#[derive(Debug, Default)]
pub(super) struct Own;

#[derive(Debug)]
pub(super) struct Deflating;

impl Deflating {
    pub(super) fn new(_: &WsOptions) -> Self {
        Self
    }

    pub(super) fn agree(&mut self, _: &Head<'_>) -> Option<(Own, (&'static str, String))> {
        None
    }

    pub(super) fn closed(&mut self, _: Own) {}

    pub(super) fn inflate(&mut self, _: &mut Own, _: &[u8], _: usize) -> Result<Vec<u8>, Fault> {
        Err(Fault::new(CloseCode::PROTOCOL, "compressed without an agreement"))
    }

    pub(super) fn recycle(&mut self, _: Vec<u8>) {}

    pub(super) fn is_on(&self) -> bool {
        false
    }

    pub(super) fn deflate(&mut self, _: &mut Own, _: &[u8]) -> Option<&[u8]> {
        None
    }
}
