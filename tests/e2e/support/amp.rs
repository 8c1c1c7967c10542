//! AMP messages, written and read from the protocol's description alone: a deterministic CBOR writer of its own, its own
//! signatures, and ciborium as the reader.

use std::{
    fmt,
    time::{SystemTime, UNIX_EPOCH},
};

use ciborium::Value as Cbor;
use ed25519_dalek::{Signature, Signer as _, SigningKey, VerifyingKey};
use serde_json::{Value, json};
use ssh_key::{PublicKey, public::Ed25519PublicKey};

use super::keys;

/// Message types, as RFC 001 numbers them.
pub mod typ {
    pub const PING: u64 = 0x01;
    pub const PONG: u64 = 0x02;
    pub const ACK: u64 = 0x03;
    pub const PROC_FAIL: u64 = 0x05;
    pub const PROCESSING: u64 = 0x09;
    pub const PROGRESS: u64 = 0x0a;
    pub const INPUT_REQUIRED: u64 = 0x0b;
    pub const ERROR: u64 = 0x0f;
    pub const MESSAGE: u64 = 0x10;
    pub const REQUEST: u64 = 0x11;
    pub const RESPONSE: u64 = 0x12;
    pub const HELLO: u64 = 0x70;
    pub const HELLO_ACK: u64 = 0x71;
    pub const HELLO_REJECT: u64 = 0x72;
}

/// How the keys of an envelope are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keys {
    Text,
    Int,
}

/// The fields of an envelope; the place is the integer key, less one. `enc` has none.
const FIELDS: [&str; 12] = ["v", "id", "typ", "ts", "ttl", "from", "to", "reply_to", "thread_id", "sig", "body", "ext"];

/// Unix milliseconds.
pub fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock after 1970");
    u64::try_from(since.as_millis()).expect("a time")
}

// --- CBOR ------------------------------------------------------------------------------------------------------------

/// The head of an item.
pub fn head(major: u8, value: u64) -> Vec<u8> {
    let bytes = value.to_be_bytes();
    let (info, from) = match value {
        0..24 => return vec![major << 5 | bytes[7]],
        24..0x100 => (24, 7),
        0x100..0x1_0000 => (25, 6),
        0x1_0000..0x1_0000_0000 => (26, 4),
        _ => (27, 0),
    };
    [&[major << 5 | info], &bytes[from..]].concat()
}

fn string(major: u8, bytes: &[u8]) -> Vec<u8> {
    let mut item = head(major, bytes.len() as u64);
    item.extend(bytes);
    item
}

/// An unsigned number.
pub fn uint(value: u64) -> Vec<u8> {
    head(0, value)
}

/// A byte string.
pub fn bytes(value: &[u8]) -> Vec<u8> {
    string(2, value)
}

/// A text.
pub fn text(value: &str) -> Vec<u8> {
    string(3, value.as_bytes())
}

/// An array of items.
pub fn array(items: &[Vec<u8>]) -> Vec<u8> {
    [head(4, items.len() as u64), items.concat()].concat()
}

/// A map, its pairs in the order given.
pub fn map_as_given(pairs: &[(Vec<u8>, Vec<u8>)]) -> Vec<u8> {
    let mut item = head(5, pairs.len() as u64);
    for (key, value) in pairs {
        item.extend(key);
        item.extend(value);
    }
    item
}

/// A map in deterministic order: by the encoded bytes of its keys.
pub fn map(mut pairs: Vec<(Vec<u8>, Vec<u8>)>) -> Vec<u8> {
    pairs.sort();
    map_as_given(&pairs)
}

/// A value in deterministic form. Fractions are not needed here.
pub fn cbor(value: &Cbor) -> Vec<u8> {
    match value {
        Cbor::Integer(number) => match i128::from(*number) {
            number @ 0.. => uint(u64::try_from(number).expect("64 bits")),
            number => head(1, u64::try_from(-1 - number).expect("64 bits")),
        },
        Cbor::Bytes(value) => bytes(value),
        Cbor::Text(value) => text(value),
        Cbor::Bool(value) => vec![0xf4 + u8::from(*value)],
        Cbor::Null => vec![0xf6],
        Cbor::Tag(tag, inner) => [head(6, *tag), cbor(inner)].concat(),
        Cbor::Array(items) => array(&items.iter().map(cbor).collect::<Vec<_>>()),
        Cbor::Map(pairs) => map(pairs.iter().map(|(key, value)| (cbor(key), cbor(value))).collect()),
        other => panic!("not written here: {other:?}"),
    }
}

