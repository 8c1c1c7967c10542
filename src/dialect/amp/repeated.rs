//! What answers repeat of a message: its sender's name and its thread. Both may be of any length on the wire, and a
//! session keeps them until its answer; so the relay repeats what is within these bounds.

use crate::wire::amp::{Code, EnvelopeView, check::Refusal, did_base};

/// Longest name of a sender in bytes; of a longer one its fragment, query and path are left out.
pub const SENDER_BYTES_MAX: usize = 1024;
/// Longest `thread_id` in bytes.
pub const THREAD_BYTES_MAX: usize = 1024;

/// The name that an answer to this sender goes to. `None`: it has none that can be a DID.
pub fn sender(from: &str) -> Option<&str> {
    let name = if from.len() <= SENDER_BYTES_MAX { from } else { did_base(from) };
    (name.len() <= SENDER_BYTES_MAX).then_some(name)
}

/// The thread of a message that the relay or a session answers.
///
/// # Errors
/// 4001: it is too long. A thread is repeated byte for byte or not at all.
pub fn thread(view: &EnvelopeView<'_>) -> Result<Option<Vec<u8>>, Refusal> {
    match view.header.thread_id {
        Some(thread) if thread.len() > THREAD_BYTES_MAX => {
            Err(Refusal::new(Code::BAD_REQUEST, "`thread_id` is longer than 1 KiB, and an answer has to repeat it"))
        }
        thread => Ok(thread.map(<[u8]>::to_vec)),
    }
}
