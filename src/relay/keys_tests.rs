//! Tests of the keys file.

use proptest::prelude::*;
use ssh_key::public::Ed25519PublicKey;

use super::*;

fn public(seed: u8) -> String {
    PublicKey::from(Ed25519PublicKey([seed; 32])).to_openssh().unwrap().trim().to_owned()
}

fn roles(text: &str) -> Vec<(usize, Role)> {
    KeySet::parse(text).entries.iter().map(|entry| (entry.line, entry.role)).collect()
}

fn reason(text: &str) -> String {
    let set = KeySet::parse(text);
    assert!(set.entries.is_empty(), "{text} is in force");
    set.refused.first().map(|refused| refused.reason.clone()).unwrap_or_default()
}

#[test]
fn options_say_the_role() {
    let text = format!(
        "\u{feff}# keys\r\n{}\r\n\r\n  restrict {} phone of\tAnna \r\n\tamp-role=\"drive\"   {}   c\r\nrestrict,amp-role=\"spawn\" {}\n\
         AMP-Role=\"agent\",restrict {}",
        public(1),
        public(2),
        public(3).replace(' ', "  "),
        public(4),
        public(5),
    );
    let set = KeySet::parse(&text);
    assert_eq!(set.refused, []);
    let expected = [(2, Role::Admin), (4, Role::Watch), (5, Role::Drive), (6, Role::Spawn), (7, Role::Agent)];
    assert_eq!(roles(&text), expected);
    assert_eq!(&*set.entries[1].comment, "phone ofAnna");
    let entry = set.lookup(&PublicKey::from_openssh(&public(3)).unwrap()).unwrap();
    assert_eq!(entry.line, 5);
    assert_eq!(set.principal(&entry.fingerprint), Some(entry));
    assert_eq!(set.lookup(&PublicKey::from_openssh(&public(9)).unwrap()), None);
}

#[test]
fn what_is_not_implemented_is_refused_with_its_reason() {
    let key = public(1);
    for (options, part) in [
        ("command=\"echo hi, \\\"you\\\" there\"", "`command` is not implemented"),
        ("cert-authority", "`cert-authority` is not implemented"),
        ("from=\"10.0.0.1\",restrict", "`from` is not implemented"),
        ("restrict,no-pty", "`no-pty` is not implemented"),
        ("restrict,restrict", "twice"),
        ("amp-role=\"watch\",AMP-ROLE=\"admin\"", "twice"),
        ("amp-role=\"root\"", "is no role"),
        ("amp-role=\"\"", "is no role"),
        ("amp-role", "needs a value"),
        ("amp-role=watch", "double quotes"),
        ("restrict=\"yes\"", "takes no value"),
        ("amp-role=\"watch\"restrict", "comma"),
        ("restrict,", "cannot be read"),
        (",restrict", "cannot be read"),
    ] {
        let found = reason(&format!("{options} {key}\n"));
        assert!(found.contains(part), "{options}: {found}");
    }
    assert!(reason(&format!("amp-role=\"watch {key}")).contains("not closed"));
    assert!(reason("restrict").contains("no key"));
    assert!(reason("ssh-ed25519").contains("no key"));
    assert!(reason("ssh-ed25519 AAAA").contains("cannot be read"));
    assert!(reason("ssh-rsa AAAAB3NzaC1lZDI1NTE5").contains("cannot be read"));
    assert!(reason(&key.replace("ssh-ed25519 ", "ssh-ed25519-cert-v01@openssh.com ")).contains("certificates"));
    assert!(reason(&"x".repeat(KEYS_FILE_BYTES_MAX + 1)).contains("larger"));
}