/// A JSON value as deterministic CBOR.
pub fn body(value: &Value) -> Vec<u8> {
    match value {
        Value::Null => vec![0xf6],
        Value::Bool(value) => vec![0xf4 + u8::from(*value)],
        Value::Number(number) => match (number.as_u64(), number.as_i64()) {
            (Some(number), _) => uint(number),
            (None, Some(number)) => head(1, !number as u64),
            _ => panic!("fractions are not written here: {number}"),
        },
        Value::String(value) => text(value),
        Value::Array(items) => array(&items.iter().map(body).collect::<Vec<_>>()),
        Value::Object(pairs) => map(pairs.iter().map(|(key, value)| (text(key), body(value))).collect()),
    }
}

/// For looking at in a test: bytes as hexadecimal text.
fn to_json(value: &Cbor) -> Value {
    match value {
        Cbor::Integer(number) => {
            u64::try_from(*number).map_or_else(|_| json!(i128::from(*number) as i64), |n| json!(n))
        }
        Cbor::Bytes(bytes) => json!(hex(bytes)),
        Cbor::Float(number) => json!(number),
        Cbor::Text(text) => json!(text),
        Cbor::Bool(value) => json!(value),
        Cbor::Null => Value::Null,
        Cbor::Tag(_, inner) => to_json(inner),
        Cbor::Array(items) => items.iter().map(to_json).collect(),
        Cbor::Map(pairs) => Value::Object(pairs.iter().map(|(key, value)| (key_text(key), to_json(value))).collect()),
        other => json!(format!("{other:?}")),
    }
}

fn key_text(key: &Cbor) -> String {
    key.as_text().map_or_else(|| to_json(key).to_string(), str::to_owned)
}

/// Lower-case hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Bytes of hexadecimal text.
pub fn unhex(text: &str) -> Vec<u8> {
    let digits = text.as_bytes().chunks(2).map(|two| std::str::from_utf8(two).expect("ASCII"));
    digits.map(|two| u8::from_str_radix(two, 16).expect("hexadecimal digits")).collect()
}

// --- keys ------------------------------------------------------------------------------------------------------------

/// An Ed25519 key and the DID that it is.
#[derive(Clone)]
pub struct AgentKey {
    secret: SigningKey,
    pub did: String,
}

impl AgentKey {
    pub fn new() -> Self {
        Self::from_seed(keys::seed())
    }

    pub fn from_seed(seed: [u8; 32]) -> Self {
        let secret = SigningKey::from_bytes(&seed);
        let did = format!(
            "did:key:z{}",
            bs58::encode([&[0xed, 0x01], &secret.verifying_key().as_bytes()[..]].concat()).into_string()
        );
        Self { secret, did }
    }

    /// The line of a keys file that gives it this role.
    pub fn line(&self, role: &str) -> String {
        format!("amp-role=\"{role}\" {}\n", self.public())
    }

    /// `ssh-ed25519 AAAA...`.
    pub fn public(&self) -> String {
        let key = PublicKey::from(Ed25519PublicKey(self.secret.verifying_key().to_bytes()));
        key.to_openssh().expect("an OpenSSH line")
    }

    /// `SHA256:...`, under which the session protocol knows it.
    pub fn fingerprint(&self) -> String {
        let key = PublicKey::from(Ed25519PublicKey(self.secret.verifying_key().to_bytes()));
        key.fingerprint(ssh_key::HashAlg::Sha256).to_string()
    }

    pub fn sign(&self, input: &[u8]) -> Vec<u8> {
        self.secret.sign(input).to_bytes().to_vec()
    }
}

/// The key that a `did:key` is.
fn verifying_key(did: &str) -> Result<VerifyingKey, String> {
    let did = did.split(['#', '?', '/']).next().unwrap_or_default();
    let digits = did.strip_prefix("did:key:z").ok_or_else(|| format!("not a did:key: {did}"))?;
    let bytes = bs58::decode(digits).into_vec().map_err(|error| format!("{did}: {error}"))?;
    let key = bytes.strip_prefix(&[0xed, 0x01]).ok_or_else(|| format!("not an Ed25519 key: {did}"))?;
    VerifyingKey::try_from(key).map_err(|error| format!("{did}: {error}"))
}

// --- messages --------------------------------------------------------------------------------------------------------

/// Receivers, in the shape in which they are written and signed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum To {
    One(String),
    Many(Vec<String>),
}

impl To {
    pub fn many(keys: &[&AgentKey]) -> Self {
        Self::Many(keys.iter().map(|key| key.did.clone()).collect())
    }

    fn item(&self) -> Vec<u8> {
        match self {
            Self::One(did) => text(did),
            Self::Many(dids) => array(&dids.iter().map(|did| text(did)).collect::<Vec<_>>()),
        }
    }
}

impl From<&str> for To {
    fn from(did: &str) -> Self {
        Self::One(did.into())
    }
}

impl From<&AgentKey> for To {
    fn from(key: &AgentKey) -> Self {
        Self::One(key.did.clone())
    }
}

