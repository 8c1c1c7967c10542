//! The words of the handshake: offers and their answer (RFC 7692 sections 5 and 7.1).

use super::{BITS_MAX, BITS_MIN, DeflateOptions, NAME};
use crate::wire::ws::Role;

/// What both sides agreed on. Each no-takeover flag and window is about what its side *sends*.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Agreed {
    /// The server forgets its window after each message.
    pub server_no_takeover: bool,
    /// The client forgets its window after each message.
    pub client_no_takeover: bool,
    /// The server's window, as a power of two: 8 to 15.
    pub server_bits: u8,
    /// The client's window, as a power of two: 8 to 15.
    pub client_bits: u8,
}

impl Agreed {
    /// No takeover and window bits of what `role` sends.
    pub(super) fn sending(&self, role: Role) -> (bool, u8) {
        match role {
            Role::Server => (self.server_no_takeover, self.server_bits),
            Role::Client => (self.client_no_takeover, self.client_bits),
        }
    }
}

/// The server's answer is not one to our offer: the client fails the connection (RFC 7692 section 7.1, RFC 6455
/// section 4.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the extensions of the answer were not offered so")]
pub struct BadAnswer;

/// The parameters of one element of the header, each of them at most once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Parameters {
    server_no_takeover: bool,
    client_no_takeover: bool,
    server_bits: Option<u8>,
    /// Present without a value, or with one.
    client_bits: Option<Option<u8>>,
}

impl Parameters {
    /// Reads an element of the header's list. None when it is another extension, or when a parameter is unknown,
    /// repeated, or has a value that it must not have.
    fn parse(element: &str) -> Option<Self> {
        let mut parts = element.split(';').map(|part| part.trim_matches([' ', '\t']));
        if !parts.next()?.eq_ignore_ascii_case(NAME) {
            return None;
        }
        let mut read = Self::default();
        for part in parts {
            let (name, value) = match part.split_once('=') {
                Some((name, value)) => (name.trim_end_matches([' ', '\t']), Some(unquoted(value)?)),
                None => (part, None),
            };
            let fresh = match (name.to_ascii_lowercase().as_str(), value) {
                ("server_no_context_takeover", None) => !std::mem::replace(&mut read.server_no_takeover, true),
                ("client_no_context_takeover", None) => !std::mem::replace(&mut read.client_no_takeover, true),
                ("server_max_window_bits", Some(value)) => read.server_bits.replace(bits(value)?).is_none(),
                ("client_max_window_bits", None) => read.client_bits.replace(None).is_none(),
                ("client_max_window_bits", Some(value)) => read.client_bits.replace(Some(bits(value)?)).is_none(),
                _ => return None,
            };
            if !fresh {
                return None;
            }
        }
        Some(read)
    }

    fn write(&self) -> String {
        let mut out = NAME.to_owned();
        if self.server_no_takeover {
            out.push_str("; server_no_context_takeover");
        }
        if self.client_no_takeover {
            out.push_str("; client_no_context_takeover");
        }
        if let Some(bits) = self.server_bits {
            out.push_str(&format!("; server_max_window_bits={bits}"));
        }
        match self.client_bits {
            Some(Some(bits)) => out.push_str(&format!("; client_max_window_bits={bits}")),
            Some(None) => out.push_str("; client_max_window_bits"),
            None => {}
        }
        out
    }
}

/// The value of a parameter, which may be quoted if it is a token inside (RFC 6455 section 9.1).
fn unquoted(value: &str) -> Option<&str> {
    let value = value.trim_matches([' ', '\t']);
    match value.strip_prefix('"') {
        Some(rest) => rest.strip_suffix('"'),
        None => Some(value),
    }
}

/// 8 to 15, in decimal without leading zeros.
fn bits(value: &str) -> Option<u8> {
    if value.starts_with('0') || !value.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    value.parse().ok().filter(|bits| (8..=BITS_MAX).contains(bits))
}

/// The server's choice among the elements of `Sec-WebSocket-Extensions`: the first offer it can serve, and the value of
/// the header that says so. None declines them all, which leaves the connection without compression.
///
/// `takeover` is whether this connection may keep windows: the setting, and room for one more.
pub fn answer<'a>(
    options: &DeflateOptions,
    takeover: bool,
    offers: impl Iterator<Item = &'a str>,
) -> Option<(Agreed, String)> {
    let offered = offers.filter_map(Parameters::parse).find(|offer| offer.server_bits.is_none_or(|b| b >= BITS_MIN))?;
    let agreed = Agreed {
        server_no_takeover: offered.server_no_takeover || !takeover,
        // Said even to a client that did not offer it: every client has to be able to (section 7.1.1.2).
        client_no_takeover: offered.client_no_takeover || !takeover,
        server_bits: offered.server_bits.unwrap_or(BITS_MAX).min(options.bits()),
        // A client that does not name its window cannot be told to make it smaller (section 7.1.2.2).
        client_bits: match offered.client_bits {
            Some(most) => most.unwrap_or(BITS_MAX).min(options.bits()),
            None => BITS_MAX,
        },
    };
    let answer = Parameters {
        server_no_takeover: agreed.server_no_takeover,
        client_no_takeover: agreed.client_no_takeover,
        server_bits: (offered.server_bits.is_some() || agreed.server_bits < BITS_MAX).then_some(agreed.server_bits),
        client_bits: (agreed.client_bits < BITS_MAX).then_some(Some(agreed.client_bits)),
    };
    Some((agreed, answer.write()))
}

