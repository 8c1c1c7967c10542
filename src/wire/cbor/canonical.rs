//! The deterministic form of RFC 8949 section 4.2.1: shortest heads, definite lengths, map keys sorted by their encoded
//! bytes and none twice, the shortest float that keeps the value, one NaN (`f97e00`). Tagged numbers stay as they are.

use std::borrow::Cow;

use ciborium::Value;

use super::{ARRAY, BYTES, DEPTH_MAX, Error, Head, MAP, Reader, SIMPLE, TAG, TEXT, head};

const HALF: u8 = 25;
const SINGLE: u8 = 26;
const DOUBLE: u8 = 27;
const HALF_NAN: u16 = 0x7e00;

/// Whether these bytes are one item in deterministic form. Allocates nothing.
///
/// # Errors
/// The first thing that is not.
pub fn check_deterministic(item: &[u8]) -> Result<(), Error> {
    let mut reader = Reader::new(item);
    check_item(&mut reader, DEPTH_MAX)?;
    reader.end()
}

/// Recursion is bounded by `depth`.
fn check_item(reader: &mut Reader<'_>, depth: u32) -> Result<(), Error> {
    let head = reader.shortest()?;
    let within = || depth.checked_sub(1).ok_or(Error::TooDeep);
    match head.major() {
        BYTES => reader.take(head.argument).map(drop),
        TEXT => reader.take_text(head.argument).map(drop),
        ARRAY => {
            let depth = within()?;
            (0..head.argument).try_for_each(|_| check_item(reader, depth))
        }
        MAP => check_map(reader, head.argument, within()?),
        TAG => check_item(reader, within()?),
        SIMPLE if shortest_float(head) != (head.info(), head.argument) => Err(Error::FloatForm),
        _ => Ok(()),
    }
}

fn check_map(reader: &mut Reader<'_>, pairs: u64, depth: u32) -> Result<(), Error> {
    let mut before: &[u8] = &[];
    for _ in 0..pairs {
        let start = reader.offset();
        check_item(reader, depth)?;
        let key = &reader.bytes[start..reader.offset()];
        match key.cmp(before) {
            std::cmp::Ordering::Greater => before = key,
            std::cmp::Ordering::Equal => return Err(Error::DuplicateKey),
            std::cmp::Ordering::Less => return Err(Error::KeyOrder),
        }
        check_item(reader, depth)?;
    }
    Ok(())
}

/// Keys that a map may have in another order than that of their bytes: they are kept to be compared.
pub const UNSORTED_KEYS_MAX: usize = 256;

/// Whether each map of this item, whatever it stands in, has each of its keys once: then all readers find the same under
/// a name. Keys have to be in deterministic form, or one of them could be spelled in two ways.
///
/// # Errors
/// A key stands twice in a map or is not in deterministic form; a map of more than [`UNSORTED_KEYS_MAX`] keys is not
/// sorted; the item is malformed.
pub fn check_keys(item: &[u8]) -> Result<(), Error> {
    let mut reader = Reader::new(item);
    check_keys_of(&mut reader, DEPTH_MAX, &mut Vec::new())?;
    reader.end()
}

/// Recursion is bounded by `depth`. `keys` are those of the maps around this item, and are as they were afterwards.
fn check_keys_of<'a>(reader: &mut Reader<'a>, depth: u32, keys: &mut Vec<&'a [u8]>) -> Result<(), Error> {
    let head = reader.head()?;
    let within = || depth.checked_sub(1).ok_or(Error::TooDeep);
    match head.major() {
        BYTES => reader.take(head.argument).map(drop),
        TEXT => reader.take_text(head.argument).map(drop),
        ARRAY => {
            let depth = within()?;
            (0..head.argument).try_for_each(|_| check_keys_of(reader, depth, keys))
        }
        MAP => check_keys_of_map(reader, head.argument, within()?, keys),
        TAG => check_keys_of(reader, within()?, keys),
        _ => Ok(()),
    }
}

