//! What the reader sees: a few lines that are drawn anew on a terminal, one line every two seconds anywhere else.

use std::collections::BTreeMap;
use std::io::{self, IsTerminal, Stdout, Write};
use std::time::Duration;

use crate::report::{Figures, LatencyFigures, Report, Upgrades};

/// The state of affairs at one moment.
#[derive(Debug, Clone, PartialEq)]
pub struct Moment {
    /// Since the load began.
    pub elapsed: Duration,
    /// How long it runs.
    pub total: Duration,
    /// Connections that are open now.
    pub open: u64,
    /// Connections that were opened.
    pub opened: u64,
    /// Connections that failed.
    pub failed: u64,
    /// Bytes checked until now.
    pub bytes: u64,
    /// Bytes checked a second, lately.
    pub bytes_per_second: f64,
    /// Requests that were answered.
    pub requests: u64,
    /// Their latency, lately.
    pub latency: LatencyFigures,
    /// Tunnels that are open.
    pub tunnels: u64,
    /// Moves of tunnels until now, on both nodes.
    pub moves: u64,
    /// A bound for 99 of 100 standstills, in seconds.
    pub pause_bound: Option<f64>,
    /// Whom the server's node saw, and on how many connections.
    pub identities: BTreeMap<String, u64>,
}

/// Where the reader looks.
#[derive(Debug)]
pub enum Display<W = Stdout> {
    /// A terminal: the lines of the last moment are overwritten.
    Terminal {
        /// The terminal.
        out: W,
        /// How many lines to go up.
        drawn: usize,
    },
    /// A file or a pipe: lines are only added.
    Plain {
        /// The file or pipe.
        out: W,
        /// When the next line is due.
        due: Duration,
    },
}

impl Display {
    /// The standard output.
    pub fn standard() -> Self {
        let out = io::stdout();
        if out.is_terminal() && std::env::var_os("TERM").is_none_or(|term| term != "dumb") {
            Self::Terminal { out, drawn: 0 }
        } else {
            Self::Plain { out, due: Duration::ZERO }
        }
    }
}

impl<W: Write> Display<W> {
    /// Says something that stays.
    ///
    /// # Errors
    /// Nobody reads any more.
    pub fn say(&mut self, text: &str) -> io::Result<()> {
        match self {
            Self::Terminal { out, drawn } => {
                *drawn = 0;
                writeln!(out, "{text}")?;
                out.flush()
            }
            Self::Plain { out, .. } => {
                writeln!(out, "{text}")?;
                out.flush()
            }
        }
    }

    /// Shows the state of affairs.
    ///
    /// # Errors
    /// Nobody reads any more.
    pub fn show(&mut self, moment: &Moment) -> io::Result<()> {
        match self {
            Self::Terminal { out, drawn } => {
                let lines = screen(moment);
                if *drawn > 0 {
                    // Up to the first line of the last moment, and clear from there.
                    write!(out, "\x1b[{drawn}A\x1b[J")?;
                }
                for line in &lines {
                    writeln!(out, "{line}")?;
                }
                *drawn = lines.len();
                out.flush()
            }
            Self::Plain { out, due } => {
                if moment.elapsed < *due {
                    return Ok(());
                }
                *due = moment.elapsed + PLAIN_INTERVAL;
                writeln!(out, "{}", line(moment))?;
                out.flush()
            }
        }
    }
}

const PLAIN_INTERVAL: Duration = Duration::from_millis(1900);

fn screen(moment: &Moment) -> Vec<String> {
    let (elapsed, total) = (moment.elapsed.as_secs_f64(), moment.total.as_secs_f64());
    let done = (elapsed / total * BAR as f64).clamp(0.0, BAR as f64) as usize;
    let mut lines = vec![
        format!("  [{}{}] {elapsed:4.1} of {total:.0} s", "#".repeat(done), "-".repeat(BAR - done)),
        String::new(),
        format!(
            "  connections   {} open, {} opened so far, {} failed",
            count(moment.open),
            count(moment.opened),
            count(moment.failed)
        ),
        format!(
            "  throughput    {}/s now, {} checked so far, every byte right",
            bytes(moment.bytes_per_second),
            bytes(moment.bytes as f64)
        ),
        format!(
            "  latency       half within {} ms, 99 % within {} ms ({} requests)",
            millis(moment.latency.p50_ms),
            millis(moment.latency.p99_ms),
            count(moment.requests)
        ),
        format!(
            "  tunnels       {} open, moved {} times between workers{}",
            count(moment.tunnels),
            count(moment.moves),
            pause(moment.pause_bound)
        ),
    ];
    if moment.failed > 0 {
        lines[3] =
            format!("  throughput    {}/s now; some connections FAILED", bytes(moment.bytes_per_second));
    }
    lines.push("  the server's node saw, by mutual TLS:".to_owned());
    if moment.identities.is_empty() {
        lines.push("                nobody yet".to_owned());
    }
    for (identity, connections) in &moment.identities {
        lines.push(format!("                {identity}  ({} connections)", count(*connections)));
    }
    lines
}

