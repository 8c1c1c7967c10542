//! The forms that metrics are written in, and which of them a request wants.

/// The text form of Prometheus, version 0.0.4.
const TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";
/// OpenMetrics, version 1.0.0.
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// A form of metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// OpenMetrics: where it is named.
    OpenMetrics,
    /// The text form of Prometheus, which every tool reads.
    Text,
}

/// The closeness of a range that names nothing.
const ANY: u8 = 1;

/// How much a request wants a form: how closely a range of its `Accept` names it, and the weight of that range.
#[derive(Clone, Copy, Debug, Default)]
struct Wish {
    closeness: u8,
    weight: f32,
}

impl Form {
    /// The form that the ranges of an `Accept` prefer (RFC 9110 section 12.5.1): of those that name a form the closest one
    /// counts. OpenMetrics where it is named and the text form is no more welcome, or is refused.
    pub(super) fn wanted<'a>(accept: impl Iterator<Item = &'a str>) -> Self {
        let (mut open, mut text) = (Wish::default(), Wish::default());
        for range in accept {
            for (form, wish) in [(Self::OpenMetrics, &mut open), (Self::Text, &mut text)] {
                if let Some(found) = form.wish(range)
                    && (found.closeness, found.weight) > (wish.closeness, wish.weight)
                {
                    *wish = found;
                }
            }
        }
        let is_named = open.closeness > ANY && open.weight > 0.0;
        if open.weight > text.weight || (is_named && open.weight == text.weight) {
            Self::OpenMetrics
        } else {
            Self::Text
        }
    }

    /// What one range says of this form; `None`: nothing.
    fn wish(self, range: &str) -> Option<Wish> {
        let mut parts = range.split(';').map(str::trim);
        let named = parts.next()?;
        let (mut version, mut weight) = (None, 1.0);
        for (name, value) in parts.filter_map(|part| part.split_once('=')) {
            let (name, value) = (name.trim(), value.trim().trim_matches('"'));
            if name.eq_ignore_ascii_case("q") {
                weight = value.parse::<f32>().ok().filter(|weight| (0.0..=1.0).contains(weight))?;
            } else if name.eq_ignore_ascii_case("version") {
                version = Some(value);
            }
        }
        let (family, kind, ours) = match self {
            Self::OpenMetrics => ("application/*", "application/openmetrics-text", "1.0.0"),
            Self::Text => ("text/*", "text/plain", "0.0.4"),
        };
        let closeness = match version {
            _ if named == "*/*" => ANY,
            _ if named.eq_ignore_ascii_case(family) => 2,
            None if named.eq_ignore_ascii_case(kind) => 3,
            Some(version) if named.eq_ignore_ascii_case(kind) && version == ours => 4,
            _ => return None,
        };
        Some(Wish { closeness, weight })
    }

    /// Its media type.
    pub(super) fn content_type(self) -> &'static str {
        match self {
            Self::OpenMetrics => OPEN_METRICS,
            Self::Text => TEXT,
        }
    }

    /// What is written in OpenMetrics, in this form.
    pub(super) fn of(self, open_metrics: String) -> String {
        match self {
            Self::OpenMetrics => open_metrics,
            Self::Text => as_text(&open_metrics),
        }
    }
}

/// OpenMetrics in the text form of Prometheus: samples are the same, but a counter is described under the name that its
/// samples have, an info is a gauge, and units and the end are not written.
fn as_text(open_metrics: &str) -> String {
    let mut text = String::with_capacity(open_metrics.len());
    let mut help = None;
    for line in open_metrics.lines() {
        let mut words = line.splitn(4, ' ');
        match (words.next(), words.next(), words.next(), words.next()) {
            (Some("#"), Some("HELP"), Some(name), Some(words)) => help = Some((name, words)),
            (Some("#"), Some("TYPE"), Some(name), Some(kind)) => {
                let (suffix, kind) = match kind {
                    "counter" => ("_total", kind),
                    "info" => ("_info", "gauge"),
                    other => ("", other),
                };
                if let Some((_, words)) = help.take().filter(|(of, _)| *of == name) {
                    text.push_str(&format!("# HELP {name}{suffix} {words}\n"));
                }
                text.push_str(&format!("# TYPE {name}{suffix} {kind}\n"));
            }
            (Some("#"), ..) => {}
            _ => {
                text.push_str(line);
                text.push('\n');
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(accept: &str) -> Form {
        Form::wanted(accept.split(',').map(str::trim).filter(|range| !range.is_empty()))
    }

    #[test]
    fn the_form_with_the_greater_weight_is_taken() {
        // The first two are what Prometheus 2.55 and 3.x ask for.
        let table = [
            (
                "application/openmetrics-text;version=1.0.0;q=0.5,application/openmetrics-text;version=0.0.1;q=0.4,\
                 text/plain;version=0.0.4;q=0.3,*/*;q=0.2",
                Form::OpenMetrics,
            ),
            (
                "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,\
                 application/openmetrics-text;version=0.0.1;q=0.5,text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4,\
                 text/plain;version=0.0.4;q=0.3,*/*;q=0.2",
                Form::OpenMetrics,
            ),
            ("", Form::Text),
            ("*/*", Form::Text),
            ("text/html,application/xhtml+xml,*/*;q=0.8", Form::Text),
            ("application/json", Form::Text),
            ("text/plain", Form::Text),
            ("text/plain; version=0.0.4; charset=utf-8", Form::Text),
            ("TEXT/Plain ; Version = \"0.0.4\" ; Q=1", Form::Text),
            ("text/*", Form::Text),
            ("text/plain;version=0.0.4;q=0.5,application/openmetrics-text;version=1.0.0;q=0.4", Form::Text),
            ("application/openmetrics-text;q=0,*/*", Form::Text),
            ("text/plain;q=0,*/*", Form::OpenMetrics),
            ("application/openmetrics-text,text/plain", Form::OpenMetrics),
            ("application/*", Form::OpenMetrics),
            ("text/plain;version=1.0.0", Form::Text),
            ("application/openmetrics-text;version=9.0.0,text/plain", Form::Text),
            ("text/plain;q=2,*/*;q=0.1", Form::Text),
            ("text/plain,application/openmetrics-text;q=7", Form::Text),
            ("application/openmetrics-text;q=0", Form::Text),
        ];
        for (accept, form) in table {
            assert_eq!(wanted(accept), form, "{accept:?}");
        }
    }

    #[test]
    fn the_text_form_names_counters_as_their_samples_are_named() {
        let open = "# HELP a_things Things.\n# TYPE a_things counter\na_things_total{x=\"# y\"} 3\n\
                    # HELP a_level A level.\n# TYPE a_level gauge\n# UNIT a_level bytes\na_level 1.5\n\
                    # HELP a_build Which.\n# TYPE a_build info\na_build_info{version=\"1\"} 1\n# EOF\n";
        let text = "# HELP a_things_total Things.\n# TYPE a_things_total counter\na_things_total{x=\"# y\"} 3\n\
                    # HELP a_level A level.\n# TYPE a_level gauge\na_level 1.5\n\
                    # HELP a_build_info Which.\n# TYPE a_build_info gauge\na_build_info{version=\"1\"} 1\n";
        assert_eq!(Form::Text.of(open.to_owned()), text);
        assert_eq!(Form::OpenMetrics.of(open.to_owned()), open);
    }
}
