//! Which build this is.

use serde::Serialize;

/// The key `version` of `/config_dump`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Version<'a> {
    version: &'static str,
    git_revision: &'static str,
    rust_version: &'static str,
    build_profile: &'static str,
    build_status: &'static str,
    istio_version: &'a str,
    crypto_provider: &'static str,
}

impl<'a> Version<'a> {
    /// What the build was told in `ZTUNNEL_BUILD_…` variables; `unknown` where it was told nothing.
    pub(super) fn new(istio_version: &'a str) -> Self {
        Self {
            version: env!("CARGO_PKG_VERSION"),
            git_revision: option_env!("ZTUNNEL_BUILD_GIT_REVISION").unwrap_or("unknown"),
            rust_version: option_env!("ZTUNNEL_BUILD_RUST_VERSION").unwrap_or("unknown"),
            build_profile: if cfg!(debug_assertions) { "debug" } else { "release" },
            build_status: option_env!("ZTUNNEL_BUILD_STATUS").unwrap_or("unknown"),
            istio_version,
            crypto_provider: "aws-lc",
        }
    }
}
