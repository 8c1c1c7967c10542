//! How long the texts may be that a client sets, and what may stand in them: all of the dialect's bounds in one place,
//! as the table in `docs/protocols/session.md` states them. Bytes are those of UTF-8.

use crate::{
    base::text,
    relay::api::{Code, Error},
};

pub use crate::relay::api::{REASON_BYTES_MAX, TITLE_BYTES_MAX};
pub use crate::wire::sign_in::{DEVICE_KIND_BYTES_MAX, DEVICE_NAME_BYTES_MAX, FIELD_BYTES_MAX, ID_CHARS_MAX};

/// Most fields of a message.
pub const FIELDS_MAX: usize = 64;
/// Longest name of a profile, a model or a permission mode.
pub const NAME_BYTES_MAX: usize = 128;
/// Longest hash of an input that was shown; the relay's own have 64 digits.
pub const HASH_BYTES_MAX: usize = 128;
/// Longest path of a folder.
pub const FOLDER_BYTES_MAX: usize = 4096;
/// Longest `answers` of a decision, as JSON.
pub const ANSWERS_BYTES_MAX: usize = 64 * 1024;
/// Longest `t` of a ping, which its pong repeats, as JSON.
pub const ECHO_BYTES_MAX: usize = 256;
/// Longest `message` of an error.
pub const ERROR_BYTES_MAX: usize = 1024;

/// Checks a text of one line.
///
/// # Errors
/// `BAD_REQUEST`, naming the field.
pub(super) fn line(field: &str, text: &str, bytes_max: usize) -> Result<(), Error> {
    length(field, text.len(), bytes_max)?;
    fit(field, text::unfit_for_a_line(text))
}

/// Checks a text that may have several lines.
///
/// # Errors
/// `BAD_REQUEST`, naming the field.
pub(super) fn lines(field: &str, text: &str, bytes_max: usize) -> Result<(), Error> {
    length(field, text.len(), bytes_max)?;
    fit(field, text::unfit_for_lines(text))
}

/// Checks how long a field is.
///
/// # Errors
/// `BAD_REQUEST`, naming the field.
pub(super) fn length(field: &str, bytes: usize, bytes_max: usize) -> Result<(), Error> {
    if bytes <= bytes_max {
        return Ok(());
    }
    Err(Error::new(Code::BadRequest, format!("`{field}` has {bytes} bytes; it may have {bytes_max}")))
}

fn fit(field: &str, unfit: Option<char>) -> Result<(), Error> {
    let Some(c) = unfit else { return Ok(()) };
    let message = format!("`{field}` holds U+{:04X}, which has no place in it", u32::from(c));
    Err(Error::new(Code::BadRequest, message))
}