fn line(moment: &Moment) -> String {
    let identities: Vec<&str> = moment.identities.keys().map(String::as_str).collect();
    format!(
        "{:4.0} s: {} connections open ({} failed), {}/s, {} checked, \
         latency {} ms (99 %: {} ms), {} tunnel moves, seen: {}",
        moment.elapsed.as_secs_f64(),
        count(moment.open),
        count(moment.failed),
        bytes(moment.bytes_per_second),
        bytes(moment.bytes as f64),
        millis(moment.latency.p50_ms),
        millis(moment.latency.p99_ms),
        count(moment.moves),
        if identities.is_empty() { "nobody yet".to_owned() } else { identities.join(", ") },
    )
}

fn pause(bound: Option<f64>) -> String {
    match bound {
        None => String::new(),
        Some(bound) if bound.is_finite() => format!(", paused at most {} ms", millis(bound * 1000.0)),
        Some(_) => ", with long pauses".to_owned(),
    }
}

/// The last line: the verdict and the figures.
pub fn verdict(report: &Report) -> String {
    let Report { passed, reasons, figures, upgrades } = report;
    let figures = figures.as_ref().map(summary).unwrap_or_default();
    let figures = figures + &upgrades.as_ref().map(replacements).unwrap_or_default();
    if *passed {
        format!("demo: passed {figures}")
    } else {
        let separator = if figures.is_empty() { "" } else { " | " };
        // One line: the last words of a node have been shown above.
        let reasons: Vec<&str> = reasons.iter().filter_map(|reason| reason.lines().next()).collect();
        let reasons = reasons.join("; ");
        format!("demo: FAILED {reasons}{separator}{figures}")
    }
}

fn summary(figures: &Figures) -> String {
    let Figures { connections, tunnels, request_latency, .. } = figures;
    let moves = tunnels.moves_client_node + tunnels.moves_server_node;
    let pause = match tunnels.pause_p99_at_most_ms {
        Some(pause) => format!(" (pause at most {} ms for 99 %)", millis(pause)),
        None => String::new(),
    };
    let acts = figures.control_plane.as_ref().map_or_else(String::new, |acts| {
        let (closed, away) = (millis(acts.policy_closed_ms), acts.outage_seconds);
        format!("; a policy cut its connection after {closed} ms; istiod was away for {away:.1} s, unnoticed")
    });
    format!(
        "in {:.1} s: {} checked, {}/s; {} connections, {} failed; {} requests, latency {} ms, 99 % {} ms; \
         {} tunnel moves{pause}{acts}; seen: {}",
        figures.seconds,
        bytes(figures.bytes_checked as f64),
        bytes(figures.bytes_per_second),
        connections.opened,
        connections.failed,
        figures.requests,
        millis(request_latency.p50_ms),
        millis(request_latency.p99_ms),
        moves,
        figures.identities.keys().cloned().collect::<Vec<_>>().join(", "),
    )
}

fn replacements(Upgrades { handover, control }: &Upgrades) -> String {
    let pauses = handover.replacements.iter().filter_map(|one| one.moved);
    let longest = pauses.map(|moved| moved.pause_max_ms).fold(0.0, f64::max);
    format!(
        "; proxies were replaced {} times: of {} long-lived connections {}, paused at most {} ms (without a hand-over: {})",
        handover.replacements.len(),
        handover.long_lived,
        handover.lost,
        millis(longest),
        control.lost,
    )
}

