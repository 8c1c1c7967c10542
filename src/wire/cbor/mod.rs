//! CBOR (RFC 8949) over borrowed bytes: a strict reader that allocates nothing, a writer into a caller's vector, and
//! the deterministic form (section 4.2.1) checked and made. Knows no AMP; refuses indefinite lengths everywhere.

mod canonical;
mod write;

pub use canonical::{UNSORTED_KEYS_MAX, check_deterministic, check_keys, deterministic, from_value, reencode};
pub use write::{array, boolean, bytes, head, map, null, text, uint};

/// Containers (arrays, maps, tags) that may stand in one another in an item. With the envelope's own map around it that
/// makes the 32 of an AMP message.
pub const DEPTH_MAX: u32 = 31;

/// Major type of unsigned integers.
pub const UINT: u8 = 0;
/// Major type of negative integers.
pub const NEGATIVE: u8 = 1;
/// Major type of byte strings.
pub const BYTES: u8 = 2;
/// Major type of text strings.
pub const TEXT: u8 = 3;
/// Major type of arrays.
pub const ARRAY: u8 = 4;
/// Major type of maps.
pub const MAP: u8 = 5;
/// Major type of tags.
pub const TAG: u8 = 6;
/// Major type of simple values and floating-point numbers.
pub const SIMPLE: u8 = 7;

/// The null item.
pub const NULL: &[u8] = &[0xf6];

const FALSE: u8 = 0xf4;
const TRUE: u8 = 0xf5;

/// Why bytes are refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Error {
    /// The bytes end inside an item, or a count is larger than the bytes can hold.
    #[error("the CBOR ends inside an item")]
    Truncated,
    /// Bytes behind the one item.
    #[error("bytes behind the CBOR item")]
    Trailing,
    /// An indefinite length, or the break that ends one.
    #[error("indefinite length")]
    Indefinite,
    /// A reserved head, or a simple value in the long form that belongs to the short one.
    #[error("reserved CBOR head")]
    Reserved,
    /// A head that is longer than its value needs.
    #[error("CBOR head is not the shortest one")]
    NotShortest,
    /// More containers in one another than are allowed.
    #[error("CBOR is nested too deep")]
    TooDeep,
    /// Text that is not UTF-8.
    #[error("CBOR text is not UTF-8")]
    NotUtf8,
    /// An item of a type that does not belong here.
    #[error("CBOR item of another type")]
    WrongType,
    /// A map with a key twice.
    #[error("CBOR map has a key twice")]
    DuplicateKey,
    /// Map keys that are not sorted by their bytes.
    #[error("CBOR map keys are not sorted")]
    KeyOrder,
    /// A floating-point number that a shorter form can hold, or a NaN other than the one.
    #[error("CBOR float is not the shortest one")]
    FloatForm,
}

/// The head of an item: its major type and its argument.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// The first byte, and [`Self::SHORTEST`]. One wide field: with bytes and flags of their own the compiler moves heads
    /// through memory in pieces that do not match, which doubles the time of reading an envelope.
    form: u32,
    /// Value, length, count, tag or bits of the number, as the major type has it.
    pub argument: u64,
}

impl Head {
    const SHORTEST: u32 = 1 << 8;

    #[inline]
    fn new(initial: u8, shortest: bool, argument: u64) -> Self {
        Self { form: u32::from(initial) | if shortest { Self::SHORTEST } else { 0 }, argument }
    }

    #[inline]
    fn is_shortest(self) -> bool {
        self.form & Self::SHORTEST != 0
    }

    /// The major type, [`UINT`] to [`SIMPLE`].
    #[inline]
    pub fn major(self) -> u8 {
        self.form as u8 >> 5
    }

    /// The low five bits of the first byte.
    #[inline]
    fn info(self) -> u8 {
        self.form as u8 & 0x1f
    }
}

