//! The report as one page of HTML that needs nothing else: what applications saw of the replacements, and of a control run.

use std::fmt::Write;

use crate::display::verdict;
use crate::report::{Report, Upgrades};
use crate::upgrade::{Replacement, UpgradeFigures};

mod chart;

use chart::{Scale, Timeline, bars};

/// The page; `None` if no proxy was replaced.
pub fn html(report: &Report) -> Option<String> {
    let Upgrades { handover, control } = report.upgrades.as_ref()?;
    // Both runs by the same measure, so that they can be compared.
    let fastest =
        [handover, control].into_iter().flat_map(|run| &run.timeline).map(|moment| moment.bytes_per_second);
    let fastest = fastest.fold(1.0, f64::max);
    Some(format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n<title>Replaced under load</title>\n\
         <style>\n{STYLE}</style>\n</head>\n<body>\n<h1>Both nodes' proxies are replaced under load</h1>\n\
         <p class=\"{class}\">{verdict}</p>\n\
         <p class=\"soft\">In each column {count} connections run from the first second to the last, and fresh ones beside them. \
         Every byte is checked at both ends. Shaded: a proxy is being replaced,<span class=\"key client\"></span>on the \
         clients' node,<span class=\"key server\"></span>on the server's node.</p>\n\
         <div class=\"columns\">\n{left}{right}</div>\n<div class=\"columns\">\n{pauses}{replacements}</div>\n</body>\n</html>\n",
        class = if report.passed { "good" } else { "bad" },
        verdict = escaped(&verdict(report)),
        count = handover.long_lived,
        left = column("With a hand-over", handover, fastest),
        right = column("Control: without", control, fastest),
        pauses = pauses(handover),
        replacements = replacements(handover),
    ))
}

fn column(title: &str, run: &UpgradeFigures, fastest: f64) -> String {
    let lost = run.lost.total() + run.fresh_lost.total();
    let spans: Vec<_> = run
        .replacements
        .iter()
        .map(|one| {
            (
                one.begun_seconds,
                one.ended_seconds,
                if one.node.contains("client") { "client" } else { "server" },
            )
        })
        .collect();
    let seconds = run.timeline.last().map_or(1.0, |moment| moment.seconds);
    let chart = |points: Vec<(f64, f64)>, scale, label, class| {
        Timeline { points, spans: &spans, seconds, scale, label, class }.svg()
    };
    let points = |value: fn(&crate::upgrade::timeline::Moment) -> f64| {
        run.timeline.iter().map(|moment| (moment.seconds, value(moment))).collect::<Vec<_>>()
    };
    let most = run.timeline.iter().map(|moment| moment.lost).max().unwrap_or(0).max(4);
    format!(
        "<section><h2>{title}</h2><p class=\"big {class}\">{lost} lost</p>\
         <p>{} of {} long-lived connections; of {} fresh ones {}.</p>\
         <h3>Payload that reached the clients</h3>{}<h3>The longest wait of any connection</h3>{}\
         <h3>Connections lost</h3>{}</section>\n",
        run.lost,
        run.long_lived,
        run.fresh,
        run.fresh_lost,
        chart(points(|moment| moment.bytes_per_second), Scale::Linear { max: fastest }, per_second, "bytes"),
        chart(
            points(|moment| moment.longest_wait_ms),
            Scale::Logarithmic { min: 0.1, max: 10_000.0 },
            milliseconds,
            "wait"
        ),
        chart(points(|moment| moment.lost as f64), Scale::Linear { max: most as f64 }, whole, "lost"),
        class = if lost == 0 { "good" } else { "bad" },
    )
}

fn pauses(run: &UpgradeFigures) -> String {
    let used = |(_, count): &&(Option<f64>, u64)| *count > 0;
    let first = run.pauses.iter().position(|pause| used(&pause)).unwrap_or(0);
    let last = run.pauses.iter().rposition(|pause| used(&pause)).unwrap_or(0);
    let shown = run.pauses.get(first..=last).unwrap_or_default();
    let label = |bound: &Option<f64>| bound.map_or_else(|| "more".to_owned(), milliseconds);
    let shown: Vec<_> = shown.iter().map(|(bound, count)| (label(bound), *count)).collect();
    format!(
        "<section><h2>How long what went over stood still</h2>\
         <p class=\"soft\">Tunnels and plain connections by their pause: at most so long, and longer than the bar before.</p>{}\
         </section>\n",
        bars(&shown)
    )
}

fn replacements(run: &UpgradeFigures) -> String {
    let mut rows = String::new();
    for Replacement { node, begun_seconds, ended_seconds, pid_before, pid_after, moved } in &run.replacements
    {
        let took = ended_seconds - begun_seconds;
        let moved = moved.map_or_else(
            || "<td>–</td><td>–</td><td>–</td>".to_owned(),
            |moved| {
                let [half, all] = [moved.pause_p50_ms, moved.pause_max_ms].map(milliseconds);
                format!("<td>{}</td><td>{half}</td><td>{all}</td>", moved.connections)
            },
        );
        let row = format_args!(
            "<tr><td>{}</td><td>{pid_before}</td><td>{pid_after}</td><td>{took:.1} s</td>{moved}</tr>",
            escaped(node)
        );
        rows.write_fmt(row).expect("a string takes anything");
    }
    format!(
        "<section><h2>Replacements</h2><div class=\"scroll\"><table><tr><th>node</th><th>process</th><th>then</th><th>took</th>\
         <th>connections</th><th>pause, half</th><th>worst</th></tr>{rows}</table></div></section>\n"
    )
}

fn per_second(bytes: f64) -> String {
    match bytes {
        ..1e6 => format!("{:.0} kB/s", bytes / 1e3),
        ..1e9 => format!("{:.0} MB/s", bytes / 1e6),
        _ => format!("{:.1} GB/s", bytes / 1e9),
    }
}

fn milliseconds(time: f64) -> String {
    match time {
        ..1.0 => format!("{time:.2} ms"),
        ..10.0 => format!("{time:.1} ms"),
        ..1000.0 => format!("{time:.0} ms"),
        _ => format!("{:.0} s", time / 1000.0),
    }
}

fn whole(number: f64) -> String {
    format!("{number:.0}")
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

const STYLE: &str = include_str!("page/style.css");

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::tests::upgrades;

    #[test]
    fn the_page_is_whole_and_needs_nothing_else() {
        let report = Report { upgrades: Some(upgrades()), ..Report::failed("a < b".to_owned()) };
        let page = html(&report).expect("a page");
        assert_eq!(page.matches("<svg ").count(), 7, "{page}");
        assert_eq!(page.matches("<svg ").count(), page.matches("</svg>").count());
        assert!(page.contains("demo: FAILED a &lt; b"), "{page}");
        for reference in ["http:", "https:", "src=", "href=", "url(", "@import"] {
            assert!(!page.contains(reference), "{reference} in\n{page}");
        }
        assert!(page.contains("With a hand-over</h2><p class=\"big good\">0 lost"), "{page}");
        assert!(page.contains("Control: without</h2><p class=\"big bad\">102 lost"), "{page}");
        assert_eq!(html(&Report::failed(String::new())), None);
    }
}
