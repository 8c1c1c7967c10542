//! The tables of RFC 001: message types (section 4) and error codes (section 15).

use std::fmt;

/// A message type.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Type(pub u64);

macro_rules! types {
    ($($name:ident = $code:literal, $doc:literal;)*) => {
        impl Type {
            $(#[doc = $doc] pub const $name: Self = Self($code);)*

            /// Its name in the RFC; `None` for a code that is reserved or that we do not know.
            pub fn name(self) -> Option<&'static str> {
                match self.0 {
                    $($code => Some(stringify!($name)),)*
                    _ => None,
                }
            }
        }
    };
}

types! {
    PING = 0x01, "Are you there?";
    PONG = 0x02, "Answer to [`Self::PING`].";
    ACK = 0x03, "Received.";
    PROC_OK = 0x04, "Processed.";
    PROC_FAIL = 0x05, "Processing failed.";
    CONTACT_REQUEST = 0x06, "Asks to be let in.";
    CONTACT_RESPONSE = 0x07, "Answer to [`Self::CONTACT_REQUEST`].";
    CONTACT_REVOKE = 0x08, "Takes a contact back.";
    PROCESSING = 0x09, "Work has begun.";
    PROGRESS = 0x0a, "How far the work is.";
    INPUT_REQUIRED = 0x0b, "The work waits for an answer.";
    ERROR = 0x0f, "A message was refused.";
    MESSAGE = 0x10, "A message that asks for no answer.";
    REQUEST = 0x11, "Asks for a [`Self::RESPONSE`].";
    RESPONSE = 0x12, "Answer to [`Self::REQUEST`].";
    STREAM_START = 0x13, "A stream begins.";
    STREAM_DATA = 0x14, "A chunk of a stream.";
    STREAM_END = 0x15, "A stream ends.";
    BATCH = 0x16, "Several messages in one.";
    CAP_QUERY = 0x20, "Asks for capabilities.";
    CAP_DECLARE = 0x21, "Names capabilities.";
    CAP_INVOKE = 0x22, "Calls a capability.";
    CAP_RESULT = 0x23, "Answer to [`Self::CAP_INVOKE`].";
    DOC_SEND = 0x30, "A document.";
    DOC_REQUEST = 0x31, "Asks for a document.";
    CRED_ISSUE = 0x40, "Issues a credential.";
    CRED_REQUEST = 0x41, "Asks for a credential.";
    CRED_PRESENT = 0x42, "Shows a credential.";
    CRED_VERIFY = 0x43, "Asks whether a credential holds.";
    DELEG_GRANT = 0x50, "Delegates.";
    DELEG_REVOKE = 0x51, "Takes a delegation back.";
    DELEG_QUERY = 0x52, "Asks for a delegation.";
    PRESENCE = 0x60, "Says who is here.";
    PRESENCE_QUERY = 0x61, "Asks who is here.";
    PRESENCE_SUB = 0x62, "Subscribes to presence.";
    PRESENCE_UNSUB = 0x63, "Ends a subscription.";
    HELLO = 0x70, "Opens a connection.";
    HELLO_ACK = 0x71, "Accepts [`Self::HELLO`].";
    HELLO_REJECT = 0x72, "Refuses [`Self::HELLO`].";
    EXTENSION = 0xf0, "A vendor's own.";
}

impl Type {
    /// Whether it may flow before the negotiation is over (RFC 002 section 3.3).
    pub fn is_handshake(self) -> bool {
        matches!(self, Self::HELLO | Self::HELLO_ACK | Self::HELLO_REJECT)
    }

    /// Whether a receiver sends an ACK for it. Not for what is itself an answer of the protocol: ACKs must not loop.
    pub fn is_acked(self) -> bool {
        !self.is_handshake()
            && !matches!(self, Self::PING | Self::PONG | Self::ACK | Self::PROC_OK | Self::PROC_FAIL | Self::ERROR)
            && !matches!(self, Self::PROCESSING | Self::PROGRESS | Self::INPUT_REQUIRED)
    }

