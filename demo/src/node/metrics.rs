//! Metrics in Prometheus' text form, as far as the figures of a node need it.

use std::collections::BTreeMap;

/// All samples that a node reported at one moment.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Metrics {
    samples: Vec<Sample>,
}

/// One line: a name, labels, a value.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    /// The full name, with its `_total`, `_bucket`, `_sum`, `_count`.
    pub name: String,
    /// The labels.
    pub labels: BTreeMap<String, String>,
    /// The value.
    pub value: f64,
}

impl Metrics {
    /// Reads the text; lines that are no samples are left out.
    pub fn parse(text: &str) -> Self {
        Self { samples: text.lines().filter_map(parse_line).collect() }
    }

    /// The samples of that name.
    pub fn named<'m>(&'m self, name: &'m str) -> impl Iterator<Item = &'m Sample> {
        self.samples.iter().filter(move |sample| sample.name == name)
    }

    /// The sum of the samples of that name that have all of `labels`.
    pub fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        self.named(name).filter(|sample| sample.has(labels)).map(|sample| sample.value).sum()
    }

    /// As [`Metrics::sum`], for each value of `label`.
    pub fn by_label(&self, name: &str, labels: &[(&str, &str)], label: &str) -> BTreeMap<String, f64> {
        let mut sums = BTreeMap::new();
        for sample in self.named(name).filter(|sample| sample.has(labels)) {
            let value = sample.labels.get(label).map_or("", String::as_str);
            *sums.entry(value.to_owned()).or_default() += sample.value;
        }
        sums
    }

    /// The histogram of that name, over all labels.
    pub fn histogram(&self, name: &str) -> Buckets {
        let mut buckets = Buckets { sum: self.sum(&format!("{name}_sum"), &[]), ..Buckets::default() };
        for sample in self.named(&format!("{name}_bucket")) {
            if let Some(bound) = sample.labels.get("le").and_then(|bound| bound.parse().ok()) {
                buckets.add(bound, sample.value);
            }
        }
        buckets
    }
}

impl Sample {
    fn has(&self, labels: &[(&str, &str)]) -> bool {
        labels.iter().all(|(key, value)| self.labels.get(*key).is_some_and(|found| found == value))
    }
}

/// A histogram with fixed bounds, as Prometheus keeps it: only the bucket of a value is known.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Buckets {
    /// Upper bound and number of values up to it, by rising bound; the last bound is infinite.
    cumulative: Vec<(f64, f64)>,
    sum: f64,
}

impl Buckets {
    /// How many values there are.
    pub fn count(&self) -> f64 {
        self.cumulative.last().map_or(0.0, |(_, count)| *count)
    }

    /// The mean value.
    pub fn mean(&self) -> Option<f64> {
        (self.count() > 0.0).then(|| self.sum / self.count())
    }

    /// A bound that `quantile` (0 to 1) of the values do not pass; infinite if it lies above the last bucket.
    pub fn bound(&self, quantile: f64) -> Option<f64> {
        let wanted = quantile * self.count();
        (wanted > 0.0)
            .then(|| self.cumulative.iter().find(|(_, count)| *count >= wanted).map(|(bound, _)| *bound))?
    }

    /// Each bound with the number of values within it and above the one before; the last bound is `None`, for infinite.
    pub fn within(&self) -> Vec<(Option<f64>, u64)> {
        let before = [0.0].into_iter().chain(self.cumulative.iter().map(|(_, count)| *count));
        let each = self.cumulative.iter().zip(before);
        // Counts are whole.
        each.map(|((bound, count), before)| {
            (bound.is_finite().then_some(*bound), (count - before).round() as u64)
        })
        .collect()
    }

    /// Both histograms as one. Their bounds have to be the same.
    #[must_use]
    pub fn merged(mut self, other: &Self) -> Self {
        for (bound, count) in &other.cumulative {
            self.add(*bound, *count);
        }
        self.sum += other.sum;
        self
    }

    fn add(&mut self, bound: f64, count: f64) {
        let place = self.cumulative.partition_point(|(existing, _)| *existing < bound);
        match self.cumulative.get_mut(place) {
            Some((existing, total)) if *existing == bound => *total += count,
            _ => self.cumulative.insert(place, (bound, count)),
        }
    }
}

fn parse_line(line: &str) -> Option<Sample> {
    let line = line.trim();
    if line.is_empty() || line.starts_with('#') {
        return None;
    }
    let name_end = line.find(['{', ' '])?;
    let (name, rest) = line.split_at(name_end);
    let mut labels = BTreeMap::new();
    let rest = match rest.strip_prefix('{') {
        Some(rest) => parse_labels(rest, &mut labels)?,
        None => rest,
    };
    let value = rest.split_whitespace().next()?.parse().ok()?;
    Some(Sample { name: name.to_owned(), labels, value })
}

/// Reads `key="value",…}` and returns what follows the brace.
fn parse_labels<'l>(mut rest: &'l str, labels: &mut BTreeMap<String, String>) -> Option<&'l str> {
    loop {
        rest = rest.trim_start_matches([',', ' ']);
        if let Some(rest) = rest.strip_prefix('}') {
            return Some(rest);
        }
        let (key, quoted) = rest.split_once("=\"")?;
        let mut value = String::new();
        let mut characters = quoted.char_indices();
        let end = loop {
            match characters.next()? {
                (place, '"') => break place,
                (_, '\\') => value.push(match characters.next()?.1 {
                    'n' => '\n',
                    other => other,
                }),
                (_, plain) => value.push(plain),
            }
        };
        labels.insert(key.trim().to_owned(), value);
        rest = &quoted[end + 1..];
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = r#"# HELP moves Tunnels.
# TYPE moves counter
moves_total{result="ok"} 12
moves_total{result="failed"} 3
opened_total{who="spiffe://a/ns/b/sa/c",odd="a\"b\\c\nd,}e",empty=""} 4
opened_total{who="",odd="x"} 1
plain 1.5e3
pause_sum 0.9
pause_count 10
pause_bucket{le="0.001"} 5
pause_bucket{le="0.01"} 9
pause_bucket{le="+Inf"} 10
nonsense{a="b
# EOF
"#;

    #[test]
    fn samples_are_summed_by_their_labels() {
        let metrics = Metrics::parse(TEXT);
        assert_eq!(metrics.sum("moves_total", &[]), 15.0);
        assert_eq!(metrics.sum("moves_total", &[("result", "ok")]), 12.0);
        assert_eq!(metrics.sum("moves_total", &[("absent", "ok")]), 0.0);
        assert_eq!(metrics.sum("plain", &[]), 1500.0);
        let odd = metrics.by_label("opened_total", &[], "odd");
        assert_eq!(odd, BTreeMap::from([("a\"b\\c\nd,}e".to_owned(), 4.0), ("x".to_owned(), 1.0)]));
    }

    #[test]
    fn quantiles_of_a_histogram_are_bounds() {
        let pause = Metrics::parse(TEXT).histogram("pause");
        assert_eq!(pause.count(), 10.0);
        assert_eq!(pause.mean(), Some(0.09));
        assert_eq!(pause.bound(0.5), Some(0.001));
        assert_eq!(pause.bound(0.9), Some(0.01));
        assert_eq!(pause.bound(0.99), Some(f64::INFINITY));
        assert_eq!(pause.clone().merged(&pause).count(), 20.0);
        assert_eq!(pause.within(), [(Some(0.001), 5), (Some(0.01), 4), (None, 1)]);
        let none = Metrics::default().histogram("pause");
        assert_eq!((none.count(), none.mean(), none.bound(0.5)), (0.0, None, None));
    }
}
