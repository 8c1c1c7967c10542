//! Principals in words: a key by its comment or its fingerprint, and beside it the name that the device gave itself.
//! The owner of a key writes its comment, so a comment that reads like another key's is not believed.

use std::collections::HashMap;

use crate::{
    base::glyph::is_hidden,
    cli::text::{self, clean_line, name},
    client::By,
};

/// Characters of a fingerprint that name a key without a comment.
const FINGERPRINT_CHARS: usize = 15;
/// Keys that are known by their comments; further keys go by their fingerprints.
const KEYS_MAX: usize = 1_024;

/// This device, as the relay knows it.
#[derive(Clone, Debug, Default)]
pub(super) struct Me {
    /// The key that signed in.
    pub(super) principal: String,
    /// This connection's id as a device.
    pub(super) device: String,
    /// The name that we gave this device.
    pub(super) name: String,
}

/// The principals that were met.
#[derive(Clone, Debug, Default)]
pub(super) struct People {
    pub(super) me: Me,
    /// What is drawn of the comment of each key.
    comments: HashMap<String, String>,
}

impl People {
    pub(super) fn new(me: Me) -> Self {
        Self { me, comments: HashMap::new() }
    }

    /// A principal is here, or did something: its comment is known from now on.
    pub(super) fn met(&mut self, principal: &str, comment: &str) {
        if self.comments.len() < KEYS_MAX || self.comments.contains_key(principal) {
            self.comments.insert(principal.to_owned(), name(comment));
        }
    }

    /// The words for a principal and its device.
    pub(super) fn who(&self, principal: &str, comment: &str, name: &str) -> String {
        let key = if principal == self.me.principal {
            "you".to_owned()
        } else {
            self.named(principal, comment).unwrap_or_else(|| fingerprint(principal))
        };
        match text::name(name) {
            name if name.is_empty() => key,
            name => format!("{key} ({name})"),
        }
    }

    /// The words for the author of an action, unless it was this device.
    pub(super) fn by(&self, by: Option<&By>) -> Option<String> {
        let by = by.filter(|by| by.principal != self.me.principal || by.device != self.me.name)?;
        Some(self.who(&by.principal, &by.comment, &by.device))
    }

    /// A key's comment as it is drawn, unless it hides something or reads as what names another key.
    fn named(&self, principal: &str, comment: &str) -> Option<String> {
        let drawn = name(comment);
        let reads = drawn.to_lowercase();
        let same = |other: &str| other.to_lowercase() == reads;
        let mut others = self.comments.iter().filter(|(key, _)| *key != principal);
        let is_taken = same("you") || others.any(|(key, comment)| same(comment) || same(&fingerprint(key)));
        let is_known = self.comments.len() < KEYS_MAX || self.comments.contains_key(principal);
        let hides = comment.trim().chars().any(is_hidden);
        (is_known && !is_taken && !hides && !drawn.is_empty()).then_some(drawn)
    }
}

fn fingerprint(principal: &str) -> String {
    clean_line(principal, FINGERPRINT_CHARS)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn people(keys: &[(&str, &str)]) -> People {
        let mut people = People::new(Me { principal: "SHA256:ours".into(), ..Me::default() });
        keys.iter().for_each(|(key, comment)| people.met(key, comment));
        people
    }

    #[test]
    fn a_comment_that_reads_as_another_s_names_nobody() {
        let long = "x".repeat(text::NAME_CHARS);
        let people = people(&[("SHA256:ours", "owner"), ("SHA256:anna", "anna"), ("SHA256:long", &format!("{long}y"))]);
        let who = |comment: &str| people.who("SHA256:guest-key-and-more", comment, "phone");
        for comment in [
            "you",
            "YOU ",
            "you\u{200b}",
            "\u{2066}you",
            "you,",
            "(you)",
            // Each of these would be a name of its own as it is drawn.
            "gue\u{200b}st",
            "guest\u{202e}",
            "\u{2066}guest",
            "owner",
            "an\u{ad}na",
            "Anna",
            &format!("{long}z"),
            "SHA256:ours",
            "",
            "\u{3164}",
            ", ()",
        ] {
            assert_eq!(who(comment), "SHA256:guest-ke… (phone)", "{comment:?}");
        }
        assert_eq!(who("guest"), "guest (phone)");
        assert_eq!(who("søren 🦀 o'hara@host:22"), "søren 🦀 o'hara@host:22 (phone)");
        assert_eq!(people.who("SHA256:anna", "anna", ""), "anna", "a key is not its own other");
        assert_eq!(people.who("SHA256:ours", "owner", "did:key:z6Mk"), "you (did:key:z6Mk)");
    }

    #[test]
    fn a_name_ends_where_we_end_it() {
        let people = people(&[]);
        let who = |name: &str| people.who("SHA256:guest", "guest", name);
        assert_eq!(who("phone), owner (laptop"), "guest (phone owner laptop)");
        assert_eq!(who("phone） joined，owner（x"), "guest (phone joinedownerx)");
        assert_eq!(who("x: yes \"y\" · z"), "guest (x yes y  z)");
        assert_eq!(people.who("SHA256:guest", "bob (phone), you: allow", ""), "bob phone you allow");
    }

    #[test]
    fn whoever_is_one_too_many_goes_by_the_fingerprint() {
        let mut people = people(&[]);
        (0..KEYS_MAX).for_each(|at| people.met(&at.to_string(), &at.to_string()));
        people.met("SHA256:late", "late");
        assert_eq!(people.who("SHA256:late", "late", ""), "SHA256:late");
        assert_eq!(people.who("5", "5", ""), "5");
    }
}
