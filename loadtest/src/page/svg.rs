//! Line charts as SVG text: axes with units, a legend, one line a series. Owns the drawing; must not know what is drawn.

use std::fmt::Write as _;

use super::html::escape;

const WIDTH: f64 = 760.0;
/// Without the legend, which stands below.
const HEIGHT: f64 = 390.0;
const LEFT: f64 = 76.0;
/// Half of the widest number at the x axis has room in it.
const RIGHT: f64 = 36.0;
const TOP: f64 = 16.0;
const BOTTOM: f64 = 66.0;
const LEGEND_LINE: f64 = 22.0;
/// Most entries of a legend in one line.
const LEGEND_COLUMNS: usize = 4;
/// What a letter of the legend takes, rather more than less; and the line before it with the gap after it.
const LETTER: f64 = 7.6;
const KEY: f64 = 44.0;
/// Colours that the style names.
const COLOURS: usize = 6;

/// How values of an axis become places on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scale {
    /// From zero.
    Linear,
    /// Decades.
    Log,
    /// Quantiles: each nine takes as much room as the one before.
    Nines,
}

/// An axis.
#[derive(Clone, Copy, Debug)]
pub(super) struct Axis<'a> {
    pub(super) label: &'a str,
    pub(super) scale: Scale,
}

/// A line.
#[derive(Clone, Debug)]
pub(super) struct Series {
    pub(super) name: String,
    pub(super) points: Vec<(f64, f64)>,
    /// Not measured.
    pub(super) is_dashed: bool,
}

impl Series {
    /// What was measured.
    pub(super) fn new(name: String, points: Vec<(f64, f64)>) -> Self {
        Self { name, points, is_dashed: false }
    }

    /// What was not; in the colour of the series before it.
    pub(super) fn dashed(name: String, points: Vec<(f64, f64)>) -> Self {
        Self { name, points, is_dashed: true }
    }
}

#[derive(Clone, Debug)]
struct Range {
    scale: Scale,
    from: f64,
    to: f64,
}

impl Range {
    fn of(scale: Scale, values: impl Iterator<Item = f64>) -> Self {
        let (mut from, mut to) = (f64::INFINITY, f64::NEG_INFINITY);
        for value in values {
            from = from.min(value);
            to = to.max(value);
        }
        let (from, to) = match scale {
            Scale::Linear => (0.0, if to > 0.0 { 1.05 * to } else { 1.0 }),
            Scale::Log => {
                let (from, to) = (position(scale, from), position(scale, to));
                // Whole halves of a decade, so that a flat line has room above and below.
                ((2.0 * from - 0.2).floor() / 2.0, (2.0 * to + 0.2).ceil() / 2.0)
            }
            // A quantile is a difference from 1 and may miss its decade by a rounding error.
            Scale::Nines => (0.0, (position(scale, to) - 1e-6).ceil().max(1.0)),
        };
        Self { scale, from, to }
    }

    /// From 0 to 1.
    fn share(&self, value: f64) -> f64 {
        ((position(self.scale, value) - self.from) / (self.to - self.from)).clamp(0.0, 1.0)
    }

    /// Values that are written at the axis.
    fn ticks(&self) -> Vec<(f64, String)> {
        match self.scale {
            Scale::Linear => {
                let step = nice_step(self.to / 6.0);
                let count = (self.to / step) as u32;
                (0..=count).map(|tick| step * f64::from(tick)).map(|value| (value, short(value))).collect()
            }
            Scale::Log => {
                let factors: &[f64] = if self.to - self.from > 2.0 { &[1.0] } else { &[1.0, 2.0, 5.0] };
                let decades = self.from.floor() as i32..=self.to.ceil() as i32;
                decades
                    .flat_map(|decade| factors.iter().map(move |factor| factor * 10f64.powi(decade)))
                    .filter(|&value| (self.from..=self.to).contains(&value.log10()))
                    .map(|value| (value, short(value)))
                    .collect()
            }
            Scale::Nines => (0..=self.to as i32)
                .map(|nines| {
                    let value = 1.0 - 10f64.powi(-nines);
                    (value, format!("{} %", (1e6 * value).round() / 1e4))
                })
                .collect(),
        }
    }
}

fn position(scale: Scale, value: f64) -> f64 {
    match scale {
        Scale::Linear => value,
        Scale::Log => value.max(1e-9).log10(),
        Scale::Nines => -(1.0 - value).max(1e-9).log10(),
    }
}

/// 1, 2 or 5 times a power of ten, not less than this.
fn nice_step(least: f64) -> f64 {
    let decade = 10f64.powf(least.max(1e-12).log10().floor());
    [1.0, 2.0, 5.0, 10.0].into_iter().map(|factor| factor * decade).find(|&step| step >= least).unwrap_or(decade)
}