/// A place in borrowed bytes.
#[derive(Clone, Copy, Debug)]
pub struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    /// Starts at the first byte.
    #[inline]
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    /// Offset of the next byte.
    #[inline]
    pub fn offset(&self) -> usize {
        self.at
    }

    /// Bytes that are left.
    #[inline]
    pub fn remaining(&self) -> usize {
        self.bytes.len() - self.at
    }

    /// The major type of the next item.
    ///
    /// # Errors
    /// No byte is left.
    #[inline]
    pub fn peek(&self) -> Result<u8, Error> {
        self.bytes.get(self.at).map(|initial| initial >> 5).ok_or(Error::Truncated)
    }

    /// Reads a head of any well-formed length.
    ///
    /// # Errors
    /// It is cut off, reserved or indefinite.
    #[inline(always)]
    pub fn head(&mut self) -> Result<Head, Error> {
        let initial = *self.bytes.get(self.at).ok_or(Error::Truncated)?;
        let info = initial & 0x1f;
        if info < 24 {
            self.at += 1;
            return Ok(Head::new(initial, true, info.into()));
        }
        // By value: a place that others point to would live in memory and not in registers, and a message has some 30
        // heads.
        let (head, length) = long_head(initial, &self.bytes[self.at + 1..])?;
        self.at += 1 + length;
        Ok(head)
    }

    /// Reads a head that must be the shortest for its argument.
    ///
    /// # Errors
    /// As [`Self::head`], or it is longer than needed.
    #[inline]
    pub fn shortest(&mut self) -> Result<Head, Error> {
        let head = self.head()?;
        if head.is_shortest() { Ok(head) } else { Err(Error::NotShortest) }
    }

    /// Reads a shortest head of this major type and gives its argument.
    ///
    /// # Errors
    /// It is malformed, not shortest, or of another type.
    #[inline]
    pub fn expect(&mut self, major: u8) -> Result<u64, Error> {
        let head = self.shortest()?;
        if head.major() == major { Ok(head.argument) } else { Err(Error::WrongType) }
    }

    /// An unsigned integer in its shortest form.
    ///
    /// # Errors
    /// As [`Self::expect`].
    #[inline]
    pub fn uint(&mut self) -> Result<u64, Error> {
        self.expect(UINT)
    }

    /// A byte string with a shortest head.
    ///
    /// # Errors
    /// As [`Self::expect`], or it is cut off.
    #[inline]
    pub fn bytes(&mut self) -> Result<&'a [u8], Error> {
        let length = self.expect(BYTES)?;
        self.take(length)
    }

    /// A text string with a shortest head.
    ///
    /// # Errors
    /// As [`Self::expect`], or it is cut off or not UTF-8.
    #[inline]
    pub fn text(&mut self) -> Result<&'a str, Error> {
        let length = self.expect(TEXT)?;
        self.take_text(length)
    }

    /// The next `length` bytes.
    ///
    /// # Errors
    /// There are not so many.
    #[inline]
    pub fn take(&mut self, length: u64) -> Result<&'a [u8], Error> {
        if length > self.remaining() as u64 {
            return Err(Error::Truncated);
        }
        let start = self.at;
        self.at += length as usize;
        Ok(&self.bytes[start..self.at])
    }

    #[inline]
    fn take_text(&mut self, length: u64) -> Result<&'a str, Error> {
        str::from_utf8(self.take(length)?).map_err(|_| Error::NotUtf8)
    }

    /// Reads one item of any type and gives its bytes, head included. Checks that it is well-formed, definite, UTF-8
    /// where it is text, and has at most `depth` containers in one another.
    ///
    /// # Errors
    /// It is not.
    #[inline]
    pub fn item(&mut self, depth: u32) -> Result<&'a [u8], Error> {
        let start = self.at;
        self.at = skip(*self, depth)?;
        Ok(&self.bytes[start..self.at])
    }

    /// Nothing may be left.
    ///
    /// # Errors
    /// Something is.
    #[inline]
    pub fn end(&self) -> Result<(), Error> {
        if self.remaining() == 0 { Ok(()) } else { Err(Error::Trailing) }
    }
}

/// Reads what follows a first byte that does not hold the argument itself: the head, and how many bytes that were.
#[inline]
fn long_head(initial: u8, rest: &[u8]) -> Result<(Head, usize), Error> {
    let (argument, length, least) = match initial & 0x1f {
        24 => (u64::from(*rest.first().ok_or(Error::Truncated)?), 1, 24),
        25 => (u64::from(u16::from_be_bytes(*chunk(rest)?)), 2, 1 << 8),
        26 => (u64::from(u32::from_be_bytes(*chunk(rest)?)), 4, 1 << 16),
        27 => (u64::from_be_bytes(*chunk(rest)?), 8, 1 << 32),
        31 => return Err(Error::Indefinite),
        _ => return Err(Error::Reserved),
    };
    let simple = initial >> 5 == SIMPLE;
    if simple && length == 1 && argument < 32 {
        return Err(Error::Reserved);
    }
    Ok((Head::new(initial, simple || argument >= least, argument), length))
}

