//! The pods that this proxy serves: in shared mode those that istio-cni names, in dedicated mode the one that it lives
//! in.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;
use std::sync::atomic::{self, AtomicU64, AtomicUsize};

use arc_swap::{ArcSwap, ArcSwapOption};
use serde::Serialize;
use tokio::sync::watch;

use crate::namespace::{Namespace, NamespaceId};

/// What Kubernetes calls a pod, and on whose behalf it runs: by this the mesh's resource of it is found.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct WorkloadName {
    /// The pod's namespace, in Kubernetes' sense.
    pub namespace: Arc<str>,
    /// The pod's name.
    pub name: Arc<str>,
    /// Its service account.
    pub service_account: Arc<str>,
}

impl fmt::Display for WorkloadName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.namespace, self.name, self.service_account)
    }
}

/// A pod that is served. Two are equal only if they are the same: a pod that goes and comes back is another one.
pub struct Pod {
    number: u64,
    uid: Arc<str>,
    workload: WorkloadName,
    /// Gone with the pod, whoever still holds this.
    namespace: ArcSwapOption<Namespace>,
    namespace_id: NamespaceId,
    transparent: bool,
    sockets: AtomicUsize,
}

impl Pod {
    /// A pod whose sockets are made in `namespace`. `transparent` says whether its listeners can take and give foreign
    /// addresses, so that applications see where connections really come from.
    pub fn new(
        uid: impl Into<Arc<str>>,
        workload: WorkloadName,
        namespace: Arc<Namespace>,
        transparent: bool,
    ) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        Self {
            number: NEXT.fetch_add(1, atomic::Ordering::Relaxed),
            uid: uid.into(),
            workload,
            namespace_id: namespace.id(),
            namespace: ArcSwapOption::new(Some(namespace)),
            transparent,
            sockets: AtomicUsize::new(0),
        }
    }

    /// Its number in this process; no other pod ever has the same.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// What istio-cni calls it (Kubernetes' uid); empty for the pod that this process itself lives in.
    pub fn uid(&self) -> &Arc<str> {
        &self.uid
    }

    /// What Kubernetes calls it.
    pub fn workload(&self) -> &WorkloadName {
        &self.workload
    }

    /// Where its sockets are made. None once the pod is gone.
    pub fn namespace(&self) -> Option<Arc<Namespace>> {
        self.namespace.load_full()
    }

    /// Which namespace it is, or was.
    pub fn namespace_id(&self) -> NamespaceId {
        self.namespace_id
    }

    /// Whether applications see where connections really come from.
    pub fn is_transparent(&self) -> bool {
        self.transparent
    }

    /// The pod is served no more: whoever looks from now on finds it gone, and its namespace is let go of.
    pub fn retire(&self) {
        self.namespace.store(None);
    }

    /// Whether it was retired.
    pub fn is_gone(&self) -> bool {
        self.namespace.load().is_none()
    }

    /// How many sockets the data plane holds on its behalf.
    pub fn sockets(&self) -> &AtomicUsize {
        &self.sockets
    }
}

impl PartialEq for Pod {
    fn eq(&self, other: &Self) -> bool {
        self.number == other.number
    }
}

impl Eq for Pod {}

impl PartialOrd for Pod {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Pod {
    fn cmp(&self, other: &Self) -> Ordering {
        self.number.cmp(&other.number)
    }
}

impl Hash for Pod {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.number.hash(state);
    }
}

impl fmt::Debug for Pod {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pod")
            .field("uid", &self.uid)
            .field("workload", &self.workload)
            .finish_non_exhaustive()
    }
}

/// The pods that are served now, by uid. Written by the control thread, read without locks; clones are the same.
#[derive(Clone, Default)]
pub struct Pods(Arc<Shared>);

#[derive(Default)]
struct Shared {
    current: ArcSwap<BTreeMap<Arc<str>, Arc<Pod>>>,
    changed: watch::Sender<()>,
}

impl Pods {
    /// All of them.
    pub fn load(&self) -> Arc<BTreeMap<Arc<str>, Arc<Pod>>> {
        self.0.current.load_full()
    }

    /// The one with this uid, in this namespace.
    pub fn find(&self, uid: &str, namespace: NamespaceId) -> Option<Arc<Pod>> {
        self.0.current.load().get(uid).filter(|pod| pod.namespace_id() == namespace).cloned()
    }

    /// A pod is served from now on; what else had its uid is returned.
    pub fn insert(&self, pod: Arc<Pod>) -> Option<Arc<Pod>> {
        let mut pods = BTreeMap::clone(&self.0.current.load());
        let former = pods.insert(pod.uid().clone(), pod);
        self.publish(pods);
        former
    }

    /// The pod with this uid is served no more.
    pub fn remove(&self, uid: &str) -> Option<Arc<Pod>> {
        let mut pods = BTreeMap::clone(&self.0.current.load());
        let former = pods.remove(uid);
        self.publish(pods);
        former
    }

    /// Tells when a pod has come or gone.
    pub fn changes(&self) -> watch::Receiver<()> {
        self.0.changed.subscribe()
    }

    fn publish(&self, pods: BTreeMap<Arc<str>, Arc<Pod>>) {
        self.0.current.store(Arc::new(pods));
        self.0.changed.send_replace(());
    }
}
