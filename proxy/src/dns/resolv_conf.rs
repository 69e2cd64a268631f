//! `/etc/resolv.conf`: who is asked for what the mesh doesn't know.

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use tracing::{info, warn};

use super::names;

/// The file, read again whenever it has changed.
#[derive(Debug)]
pub(super) struct ResolvConf {
    path: PathBuf,
    port: u16,
    last: Mutex<Last>,
}

#[derive(Debug, Default)]
struct Last {
    /// None if the file could not be read; what it said before stays in use.
    stamp: Option<Stamp>,
    said: Arc<Resolvers>,
}

/// Changes with the file.
type Stamp = (SystemTime, u64);

/// What the file says.
#[derive(Debug, Default)]
pub(super) struct Resolvers {
    nameservers: Vec<SocketAddr>,
    search: Vec<Arc<str>>,
    /// The one that answered last: a dead one is not waited for by every question.
    first: AtomicUsize,
}

impl ResolvConf {
    /// `port` is the nameservers'.
    pub(super) fn new(path: PathBuf, port: u16) -> Self {
        let config = Self { path, port, last: Mutex::default() };
        if config.load().nameservers.is_empty() {
            let path = config.path.display();
            warn!(target: "dns", "{path} names no nameserver; only names of the mesh are answered");
        }
        config
    }

    /// What the file says now, or said when it could be read.
    pub(super) fn load(&self) -> Arc<Resolvers> {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let stamp = stamp(&self.path);
        if stamp != last.stamp {
            match stamp.and_then(|_| fs::read(&self.path).ok()) {
                Some(text) => {
                    last.said = Arc::new(Resolvers::parse(&text, self.port));
                    info!(target: "dns", nameservers = ?last.said.nameservers, search = ?last.said.search, "resolv.conf");
                }
                None => warn!(target: "dns", "{} cannot be read", self.path.display()),
            }
            last.stamp = stamp;
        }
        last.said.clone()
    }
}

impl Resolvers {
    /// A line that can't be understood says nothing.
    fn parse(text: &[u8], port: u16) -> Self {
        let (config, _) = resolv_conf::Config::parse_with_errors(text);
        let nameservers = config.nameservers.iter().map(|server| SocketAddr::new(IpAddr::from(server), port));
        let search = config.get_last_search_or_domain().map(|domain| names::domain(domain));
        Self {
            nameservers: nameservers.collect(),
            search: search.filter(|domain| !domain.is_empty()).collect(),
            first: AtomicUsize::new(0),
        }
    }

    /// In the order in which they are to be asked.
    pub(super) fn nameservers(&self) -> impl Iterator<Item = SocketAddr> {
        let first = self.first.load(Ordering::Relaxed);
        self.nameservers.iter().copied().cycle().skip(first).take(self.nameservers.len())
    }

    /// The next question begins with this one.
    pub(super) fn prefer(&self, nameserver: SocketAddr) {
        if let Some(index) = self.nameservers.iter().position(|known| *known == nameserver) {
            self.first.store(index, Ordering::Relaxed);
        }
    }

    /// What the resolver of a client with this file appends to names.
    pub(super) fn search(&self) -> &[Arc<str>] {
        &self.search
    }
}

fn stamp(path: &Path) -> Option<Stamp> {
    let metadata = fs::metadata(path).ok()?;
    Some((metadata.modified().ok()?, metadata.len()))
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn nameservers(resolvers: &Resolvers) -> Vec<String> {
        resolvers.nameservers().map(|server| server.to_string()).collect()
    }

    #[test]
    fn the_file_is_read_again_when_it_changes_and_kept_when_it_goes() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        let config = ResolvConf::new(file.path().to_owned(), 53);
        assert!(nameservers(&config.load()).is_empty());
        writeln!(file, "nameserver 10.96.0.10\nnonsense\nnameserver fd00::10\nsearch Shop.svc.cluster.local. lan\noptions ndots:5")
            .unwrap();
        let said = config.load();
        assert_eq!(nameservers(&said), ["10.96.0.10:53", "[fd00::10]:53"]);
        assert_eq!(said.search(), ["shop.svc.cluster.local".into(), "lan".into()] as [Arc<str>; 2]);
        assert!(Arc::ptr_eq(&said, &config.load()), "it was read again for nothing");
        drop(file);
        assert!(Arc::ptr_eq(&said, &config.load()));
    }

    #[test]
    fn the_one_that_answers_is_asked_first() {
        let resolvers =
            Resolvers::parse(b"nameserver 10.0.0.1\nnameserver 10.0.0.2\nnameserver 10.0.0.3\n", 5353);
        resolvers.prefer("10.0.0.2:5353".parse().unwrap());
        assert_eq!(nameservers(&resolvers), ["10.0.0.2:5353", "10.0.0.3:5353", "10.0.0.1:5353"]);
        resolvers.prefer("10.0.0.9:5353".parse().unwrap());
        assert_eq!(nameservers(&resolvers)[0], "10.0.0.2:5353");
    }
}