/// Where the item ends that begins at this place. Recursion is bounded by `depth`.
fn skip(mut reader: Reader<'_>, depth: u32) -> Result<usize, Error> {
    let head = reader.head()?;
    let items = match head.major() {
        BYTES => return reader.take(head.argument).map(|_| reader.at),
        TEXT => return reader.take_text(head.argument).map(|_| reader.at),
        ARRAY => head.argument,
        MAP => head.argument.checked_mul(2).ok_or(Error::Truncated)?,
        TAG => 1,
        _ => return Ok(reader.at),
    };
    let depth = depth.checked_sub(1).ok_or(Error::TooDeep)?;
    // An item takes a byte at least: a count that cannot be true ends here and not at the end of the bytes.
    if items > reader.remaining() as u64 {
        return Err(Error::Truncated);
    }
    for _ in 0..items {
        reader.at = skip(reader, depth)?;
    }
    Ok(reader.at)
}

#[inline]
fn chunk<const N: usize>(rest: &[u8]) -> Result<&[u8; N], Error> {
    rest.first_chunk().ok_or(Error::Truncated)
}

/// Whether these bytes are one well-formed item and nothing else, as [`Reader::item`] means it.
///
/// # Errors
/// Why not.
pub fn check(item: &[u8]) -> Result<(), Error> {
    let mut reader = Reader::new(item);
    reader.item(DEPTH_MAX)?;
    reader.end()
}

/// The value of a text key in an item that is a map; the first one if a key stands there twice, which [`check_keys`]
/// tells.
pub fn get<'a>(map: &'a [u8], key: &str) -> Option<&'a [u8]> {
    let mut reader = Reader::new(map);
    let head = reader.head().ok().filter(|head| head.major() == MAP)?;
    for _ in 0..head.argument {
        let at = reader.item(DEPTH_MAX).ok()?;
        let value = reader.item(DEPTH_MAX).ok()?;
        if as_text(at) == Some(key) {
            return Some(value);
        }
    }
    None
}

/// The text that an item is, whatever the length of its head.
pub fn as_text(item: &[u8]) -> Option<&str> {
    let mut reader = Reader::new(item);
    let head = reader.head().ok().filter(|head| head.major() == TEXT)?;
    reader.take_text(head.argument).ok()
}

/// The text of a map's member, found where it lies: no tree is made. `None`: this is no map, or that member is no text.
pub fn text_of<'a>(map: &'a [u8], key: &str) -> Option<&'a str> {
    get(map, key).and_then(as_text)
}

/// The bytes that an item is.
pub fn as_bytes(item: &[u8]) -> Option<&[u8]> {
    let mut reader = Reader::new(item);
    let head = reader.head().ok().filter(|head| head.major() == BYTES)?;
    reader.take(head.argument).ok()
}

/// The unsigned integer that an item is.
pub fn as_uint(item: &[u8]) -> Option<u64> {
    Reader::new(item).head().ok().filter(|head| head.major() == UINT).map(|head| head.argument)
}

/// The boolean that an item is.
pub fn as_bool(item: &[u8]) -> Option<bool> {
    match item {
        [FALSE] => Some(false),
        [TRUE] => Some(true),
        _ => None,
    }
}

/// Text strings that stand one behind the other: the elements of an array.
#[derive(Clone, Copy, Debug)]
pub struct Texts<'a> {
    reader: Reader<'a>,
    left: u64,
}

impl<'a> Texts<'a> {
    /// The next `count` items of a reader. It ends early at an item that is no text.
    #[inline]
    pub fn following(reader: Reader<'a>, count: u64) -> Self {
        Self { reader, left: count }
    }

