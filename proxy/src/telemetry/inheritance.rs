//! Counters that outlive processes: a successor goes on counting where its predecessor stopped.
//!
//! ```text
//!   shown here = counted here + came from predecessors − left to successors
//! ```
//!
//! What was left is shown by the successor, so over all processes of a node nothing is counted twice, and at the one that
//! serves no counter goes back. The two speak in the exposition format that both can write; histograms stay where they are,
//! since the bounds of their buckets may differ between builds.

use std::collections::BTreeMap;
use std::fmt::Write;

/// By the name of the series with its labels, as it is exposed.
type Counts = BTreeMap<String, u64>;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Inheritance {
    came: BTreeMap<String, Family>,
    left: Counts,
    /// What was left last, in case that it comes back.
    last: Counts,
}

/// The series of one counter.
#[derive(Debug, Default)]
struct Family {
    /// The lines ahead of them.
    head: String,
    counts: Counts,
}

impl Inheritance {
    /// What would be exposed, with what came and without what was left. A series of which everything was left is not shown.
    pub(super) fn applied(&self, exposition: &str) -> String {
        if self.came.is_empty() && self.left.is_empty() {
            return exposition.to_owned();
        }
        let mut text = String::with_capacity(exposition.len());
        let mut missing: BTreeMap<&str, &Family> =
            self.came.iter().map(|(name, family)| (name.as_str(), family)).collect();
        for block in blocks(exposition) {
            text.push_str(block.head);
            let came = missing.remove(block.family).map(|family| &family.counts);
            let mut rest: Counts = came.cloned().unwrap_or_default();
            for line in block.samples.lines() {
                match counter(line) {
                    Some((series, count)) => {
                        let came = rest.remove(series).unwrap_or_default();
                        self.show(series, count.saturating_add(came), &mut text);
                    }
                    None => text.extend([line, "\n"]),
                }
            }
            rest.iter().for_each(|(series, came)| self.show(series, *came, &mut text));
        }
        for family in missing.into_values() {
            text.push_str(&family.head);
            family.counts.iter().for_each(|(series, came)| self.show(series, *came, &mut text));
        }
        text.extend([END, "\n"]);
        text
    }

    /// Everything that is counted in `exposition` is the successor's from now on; what to tell it.
    pub(super) fn leave(&mut self, exposition: &str) -> String {
        let families = read(&self.applied(exposition));
        self.last.clear();
        let mut text = String::new();
        for Family { head, counts } in families.into_values() {
            text.push_str(&head);
            for (series, count) in counts {
                let _ = writeln!(text, "{series} {count}");
                *self.left.entry(series.clone()).or_default() += count;
                self.last.insert(series, count);
            }
        }
        text
    }

    /// The successor is gone: what was left to it last is shown here again.
    pub(super) fn take_back(&mut self) {
        for (series, count) in std::mem::take(&mut self.last) {
            if let Some(left) = self.left.get_mut(&series) {
                *left = left.saturating_sub(count);
            }
        }
        self.left.retain(|_, left| *left > 0);
    }

    /// What a predecessor has left, or a successor has given back.
    pub(super) fn take(&mut self, text: &str) {
        // What was left to the one that gives back is in what it gives.
        self.last.clear();
        for (name, family) in read(text) {
            let came = self.came.entry(name).or_default();
            came.head = family.head;
            for (series, count) in family.counts {
                let came = came.counts.entry(series).or_default();
                *came = came.saturating_add(count);
            }
        }
    }

    fn show(&self, series: &str, count: u64, text: &mut String) {
        let left = self.left.get(series).copied().unwrap_or_default();
        if count > left || left == 0 {
            let _ = writeln!(text, "{series} {}", count.saturating_sub(left));
        }
    }
}

/// The last line of an exposition.
const END: &str = "# EOF";

/// What the name of a counter's series ends with.
const SUFFIX: &str = "_total";

/// What each process tells of its own hand-overs.
const OWN: &str = "ztunnel_handover_";

/// A family in an exposition.
struct Block<'a> {
    family: &'a str,
    /// The lines of comment.
    head: &'a str,
    samples: &'a str,
}

fn blocks(exposition: &str) -> impl Iterator<Item = Block<'_>> {
    let mut rest = exposition;
    std::iter::from_fn(move || {
        let block = rest;
        let family = family_of(block.lines().next().unwrap_or_default()).unwrap_or_default();
        let head = lines_while(block, |line| family_of(line) == Some(family));
        let samples = lines_while(&block[head..], |line| !line.starts_with('#'));
        rest = &block[head + samples..];
        let block = Block { family, head: &block[..head], samples: &block[head..head + samples] };
        (!block.head.is_empty() || !block.samples.is_empty()).then_some(block)
    })
}

/// The family that a line of comment is about: `# TYPE family …`.
fn family_of(line: &str) -> Option<&str> {
    line.starts_with('#').then(|| line.split(' ').nth(2)).flatten()
}