fn check_keys_of_map<'a>(
    reader: &mut Reader<'a>,
    pairs: u64,
    depth: u32,
    keys: &mut Vec<&'a [u8]>,
) -> Result<(), Error> {
    let first = keys.len();
    let mut before: &[u8] = &[];
    let mut sorted = true;
    for _ in 0..pairs {
        let start = reader.offset();
        check_item(reader, depth)?;
        let key = &reader.bytes[start..reader.offset()];
        match key.cmp(before) {
            std::cmp::Ordering::Greater => {}
            std::cmp::Ordering::Equal => return Err(Error::DuplicateKey),
            std::cmp::Ordering::Less => sorted = false,
        }
        before = key;
        // Sorted keys need not be kept, and others are not without end.
        if keys.len() - first < UNSORTED_KEYS_MAX {
            keys.push(key);
        } else if !sorted {
            return Err(Error::KeyOrder);
        }
        check_keys_of(reader, depth, keys)?;
    }
    if !sorted {
        keys[first..].sort_unstable();
        if keys[first..].windows(2).any(|two| two[0] == two[1]) {
            return Err(Error::DuplicateKey);
        }
    }
    keys.truncate(first);
    Ok(())
}

/// The item in deterministic form: itself where it is that already.
///
/// # Errors
/// It is malformed, indefinite, too deep, or a map in it has a key twice.
pub fn deterministic(item: &[u8]) -> Result<Cow<'_, [u8]>, Error> {
    if check_deterministic(item).is_ok() {
        return Ok(Cow::Borrowed(item));
    }
    let mut out = Vec::with_capacity(item.len());
    reencode(item, &mut out)?;
    Ok(Cow::Owned(out))
}

/// Appends the deterministic form of an item.
///
/// # Errors
/// As [`deterministic`]; `out` then holds a part of it.
pub fn reencode(item: &[u8], out: &mut Vec<u8>) -> Result<(), Error> {
    let mut reader = Reader::new(item);
    reencode_item(&mut reader, DEPTH_MAX, out)?;
    reader.end()
}

/// Recursion is bounded by `depth`.
fn reencode_item(reader: &mut Reader<'_>, depth: u32, out: &mut Vec<u8>) -> Result<(), Error> {
    let found = reader.head()?;
    if found.major() == SIMPLE {
        write_simple(found, out);
        return Ok(());
    }
    head(out, found.major(), found.argument);
    let within = || depth.checked_sub(1).ok_or(Error::TooDeep);
    match found.major() {
        BYTES => out.extend_from_slice(reader.take(found.argument)?),
        TEXT => out.extend_from_slice(reader.take_text(found.argument)?.as_bytes()),
        ARRAY => {
            let depth = within()?;
            for _ in 0..found.argument {
                reencode_item(reader, depth, out)?;
            }
        }
        MAP => reencode_map(reader, found.argument, within()?, out)?,
        TAG => reencode_item(reader, within()?, out)?,
        _ => {}
    }
    Ok(())
}

/// Writes the pairs as they come and then puts them into order.
fn reencode_map(reader: &mut Reader<'_>, pairs: u64, depth: u32, out: &mut Vec<u8>) -> Result<(), Error> {
    let start = out.len();
    // (key, value, end), as offsets from `start`.
    let mut entries: Vec<(usize, usize, usize)> = Vec::new();
    for _ in 0..pairs {
        let key = out.len() - start;
        reencode_item(reader, depth, out)?;
        let value = out.len() - start;
        reencode_item(reader, depth, out)?;
        entries.push((key, value, out.len() - start));
    }
    let written = &out[start..];
    let key = |entry: &(usize, usize, usize)| &written[entry.0..entry.1];
    if entries.windows(2).all(|two| key(&two[0]) < key(&two[1])) {
        return Ok(());
    }
    entries.sort_unstable_by(|one, other| key(one).cmp(key(other)));
    if entries.windows(2).any(|two| key(&two[0]) == key(&two[1])) {
        return Err(Error::DuplicateKey);
    }
    let mut sorted = Vec::with_capacity(written.len());
    for (key, _, end) in entries {
        sorted.extend_from_slice(&written[key..end]);
    }
    out.truncate(start);
    out.extend_from_slice(&sorted);
    Ok(())
}