    /// The elements of an item that is an array of text strings only.
    pub fn of(array: &'a [u8]) -> Option<Self> {
        let mut reader = Reader::new(array);
        let head = reader.head().ok().filter(|head| head.major() == ARRAY)?;
        let all = Self::following(reader, head.argument);
        (all.count() as u64 == head.argument).then_some(all)
    }
}

impl Texts<'_> {
    /// How many are left, as the array's head says.
    pub fn remaining(&self) -> usize {
        usize::try_from(self.left).unwrap_or(usize::MAX)
    }
}

impl<'a> Iterator for Texts<'a> {
    type Item = &'a str;

    #[inline]
    fn next(&mut self) -> Option<&'a str> {
        self.left = self.left.checked_sub(1)?;
        let head = self.reader.head().ok().filter(|head| head.major() == TEXT)?;
        self.reader.take_text(head.argument).ok()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn each_fault_has_its_name() {
        let cases: &[(&[u8], Error)] = &[
            (b"", Error::Truncated),
            (b"\x18", Error::Truncated),
            (b"\x1b\0\0\0\0\0\0\0", Error::Truncated),
            (b"\x42a", Error::Truncated),
            (b"\x9b\xff\xff\xff\xff\xff\xff\xff\xff", Error::Truncated),
            (b"\xbb\xff\xff\xff\xff\xff\xff\xff\xff", Error::Truncated),
            (b"\x5b\xff\xff\xff\xff\xff\xff\xff\xff", Error::Truncated),
            (b"\x9f\xff", Error::Indefinite),
            (b"\x5f\xff", Error::Indefinite),
            (b"\xff", Error::Indefinite),
            (b"\x1c", Error::Reserved),
            (b"\xf8\x1f", Error::Reserved),
            (b"\x61\xff", Error::NotUtf8),
            (b"\x81\x61\xff", Error::NotUtf8),
            (b"\x00\x00", Error::Trailing),
            (b"\xc1", Error::Truncated),
        ];
        for (bytes, error) in cases {
            assert_eq!(check(bytes), Err(*error), "{bytes:02x?}");
        }
        for bytes in [&b"\x00"[..], b"\x18\x05", b"\xf8\x20", b"\xe0", b"\xa1\x80\xf7", b"\xc1\x00", b"\xf9\x7e\x01"] {
            assert_eq!(check(bytes), Ok(()), "{bytes:02x?}");
        }
    }

    #[test]
    fn depth_ends_at_the_limit() {
        let nested = |levels: usize| [vec![0x81; levels], vec![0]].concat();
        assert_eq!(check(&nested(DEPTH_MAX as usize)), Ok(()));
        assert_eq!(check(&nested(DEPTH_MAX as usize + 1)), Err(Error::TooDeep));
        assert_eq!(check(&nested(100_000)), Err(Error::TooDeep));
        assert_eq!(check(&[0xc1; 100]), Err(Error::TooDeep));
    }

    #[test]
    fn longer_heads_than_needed_are_told_apart() {
        for bytes in [&b"\x18\x17"[..], b"\x19\x00\xff", b"\x1a\x00\x00\xff\xff", b"\x1b\0\0\0\0\xff\xff\xff\xff"] {
            assert_eq!(Reader::new(bytes).uint(), Err(Error::NotShortest));
            assert!(as_uint(bytes).is_some());
        }
        assert_eq!(Reader::new(b"\x18\x18").uint(), Ok(24));
        assert_eq!(Reader::new(b"\x20").uint(), Err(Error::WrongType));
    }

    #[test]
    fn a_map_is_asked_for_a_key() {
        let map = b"\xa3\x01\x02\x61a\x82\x61x\x61y\x62bb\xf5";
        assert_eq!(get(map, "bb").and_then(as_bool), Some(true));
        let texts = Texts::of(get(map, "a").unwrap()).unwrap();
        assert_eq!(texts.collect::<Vec<_>>(), ["x", "y"]);
        assert_eq!(get(map, "c"), None);
        assert_eq!(get(b"\x81\x00", "c"), None);
        assert!(Texts::of(b"\x82\x61x\x00").is_none());
        assert!(Texts::of(b"\x80").unwrap().next().is_none());
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = (check(&bytes), get(&bytes, "a"), as_text(&bytes), as_bytes(&bytes), as_uint(&bytes));
            let _ = Texts::of(&bytes).map(Iterator::count);
        }
    }
}
