//! One message of the relay, or of one of its sessions, before it is signed.

use ed25519_dalek::SigningKey;

use crate::{
    base::{CloseCode, ConnToken},
    relay::api::Text,
    wire::amp::{BuildError, Builder, Dialect, Header, Id, To, Type},
};

/// What is to be said, to whom.
#[derive(Clone, Debug)]
pub struct Say {
    /// On which connection.
    pub peer: ConnToken,
    /// Who says it: the relay's DID, or a session's.
    pub from: Text,
    /// To which DID.
    pub to: Text,
    /// Which kind of message.
    pub typ: Type,
    /// Its id.
    pub id: Id,
    /// The id of the message it answers.
    pub reply_to: Option<Id>,
    /// The conversation it belongs to.
    pub thread_id: Option<Vec<u8>>,
    /// The body: one CBOR item.
    pub body: Vec<u8>,
    /// The peer's key dialect.
    pub dialect: Dialect,
    /// Close the connection behind it.
    pub close: Option<(CloseCode, &'static str)>,
}

impl Say {
    /// Appends the signed message.
    ///
    /// # Errors
    /// It cannot be written; `out` is as it was.
    pub fn write(&self, key: &SigningKey, scratch: &mut Vec<u8>, out: &mut Vec<u8>) -> Result<(), BuildError> {
        let mut header = Header::new(self.id, self.typ, &self.from, To::One(&self.to));
        header.reply_to = self.reply_to.as_ref().map(|id| &id.0[..]);
        header.thread_id = self.thread_id.as_deref();
        Builder::new(header).body(&self.body).write_signed(self.dialect, key, scratch, out)
    }
}
