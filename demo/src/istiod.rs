//! The control plane of a stage: a replica of istiod wherever a node lives, so that each node reaches one without leaving
//! its network namespace.

use std::io;
use std::net::SocketAddr;
use std::path::Path;

use crate::control_plane::{Authority, AuthorityError, Cluster, Replica, Statistics};
use crate::mesh::{Mesh, Workload};
use crate::node::Control;
use crate::place::{Place, PlaceError};

/// A control plane could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum IstiodError {
    /// The mesh cannot be read.
    #[error(transparent)]
    Mesh(#[from] xds::local::LocalConfigError),
    /// Root certificate or tokens.
    #[error(transparent)]
    Authority(#[from] AuthorityError),
    /// A workload of the mesh has no identity.
    #[error(transparent)]
    Identity(#[from] xds::identity::IdentityError),
    /// The network namespace is not there.
    #[error(transparent)]
    Place(#[from] PlaceError),
    /// A replica cannot listen.
    #[error("istiod cannot listen on {address}: {source}")]
    Listen {
        /// Where it should listen.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
}

/// The replicas, running or not, and what they serve.
#[derive(Debug)]
pub struct Istiod {
    cluster: Cluster,
    authority: Authority,
    spots: Vec<(Place, SocketAddr)>,
    replicas: Vec<Replica>,
}

impl Istiod {
    /// Starts a replica at each of `spots`. Root certificate and tokens go to `directory`.
    ///
    /// # Errors
    /// See [`IstiodError`].
    pub fn start(
        directory: &Path,
        spots: Vec<(Place, SocketAddr)>,
        mesh: &Mesh,
    ) -> Result<Self, IstiodError> {
        let cluster = Cluster::new();
        cluster.replace(&xds::local::load(&mesh.to_string())?);
        let authority = Authority::new(directory)?;
        let mut istiod = Self { cluster, authority, spots, replicas: Vec::new() };
        istiod.restart()?;
        Ok(istiod)
    }

    /// What a node of `workload` needs, to use the replica at `spot` (the last one, if there are fewer).
    ///
    /// # Errors
    /// The token cannot be written.
    pub fn control(&self, spot: usize, workload: &Workload) -> Result<Control, IstiodError> {
        let replica = &self.replicas[spot.min(self.replicas.len() - 1)];
        Ok(replica.control(&workload.identity().parse()?)?)
    }

    /// The cluster that it tells of.
    pub fn cluster(&self) -> &Cluster {
        &self.cluster
    }

    /// Whom it trusts, and who signs.
    pub fn authority(&self) -> &Authority {
        &self.authority
    }

    /// The replicas that run, one for each spot.
    pub fn replicas(&self) -> &[Replica] {
        &self.replicas
    }

    /// Ends every replica as if it were killed.
    pub fn kill(&mut self) {
        self.replicas.clear();
    }

    /// Starts every replica anew.
    ///
    /// # Errors
    /// An address is taken.
    pub fn restart(&mut self) -> Result<(), IstiodError> {
        self.kill();
        for (place, address) in &self.spots {
            let start = || Replica::start(*address, &self.cluster, &self.authority);
            let replica =
                place.run(start)?.map_err(|source| IstiodError::Listen { address: *address, source })?;
            self.replicas.push(replica);
        }
        Ok(())
    }

    /// What each replica has seen since it started.
    pub fn statistics(&self) -> Vec<Statistics> {
        self.replicas.iter().map(Replica::statistics).collect()
    }
}
