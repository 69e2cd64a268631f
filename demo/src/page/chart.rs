//! Charts as SVG, for one page that needs nothing else.

use std::fmt::Write;

/// A scale of one axis: from a value to a part (0 to 1) of the axis.
#[derive(Debug, Clone, Copy)]
pub(super) enum Scale {
    /// From nought.
    Linear {
        /// What reaches the end.
        max: f64,
    },
    /// By powers of ten.
    Logarithmic {
        /// What lies at the begin; everything below, too.
        min: f64,
        /// What reaches the end.
        max: f64,
    },
}

impl Scale {
    fn part(self, value: f64) -> f64 {
        match self {
            Self::Linear { max } => value / max.max(f64::MIN_POSITIVE),
            Self::Logarithmic { min, max } => (value.max(min) / min).ln() / (max / min).ln(),
        }
        .clamp(0.0, 1.0)
    }

    /// Where lines are drawn.
    fn ticks(self) -> Vec<f64> {
        match self {
            Self::Linear { max } => (0..=4).map(|quarter| max * f64::from(quarter) / 4.0).collect(),
            Self::Logarithmic { min, max } => std::iter::successors(Some(min), |tick| Some(tick * 10.0))
                .take_while(|tick| *tick <= max * 1.001)
                .collect(),
        }
    }
}

/// What happens in time, for one figure.
#[derive(Debug)]
pub(super) struct Timeline<'c> {
    /// Seconds and values.
    pub(super) points: Vec<(f64, f64)>,
    /// When something went on that is to be seen: begin and end, and what.
    pub(super) spans: &'c [(f64, f64, &'c str)],
    /// Seconds on the axis.
    pub(super) seconds: f64,
    /// Of the values.
    pub(super) scale: Scale,
    /// How a value is written.
    pub(super) label: fn(f64) -> String,
    /// `class` of the line.
    pub(super) class: &'static str,
}

const WIDTH: f64 = 560.0;
const HEIGHT: f64 = 150.0;
const LEFT: f64 = 64.0;
const BOTTOM: f64 = 22.0;
const TOP: f64 = 8.0;
const RIGHT: f64 = 8.0;

impl Timeline<'_> {
    /// The chart.
    pub(super) fn svg(&self) -> String {
        let mut svg = open();
        let time = Scale::Linear { max: self.seconds };
        for (begin, end, what) in self.spans {
            let (from, to) = (across(time.part(*begin)), across(time.part(*end)));
            push(
                &mut svg,
                format_args!(
                    "<rect class=\"span {what}\" x=\"{from:.1}\" y=\"{TOP}\" width=\"{:.1}\" height=\"{:.1}\"/>",
                    (to - from).max(1.0),
                    HEIGHT - TOP - BOTTOM
                ),
            );
        }
        grid(&mut svg, self.scale, self.label);
        for second in (0..=self.seconds as u32).step_by(step(self.seconds)) {
            let x = across(time.part(f64::from(second)));
            push(
                &mut svg,
                format_args!("<text class=\"x\" x=\"{x:.1}\" y=\"{:.1}\">{second} s</text>", HEIGHT - 6.0),
            );
        }
        let points: Vec<_> = self
            .points
            .iter()
            .map(|(at, value)| format!("{:.1},{:.1}", across(time.part(*at)), up(self.scale.part(*value))))
            .collect();
        push(&mut svg, format_args!("<polyline class=\"{}\" points=\"{}\"/>", self.class, points.join(" ")));
        svg + "</svg>"
    }
}

/// Bars side by side, each with a label.
pub(super) fn bars(bars: &[(String, u64)]) -> String {
    let mut svg = open();
    let scale = Scale::Linear { max: bars.iter().map(|(_, count)| *count).max().unwrap_or(0).max(1) as f64 };
    grid(&mut svg, scale, |count| format!("{count:.0}"));
    let width = (WIDTH - LEFT - RIGHT) / bars.len().max(1) as f64;
    for (number, (label, count)) in bars.iter().enumerate() {
        let (x, y) = (LEFT + width * number as f64, up(scale.part(*count as f64)));
        push(
            &mut svg,
            format_args!(
                "<rect class=\"bar\" x=\"{:.1}\" y=\"{y:.1}\" width=\"{:.1}\" height=\"{:.1}\">\
                 <title>{count} of at most {label}</title></rect>",
                x + 1.0,
                width - 2.0,
                HEIGHT - BOTTOM - y
            ),
        );
        push(
            &mut svg,
            format_args!(
                "<text class=\"x\" x=\"{:.1}\" y=\"{:.1}\">{label}</text>",
                x + width / 2.0,
                HEIGHT - 6.0
            ),
        );
    }
    svg + "</svg>"
}

fn open() -> String {
    format!("<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\">")
}

fn grid(svg: &mut String, scale: Scale, label: fn(f64) -> String) {
    for tick in scale.ticks() {
        let (y, right) = (up(scale.part(tick)), WIDTH - RIGHT);
        push(
            svg,
            format_args!("<line class=\"grid\" x1=\"{LEFT}\" x2=\"{right}\" y1=\"{y:.1}\" y2=\"{y:.1}\"/>"),
        );
        let (x, y, label) = (LEFT - 6.0, y + 4.0, label(tick));
        push(svg, format_args!("<text class=\"y\" x=\"{x}\" y=\"{y:.1}\">{label}</text>"));
    }
}

fn push(svg: &mut String, what: std::fmt::Arguments<'_>) {
    svg.write_fmt(what).expect("a string takes anything");
}

fn across(part: f64) -> f64 {
    LEFT + part * (WIDTH - LEFT - RIGHT)
}

fn up(part: f64) -> f64 {
    HEIGHT - BOTTOM - part * (HEIGHT - TOP - BOTTOM)
}

/// Seconds between two labels.
fn step(seconds: f64) -> usize {
    if seconds > 60.0 {
        20
    } else if seconds > 12.0 {
        5
    } else {
        1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scales_end_where_they_should() {
        let log = Scale::Logarithmic { min: 0.1, max: 1000.0 };
        for (value, part) in [(0.0, 0.0), (0.1, 0.0), (10.0, 0.5), (1000.0, 1.0), (5000.0, 1.0)] {
            assert!((log.part(value) - part).abs() < 1e-9, "{value}");
        }
        assert_eq!(log.ticks().len(), 5);
        assert_eq!(Scale::Linear { max: 0.0 }.part(0.0), 0.0);
    }

    #[test]
    fn a_chart_has_every_point_and_span() {
        let chart = Timeline {
            points: vec![(0.0, 0.0), (5.0, 50.0), (10.0, 100.0)],
            spans: &[(1.0, 2.0, "client")],
            seconds: 10.0,
            scale: Scale::Linear { max: 100.0 },
            label: |value| format!("{value:.0}"),
            class: "line",
        };
        let svg = chart.svg();
        assert!(svg.contains("points=\"64.0,128.0 308.0,68.0 552.0,8.0\""), "{svg}");
        assert_eq!(svg.matches("<rect class=\"span client\"").count(), 1);
        assert_eq!(
            bars(&[("1 ms".to_owned(), 3), ("2 ms".to_owned(), 0)]).matches("class=\"bar\"").count(),
            2
        );
    }
}