/// `1.5 M`, `20 k`, `300`, `0.05`.
pub(super) fn short(value: f64) -> String {
    let trimmed = |value: f64| {
        let text = format!("{value:.2}");
        text.trim_end_matches('0').trim_end_matches('.').to_owned()
    };
    match value.abs() {
        size if size >= 1e6 => format!("{} M", trimmed(value / 1e6)),
        size if size >= 1e4 => format!("{} k", trimmed(value / 1e3)),
        _ => trimmed(value),
    }
}

/// How many entries of the legend stand in a line: as many as the longest has room for.
fn legend_columns(series: &[&Series]) -> usize {
    let longest = series.iter().map(|line| line.name.chars().count()).max().unwrap_or(0);
    let fit = (WIDTH - LEFT - RIGHT) / (LETTER * longest as f64 + KEY);
    (fit as usize).clamp(1, LEGEND_COLUMNS)
}

/// A line, and its points where they are few.
fn trace(out: &mut String, line: &Series, at_x: impl Fn(f64) -> f64, at_y: impl Fn(f64) -> f64) {
    let path: Vec<_> = line.points.iter().map(|&(x, y)| format!("{:.1},{:.1}", at_x(x), at_y(y))).collect();
    // Writing to a string cannot fail.
    let _ = write!(out, "<polyline points=\"{}\"/>", path.join(" "));
    if line.points.len() > 20 {
        return;
    }
    for &(x, y) in &line.points {
        let _ = write!(
            out,
            "<circle cx=\"{:.1}\" cy=\"{:.1}\" r=\"3\"><title>{}: {}, {}</title></circle>",
            at_x(x),
            at_y(y),
            escape(&line.name),
            short(x),
            short(y)
        );
    }
}

/// The chart; empty where no series has a point.
pub(super) fn chart(title: &str, x: Axis<'_>, y: Axis<'_>, series: &[Series]) -> String {
    let series: Vec<&Series> = series.iter().filter(|line| !line.points.is_empty()).collect();
    if series.is_empty() {
        return String::new();
    }
    let points = || series.iter().flat_map(|line| &line.points);
    let across = Range::of(x.scale, points().map(|point| point.0));
    let up = Range::of(y.scale, points().map(|point| point.1));
    let columns = legend_columns(&series);
    let height = HEIGHT + LEGEND_LINE * series.len().div_ceil(columns) as f64;
    let (right, bottom) = (WIDTH - RIGHT, HEIGHT - BOTTOM);
    let at_x = |value: f64| LEFT + across.share(value) * (right - LEFT);
    let at_y = |value: f64| bottom - up.share(value) * (bottom - TOP);
    let mut out = format!(
        "<svg viewBox=\"0 0 {WIDTH} {height}\" role=\"img\" aria-label=\"{}\"><g class=\"grid\">",
        escape(title)
    );
    // Writing to a string cannot fail.
    for (value, text) in up.ticks() {
        let y = at_y(value);
        let _ = write!(out, "<line x1=\"{LEFT}\" x2=\"{right}\" y1=\"{y:.1}\" y2=\"{y:.1}\"/>");
        let _ = write!(out, "<text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{text}</text>", LEFT - 8.0, y + 4.0);
    }
    for (value, text) in across.ticks() {
        let x = at_x(value);
        let _ = write!(out, "<line x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{TOP}\" y2=\"{bottom}\"/>");
        let _ = write!(out, "<text x=\"{x:.1}\" y=\"{}\" text-anchor=\"middle\">{text}</text>", bottom + 18.0);
    }
    let middle = (LEFT + right) / 2.0;
    let _ = write!(
        out,
        "</g><text class=\"label\" x=\"{middle}\" y=\"{}\" text-anchor=\"middle\">{}</text>",
        bottom + 44.0,
        escape(x.label)
    );
    let half = (TOP + bottom) / 2.0;
    let _ = write!(
        out,
        "<text class=\"label\" transform=\"translate(16 {half}) rotate(-90)\" text-anchor=\"middle\">{}</text>",
        escape(y.label)
    );
    let mut hue = 0;
    for (index, line) in series.iter().enumerate() {
        hue += usize::from(index > 0 && !line.is_dashed);
        let dashed = if line.is_dashed { " dashed" } else { "" };
        let _ = write!(out, "<g class=\"c{}{dashed}\">", hue % COLOURS);
        trace(&mut out, line, at_x, at_y);
        let (column, row) = ((index % columns) as f64, (index / columns) as f64);
        let (x, y) = (LEFT + column * (right - LEFT) / columns as f64, HEIGHT + row * LEGEND_LINE);
        let _ = write!(
            out,
            "<line x1=\"{x:.1}\" x2=\"{:.1}\" y1=\"{y}\" y2=\"{y}\"/><text x=\"{:.1}\" y=\"{}\">{}</text></g>",
            x + 24.0,
            x + 30.0,
            y + 4.0,
            escape(&line.name)
        );
    }
    out.push_str("</svg>");
    out
}