#[test]
fn options_end_at_the_first_blank_outside_of_quotes() {
    for (line, end) in [(r#"a="b \" c" k"#, 10), (r"a\ b", 2), ("a,b k", 3), ("a=\"b\tc\"\tk", 7)] {
        assert_eq!(options_end(line), Ok(end), "{line}");
    }
    assert!(options_end(r#"a="b\" k"#).is_err_and(|why| why.contains("not closed")));
}

#[test]
fn a_file_of_the_largest_size_is_read() {
    let key = public(1);
    let text = format!("{key}\n{}", "#".repeat(KEYS_FILE_BYTES_MAX - key.len() - 1));
    assert_eq!((text.len(), KeySet::parse(&text).entries.len()), (KEYS_FILE_BYTES_MAX, 1));
}

#[test]
fn a_key_is_added_up_to_the_largest_size_that_is_read() {
    let (line, _) = append_line("", &public(1), Role::Watch).expect("it fits");
    let before = |bytes: usize| format!("{}\n", "#".repeat(bytes - 1));
    let room = KEYS_FILE_BYTES_MAX - line.len();
    let fits = append_line(&before(room), &public(1), Role::Watch).map(|(text, _)| text.len());
    assert_eq!(fits.ok(), Some(KEYS_FILE_BYTES_MAX));
    let refused = append_line(&before(room + 1), &public(1), Role::Watch);
    assert!(matches!(refused, Err(EditError::TooLarge)), "every key would be out of force");
}

#[test]
fn a_caller_has_the_lesser_of_what_it_asked_for_and_what_its_key_may_do() {
    let set = KeySet::parse(&format!("amp-role=\"drive\" {}\n", public(1)));
    let fingerprint = set.entries[0].fingerprint.clone();
    for (asked, has) in [(Role::Watch, Role::Watch), (Role::Drive, Role::Drive), (Role::Admin, Role::Drive)] {
        let caller = Caller::sample(&fingerprint, 1, asked);
        assert_eq!(set.limit(&caller).map(|limited| limited.role).ok(), Some(has), "{asked}");
    }
    let refused = set.limit(&Caller::sample("SHA256:other", 1, Role::Watch)).expect_err("it is not there");
    assert!(refused.code == Code::KeyNotAuthorized && !refused.recoverable);
}

#[test]
fn rsa_keys_need_2048_bits_and_at_most_4096() {
    let rsa = |bytes: usize| {
        let mut modulus = vec![0xc1; bytes];
        modulus[bytes - 1] = 1;
        let key = ssh_key::public::RsaPublicKey {
            e: ssh_key::Mpint::from_positive_bytes(&[1, 0, 1]).unwrap(),
            n: ssh_key::Mpint::from_positive_bytes(&modulus).unwrap(),
        };
        PublicKey::from(KeyData::Rsa(key)).to_openssh().unwrap()
    };
    assert!(reason(&rsa(128)).contains("2048"));
    assert!(reason(&rsa(255)).contains("2048"));
    assert_eq!(roles(&rsa(256)), [(1, Role::Admin)]);
    assert_eq!(roles(&rsa(512)), [(1, Role::Admin)]);
    assert!(reason(&rsa(1024)).contains("4096"));
}

#[test]
fn a_refused_line_stops_nothing_and_the_first_of_two_wins() {
    let key = public(1);
    let text = format!("nonsense\nrestrict {key} one\n{key} two\nno-pty {}\n{}\n", public(2), public(3));
    let set = KeySet::parse(&text);
    assert_eq!(roles(&text), [(2, Role::Watch), (5, Role::Admin)]);
    assert_eq!(set.refused.iter().map(|refused| refused.line).collect::<Vec<_>>(), [1, 3, 4]);
    assert!(set.refused[1].reason.contains("line 2"));
}

#[test]
fn a_line_is_added_with_its_role_and_nothing_else_changes() {
    let old = format!("# mine\r\n\r\n  {} a  b", public(1));
    let (text, entry) = append_line(&old, &format!("{} phone\n", public(2)), Role::Approve).unwrap();
    assert_eq!(text, format!("{old}\r\namp-role=\"approve\" {} phone\r\n", public(2)));
    assert_eq!((entry.line, entry.role, &*entry.comment), (4, Role::Approve, "phone"));
    assert_eq!(KeySet::parse(&text).lookup(&entry.key), Some(&entry));
    let again = append_line(&text, &public(2), Role::Watch);
    assert_eq!(again, Err(EditError::Present { line: 4, role: Role::Approve, fingerprint: entry.fingerprint }));
    for bad in ["", "x", "restrict ", "-----BEGIN OPENSSH PRIVATE KEY-----"] {
        assert!(matches!(append_line("", bad, Role::Watch), Err(EditError::Unusable(_))), "{bad}");
    }
    let with_options = format!("restrict {}", public(3));
    assert!(matches!(append_line("", &with_options, Role::Watch), Err(EditError::Unusable(_))));
    let two = format!("{}\n{}", public(3), public(4));
    assert!(matches!(append_line("", &two, Role::Watch), Err(EditError::Unusable(_))));
}

#[test]
fn one_key_is_found_beside_what_is_none() {
    let line = format!("{} mine", public(1));
    for text in [line.clone(), format!("\u{feff}# my key\r\n\r\n  {line}\r\n"), format!("{line}\n# behind\n\n")] {
        assert_eq!(key_line(&text, "r.pub"), Ok(&*line), "{text}");
    }
    let said = |text: &str| key_line(text, "r.pub").expect_err(text);
    assert!(said("# only\n").contains("no key"));
    assert!(said(&format!("{line}\r{line}")).contains("2 keys"));
    assert!(said("Public key:\nAAAA\n").contains("not an OpenSSH line"));
    assert!(said(&format!("{line}\nPRIVATE KEY")).contains("private"));
    for (begin, command) in [
        ("---- BEGIN SSH2 PUBLIC KEY ----", "`ssh-keygen -i -f r.pub`"),
        ("-----BEGIN PUBLIC KEY-----", "`ssh-keygen -i -m PKCS8 -f r.pub`"),
        ("-----BEGIN RSA PUBLIC KEY-----", "`ssh-keygen -i -m PEM -f r.pub`"),
    ] {
        for behind in ["", "\nAAAA\n-----END\n", "\nno base64\n"] {
            assert!(said(&format!("# mine\n{begin}{behind}")).contains(command), "{begin}{behind}");
        }
    }
    // What `openssl pkey -pubout` makes, which not every ssh-keygen reads.
    let pem = "MCowBQYDK2VwAyEAAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=";
    let pem = format!("-----BEGIN PUBLIC KEY-----\n{pem}\n-----END PUBLIC KEY-----\n");
    assert!(said(&pem).contains(&format!("`{}`", public(1))), "{}", said(&pem));
}

#[test]
fn a_key_goes_with_every_line_that_holds_it() {
    let key = public(1);
    let text = format!("# a\nrestrict {key} anna\n\n{} bob\r\nno-pty {key}\n{key}\nbroken", public(2));
    let kept = format!("# a\n\n{} bob\r\nbroken", public(2));
    let print = fingerprint(&PublicKey::from_openssh(&key).unwrap());
    let did = did_of(&PublicKey::from_openssh(&key).unwrap()).unwrap();
    for name in [&print, print.strip_prefix("SHA256:").unwrap(), "anna", &did] {
        let (changed, removed) = remove_by_fingerprint_or_comment(&text, name).unwrap();
        assert_eq!(changed, kept);
        assert_eq!(removed.len(), 1);
    }
    assert_eq!(remove_by_fingerprint_or_comment(&text, "carl"), Err(EditError::NotFound));
    // One without a comment is not named by none.
    let text = format!("{text}\n{}\n", public(3));
    for name in ["", " ", "\u{200b}"] {
        assert_eq!(remove_by_fingerprint_or_comment(&text, name), Err(EditError::NotFound), "{name:?}");
    }
    let twins = format!("{} x\n{} x\n", public(1), public(2));
    assert!(matches!(remove_by_fingerprint_or_comment(&twins, "x"), Err(EditError::Ambiguous { count: 2, .. })));
}

#[test]
fn the_last_key_leaves_a_line_behind() {
    let key = public(1);
    let (changed, _) = remove_by_fingerprint_or_comment(&format!("{key} owner\n"), "owner").unwrap();
    assert!(changed.starts_with('#') && changed.ends_with('\n'), "{changed:?}");
    let set = KeySet::parse(&changed);
    assert!(set.entries.is_empty() && set.refused.is_empty());
}

#[test]
fn a_comment_takes_no_key_s_name() {
    let [one, two] = [public(1), public(2)];
    let parsed = PublicKey::from_openssh(&one).unwrap();
    let print = fingerprint(&parsed);
    for name in [print.clone(), print.strip_prefix("SHA256:").unwrap().to_owned(), did_of(&parsed).unwrap()] {
        let text = format!("{two} {name}\n{one} phone\n");
        let (changed, removed) = remove_by_fingerprint_or_comment(&text, &name).expect(&name);
        assert_eq!((changed, &*removed[0].fingerprint), (format!("{two} {name}\n"), &*print));
    }
}

#[test]
fn nothing_hides_in_a_comment() {
    let text = format!("{} ow\u{200b}n\u{202e}er\u{e0041}\u{ad} J\u{fc}rgen\n", public(1));
    assert_eq!(&*KeySet::parse(&text).entries[0].comment, "owner J\u{fc}rgen");
    for name in ["owner J\u{fc}rgen", "ow\u{200b}ner J\u{fc}rgen"] {
        remove_by_fingerprint_or_comment(&text, name).expect(name);
    }
}

proptest! {
    /// Any text is read; each line is in force, refused, or without meaning, and never both of the first two.
    #[test]
    fn any_text_is_read(lines in prop::collection::vec(
        "\\PC{0,40}|(restrict|amp-role=\"[a-z]{1,7}\"|[a-z-]{1,9}=\"\\PC{0,9}\")[, ](ssh-ed25519 [A-Za-z0-9+/=]{0,80})?", 0..12)) {
        let text = lines.join("\n");
        let set = KeySet::parse(&text);
        for entry in &set.entries {
            prop_assert!(set.refused.iter().all(|refused| refused.line != entry.line));
            prop_assert_eq!(set.lookup(&entry.key), Some(entry));
        }
    }

    /// Adding a key and removing it again gives the old file, but for a newline at its end and the line that an empty one gets.
    #[test]
    fn adding_and_removing_undo_each_other(seeds in prop::collection::vec(1u8..200, 0..6), junk in "[#a-z \t\"]{0,20}") {
        let mut text = seeds.iter().map(|seed| format!("restrict {} c\n", public(*seed))).collect::<String>();
        text.push_str(&junk);
        let (more, entry) = append_line(&text, &public(222), Role::Drive).unwrap();
        prop_assert!(more.starts_with(&text));
        let (back, _) = remove_by_fingerprint_or_comment(&more, &entry.fingerprint).unwrap();
        let old = if text.is_empty() { LEFT_EMPTY } else { &text };
        prop_assert_eq!(back.trim_end_matches('\n'), old.trim_end_matches('\n'));
    }
}
