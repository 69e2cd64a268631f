//! What a machine does not allow is skipped, and said; in CI nothing may be.

use std::fmt::Display;
use std::io::{self, Write};

use demo::netns::NetnsError;

/// Says that a test, or a part of it, is left out, and why.
pub fn say(why: impl Display) {
    // Not by `eprintln`, which the test harness keeps to itself when a test passes.
    writeln!(io::stderr(), "\n*** SKIPPED: {why} ***\n").ok();
}

/// What was made; `None` if this machine does not allow it, which is said.
///
/// # Panics
/// Something else went wrong; or in CI (`CI=true`), where nothing may be left out, something is missing.
pub(crate) fn unless_missing<T>(made: Result<T, NetnsError>) -> Option<T> {
    match made {
        Ok(made) => Some(made),
        Err(NetnsError::Missing { missing }) if std::env::var("CI").is_ok_and(|value| value == "true") => {
            panic!("CI must have {}", missing.join(" and "));
        }
        Err(NetnsError::Missing { missing }) => {
            say(format_args!("network namespaces need {}", missing.join(" and ")));
            None
        }
        Err(error) => panic!("{error}"),
    }
}
