//! Frames of one sender, made once: only what differs from message to message is written over a copy, already masked.

use amp_relay::wire::{
    amp::{BuildError, Builder, Header, Id, KeyEncoding, SIG_BYTES, To, Type, sign},
    cbor::{self, Reader},
    mask,
    ws::{HEADER_MAX, OpCode, encode_header},
};

use crate::agent::Agent;

/// From this many bytes behind the stamp on they are not copied but sent from the template.
const TAIL_BYTES_MIN: usize = 2048;

/// What every message carries at the front of its payload, so that each delivery can be checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stamp {
    /// The run: messages of another one are foreign.
    pub(crate) run: u32,
    pub(crate) sender: u32,
    pub(crate) slot: u32,
    /// [`Stamp::ALL`] where one message goes to many.
    pub(crate) receiver: u32,
    pub(crate) sequence: u64,
}

impl Stamp {
    /// Its length, the least payload.
    pub(crate) const BYTES: usize = 24;
    /// Every client but the sender.
    pub(crate) const ALL: u32 = u32::MAX;

    fn write(&self) -> [u8; Self::BYTES] {
        let mut out = [0; Self::BYTES];
        for (four, value) in
            out.as_chunks_mut::<4>().0.iter_mut().zip([self.run, self.sender, self.slot, self.receiver])
        {
            *four = value.to_le_bytes();
        }
        out[16..].copy_from_slice(&self.sequence.to_le_bytes());
        out
    }

    /// Reads one.
    pub(crate) fn read(bytes: &[u8; Self::BYTES]) -> Self {
        let four = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        let sequence = u64::from(four(16)) | u64::from(four(20)) << 32;
        Self { run: four(0), sender: four(4), slot: four(8), receiver: four(12), sequence }
    }
}

/// Where a received message, which has the form of our own, holds what is checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Layout {
    pub(crate) len: usize,
    pub(crate) stamp_at: usize,
    /// The sender's DID; the baseline has none.
    pub(crate) from_at: Option<usize>,
}

/// Places in the frame of what is written over.
#[derive(Clone, Copy, Debug)]
struct Places {
    stamp: usize,
    /// The receiver: its DID, or the baseline's number.
    to: usize,
    envelope: Option<Envelope>,
}

#[derive(Clone, Copy, Debug)]
struct Envelope {
    id: usize,
    ts: usize,
    sig: usize,
}

/// What signs each message, where that is asked for.
#[derive(Clone, Debug)]
struct Signer {
    agent: Agent,
    to: Vec<String>,
    is_list: bool,
    body: Vec<u8>,
    stamp_at: usize,
    ttl: u64,
    /// What is signed.
    input: Vec<u8>,
}

/// An envelope, and where its parts begin.
#[derive(Clone, Debug, Default)]
struct Written {
    bytes: Vec<u8>,
    body: Vec<u8>,
    id_at: usize,
    /// The eight bytes of the time.
    ts_at: usize,
    /// The text of a single receiver.
    to_at: usize,
    sig_at: usize,
    /// The payload begins with the stamp.
    stamp_at: usize,
    from_at: usize,
}

/// The frame of one sender.
#[derive(Clone, Debug)]
pub(crate) struct Template {
    frame: Vec<u8>,
    payload_at: usize,
    key: [u8; 4],
    cut: usize,
    places: Places,
    layout: Layout,
    signer: Option<Box<Signer>>,
}

/// What templates are made from.
#[derive(Clone, Debug)]
pub(crate) struct Make<'a> {
    pub(crate) from: &'a Agent,
    pub(crate) to: To<'a>,
    pub(crate) size: usize,
    pub(crate) ttl: u64,
    pub(crate) sign: bool,
    pub(crate) key: [u8; 4],
    /// Any time of today: it fixes the lengths.
    pub(crate) now_ms: u64,
}

