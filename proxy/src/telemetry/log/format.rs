//! The two shapes of a line.
//!
//! Whatever a peer can put into a value, a line stays one line: control characters are escaped.

use std::fmt::{self, Debug, Write};

use serde::ser::{SerializeMap, Serializer};
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields, FormattedFields};
use tracing_subscriber::registry::{LookupSpan, Scope};

/// `time<TAB>level<TAB>scope[:span{fields}]…<TAB>message[<TAB>k=v k="v"…]`
pub(super) struct Plain;

/// `{"level":…,"time":…,"scope":…,fields…,"message":…,span:{fields}…}`
pub(super) struct Json;

impl<S, N> FormatEvent<S, N> for Plain
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut line: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        SystemTime.format_time(&mut line)?;
        write!(line, "\t{}\t{}", level(event), scope(event))?;
        for span in context.event_scope().into_iter().flat_map(Scope::from_root) {
            write!(line, ":{}", span.name())?;
            let extensions = span.extensions();
            if let Some(fields) = extensions.get::<FormattedFields<N>>().filter(|fields| !fields.is_empty()) {
                write!(Escaped(&mut line), "{{{fields}}}")?;
            }
        }
        line.write_char('\t')?;
        let mut visitor = PlainVisitor::default();
        event.record(&mut visitor);
        line.write_str(&visitor.message)?;
        if !visitor.fields.is_empty() {
            write!(line, "\t{}", visitor.fields)?;
        }
        writeln!(line)
    }
}

impl<S, N> FormatEvent<S, N> for Json
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut line: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let mut json = Vec::with_capacity(512);
        self.object(&mut json, context, event).map_err(|_| fmt::Error)?;
        writeln!(line, "{}", String::from_utf8_lossy(&json))
    }
}

impl Json {
    fn object<S, N>(
        &self,
        json: &mut Vec<u8>,
        context: &FmtContext<'_, S, N>,
        event: &Event<'_>,
    ) -> serde_json::Result<()>
    where
        S: Subscriber + for<'a> LookupSpan<'a>,
        N: for<'a> FormatFields<'a> + 'static,
    {
        let mut serializer = serde_json::Serializer::new(json);
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("level", level(event))?;
        let mut time = String::new();
        // A clock before 1970 leaves it empty; a line without its time is better than none.
        let _ = SystemTime.format_time(&mut Writer::new(&mut time));
        map.serialize_entry("time", &time)?;
        map.serialize_entry("scope", scope(event))?;
        let mut visitor = JsonVisitor { map, message: String::new(), result: Ok(()) };
        event.record(&mut visitor);
        let JsonVisitor { mut map, message, result } = visitor;
        result?;
        map.serialize_entry("message", &message)?;
        for span in context.event_scope().into_iter().flat_map(Scope::from_root) {
            let extensions = span.extensions();
            let fields = extensions.get::<FormattedFields<N>>().map_or("", |fields| fields.as_str());
            let fields: serde_json::Value = serde_json::from_str(fields).unwrap_or_default();
            map.serialize_entry(span.name(), &fields)?;
        }
        map.end()
    }
}

fn level(event: &Event<'_>) -> &'static str {
    match *event.metadata().level() {
        Level::ERROR => "error",
        Level::WARN => "warn",
        Level::INFO => "info",
        Level::DEBUG => "debug",
        Level::TRACE => "trace",
    }
}

fn scope(event: &Event<'_>) -> &'static str {
    let target = event.metadata().target();
    target.strip_prefix("ztunnel::").unwrap_or(target)
}

const MESSAGE: &str = "message";

#[derive(Default)]
struct PlainVisitor {
    message: String,
    fields: String,
}

impl PlainVisitor {
    fn field(&mut self, field: &Field, value: fmt::Arguments<'_>) {
        if !self.fields.is_empty() {
            self.fields.push(' ');
        }
        // Writing to a string doesn't fail.
        let _ = write!(self.fields, "{}=", field.name());
        let _ = Escaped(&mut self.fields).write_fmt(value);
    }
}

impl Visit for PlainVisitor {
    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == MESSAGE {
            let _ = Escaped(&mut self.message).write_str(value);
        } else {
            self.field(field, format_args!("{value:?}"));
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        if field.name() == MESSAGE {
            let _ = write!(Escaped(&mut self.message), "{value:?}");
        } else {
            self.field(field, format_args!("{value:?}"));
        }
    }
}

struct JsonVisitor<M: SerializeMap> {
    map: M,
    message: String,
    result: Result<(), M::Error>,
}

impl<M: SerializeMap> JsonVisitor<M> {
    fn field(&mut self, field: &Field, value: &(impl serde::Serialize + ?Sized)) {
        if self.result.is_ok() {
            self.result = self.map.serialize_entry(field.name(), value);
        }
    }
}

impl<M: SerializeMap> Visit for JsonVisitor<M> {
    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == MESSAGE {
            value.clone_into(&mut self.message);
        } else {
            self.field(field, value);
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        if field.name() == MESSAGE {
            self.message = format!("{value:?}");
        } else {
            self.field(field, &format!("{value:?}"));
        }
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.field(field, &value);
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.field(field, &value);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.field(field, &value);
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.field(field, &value);
    }
}

/// Passes text on with its control characters escaped.
struct Escaped<W>(W);

impl<W: Write> Write for Escaped<W> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let mut rest = text;
        while let Some(at) = rest.find(char::is_control) {
            let (clean, tail) = rest.split_at(at);
            self.0.write_str(clean)?;
            let mut characters = tail.chars();
            if let Some(control) = characters.next() {
                write!(self.0, "{}", control.escape_default())?;
            }
            rest = characters.as_str();
        }
        self.0.write_str(rest)
    }
}