/// A bar from 1 to a ratio with its spread, and marks at what was to be reached.
pub(super) fn ratio(median: f64, min: f64, max: f64, marks: &[f64]) -> String {
    const SPAN: f64 = 180.0;
    let most = marks.iter().copied().fold(max, f64::max).max(1.5);
    let least = marks.iter().copied().fold(min, f64::min).min(1.0);
    let at = |value: f64| 4.0 + (value - least) / (most - least) * (SPAN - 8.0);
    let mut out = format!("<svg class=\"ratio\" viewBox=\"0 0 {SPAN} 18\" aria-hidden=\"true\">");
    let (from, to) = (at(1.0).min(at(median)), at(1.0).max(at(median)));
    let _ = write!(out, "<rect x=\"{from:.1}\" y=\"5\" width=\"{:.1}\" height=\"8\"/>", (to - from).max(1.0));
    let _ = write!(out, "<line class=\"spread\" x1=\"{:.1}\" x2=\"{:.1}\" y1=\"9\" y2=\"9\"/>", at(min), at(max));
    for &mark in marks {
        let x = at(mark);
        let _ = write!(out, "<line class=\"mark\" x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"1\" y2=\"17\"/>");
    }
    out.push_str("</svg>");
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(scale: Scale, values: &[f64]) -> Vec<String> {
        Range::of(scale, values.iter().copied()).ticks().into_iter().map(|(_, text)| text).collect()
    }

    #[test]
    fn axes_have_round_numbers() {
        assert_eq!(texts(Scale::Linear, &[3.0, 100.0]), ["0", "20", "40", "60", "80", "100"]);
        assert_eq!(texts(Scale::Log, &[9.0, 4000.0]), ["10", "100", "1000", "10 k"]);
        assert_eq!(texts(Scale::Log, &[100.0, 110.0]), ["50", "100", "200"]);
        assert_eq!(texts(Scale::Nines, &[0.5, 0.9995]), ["0 %", "90 %", "99 %", "99.9 %", "99.99 %"]);
        assert_eq!(texts(Scale::Linear, &[]), ["0", "0.2", "0.4", "0.6", "0.8", "1"]);
        let five_nines = 1.0 - 10f64.powi(-5);
        assert_eq!(texts(Scale::Nines, &[five_nines]).last().map(String::as_str), Some("99.999 %"));
    }

    #[test]
    fn a_legend_has_as_many_columns_as_its_longest_name_leaves() {
        let columns = |name: &str| legend_columns(&[&Series::new(name.into(), Vec::new())]);
        assert_eq!((columns("p50"), columns("pairs, 10 % of the most")), (4, 2));
        assert_eq!(columns(&"x".repeat(500)), 1);
    }

    #[test]
    fn what_was_not_measured_is_dashed_in_the_colour_of_what_was() {
        let axis = |label| Axis { label, scale: Scale::Log };
        let series = [
            Series::new("a".into(), vec![(1.0, 1.0), (10.0, 10.0)]),
            Series::dashed("b".into(), vec![(10.0, 10.0), (1e6, 1e6)]),
            Series::new("c".into(), vec![(1.0, 2.0)]),
        ];
        let svg = chart("t", axis("x"), axis("y"), &series);
        let classes: Vec<_> = svg.split("<g class=\"c").skip(1).filter_map(|rest| rest.split('"').next()).collect();
        assert_eq!(classes, ["0", "0 dashed", "1"]);
    }

    #[test]
    fn a_chart_stays_within_its_frame_and_says_what_it_shows() {
        let axis = |label, scale| Axis { label, scale };
        let line = Series::new("p<99>".into(), vec![(0.0, 1.0), (0.9, 10.0), (1.0, 1e6)]);
        let svg = chart("a \"b\"", axis("x", Scale::Nines), axis("us", Scale::Log), &[line]);
        assert!(svg.starts_with("<svg ") && svg.ends_with("</svg>") && svg.contains("p&lt;99&gt;"));
        assert!(svg.contains("aria-label=\"a &quot;b&quot;\"") && !svg.contains("NaN") && !svg.contains("inf"));
        let points = svg.split("points=\"").nth(1).and_then(|rest| rest.split('"').next()).expect("a line");
        for point in points.split(' ') {
            let (x, y) = point.split_once(',').expect("two numbers");
            let (x, y): (f64, f64) = (x.parse().expect("x"), y.parse().expect("y"));
            assert!((LEFT..=WIDTH - RIGHT).contains(&x) && (TOP..=HEIGHT - BOTTOM).contains(&y), "{point}");
        }
        assert_eq!(chart("", axis("", Scale::Linear), axis("", Scale::Linear), &[]), "");
    }
}
