//! Pieces of HTML and figures out of JSON, for every section. Must not know what a section shows.

use std::fmt::Write as _;

use serde_json::Value;

/// Text that stands between tags or in an attribute.
pub(super) fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

pub(super) fn text<'a>(value: &'a Value, pointer: &str) -> &'a str {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or("")
}

pub(super) fn number(value: &Value, pointer: &str) -> Option<f64> {
    value.pointer(pointer).and_then(Value::as_f64)
}

pub(super) fn list<'a>(value: &'a Value, pointer: &str) -> impl Iterator<Item = &'a Value> + use<'a> {
    value.pointer(pointer).and_then(Value::as_array).into_iter().flatten()
}

/// A figure with so many digits, or a dash.
pub(super) fn figure(value: Option<f64>, digits: usize) -> String {
    value.map_or("-".into(), |value| format!("{value:.digits$}"))
}

/// A figure with its chart and what it means; nothing where the chart has no points.
pub(super) fn drawn(out: &mut String, chart: &str, caption: &str) {
    if !chart.is_empty() {
        let _ = write!(out, "<figure><div class=\"scroll\">{chart}</div><figcaption>{caption}</figcaption></figure>");
    }
}

pub(super) fn row(out: &mut String, tag: &str, cells: &[String]) {
    out.push_str("<tr>");
    for cell in cells {
        let _ = write!(out, "<{tag}>{cell}</{tag}>");
    }
    out.push_str("</tr>");
}

/// A table's heads. A head that begins with `<` is of a column of words: [`words`] makes its cells.
pub(super) fn table_start(out: &mut String, heads: &[&str]) {
    out.push_str("<div class=\"scroll\"><table><thead>");
    let head = |head: &&str| head.strip_prefix('<').map_or_else(|| escape(head), |head| words(&escape(head)));
    row(out, "th", &heads.iter().map(head).collect::<Vec<_>>());
    out.push_str("</thead><tbody>");
}

/// A cell of words: they begin at the left and go on in the next line.
pub(super) fn words(html: &str) -> String {
    format!("<span class=\"words\">{html}</span>")
}

pub(super) fn table_end(out: &mut String) {
    out.push_str("</tbody></table></div>");
}
