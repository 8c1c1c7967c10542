//! Variables that look like settings and are none: a slip in one would change nothing in silence.

use std::ffi::OsString;

use super::{file::nearest, shortened, variable::PREFIX};
use crate::base::glyph::visible;

/// Variables of the program's own tests begin so.
const TESTS: &str = "AMP_RELAY_TEST_";

/// What is to be said of each of these variables that begins as those of settings do and is none of the known ones. One
/// without a value counts as not set.
pub(crate) fn stray(known: &[String], given: impl Iterator<Item = (OsString, OsString)>) -> Vec<String> {
    let names = given.filter(|(_, value)| !value.is_empty()).map(|(name, _)| name.to_string_lossy().into_owned());
    let is_stray = |name: &String| name.starts_with(PREFIX) && !name.starts_with(TESTS) && !known.contains(name);
    let mut stray: Vec<String> = names.filter(is_stray).collect();
    stray.sort();
    stray.iter().map(|name| told(name, known)).collect()
}

fn told(name: &str, known: &[String]) -> String {
    let own = |name: &str| name.trim_start_matches(PREFIX).to_lowercase();
    let known: Vec<(String, &String)> = known.iter().map(|known| (own(known), known)).collect();
    let near = nearest(&own(name), known.iter().map(|(own, _)| own.as_str()));
    let hint = match known.iter().find(|(own, _)| Some(own.as_str()) == near) {
        Some((_, near)) => format!("did you mean `{near}`?"),
        None => "`amp-relay config table` lists those that are".into(),
    };
    format!("the variable {} is not a setting, so it changes nothing; {hint}", visible(&shortened(name)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_variable_that_is_no_setting_is_told_with_the_one_that_may_be_meant() {
        let known = ["AMP_RELAY_FOLDER", "AMP_RELAY_AMP_VERIFY", "AMP_RELAY_URL"].map(str::to_owned);
        let told = |name: &str, value: &str| stray(&known, [(name.into(), value.into())].into_iter()).concat();
        for (name, near) in [
            ("AMP_RELAY_FOLDR", "did you mean `AMP_RELAY_FOLDER`?"),
            ("AMP_RELAY_VERIFY", "`amp-relay config table` lists"),
            ("AMP_RELAY_AMP_VERFY", "did you mean `AMP_RELAY_AMP_VERIFY`?"),
            ("AMP_RELAY_ZZZZZZZZZZ", "`amp-relay config table` lists"),
            ("AMP_RELAY_", "`amp-relay config table` lists"),
        ] {
            let said = told(name, "x");
            assert!(said.contains(near) && said.contains(&format!("the variable {name} is")), "{said}");
        }
        for fine in ["AMP_RELAY_FOLDER", "AMP_RELAY_TEST_ANY", "AMP_RELAYS", "FOLDR"] {
            assert_eq!(told(fine, "x"), "");
        }
        assert_eq!(told("AMP_RELAY_FOLDR", ""), "", "what is empty counts as not set");
        assert!(told("AMP_RELAY_\u{1b}[2J", "x").is_ascii() && !told("AMP_RELAY_\u{1b}[2J", "x").contains('\u{1b}'));
        assert!(told(&format!("AMP_RELAY_{}", "X".repeat(100_000)), "x").len() < 1_000);
    }
}
