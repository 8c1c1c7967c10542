//! HTTP/1.1 on the server side: request heads, the answers we give, and the upgrade to WebSocket.
//!
//! Owns reading a head (by httparse) with its limits, the check of `Host` and `Origin` that keeps web pages away, and
//! the bytes of answers. Must not know which paths exist. A connection carries one request: every answer but the
//! upgrade says `Connection: close`, so bodies and pipelining are never read.

mod head;
mod origin;
mod response;
#[cfg(test)]
mod tests;
mod upgrade;

pub use head::{HEADERS_MAX, Head, HeaderFault, Parsed, parse};
pub use origin::{BadHost, HostPolicy, check_origin};
pub use response::Response;
pub use upgrade::{accept, accept_with};

/// Most bytes of a request head, its empty line included.
pub const HEAD_MAX: usize = 16 * 1024;