/// A message to be sent; every field may be a lie.
#[derive(Clone, Debug)]
pub struct Draft {
    pub v: u64,
    pub id: [u8; 16],
    pub typ: u64,
    pub ts: u64,
    pub ttl: u64,
    pub from: String,
    pub to: To,
    pub reply_to: Option<Vec<u8>>,
    pub thread_id: Option<Vec<u8>>,
    /// A CBOR item.
    pub body: Vec<u8>,
    /// A CBOR map.
    pub ext: Option<Vec<u8>>,
}

impl Draft {
    /// A message of now that lives for a day.
    pub fn new(typ: u64, from: &AgentKey, to: impl Into<To>, body: &Value) -> Self {
        let draft = Self {
            v: 1,
            id: [0; 16],
            typ,
            ts: 0,
            ttl: 86_400_000,
            from: from.did.clone(),
            to: to.into(),
            reply_to: None,
            thread_id: None,
            body: self::body(body),
            ext: None,
        };
        draft.at(now_ms())
    }

    /// The same at another time, with an id of that time.
    pub fn at(mut self, ts: u64) -> Self {
        self.ts = ts;
        self.id[..8].copy_from_slice(&ts.to_be_bytes());
        self.id[8..].copy_from_slice(&keys::seed()[..8]);
        self
    }

    pub fn ttl(mut self, ttl: u64) -> Self {
        self.ttl = ttl;
        self
    }

    pub fn thread(mut self, thread: &[u8]) -> Self {
        self.thread_id = Some(thread.to_vec());
        self
    }

    pub fn reply_to(mut self, id: &[u8]) -> Self {
        self.reply_to = Some(id.to_vec());
        self
    }

    /// What is signed (RFC 001, section 8.1).
    pub fn sig_input(&self) -> Vec<u8> {
        let mut headers = vec![
            (text("id"), bytes(&self.id)),
            (text("to"), self.to.item()),
            (text("ts"), uint(self.ts)),
            (text("ttl"), uint(self.ttl)),
            (text("typ"), uint(self.typ)),
            (text("from"), text(&self.from)),
        ];
        headers.extend(self.reply_to.as_ref().map(|id| (text("reply_to"), bytes(id))));
        headers.extend(self.thread_id.as_ref().map(|id| (text("thread_id"), bytes(id))));
        array(&[text("AMP-v1"), bytes(b""), map(headers), bytes(&self.body)])
    }

    /// Every field with its item, in the order of the integer keys.
    pub fn fields(&self, signature: &[u8]) -> Vec<(&'static str, Vec<u8>)> {
        let mut fields = vec![
            ("v", uint(self.v)),
            ("id", bytes(&self.id)),
            ("typ", uint(self.typ)),
            ("ts", uint(self.ts)),
            ("ttl", uint(self.ttl)),
            ("from", text(&self.from)),
            ("to", self.to.item()),
        ];
        fields.extend(self.reply_to.as_ref().map(|id| ("reply_to", bytes(id))));
        fields.extend(self.thread_id.as_ref().map(|id| ("thread_id", bytes(id))));
        fields.push(("sig", bytes(signature)));
        fields.push(("body", self.body.clone()));
        fields.extend(self.ext.as_ref().map(|ext| ("ext", ext.clone())));
        fields
    }

    /// The fields, signed.
    pub fn signed_fields(&self, key: &AgentKey) -> Vec<(&'static str, Vec<u8>)> {
        self.fields(&key.sign(&self.sig_input()))
    }

    /// The message, signed.
    pub fn signed(&self, key: &AgentKey, keys: Keys) -> Vec<u8> {
        map(keyed(self.signed_fields(key), keys))
    }
}

/// Fields with their names as keys of either kind.
pub fn keyed(fields: Vec<(&'static str, Vec<u8>)>, keys: Keys) -> Vec<(Vec<u8>, Vec<u8>)> {
    let key = |name: &str| match keys {
        Keys::Text => text(name),
        Keys::Int => {
            let place = FIELDS.iter().position(|field| *field == name);
            uint(1 + place.unwrap_or_else(|| panic!("{name} has no integer key")) as u64)
        }
    };
    fields.into_iter().map(|(name, value)| (key(name), value)).collect()
}

/// A message from the relay.
#[derive(Clone)]
pub struct Message {
    /// As it came.
    pub bytes: Vec<u8>,
    pub keys: Keys,
    pub id: Vec<u8>,
    pub typ: u64,
    pub ts: u64,
    pub from: String,
    pub to: To,
    pub reply_to: Option<Vec<u8>>,
    pub thread_id: Option<Vec<u8>>,
    /// For looking at: byte strings are hexadecimal text.
    pub body: Value,
    sig: Option<Vec<u8>>,
    draft: Draft,
}

impl fmt::Debug for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let reply_to = self.reply_to.as_deref().map(hex);
        write!(f, "0x{:02x} {} from {} to {:?}", self.typ, hex(&self.id), self.from, self.to)?;
        write!(f, " reply_to {reply_to:?}: {:.200}", self.body.to_string())
    }
}

