//! Settings that promise something that isn't built yet. Starting without them would quietly weaken what the
//! operator asked for, so the process refuses.

use super::{ConfigError, Environment};

/// Refuses to start when a setting asks for protection that is not there.
pub fn refuse_unsupported(environment: &Environment) -> Result<(), ConfigError> {
    if environment.get("CRL_PATH").is_some() {
        let problem =
            "certificate revocation lists aren't supported yet; unset it to run without revocation checks";
        return Err(ConfigError::new("CRL_PATH", problem));
    }
    if let Some(policy) = environment.get("COMPLIANCE_POLICY") {
        let problem =
            format!("{policy:?} isn't supported yet; unset it to run with the default cryptography");
        return Err(ConfigError::new("COMPLIANCE_POLICY", problem));
    }
    if environment.boolean("TLS12_ENABLED", false)? {
        let problem = "only TLS 1.3 is spoken; unset it, and upgrade peers that need TLS 1.2";
        return Err(ConfigError::new("TLS12_ENABLED", problem));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_promise_is_refused_by_name() {
        for (name, value) in
            [("CRL_PATH", "/crl.pem"), ("COMPLIANCE_POLICY", "pqc"), ("TLS12_ENABLED", "true")]
        {
            let error = refuse_unsupported(&Environment::from_variables([(name, value)])).unwrap_err();
            assert!(error.to_string().starts_with(&format!("{name}: ")), "{error}");
        }
    }

    #[test]
    fn what_promises_nothing_is_accepted() {
        let environment = Environment::from_variables([
            ("CRL_PATH", ""),
            ("COMPLIANCE_POLICY", ""),
            ("TLS12_ENABLED", "false"),
        ]);
        assert_eq!(refuse_unsupported(&environment), Ok(()));
    }
}