#[cfg(test)]
mod tests {
    use tracing::{info, info_span, warn};

    use super::super::testing::logged;
    use crate::config::LogFormat;

    /// What istioctl's bug report expects of a line: `^(\d{4}-…Z)\s+(?:\w+\s+)?(\w+)\s+([\w\.:]+)(.*)`.
    fn columns(line: &str) -> [&str; 4] {
        let mut columns = line.splitn(4, '\t');
        let [time, level, scope, rest] = [(); 4].map(|()| columns.next().unwrap());
        let shape: String = time.chars().map(|c| if c.is_ascii_digit() { '9' } else { c }).collect();
        assert_eq!(shape, "9999-99-99T99:99:99.999999Z");
        assert!(level.chars().all(char::is_alphanumeric), "{level}");
        let first = scope.split(['{']).next().unwrap();
        assert!(first.chars().all(|c| c.is_alphanumeric() || "_.:".contains(c)), "{scope}");
        [time, level, scope, rest]
    }

    #[test]
    fn a_plain_line_has_columns() {
        let lines = logged("info", LogFormat::Plain, || {
            info!(target: "ztunnel::pool", peer = %"10.0.0.1:15008", name = "web", count = 3, "a tunnel is ready");
            warn!(target: "hbone", "no fields");
            info!(target: "ztunnel::pool", only = "fields");
        });
        assert_eq!(lines.len(), 3);
        let [_, level, scope, rest] = columns(&lines[0]);
        assert_eq!((level, scope), ("info", "pool"));
        assert_eq!(rest, "a tunnel is ready\tpeer=10.0.0.1:15008 name=\"web\" count=3");
        assert_eq!(columns(&lines[1])[1..], ["warn", "hbone", "no fields"]);
        assert_eq!(columns(&lines[2])[3], "\tonly=\"fields\"");
    }

    #[test]
    fn spans_follow_the_scope() {
        let lines = logged("info", LogFormat::Plain, || {
            let outer = info_span!("fetch", identity = "web").entered();
            let inner = info_span!("attempt").entered();
            info!(target: "ztunnel::identity", "signed");
            drop((inner, outer));
        });
        assert_eq!(columns(&lines[0])[2..], ["identity:fetch{identity=\"web\"}:attempt", "signed"]);
    }

    #[test]
    fn no_value_can_begin_a_line() {
        let evil = "x\n2026-01-01T00:00:00.000000Z\tinfo\taccess\tforged\u{1b}[2J";
        for format in [LogFormat::Plain, LogFormat::Json] {
            let lines = logged("info", format, || {
                let _span = info_span!("span", value = %evil).entered();
                info!(shown = %evil, text = evil, "{evil}");
            });
            assert_eq!(lines.len(), 1, "{lines:?}");
            assert!(!lines[0].contains('\u{1b}'));
        }
    }

    #[test]
    fn a_json_line_is_an_object_in_stock_s_order() {
        let lines = logged("info", LogFormat::Json, || {
            let _span = info_span!("fetch", identity = "web").entered();
            info!(target: "ztunnel::pool", peer = %"10.0.0.1:15008", name = "we\"b", count = 3, ok = true, "ready");
        });
        let (before, after) = lines[0].split_once("\"time\":\"").unwrap();
        assert_eq!(before, "{\"level\":\"info\",");
        assert_eq!(
            &after[27..],
            "\",\"scope\":\"pool\",\"peer\":\"10.0.0.1:15008\",\"name\":\"we\\\"b\",\"count\":3,\"ok\":true,\
             \"message\":\"ready\",\"fetch\":{\"identity\":\"web\"}}"
        );
        serde_json::from_str::<serde_json::Value>(&lines[0]).unwrap();
    }
}