impl Message {
    /// Reads a message.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn read(frame: &[u8]) -> Result<Self, String> {
        let mut rest = frame;
        let value: Cbor = ciborium::from_reader(&mut rest).map_err(|error| format!("not CBOR: {error}"))?;
        if !rest.is_empty() {
            return Err(format!("{} bytes behind the message", rest.len()));
        }
        let pairs = value.as_map().ok_or("not a map")?;
        let keys = match pairs.first() {
            Some((Cbor::Text(_), _)) => Keys::Text,
            _ => Keys::Int,
        };
        let get = |name: &str| {
            let place = FIELDS.iter().position(|field| *field == name).expect("a field") + 1;
            let is = |key: &Cbor| match keys {
                Keys::Text => key.as_text() == Some(name),
                Keys::Int => key.as_integer().and_then(|key| usize::try_from(key).ok()) == Some(place),
            };
            pairs.iter().find(|(key, _)| is(key)).map(|(_, value)| value)
        };
        let number = |name: &str| {
            let value = get(name).and_then(Cbor::as_integer).and_then(|number| u64::try_from(number).ok());
            value.ok_or_else(|| format!("no number {name} in {}", to_json(&value_of(pairs))))
        };
        let blob = |name: &str| get(name).and_then(Cbor::as_bytes).cloned();
        let id = blob("id").ok_or("no id")?;
        let from = get("from").and_then(Cbor::as_text).ok_or("no from")?.to_owned();
        let to = to(get("to").ok_or("no to")?).ok_or("`to` is of another type")?;
        let body = get("body").unwrap_or(&Cbor::Null);
        let draft = Draft {
            v: number("v")?,
            id: id.as_slice().try_into().map_err(|_| "an id has 16 bytes")?,
            typ: number("typ")?,
            ts: number("ts")?,
            ttl: number("ttl")?,
            from: from.clone(),
            to: to.clone(),
            reply_to: blob("reply_to"),
            thread_id: blob("thread_id"),
            body: cbor(body),
            ext: get("ext").map(cbor),
        };
        Ok(Self {
            bytes: frame.to_vec(),
            keys,
            id,
            typ: draft.typ,
            ts: draft.ts,
            from,
            to,
            reply_to: draft.reply_to.clone(),
            thread_id: draft.thread_id.clone(),
            body: to_json(body),
            sig: blob("sig"),
            draft,
        })
    }

    /// Whether the signature is that of the DID it is from.
    pub fn verify(&self) -> Result<(), String> {
        self.verify_with(&verifying_key(&self.from)?)
    }

    pub fn verify_with(&self, key: &VerifyingKey) -> Result<(), String> {
        let signature = self.sig.as_deref().ok_or("no signature")?;
        let signature = Signature::from_slice(signature).map_err(|error| error.to_string())?;
        key.verify_strict(&self.draft.sig_input(), &signature).map_err(|error| format!("{self:?}: {error}"))
    }

    /// The message as this side would write it.
    pub fn draft(&self) -> &Draft {
        &self.draft
    }

    /// What a message made by the relay has to be: signed, of this version, deterministic, with an id of its time.
    #[track_caller]
    pub fn assert_well_made(&self) {
        assert_eq!(self.verify(), Ok(()), "{self:?}");
        assert_eq!(self.draft.v, 1, "{self:?}");
        let value: Cbor = ciborium::from_reader(&self.bytes[..]).expect("read before");
        assert_eq!(hex(&cbor(&value)), hex(&self.bytes), "deterministic: {self:?}");
        assert!(
            u64::from_be_bytes(self.id[..8].try_into().expect("8 bytes")).abs_diff(self.ts) <= 1000,
            "the id is of its time: {self:?}"
        );
    }

    pub fn is_error(&self, code: u64) -> bool {
        self.typ == typ::ERROR && self.body["code"] == code
    }

    pub fn answers(&self, id: &[u8]) -> bool {
        self.reply_to.as_deref() == Some(id)
    }
}

fn value_of(pairs: &[(Cbor, Cbor)]) -> Cbor {
    Cbor::Map(pairs.to_vec())
}

fn to(value: &Cbor) -> Option<To> {
    match value {
        Cbor::Text(did) => Some(To::One(did.clone())),
        Cbor::Array(items) => {
            let dids = items.iter().map(|item| item.as_text().map(str::to_owned));
            dids.collect::<Option<Vec<_>>>().map(To::Many)
        }
        _ => None,
    }
}
