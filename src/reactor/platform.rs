//! What differs between systems: one function for each difference, with a fallback that does on all of them.

use std::io;

use socket2::Socket;

/// Bounds what the kernel holds of a connection's bytes and has not sent. Connections inherit it from the listener it is
/// set on, so that it costs no call for each of them.
///
/// Linux knows it as such (`TCP_NOTSENT_LOWAT`): what is sent and not acknowledged is not counted, so that the bound does
/// not slow long ways down, and the socket is writable again when less than half of it is left.
#[cfg(any(target_os = "linux", target_os = "android"))]
pub(super) fn bound_unsent(listener: &Socket, bytes_max: u32) -> io::Result<()> {
    listener.set_tcp_notsent_lowat(bytes_max)
}

/// Elsewhere the whole send buffer is bounded: what is on its way counts too, so that it must not be too small.
#[cfg(not(any(target_os = "linux", target_os = "android")))]
pub(super) fn bound_unsent(listener: &Socket, bytes_max: u32) -> io::Result<()> {
    const SEND_BUFFER_MIN: usize = 256 * 1024;
    listener.set_send_buffer_size(SEND_BUFFER_MIN.max(bytes_max as usize))
}