impl Make<'_> {
    fn written(&self) -> Result<Written, BuildError> {
        // The filling is not all zeroes, so that nothing on the way can save work on it.
        let payload: Vec<u8> = (0..self.size).map(|at| (at.wrapping_mul(131) >> 2) as u8).collect();
        let mut written = Written::default();
        cbor::bytes(&mut written.body, &payload);
        let (from, to) = (self.from.did(), self.to);
        let header = Header { ttl: self.ttl, ..Header::new(Id::new(self.now_ms, [0; 8]), Type::MESSAGE, from, to) };
        let builder = Builder::new(header).body(&written.body);
        builder.write(KeyEncoding::Text, Some(&[0xA5; SIG_BYTES]), &mut written.bytes)?;
        written.find(self.size).map_err(BuildError::Body)?;
        Ok(written)
    }

    /// An AMP message in a WebSocket frame.
    pub(crate) fn amp(&self) -> Result<Template, BuildError> {
        let written = self.written()?;
        let mut header = [0; HEADER_MAX];
        let payload_at = encode_header(&mut header, OpCode::Binary, true, written.bytes.len() as u64, Some(self.key));
        let mut frame = header[..payload_at].to_vec();
        frame.extend_from_slice(&written.bytes);
        mask::apply(self.key, &mut frame[payload_at..]);
        let layout = Layout { len: written.bytes.len(), stamp_at: written.stamp_at, from_at: Some(written.from_at) };
        let places = Places {
            stamp: payload_at + written.stamp_at,
            to: payload_at + written.to_at,
            envelope: Some(Envelope {
                id: payload_at + written.id_at,
                ts: payload_at + written.ts_at,
                sig: payload_at + written.sig_at,
            }),
        };
        let signer = self.sign.then(|| {
            let to = self.to.iter().map(str::to_owned).collect();
            let stamp_at = written.body.len() - self.size;
            let (agent, is_list, body) = (self.from.clone(), self.to.is_array(), written.body);
            Box::new(Signer { agent, to, is_list, body, stamp_at, ttl: self.ttl, input: Vec::new() })
        });
        Ok(Template::new(frame, payload_at, self.key, places, layout, signer))
    }

    /// A frame of the baseline: length, receiver, stamp, filling. It is as long as the envelope with the mean of the
    /// header that a client sends and the one, four bytes shorter, that a server does: in both directions together a
    /// forwarder of these frames moves as many bytes as one of WebSocket messages.
    pub(crate) fn baseline(&self, receiver: u32) -> Result<Template, BuildError> {
        let written = self.written()?;
        let mut header = [0; HEADER_MAX];
        let len = written.bytes.len() as u64;
        let header_len = encode_header(&mut header, OpCode::Binary, true, len, Some(self.key)) - 2;
        let mut frame = written.bytes;
        frame.resize(frame.len() + header_len, 0x3C);
        let len = frame.len();
        frame[..4].copy_from_slice(&(len as u32).to_le_bytes());
        frame[4..8].copy_from_slice(&receiver.to_le_bytes());
        let layout = Layout { len, stamp_at: 8, from_at: None };
        Ok(Template::new(frame, 0, [0; 4], Places { stamp: 8, to: 4, envelope: None }, layout, None))
    }
}

impl Written {
    /// Finds the parts: each is the end of its field's value.
    fn find(&mut self, payload_len: usize) -> Result<(), cbor::Error> {
        let mut reader = Reader::new(&self.bytes);
        for _ in 0..reader.expect(cbor::MAP)? {
            let key = reader.text()?;
            let value = reader.item(cbor::DEPTH_MAX)?;
            let end = reader.offset();
            let text_at = end - cbor::as_text(value).map_or(0, str::len);
            match key {
                "id" => self.id_at = end - size_of::<Id>(),
                "ts" => self.ts_at = end - size_of::<u64>(),
                "to" => self.to_at = text_at,
                "sig" => self.sig_at = end - SIG_BYTES,
                "body" => self.stamp_at = end - payload_len,
                "from" => self.from_at = text_at,
                _ => {}
            }
        }
        Ok(())
    }
}

impl Template {
    fn new(
        frame: Vec<u8>,
        payload_at: usize,
        key: [u8; 4],
        places: Places,
        layout: Layout,
        signer: Option<Box<Signer>>,
    ) -> Self {
        let head = places.stamp + Stamp::BYTES;
        let cut = if frame.len() - head >= TAIL_BYTES_MIN { head } else { frame.len() };
        Self { frame, payload_at, key, cut, places, layout, signer }
    }

    /// Bytes of the part that is copied for each message.
    pub(crate) fn head_len(&self) -> usize {
        self.cut
    }

    /// What follows the copied part in every message.
    pub(crate) fn tail(&self) -> &[u8] {
        &self.frame[self.cut..]
    }

    /// Where a received message holds what.
    pub(crate) fn layout(&self) -> Layout {
        self.layout
    }

    /// Writes the copied part of a message behind `out`. `to` replaces the receiver.
    pub(crate) fn append(&mut self, out: &mut Vec<u8>, stamp: &Stamp, to: Option<&[u8]>, now_ms: u64) {
        let base = out.len();
        out.extend_from_slice(&self.frame[..self.cut]);
        let (key, payload_at, places) = (self.key, self.payload_at, self.places);
        let mut put = |at: usize, bytes: &[u8]| {
            let part = &mut out[base + at..base + at + bytes.len()];
            part.copy_from_slice(bytes);
            mask::apply_at(key, at - payload_at, part);
        };
        let stamped = stamp.write();
        put(places.stamp, &stamped);
        if let Some(to) = to {
            put(places.to, to);
        }
        let Some(envelope) = places.envelope else { return };
        let id = id_of(stamp, now_ms);
        put(envelope.id, &id);
        put(envelope.ts, &now_ms.to_be_bytes());
        if let Some(signer) = &mut self.signer {
            put(envelope.sig, &signer.sign(id, &stamped, to));
        }
    }
}

/// A message's id: its time, then what tells our messages apart and finds them again when an error names one.
fn id_of(stamp: &Stamp, now_ms: u64) -> [u8; 16] {
    let mut id = [0; 16];
    id[..8].copy_from_slice(&now_ms.to_be_bytes());
    id[8..12].copy_from_slice(&stamp.sender.to_be_bytes());
    id[12..].copy_from_slice(&(stamp.sequence as u32).to_be_bytes());
    id
}