/// Appends a value in deterministic form.
///
/// # Errors
/// It is too deep, or a map in it has a key twice.
pub fn from_value(value: &Value, out: &mut Vec<u8>) -> Result<(), Error> {
    let mut plain = Vec::new();
    // Writing to a vector does not fail, and a `Value` refuses no form; an error would leave a cut item, which is seen.
    if ciborium::into_writer(value, &mut plain).is_err() {
        return Err(Error::Truncated);
    }
    reencode(&plain, out)
}

fn write_simple(found: Head, out: &mut Vec<u8>) {
    let (info, bits) = shortest_float(found);
    out.push(SIMPLE << 5 | info);
    let bytes = bits.to_be_bytes();
    match info {
        24 => out.push(bytes[7]),
        HALF => out.extend_from_slice(&bytes[6..]),
        SINGLE => out.extend_from_slice(&bytes[4..]),
        DOUBLE => out.extend_from_slice(&bytes),
        _ => {}
    }
}

/// The shortest form of a number (low bits of its first byte, bits of its value); other simple values as they are.
fn shortest_float(head: Head) -> (u8, u64) {
    let as_it_is = (head.info(), head.argument);
    match head.info() {
        HALF if is_half_nan(head.argument as u16) => (HALF, HALF_NAN.into()),
        SINGLE => shorten_single(head.argument as u32),
        DOUBLE => {
            let double = f64::from_bits(head.argument);
            let single = double as f32;
            let keeps = f64::from(single).to_bits() == head.argument;
            if double.is_nan() || keeps { shorten_single(single.to_bits()) } else { as_it_is }
        }
        _ => as_it_is,
    }
}

fn is_half_nan(bits: u16) -> bool {
    bits & 0x7c00 == 0x7c00 && bits & 0x03ff != 0
}

fn shorten_single(bits: u32) -> (u8, u64) {
    if f32::from_bits(bits).is_nan() {
        return (HALF, HALF_NAN.into());
    }
    match half_of(bits) {
        Some(half) => (HALF, half.into()),
        None => (SINGLE, bits.into()),
    }
}

