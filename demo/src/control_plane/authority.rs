//! Who is trusted: the root of all certificates, and the tokens.

use std::collections::HashMap;
use std::fmt;
use std::io::Write;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rcgen::{CertificateSigningRequestParams, SanType};
use rustls::ServerConfig;
use tempfile::NamedTempFile;
use xds::Identity;

mod root;
mod tokens;

use root::Root;
use tokens::Tokens;

/// What replicas share: the root that signs certificates, and who has which token. A handle: clones share the state.
///
/// It writes two kinds of files, as Kubernetes mounts them: the trusted roots and tokens. Each is replaced as a whole.
#[derive(Clone)]
pub struct Authority {
    directory: Arc<Path>,
    state: Arc<Mutex<State>>,
}

struct State {
    /// The newest first: it signs.
    roots: Vec<Root>,
    /// Trusted by nobody.
    stranger: Root,
    tokens: Tokens,
    node_accounts: Vec<Identity>,
    lifetime: Option<Duration>,
    signed: HashMap<Identity, u64>,
}

/// The authority cannot do what it is asked to.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    /// A file could not be written.
    #[error("{} cannot be written: {source}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A certificate could not be made.
    #[error("no certificate: {0}")]
    Certificate(#[from] rcgen::Error),
    /// The certificate of a server could not be used.
    #[error("no TLS with the certificate of the server: {0}")]
    Tls(#[from] rustls::Error),
    /// The system gives no random numbers.
    #[error("no random token")]
    Random,
}

/// Why a request is not signed.
#[derive(Debug, thiserror::Error)]
pub(super) enum SigningError {
    #[error("the request does not ask for exactly the name that the caller may have")]
    AnotherName,
    #[error("the request cannot be signed: {0}")]
    Request(#[from] rcgen::Error),
}

/// How a request is signed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Issuing {
    Properly,
    /// By a root that nobody trusts.
    ByAStranger,
    /// For an identity that was not asked for.
    ForAnother,
}

impl Authority {
    /// Makes a root and writes its certificate to `root-cert.pem` in `directory`, which has to exist.
    ///
    /// # Errors
    /// See [`AuthorityError`].
    pub fn new(directory: impl Into<PathBuf>) -> Result<Self, AuthorityError> {
        let state = State {
            roots: vec![Root::new(1)?],
            stranger: Root::new(0)?,
            tokens: Tokens::default(),
            node_accounts: Vec::new(),
            lifetime: None,
            signed: HashMap::new(),
        };
        let directory = directory.into().into();
        let authority = Self { directory, state: Arc::new(Mutex::new(state)) };
        authority.write_roots(&authority.state())?;
        Ok(authority)
    }

    /// The file with the trusted roots: `XDS_ROOT_CA` and `CA_ROOT_CA` of a node.
    pub fn root_file(&self) -> PathBuf {
        self.directory.join("root-cert.pem")
    }

    /// Writes a fresh token of `identity`, as Kubernetes projects it for a pod, and tells the file: each time the same
    /// one. Earlier tokens stay valid.
    ///
    /// # Errors
    /// The file cannot be written, or there are no random numbers.
    pub fn token(&self, identity: &Identity) -> Result<PathBuf, AuthorityError> {
        // No part of an identity has a `/` or is `..`.
        let path = self
            .directory
            .join("tokens")
            .join(&**identity.trust_domain())
            .join(&**identity.namespace())
            .join(&**identity.service_account());
        let token = self.state().tokens.issue(identity).ok_or(AuthorityError::Random)?;
        replace(&path, token.as_bytes())?;
        Ok(path)
    }

    /// From now on all tokens so far are refused (`UNAUTHENTICATED`). [`Authority::token`] renews one.
    pub fn expire_tokens(&self) {
        self.state().tokens.expire();
    }

    /// From now on `identity` may ask for certificates of others, as istiod lets `CA_TRUSTED_NODE_ACCOUNTS`.
    pub fn trust_node_account(&self, identity: &Identity) {
        self.state().node_accounts.push(identity.clone());
    }

    /// Makes a new root, which signs from now on, for servers and workloads. Older ones stay trusted: they stay in
    /// `root-cert.pem` and in answers, behind the new one.
    ///
    /// # Errors
    /// See [`AuthorityError`].
    pub fn rotate_root(&self) -> Result<(), AuthorityError> {
        let mut state = self.state();
        let root = Root::new(state.roots.len() + 1)?;
        state.roots.insert(0, root);
        self.write_roots(&state)
    }

    /// Caps the life of certificates of workloads, measured from their signing; None leaves it as requested. Whole seconds
    /// count.
    pub fn set_lifetime(&self, lifetime: Option<Duration>) {
        self.state().lifetime = lifetime;
    }

    /// How many certificates were signed for `identity`.
    pub fn signed(&self, identity: &Identity) -> u64 {
        self.state().signed.get(identity).copied().unwrap_or_default()
    }

    /// Whose token this is.
    pub(super) fn bearer(&self, token: &str) -> Option<Identity> {
        self.state().tokens.bearer(token).cloned()
    }

    pub(super) fn may_impersonate(&self, caller: &Identity) -> bool {
        self.state().node_accounts.contains(caller)
    }

    /// TLS for a server on `ip`, with a fresh certificate: of the newest root, or one that nobody trusts.
    pub(super) fn server_config(&self, ip: IpAddr, trusted: bool) -> Result<ServerConfig, AuthorityError> {
        let state = self.state();
        let root = if trusted { state.newest() } else { &state.stranger };
        let (chain, key) = root.server_certificate(ip)?;
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(chain, key)?;
        config.alpn_protocols = vec![b"h2".to_vec()];
        Ok(config)
    }

    /// Signs a PEM request that asks for `identity` and nothing else. The answer is in PEM: the certificate, the roots.
    pub(super) fn sign(
        &self,
        request: &str,
        identity: &Identity,
        lifetime: Duration,
        issuing: Issuing,
    ) -> Result<Vec<String>, SigningError> {
        // This verifies that the requester has the key.
        let request = CertificateSigningRequestParams::from_pem(request)?;
        match &*request.params.subject_alt_names {
            [SanType::URI(name)] if name.as_str() == identity.to_string() => {}
            _ => return Err(SigningError::AnotherName),
        }
        let mut state = self.state();
        let lifetime = state.lifetime.map_or(lifetime, |cap| cap.min(lifetime));
        let mut name = identity.to_string();
        if issuing == Issuing::ForAnother {
            name.push_str("-other");
        }
        let (root, roots) = match issuing {
            Issuing::ByAStranger => (&state.stranger, state.stranger.pem().to_owned()),
            Issuing::Properly | Issuing::ForAnother => (state.newest(), state.roots_pem()),
        };
        let leaf = root.workload_certificate(request, name, lifetime)?;
        *state.signed.entry(identity.clone()).or_default() += 1;
        Ok(vec![leaf, roots])
    }

    fn write_roots(&self, state: &State) -> Result<(), AuthorityError> {
        replace(&self.root_file(), state.roots_pem().as_bytes())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn newest(&self) -> &Root {
        self.roots.first().expect("it begins with a root, and none is ever removed")
    }

    fn roots_pem(&self) -> String {
        self.roots.iter().map(Root::pem).collect()
    }
}

impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authority").field("directory", &self.directory).finish_non_exhaustive()
    }
}

/// Writes a file so that readers find the old content or the new one.
fn replace(path: &Path, content: &[u8]) -> Result<(), AuthorityError> {
    let write = || {
        let directory = path.parent().unwrap_or(Path::new("."));
        std::fs::create_dir_all(directory)?;
        let mut file = NamedTempFile::new_in(directory)?;
        file.write_all(content)?;
        file.persist(path)?;
        Ok(())
    };
    write().map_err(|source| AuthorityError::File { path: path.to_owned(), source })
}