/// 12.3 MB: decimal units, three digits or so.
fn bytes(number: f64) -> String {
    let mut number = number;
    let mut unit = 0;
    while number >= 1000.0 && unit + 1 < UNITS.len() {
        number /= 1000.0;
        unit += 1;
    }
    let digits = if unit == 0 || number >= 100.0 { 0 } else { 1 };
    format!("{number:.digits$} {}", UNITS[unit])
}

const UNITS: [&str; 5] = ["B", "kB", "MB", "GB", "TB"];
const BAR: usize = 40;

/// Milliseconds with as many digits as say something.
fn millis(number: f64) -> String {
    let digits = match number {
        ..1.0 => 2,
        1.0..10.0 => 1,
        _ => 0,
    };
    format!("{number:.digits$}")
}

/// 12 345: groups of three digits.
fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut grouped = String::with_capacity(digits.len() * 4 / 3);
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            grouped.push(' ');
        }
        grouped.push(digit);
    }
    grouped
}

#[cfg(test)]
mod tests {
    use super::*;

    fn moment(seconds: f64) -> Moment {
        Moment {
            elapsed: Duration::from_secs_f64(seconds),
            total: Duration::from_secs(15),
            open: 124,
            opened: 1_532,
            failed: 0,
            bytes: 12_345_678_901,
            bytes_per_second: 512_345_678.0,
            requests: 21_402,
            latency: LatencyFigures { p50_ms: 0.412, p99_ms: 23.4, max_ms: 50.0 },
            tunnels: 5,
            moves: 1_203,
            pause_bound: Some(0.002),
            identities: BTreeMap::from([("spiffe://cluster.local/ns/demo/sa/client".to_owned(), 1_532)]),
        }
    }

    fn text(out: &[u8]) -> String {
        String::from_utf8_lossy(out).into_owned()
    }

    #[test]
    fn a_terminal_is_drawn_anew_in_place_and_never_wraps() {
        let mut display = Display::Terminal { out: Vec::new(), drawn: 0 };
        display.show(&moment(1.0)).expect("a vector takes it");
        display.show(&moment(2.0)).expect("a vector takes it");
        let Display::Terminal { out, drawn } = display else { panic!("a terminal") };
        let shown = text(&out);
        assert_eq!(shown.matches(&format!("\x1b[{drawn}A\x1b[J")).count(), 1, "{shown}");
        assert!(shown.contains("124 open, 1 532 opened so far, 0 failed"), "{shown}");
        assert!(shown.contains("512 MB/s now, 12.3 GB checked so far"), "{shown}");
        assert!(shown.contains("half within 0.41 ms, 99 % within 23 ms (21 402 requests)"), "{shown}");
        assert!(shown.contains("moved 1 203 times between workers, paused at most 2.0 ms"), "{shown}");
        assert!(shown.contains("spiffe://cluster.local/ns/demo/sa/client  (1 532 connections)"), "{shown}");
        // A line that wraps would make the cursor go up too little.
        assert!(screen(&moment(1.0)).iter().all(|line| line.chars().count() <= 80), "{shown}");
    }

    #[test]
    fn without_a_terminal_there_are_no_escapes_and_few_lines() {
        let mut display = Display::Plain { out: Vec::new(), due: Duration::ZERO };
        for tenth in 0..=40 {
            display.show(&moment(f64::from(tenth) / 10.0)).expect("a vector takes it");
        }
        let Display::Plain { out, .. } = display else { panic!("no terminal") };
        let shown = text(&out);
        assert!(!shown.contains('\x1b'), "{shown}");
        assert_eq!(shown.lines().count(), 3, "{shown}");
        assert!(shown.contains("seen: spiffe://cluster.local/ns/demo/sa/client"), "{shown}");
    }

    #[test]
    fn the_verdict_is_one_line() {
        let failed = Report::failed("node-server ended by itself. Its last words:\n  a\n  b".to_owned());
        assert_eq!(verdict(&failed), "demo: FAILED node-server ended by itself. Its last words:");
    }

    #[test]
    fn numbers_are_short() {
        assert_eq!(
            [0.0, 999.0, 1e3, 12_345.0, 1.5e15].map(bytes),
            ["0 B", "999 B", "1.0 kB", "12.3 kB", "1500 TB"]
        );
        assert_eq!([7, 999, 1_000, 1_234_567].map(count), ["7", "999", "1 000", "1 234 567"]);
    }
}