/// The length of the first lines that are so.
fn lines_while(text: &str, are_so: impl Fn(&str) -> bool) -> usize {
    text.split_inclusive('\n').take_while(|line| are_so(line.trim_end())).map(str::len).sum()
}

/// A counter's series and its count.
fn counter(line: &str) -> Option<(&str, u64)> {
    // A label's value may have spaces.
    let (series, count) = line.rsplit_once(' ')?;
    let name = series.split_once('{').map_or(series, |(name, _)| name);
    name.ends_with(SUFFIX).then_some((series, count.parse().ok()?))
}

/// The counters in an exposition that are passed on.
fn read(exposition: &str) -> BTreeMap<String, Family> {
    let mut families = BTreeMap::new();
    for Block { family, head, samples } in blocks(exposition) {
        let counts: Counts =
            samples.lines().filter_map(counter).map(|(series, count)| (series.to_owned(), count)).collect();
        if !counts.is_empty() && !family.is_empty() && !family.starts_with(OWN) {
            families.insert(family.to_owned(), Family { head: head.to_owned(), counts });
        }
    }
    families
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As the registry writes it.
    fn exposition(opened: &[(&str, u64)]) -> String {
        let mut text = "# HELP bytes Bytes.\n# TYPE bytes counter\n".to_owned();
        for (labels, count) in opened {
            let _ = writeln!(text, "bytes_total{{{labels}}} {count}");
        }
        text.push_str("# HELP open Now.\n# TYPE open gauge\nopen 3\n");
        text.push_str(
            "# HELP ztunnel_handover_x X.\n# TYPE ztunnel_handover_x counter\nztunnel_handover_x_total 5\n",
        );
        text.push_str("# EOF\n");
        text
    }

    fn series(text: &str) -> Vec<&str> {
        text.lines().filter(|line| !line.starts_with('#')).collect()
    }

    const A: &str = "a=\"a name\"";
    const B: &str = "a=\"b\"";

    #[test]
    fn who_passes_nothing_on_shows_what_it_counts() {
        let text = exposition(&[(A, 0), (B, 2)]);
        assert_eq!(Inheritance::default().applied(&text), text);
    }

    #[test]
    fn a_successor_goes_on_where_the_other_stopped() {
        let (mut old, mut new) = (Inheritance::default(), Inheritance::default());
        let told = old.leave(&exposition(&[(A, 7), (B, 2)]));
        new.take(&told);
        assert_eq!(
            series(&new.applied(&exposition(&[(A, 1)]))),
            ["bytes_total{a=\"a name\"} 8", "bytes_total{a=\"b\"} 2", "open 3", "ztunnel_handover_x_total 5"]
        );
        // The old one shows what it has counted since, and its own hand-overs.
        assert_eq!(
            series(&old.applied(&exposition(&[(A, 9), (B, 2)]))),
            ["bytes_total{a=\"a name\"} 2", "open 3", "ztunnel_handover_x_total 5"]
        );
        // Their sum is what was counted, over generations. One that has counted nothing of a kind exposes no such family.
        let mut third = Inheritance::default();
        third.take(&new.leave(&exposition(&[(A, 4)])));
        for own in [exposition(&[]), "# EOF\n".to_owned()] {
            let text = third.applied(&own);
            assert!(
                text.contains("# TYPE bytes counter\nbytes_total{a=\"a name\"} 11\nbytes_total{a=\"b\"} 2\n")
            );
            assert!(text.ends_with("\n# EOF\n"), "{text}");
        }
    }

    #[test]
    fn what_was_left_comes_back_if_the_successor_dies() {
        let mut old = Inheritance::default();
        let before = exposition(&[(A, 7)]);
        old.leave(&before);
        old.take_back();
        assert_eq!(old.applied(&before), before);
        old.take_back();
        assert_eq!(old.applied(&before), before, "only once");
    }

    #[test]
    fn what_a_successor_gives_back_is_counted_once() {
        let (mut old, mut new) = (Inheritance::default(), Inheritance::default());
        new.take(&old.leave(&exposition(&[(A, 7)])));
        old.take(&new.leave(&exposition(&[(A, 2)])));
        assert_eq!(series(&old.applied(&exposition(&[(A, 8)])))[0], "bytes_total{a=\"a name\"} 10");
        old.take_back();
        assert_eq!(series(&old.applied(&exposition(&[(A, 8)])))[0], "bytes_total{a=\"a name\"} 10");
    }

    #[test]
    fn what_cannot_be_read_is_nothing() {
        let mut new = Inheritance::default();
        let text = exposition(&[(A, 1)]);
        for line in ["bytes_total{a=\"a name\"} -4", "bytes_total", "", "bytes_total x", "open 9", "\u{fffd}"]
        {
            for end in ["", "\n", "\n# EOF", "\n# EOF\nbytes_total 9\n"] {
                new.take(&format!("{line}{end}"));
                new.take(&format!("# TYPE bytes counter\n{line}{end}"));
            }
        }
        assert_eq!(new.applied(&text), text);
    }
}