/// The half-precision bits of a single-precision number that is not NaN, if they hold the same value.
fn half_of(bits: u32) -> Option<u16> {
    let sign = (bits >> 16) as u16 & 0x8000;
    let exponent = (bits >> 23 & 0xff) as i32 - 127;
    let fraction = bits & 0x007f_ffff;
    let magnitude = match exponent {
        -127 if fraction == 0 => 0,
        128 => 0x7c00,
        -14..=15 if fraction & 0x1fff == 0 => ((exponent + 15) as u16) << 10 | (fraction >> 13) as u16,
        // A subnormal half: the leading one joins the fraction, and what is shifted out must be zero.
        -24..=-15 => {
            let (whole, shift) = (fraction | 0x0080_0000, (-1 - exponent) as u32);
            (whole.trailing_zeros() >= shift).then_some((whole >> shift) as u16)?
        }
        _ => return None,
    };
    Some(sign | magnitude)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn hex(text: &str) -> Vec<u8> {
        (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
    }

    /// RFC 8949 appendix A gives the shortest forms; the longer ones are ours.
    #[test]
    fn floats_take_their_shortest_form() {
        let cases = [
            ("fb3ff0000000000000", "f93c00"),
            ("fa3f800000", "f93c00"),
            ("fb0000000000000000", "f90000"),
            ("fb8000000000000000", "f98000"),
            ("fa477fe000", "f97bff"),
            ("fb40effc0000000000", "f97bff"),
            ("fb40f86a0000000000", "fa47c35000"),
            ("fb3e70000000000000", "f90001"),
            ("fb3f10000000000000", "f90400"),
            ("fb3ff199999999999a", "fb3ff199999999999a"),
            ("fb7ff0000000000000", "f97c00"),
            ("faff800000", "f9fc00"),
            ("fb7ff8000000000000", "f97e00"),
            ("fa7fc00001", "f97e00"),
            ("f97e01", "f97e00"),
            ("fa7f7fffff", "fa7f7fffff"),
            ("fa00000001", "fa00000001"),
            ("fa33800001", "fa33800001"),
        ];
        for (given, wanted) in cases {
            let mut out = Vec::new();
            reencode(&hex(given), &mut out).unwrap();
            assert_eq!(out, hex(wanted), "{given}");
            assert_eq!(check_deterministic(&hex(given)).is_ok(), given == wanted, "{given}");
        }
    }

    #[test]
    fn maps_are_sorted_by_the_bytes_of_their_keys() {
        // {"bb": 1, "a": {2: 0, 1: 0}, 10: 1(0)} with long heads.
        let item = hex("b90003626262180161 61a2020001000ac100".replace(' ', "").as_str());
        assert_eq!(check_deterministic(&item), Err(Error::NotShortest));
        assert_eq!(&*deterministic(&item).unwrap(), hex("a30ac1006161a20100020062626201"));
        assert_eq!(check_deterministic(&hex("a201000100")), Err(Error::DuplicateKey));
        assert_eq!(check_deterministic(&hex("a202000100")), Err(Error::KeyOrder));
        assert_eq!(deterministic(&hex("a20100180100")), Err(Error::DuplicateKey));
        assert_eq!(deterministic(&hex("9fff")), Err(Error::Indefinite));
        assert!(matches!(deterministic(&hex("a10100")), Ok(Cow::Borrowed(_))));
    }

    #[test]
    fn a_key_that_stands_twice_is_found_wherever_it_is() {
        let ok = ["a0", "f6", "80", "a2616100616200", "a2616200616100", "a26161a1616100616280"];
        for item in ok {
            assert_eq!(check_keys(&hex(item)), Ok(()), "{item}");
        }
        let twice = [
            "a2616100616101",           // side by side
            "a3616100616200616101",     // apart
            "a3616200616100616201",     // apart, and not sorted
            "a1616182a0a2616100616101", // in a map in an array in a map
            "a16161c1a2616100616101",   // behind a tag
            "a2010001f6",               // numbers
        ];
        for item in twice {
            assert_eq!(check_keys(&hex(item)), Err(Error::DuplicateKey), "{item}");
        }
        // One key in two spellings.
        assert_eq!(check_keys(&hex("a261610078016100")), Err(Error::NotShortest));
        assert_eq!(check_keys(&hex("a2a26162006161000000")), Err(Error::KeyOrder));
        assert_eq!(check_keys(&hex("a16161")), Err(Error::Truncated));
        assert_eq!(check_keys(&hex("a000")), Err(Error::Trailing));
    }

    #[test]
    fn many_keys_have_to_be_sorted_and_few_need_not() {
        let map = |keys: &mut dyn Iterator<Item = u64>| {
            let keys: Vec<u64> = keys.collect();
            let mut item = Vec::new();
            head(&mut item, MAP, keys.len() as u64);
            for key in keys {
                head(&mut item, 0, key);
                item.push(0xf6);
            }
            item
        };
        let max = UNSORTED_KEYS_MAX as u64;
        assert_eq!(check_keys(&map(&mut (0..100 * max))), Ok(()));
        assert_eq!(check_keys(&map(&mut (0..max).rev())), Ok(()));
        assert_eq!(check_keys(&map(&mut (0..=max).rev())), Err(Error::KeyOrder));
        assert_eq!(check_keys(&map(&mut (0..max).chain([max, 3]))), Err(Error::KeyOrder));
        assert_eq!(check_keys(&map(&mut (0..max - 1).rev().chain([9]))), Err(Error::DuplicateKey));
    }

    fn value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            (0_u64..30).prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            any::<f32>().prop_map(|small| Value::from(f64::from(small))),
            "[a-zü]{0,30}".prop_map(Value::from),
            proptest::collection::vec(any::<u8>(), 0..30).prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 40, 6, |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
                proptest::collection::vec(("[a-z]{0,3}", inner.clone()), 0..6).prop_map(|pairs| {
                    Value::Map(pairs.into_iter().map(|(key, value)| (Value::from(key), value)).collect())
                }),
                (10_u64..1000, inner).prop_map(|(tag, value)| Value::Tag(tag, Box::new(value))),
            ]
        })
    }

    proptest! {
        #[test]
        fn what_is_reencoded_is_deterministic_and_stays_so(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
            let mut once = Vec::new();
            if reencode(&bytes, &mut once).is_ok() {
                prop_assert_eq!(check_deterministic(&once), Ok(()));
                prop_assert!(super::super::check(&bytes).is_ok());
            }
            if check_keys(&bytes).is_ok() {
                prop_assert_eq!(reencode(&bytes, &mut Vec::new()), Ok(()));
            }
            if check_deterministic(&bytes).is_ok() {
                prop_assert_eq!(once, bytes);
            }
        }

        /// What has its keys sorted and once has them once; of any item the verdict is that of a reader with a tree.
        #[test]
        fn keys_are_judged_as_by_a_tree(value in value(), bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
            fn is_twice(value: &Value) -> bool {
                match value {
                    Value::Map(pairs) => {
                        let twice = |at: usize| pairs[..at].iter().any(|(key, _)| *key == pairs[at].0);
                        (0..pairs.len()).any(twice) || pairs.iter().any(|(_, value)| is_twice(value))
                    }
                    Value::Array(items) => items.iter().any(is_twice),
                    Value::Tag(_, item) => is_twice(item),
                    _ => false,
                }
            }
            let mut plain = Vec::new();
            ciborium::into_writer(&value, &mut plain).unwrap();
            prop_assert_eq!(check_keys(&plain).is_err(), is_twice(&value));
            if check_deterministic(&bytes).is_ok() {
                prop_assert_eq!(check_keys(&bytes), Ok(()));
            }
        }

        #[test]
        fn a_value_keeps_its_meaning(value in value()) {
            let mut out = Vec::new();
            match from_value(&value, &mut out) {
                Ok(()) => {
                    prop_assert_eq!(check_deterministic(&out), Ok(()));
                    let back: Value = ciborium::from_reader(&out[..]).unwrap();
                    let mut again = Vec::new();
                    from_value(&back, &mut again).unwrap();
                    prop_assert_eq!(out, again);
                }
                Err(error) => prop_assert_eq!(error, Error::DuplicateKey),
            }
        }

        /// Halves through the longer forms and back: all of them exist in both.
        #[test]
        fn every_half_survives_being_long(bits: u16) {
            prop_assume!(!is_half_nan(bits));
            let exponent = i32::from(bits >> 10 & 0x1f);
            let fraction = f64::from(bits & 0x3ff);
            let magnitude = match exponent {
                0 => fraction * 2_f64.powi(-24),
                31 => f64::INFINITY,
                _ => (1024.0 + fraction) * 2_f64.powi(exponent - 25),
            };
            let double = if bits & 0x8000 == 0 { magnitude } else { -magnitude };
            let mut item = vec![0xfb];
            item.extend(double.to_bits().to_be_bytes());
            let mut out = Vec::new();
            reencode(&item, &mut out).unwrap();
            prop_assert_eq!(out, [&[0xf9][..], &bits.to_be_bytes()].concat());
        }
    }
}
