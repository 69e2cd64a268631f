//! Durations as stock takes them: `10s`, `5m`, `100ms`, `1m30s`; a bare number is seconds.

use std::time::Duration;

/// Reads a duration; the error says what cannot be read.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let mut rest = text.trim();
    if rest.is_empty() {
        return Err("it is empty".into());
    }
    let mut total = Duration::ZERO;
    while !rest.is_empty() {
        let (number, after) = split_at(rest, |c: char| !c.is_ascii_digit());
        let (unit, after) = split_at(after.trim_start(), |c: char| !c.is_alphabetic());
        let number: u64 =
            number.parse().map_err(|_| format!("{rest:?} does not start with a whole number"))?;
        let part = in_unit(number, unit)?;
        total = total.checked_add(part).ok_or("it is too long")?;
        rest = after.trim_start();
    }
    Ok(total)
}

fn in_unit(number: u64, unit: &str) -> Result<Duration, String> {
    let seconds = match unit {
        "us" | "µs" => return Ok(Duration::from_micros(number)),
        "ms" => return Ok(Duration::from_millis(number)),
        "" | "s" | "sec" => 1,
        "m" | "min" => 60,
        "h" | "hr" => 3600,
        "d" | "day" => 86400,
        _ => return Err(format!("{unit:?} is not a unit; use ms, s, m, h or d, as in 1m30s")),
    };
    number.checked_mul(seconds).map(Duration::from_secs).ok_or_else(|| "it is too long".into())
}

fn split_at(text: &str, stop: impl FnMut(char) -> bool) -> (&str, &str) {
    text.split_at(text.find(stop).unwrap_or(text.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_stock_reads() {
        for (text, milliseconds) in [
            ("10s", 10_000),
            ("5m", 300_000),
            ("100ms", 100),
            ("1m30s", 90_000),
            ("1h 2m", 3_720_000),
            ("24h", 86_400_000),
            ("7", 7_000),
            ("0", 0),
        ] {
            assert_eq!(parse_duration(text), Ok(Duration::from_millis(milliseconds)), "{text}");
        }
    }

    #[test]
    fn refuses_the_rest() {
        for text in ["", "s", "-1s", "1.5s", "1y", "1s!", "99999999999999999999s", "18446744073709551615d"] {
            assert!(parse_duration(text).is_err(), "{text}");
        }
    }
}
