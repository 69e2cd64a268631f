//! Who has which token.

use std::collections::HashMap;
use std::fmt::Write;

use rustls::crypto::aws_lc_rs::default_provider;
use xds::Identity;

/// The tokens that are valid, each with its bearer.
#[derive(Default)]
pub(super) struct Tokens {
    valid: HashMap<String, Identity>,
}

impl Tokens {
    /// A fresh token; None if there are no random numbers.
    pub(super) fn issue(&mut self, bearer: &Identity) -> Option<String> {
        let mut random = [0; 32];
        default_provider().secure_random.fill(&mut random).ok()?;
        let mut token = String::new();
        random.iter().try_for_each(|byte| write!(token, "{byte:02x}")).ok()?;
        self.valid.insert(token.clone(), bearer.clone());
        Some(token)
    }

    pub(super) fn bearer(&self, token: &str) -> Option<&Identity> {
        self.valid.get(token)
    }

    pub(super) fn expire(&mut self) {
        self.valid.clear();
    }
}