/// The client's offer: the value of its `Sec-WebSocket-Extensions`.
pub fn offer(options: &DeflateOptions) -> String {
    offered(options).write()
}

fn offered(options: &DeflateOptions) -> Parameters {
    let smaller = (options.bits() < BITS_MAX).then_some(options.bits());
    Parameters {
        server_no_takeover: !options.takeover,
        client_no_takeover: !options.takeover,
        server_bits: smaller,
        client_bits: Some(smaller),
    }
}

/// What the server made of [`offer`], from the elements of its `Sec-WebSocket-Extensions`. None: it declined.
///
/// # Errors
/// The answer is none to this offer.
pub fn accept<'a>(
    options: &DeflateOptions,
    mut answers: impl Iterator<Item = &'a str>,
) -> Result<Option<Agreed>, BadAnswer> {
    let Some(answer) = answers.next() else { return Ok(None) };
    let read = Parameters::parse(answer).ok_or(BadAnswer)?;
    let ours = offered(options);
    let server_bits = read.server_bits.unwrap_or(BITS_MAX);
    let client_bits = match read.client_bits {
        None => ours.client_bits.flatten().unwrap_or(BITS_MAX),
        // In an answer it has a value.
        Some(None) => return Err(BadAnswer),
        Some(Some(bits)) => bits,
    };
    let second = answers.next().is_some();
    let forgot = ours.server_no_takeover && !read.server_no_takeover;
    if second || forgot || server_bits > ours.server_bits.unwrap_or(BITS_MAX) {
        return Err(BadAnswer);
    }
    Ok(Some(Agreed {
        server_no_takeover: read.server_no_takeover,
        // We said that we would, whether the server repeats it or not.
        client_no_takeover: read.client_no_takeover || ours.client_no_takeover,
        server_bits,
        client_bits: client_bits.min(options.bits()),
    }))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn list(value: &str) -> impl Iterator<Item = &str> {
        value.split(',').map(str::trim)
    }

    fn answered(options: &DeflateOptions, offers: &str) -> Option<String> {
        answer(options, options.takeover, list(offers)).map(|(_, said)| said)
    }

    const SHARED: DeflateOptions =
        DeflateOptions { takeover: false, window_bits: 15, level: 1, threshold: 0, ratio_max: 100 };
    const TAKEOVER: DeflateOptions = DeflateOptions { takeover: true, ..SHARED };
    const NONE: &str = "permessage-deflate; server_no_context_takeover; client_no_context_takeover";

    #[test]
    fn a_server_answers_the_first_offer_it_can_serve() {
        let some = |said: &str| Some(said.to_owned());
        assert_eq!(answered(&SHARED, "permessage-deflate"), some(NONE));
        assert_eq!(answered(&TAKEOVER, "permessage-deflate"), some("permessage-deflate"));
        assert_eq!(answered(&TAKEOVER, "Permessage-Deflate ; SERVER_no_context_takeover"), {
            some("permessage-deflate; server_no_context_takeover")
        });
        assert_eq!(answered(&TAKEOVER, "permessage-deflate; client_max_window_bits"), some("permessage-deflate"));
        assert_eq!(
            answered(&TAKEOVER, "permessage-deflate; server_max_window_bits=\"10\"; client_max_window_bits = 8"),
            some("permessage-deflate; server_max_window_bits=10; client_max_window_bits=8")
        );
        // What was demanded is confirmed, even where it says what holds anyway.
        let largest = "permessage-deflate; server_max_window_bits=15";
        assert_eq!(answered(&TAKEOVER, largest), some(largest));
        // A window of 8 is more than the compressor can promise: the next offer, or none.
        let eight = "permessage-deflate; server_max_window_bits=8";
        assert_eq!(answered(&TAKEOVER, eight), None);
        assert_eq!(answered(&TAKEOVER, &format!("x-other, {eight}, permessage-deflate")), some("permessage-deflate"));
    }

    #[test]
    fn a_small_window_is_asked_of_the_client_only_if_it_lets_us() {
        let small = DeflateOptions { window_bits: 11, ..TAKEOVER };
        let said = |offers| answered(&small, offers).unwrap_or_default();
        assert_eq!(said("permessage-deflate"), "permessage-deflate; server_max_window_bits=11");
        let both = "permessage-deflate; server_max_window_bits=11; client_max_window_bits=11";
        assert_eq!(said("permessage-deflate; client_max_window_bits"), both);
        assert_eq!(said("permessage-deflate; client_max_window_bits=12"), both);
        let (agreed, _) = answer(&small, true, list("permessage-deflate")).expect("an answer");
        assert_eq!((agreed.server_bits, agreed.client_bits), (11, 15));
    }

    #[test]
    fn what_an_offer_must_not_say_declines_it() {
        for parameters in [
            "server_no_context_takeover=1",
            "server_no_context_takeover; server_no_context_takeover",
            "client_no_context_takeover=\"\"",
            "server_max_window_bits",
            "server_max_window_bits=",
            "server_max_window_bits=7",
            "server_max_window_bits=16",
            "server_max_window_bits=09",
            "server_max_window_bits=+9",
            "server_max_window_bits=\"9",
            "server_max_window_bits=9; server_max_window_bits=9",
            "client_max_window_bits=0",
            "client_max_window_bits; client_max_window_bits=9",
            "client_max_window_bits=256",
            "mystery",
            "",
        ] {
            assert_eq!(answered(&SHARED, &format!("permessage-deflate; {parameters}")), None, "{parameters}");
        }
        assert_eq!(answered(&SHARED, ""), None);
        assert_eq!(answered(&SHARED, "permessage-bzip2"), None);
    }

    #[test]
    fn a_client_holds_the_server_to_its_offer() {
        let judge = |options: &DeflateOptions, said: &str| accept(options, list(said));
        assert_eq!(accept(&SHARED, [].into_iter()), Ok(None));
        assert!(matches!(judge(&SHARED, NONE), Ok(Some(_))));
        assert!(matches!(judge(&TAKEOVER, "permessage-deflate"), Ok(Some(_))));
        let eight = judge(&TAKEOVER, "permessage-deflate; client_max_window_bits=8; server_max_window_bits=8");
        assert!(matches!(eight, Ok(Some(Agreed { client_bits: 8, server_bits: 8, .. }))));
        // It forgot what we demanded, it asks what is no answer, it answers twice or something else.
        assert_eq!(judge(&SHARED, "permessage-deflate"), Err(BadAnswer));
        assert_eq!(judge(&TAKEOVER, "permessage-deflate; client_max_window_bits"), Err(BadAnswer));
        assert_eq!(judge(&TAKEOVER, "permessage-deflate, permessage-deflate"), Err(BadAnswer));
        assert_eq!(judge(&TAKEOVER, "x-other"), Err(BadAnswer));
        let small = DeflateOptions { window_bits: 10, ..TAKEOVER };
        assert_eq!(judge(&small, "permessage-deflate"), Err(BadAnswer));
        assert_eq!(judge(&small, "permessage-deflate; server_max_window_bits=11"), Err(BadAnswer));
        assert!(matches!(judge(&small, "permessage-deflate; server_max_window_bits=9"), Ok(Some(_))));
    }

    fn any_options() -> impl Strategy<Value = DeflateOptions> {
        (any::<bool>(), 9u8..=15).prop_map(|(takeover, window_bits)| DeflateOptions { takeover, window_bits, ..SHARED })
    }

    proptest! {
        #[test]
        fn our_client_and_our_server_agree(client in any_options(), server in any_options()) {
            let offer = offer(&client);
            let (theirs, said) = answer(&server, server.takeover, list(&offer)).expect("an answer to our own offer");
            let ours = accept(&client, list(&said)).expect("an answer to the offer").expect("not declined");
            // The client may do more than it was asked for, never less.
            prop_assert_eq!(ours.server_no_takeover, theirs.server_no_takeover);
            prop_assert_eq!(ours.server_bits, theirs.server_bits);
            prop_assert!(ours.client_no_takeover || !theirs.client_no_takeover);
            prop_assert!(ours.client_bits <= theirs.client_bits);
        }

        #[test]
        fn any_words_are_judged(value in "(permessage-deflate|;|,|=|\"| |_max_window_bits|server|client|[0-9]{1,3}|.){0,12}") {
            if let Some((agreed, said)) = answer(&TAKEOVER, true, list(&value)) {
                prop_assert!((9..=15).contains(&agreed.server_bits) && (8..=15).contains(&agreed.client_bits));
                prop_assert!(Parameters::parse(&said).is_some());
            }
            let _ = accept(&TAKEOVER, list(&value));
        }
    }
}
