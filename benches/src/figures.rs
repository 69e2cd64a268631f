//! Measured values: one line an item, for a reader and as JSON.

use std::io::{self, Write};

use serde_json::{Value, json};

/// Values of one item, one for each round.
#[derive(Debug, Clone, PartialEq)]
pub struct Line {
    /// What was measured, and on which route.
    pub item: String,
    /// Its unit.
    pub unit: &'static str,
    /// One for each round.
    pub values: Vec<f64>,
}

impl Line {
    /// A line of measured values.
    pub fn new(item: impl Into<String>, unit: &'static str, values: Vec<f64>) -> Self {
        Self { item: item.into(), unit, values }
    }

    /// `values` divided by those of another line, round by round.
    pub fn ratio(item: impl Into<String>, values: &[f64], by: &[f64]) -> Self {
        let pairs = values.iter().zip(by).map(|(value, by)| value / by);
        Self::new(item, "ratio", pairs.collect())
    }
}

/// Lowest, middle and highest value. The middle one of an even number is the mean of two.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Spread {
    /// The lowest.
    pub min: f64,
    /// The middle.
    pub median: f64,
    /// The highest.
    pub max: f64,
}

impl Spread {
    /// Of `values`; `None` if there are none.
    pub fn of(values: &[f64]) -> Option<Self> {
        let mut sorted = values.to_vec();
        sorted.sort_by(f64::total_cmp);
        let (min, max) = (*sorted.first()?, *sorted.last()?);
        let median = f64::midpoint(sorted[(sorted.len() - 1) / 2], sorted[sorted.len() / 2]);
        Some(Self { min, median, max })
    }
}

/// A heading and its lines.
#[derive(Debug, Clone, PartialEq)]
pub struct Section {
    /// What was done.
    pub title: String,
    /// What came of it.
    pub lines: Vec<Line>,
}

impl Section {
    /// A heading without lines.
    pub fn new(title: impl Into<String>) -> Self {
        Self { title: title.into(), lines: Vec::new() }
    }

    /// Adds a line.
    pub fn push(&mut self, line: Line) {
        self.lines.push(line);
    }

    /// For a reader: median, range and unit.
    ///
    /// # Errors
    /// Nobody reads it.
    pub fn write(&self, out: &mut impl Write) -> io::Result<()> {
        writeln!(out, "\n{:<56}{:>10}   {:<19}  unit", self.title, "median", "min .. max")?;
        for line in &self.lines {
            let Some(Spread { min, median, max }) = Spread::of(&line.values) else { continue };
            let range = match line.values.len() {
                1 => String::new(),
                _ => format!("{} .. {}", digits(min), digits(max)),
            };
            writeln!(out, "  {:<54}{:>10}   {range:<19}  {}", line.item, digits(median), line.unit)?;
        }
        out.flush()
    }

    /// With every single value.
    pub fn json(&self) -> Value {
        let lines = self.lines.iter().map(|line| {
            let median = Spread::of(&line.values).map(|spread| spread.median);
            json!({ "item": line.item, "unit": line.unit, "median": median, "values": line.values })
        });
        json!({ "title": self.title, "lines": lines.collect::<Vec<_>>() })
    }
}

/// Three significant digits, or all before the point.
fn digits(value: f64) -> String {
    match value.abs() {
        size if size >= 100.0 || size == 0.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        size if size >= 1.0 => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_middle_lies_between() {
        assert_eq!(Spread::of(&[3.0, 1.0, 2.0]), Some(Spread { min: 1.0, median: 2.0, max: 3.0 }));
        assert_eq!(Spread::of(&[4.0, 1.0]).map(|spread| spread.median), Some(2.5));
        assert_eq!(Spread::of(&[]), None);
    }

    #[test]
    fn a_ratio_is_of_pairs_not_of_medians() {
        let line = Line::ratio("r", &[1.0, 8.0], &[2.0, 4.0]);
        assert_eq!(line.values, [0.5, 2.0]);
    }

    #[test]
    fn a_line_says_its_unit_and_spread() {
        let mut section = Section::new("bulk");
        section.push(Line::new("direct", "Gb/s", vec![31.234, 29.9, 30.0]));
        section.push(Line::new("once", "bytes", vec![1234.5]));
        let mut text = Vec::new();
        section.write(&mut text).expect("memory takes anything");
        let text = String::from_utf8(text).expect("text");
        let lines: Vec<Vec<&str>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(lines[1], ["bulk", "median", "min", "..", "max", "unit"]);
        assert_eq!(lines[2], ["direct", "30.0", "29.9", "..", "31.2", "Gb/s"]);
        assert_eq!(lines[3], ["once", "1234", "bytes"]);
        assert_eq!(section.json()["lines"][0]["values"][0], 31.234);
    }
}