/// Sender and the lower half of the sequence number of the message with this id.
pub(crate) fn read_id(id: &[u8]) -> Option<(u32, u32)> {
    let id: &[u8; 16] = id.try_into().ok()?;
    let four = |at: usize| u32::from_be_bytes([id[at], id[at + 1], id[at + 2], id[at + 3]]);
    Some((four(8), four(12)))
}

impl Signer {
    fn sign(&mut self, id: [u8; 16], stamp: &[u8], to: Option<&[u8]>) -> [u8; SIG_BYTES] {
        self.body[self.stamp_at..self.stamp_at + stamp.len()].copy_from_slice(stamp);
        let many: Vec<&str> = self.to.iter().map(String::as_str).collect();
        let to = match to.and_then(|did| str::from_utf8(did).ok()) {
            Some(did) => To::One(did),
            None if self.is_list => To::Many(&many),
            None => To::One(many.first().copied().unwrap_or_default()),
        };
        let header = Header { ttl: self.ttl, ..Header::new(Id(id), Type::MESSAGE, self.agent.did(), to) };
        sign(self.agent.key(), &header, &self.body, &mut self.input)
    }
}

#[cfg(test)]
mod tests {
    use amp_relay::wire::{
        amp::{Frame, parse, verify, verifying_key},
        ws::{Decoder, Limits, Message, Role, Step},
    };

    use super::*;

    const NOW: u64 = 1_790_000_000_000;

    fn make<'a>(from: &'a Agent, to: To<'a>, size: usize) -> Make<'a> {
        Make { from, to, size, ttl: 0, sign: true, key: [0x12, 0xF4, 0x07, 0xA9], now_ms: NOW }
    }

    fn one(template: &mut Template, stamp: &Stamp, to: Option<&[u8]>) -> Vec<u8> {
        let mut out = b"before".to_vec();
        template.append(&mut out, stamp, to, NOW + 5);
        out.extend_from_slice(template.tail());
        out.split_off(6)
    }

    #[test]
    fn a_message_is_what_an_envelope_of_the_same_fields_is() {
        let agents: Vec<_> = (0..3).map(|number| Agent::new(1, number)).collect();
        let stamp = Stamp { run: 1, sender: 0, slot: 3, receiver: 2, sequence: 0x1_0000_0007 };
        for size in [Stamp::BYTES, 128, 300, 5000, 70_000] {
            let mut template = make(&agents[0], To::One(agents[1].did()), size).amp().expect("an envelope");
            let mut frame = one(&mut template, &stamp, Some(agents[2].did().as_bytes()));
            let total = frame.len();
            let mut decoder = Decoder::new(Role::Server);
            let step = decoder.decode(&Limits::default(), &mut frame).expect("a frame");
            let Step::Message { consumed, message: Message::Binary(message) } = step else { panic!("{step:?}") };
            assert_eq!(consumed, total);
            let layout = template.layout();
            assert_eq!(layout.len, message.len());
            let stamped = message[layout.stamp_at..].first_chunk().expect("a stamp");
            assert_eq!(Stamp::read(stamped), stamp);
            let from_at = layout.from_at.expect("a sender");
            assert_eq!(&message[from_at..from_at + 56], agents[0].did().as_bytes());
            // The relay's own strict reader takes it, and its signature.
            let Ok(Frame::Envelope(view)) = parse(message) else { panic!("no envelope") };
            let key = verifying_key(agents[0].did()).expect("a did:key");
            assert_eq!(verify(&view, &key, &mut Vec::new()), Ok(()));
            // Nothing lies elsewhere than in an envelope that is written at once.
            let (id, to) = (id_of(&stamp, NOW + 5), To::One(agents[2].did()));
            let header = Header { ttl: 0, ..Header::new(Id(id), Type::MESSAGE, agents[0].did(), to) };
            let mut whole = Vec::new();
            let builder = Builder::new(header).body(view.body.expect("a body"));
            builder.write_signed(KeyEncoding::Text, agents[0].key(), &mut Vec::new(), &mut whole).expect("an envelope");
            assert_eq!(whole, message);
            assert_eq!(read_id(&id), Some((0, 7)));
        }
    }

    #[test]
    fn the_size_that_performance_is_compared_at() {
        let (from, to) = (Agent::new(1, 0), Agent::new(1, 1));
        let make = make(&from, To::One(to.did()), 128);
        assert_eq!(make.amp().expect("an envelope").layout().len, 375);
        assert_eq!(make.baseline(1).expect("a frame").layout().len, 375 + (8 + 4) / 2);
        let mut baseline = make.baseline(0).expect("a frame");
        let stamp = Stamp { run: 1, sender: 0, slot: 3, receiver: 9, sequence: 4 };
        let frame = one(&mut baseline, &stamp, Some(&9u32.to_le_bytes()));
        assert_eq!((frame.len(), &frame[..8]), (381, &[0x7D, 1, 0, 0, 9, 0, 0, 0][..]));
        assert_eq!(Stamp::read(frame[8..].first_chunk().expect("a stamp")), stamp);
    }
}