    /// Whether a refusal of it is answered with an ERROR. An ERROR never is.
    pub fn allows_error_reply(self) -> bool {
        self != Self::ERROR
    }
}

impl fmt::Debug for Type {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for Type {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => f.write_str(name),
            None => write!(f, "0x{:02x}", self.0),
        }
    }
}

/// Whether the sender of a refused message should try again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retry {
    /// It will be refused again.
    No,
    /// It may be taken later.
    Yes,
    /// It may be taken later, and the sender has to slow down.
    Backoff,
}

/// An error code.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Code(pub u64);

macro_rules! codes {
    ($($name:ident = $code:literal, $retry:ident, $doc:literal;)*) => {
        impl Code {
            $(#[doc = $doc] pub const $name: Self = Self($code);)*

            /// Its name in the RFC.
            pub fn name(self) -> Option<&'static str> {
                match self.0 {
                    $($code => Some(stringify!($name)),)*
                    _ => None,
                }
            }

            /// Whether to try again; not for a code that we do not know.
            pub fn retry(self) -> Retry {
                match self.0 {
                    $($code => Retry::$retry,)*
                    _ => Retry::No,
                }
            }
        }
    };
}

codes! {
    INVALID_MESSAGE = 1001, No, "It cannot be read.";
    INVALID_SIGNATURE = 1002, No, "The signature is wrong.";
    INVALID_TIMESTAMP = 1003, No, "Expired, or from the future.";
    UNSUPPORTED_VERSION = 1004, No, "Another version, or no HELLO yet.";
    UNKNOWN_TYPE = 1005, No, "A type that the addressee does not know.";
    RECIPIENT_NOT_FOUND = 2001, Yes, "Nobody has this DID.";
    ENDPOINT_UNREACHABLE = 2002, Yes, "The recipient cannot be reached.";
    RELAY_REJECTED = 2003, Yes, "The relay does not take it.";
    TTL_EXPIRED = 2004, No, "It expired before it was delivered.";
    UNAUTHORIZED = 3001, No, "The sender may not do this.";
    CONTACT_REQUIRED = 3002, No, "The recipient wants a contact request first.";
    CONTACT_DENIED = 3003, No, "The recipient does not want this contact.";
    DELEGATION_INVALID = 3004, No, "The delegation does not hold.";
    RATE_LIMITED = 3005, Backoff, "Too many.";
    BAD_REQUEST = 4001, No, "The body is not what the recipient expects.";
    CAPABILITY_NOT_FOUND = 4002, No, "No such capability.";
    VERSION_MISMATCH = 4003, No, "No such version of the capability.";
    SCHEMA_VIOLATION = 4004, No, "The body breaks its schema.";
    INTERNAL_ERROR = 5001, Yes, "The recipient's own fault.";
    UNAVAILABLE = 5002, Yes, "Not available now.";
    TIMEOUT = 5003, Yes, "It took too long.";
    OVERLOADED = 5004, Backoff, "Too much to do.";
}

impl Code {
    /// The category, by thousands.
    pub fn category(self) -> &'static str {
        match self.0 / 1000 {
            1 => "protocol",
            2 => "routing",
            3 => "security",
            4 => "client",
            5 => "server",
            _ => "unknown",
        }
    }
}

impl fmt::Debug for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => write!(f, "{} {name}", self.0),
            None => self.0.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_say_what_the_rfc_says() {
        assert_eq!(Type(0x16).name(), Some("BATCH"));
        assert_eq!(Type(0x0c).name(), None);
        assert_eq!(Code(2003).name(), Some("RELAY_REJECTED"));
        assert_eq!(Code(3005).retry(), Retry::Backoff);
        assert_eq!(Code(4901).category(), "client");
        assert_eq!(Code::RATE_LIMITED.to_string(), "3005 RATE_LIMITED");
        assert!(Type::MESSAGE.is_acked() && Type::STREAM_END.is_acked() && Type(0x80).is_acked());
        for typ in [Type::ACK, Type::HELLO, Type::ERROR, Type::PROGRESS, Type::PONG] {
            assert!(!typ.is_acked(), "{typ}");
        }
    }
}
