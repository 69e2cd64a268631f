//! How a pod begins and ceases to be served.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::oneshot;

use super::lead::workers;
use super::listeners::Listeners;
use crate::config::ListenerConfig;
use crate::dns::DnsProxy;
use crate::namespace::Namespace;
use crate::pod::{Pod, WorkloadName};
use crate::shared::Shared;
use crate::worker::Message;
use crate::zds::{PodHost, StartPodError, Starting, Stopping};

/// Gives pods their listeners, and takes back everything of those that go.
pub(super) struct Hosting {
    shared: Arc<Shared>,
    listeners: ListenerConfig,
    dns: Option<Dns>,
    /// Listeners are dealt out in turn, so that no worker accepts for everybody.
    dealt: AtomicUsize,
}

/// Who answers the pods' questions of names, and at which addresses.
#[derive(Clone)]
pub(super) struct Dns {
    pub(super) proxy: DnsProxy,
    pub(super) addresses: Vec<SocketAddr>,
}

impl Hosting {
    pub(super) fn new(shared: Arc<Shared>, listeners: ListenerConfig, dns: Option<Dns>) -> Self {
        Self { shared, listeners, dns, dealt: AtomicUsize::new(0) }
    }

    /// Serves a pod whose listeners are bound.
    pub(super) fn serve(
        &self,
        uid: Arc<str>,
        workload: WorkloadName,
        namespace: Arc<Namespace>,
        listeners: Listeners,
    ) -> Arc<Pod> {
        let shared = &self.shared;
        let pod = Arc::new(Pod::new(uid, workload, namespace, listeners.transparent));
        shared.pods.insert(pod.clone());
        if let Some(demand) = &shared.demand {
            // Its resource is needed before anybody asks for it.
            let WorkloadName { namespace, name, .. } = pod.workload();
            demand(&format!("{}//Pod/{namespace}/{name}", shared.location.cluster));
        }
        if let (Some(dns), Some(sockets)) = (&self.dns, listeners.dns) {
            dns.proxy.serve(pod.clone(), sockets);
        }
        for (listening, listener) in listeners.sockets {
            let worker = self.dealt.fetch_add(1, Ordering::Relaxed) % workers(shared).len().max(1);
            shared.post(worker, Message::Listen(listening, listener, pod.clone()));
        }
        pod
    }

    async fn start_pod(
        &self,
        uid: Arc<str>,
        workload: WorkloadName,
        namespace: Arc<Namespace>,
    ) -> Result<(), StartPodError> {
        let (config, sockets) = (self.listeners.clone(), self.shared.sockets.clone());
        let names = self.dns.as_ref().map_or_else(Vec::new, |dns| dns.addresses.clone());
        let bound = namespace.visit(move || Ok(Listeners::bind(&config, &names, &sockets))).await;
        let listeners = bound.map_err(StartPodError::Namespace)??;
        let pod = self.serve(uid, workload, namespace, listeners);
        tracing::info!(uid = %pod.uid(), pod = %pod.workload(), "the pod is served");
        Ok(())
    }

    async fn stop_pod(&self, uid: &str) {
        let Some(pod) = self.shared.pods.remove(uid) else { return };
        pod.retire();
        if let Some(dns) = &self.dns {
            dns.proxy.stop(&pod).await;
        }
        // Twice: what was on its way from one worker to another has arrived, and was turned away, before the second.
        for _ in 0..2 {
            self.remove_from_workers(&pod).await;
        }
        tracing::info!(uid = %pod.uid(), pod = %pod.workload(), "the pod is served no more");
    }

    async fn remove_from_workers(&self, pod: &Arc<Pod>) {
        let removals = workers(&self.shared).map(|worker| {
            let (done, removed) = oneshot::channel();
            let reply = Box::new(move |()| {
                let _ = done.send(());
            });
            self.shared.post(worker, Message::RemovePod(pod.clone(), reply));
            removed
        });
        for removed in removals.collect::<Vec<_>>() {
            // A worker that has ended holds nothing.
            let _ = removed.await;
        }
    }

    /// Questions of names are left to whoever serves the pods next.
    pub(super) fn drain(&self) {
        if let Some(dns) = self.dns.clone() {
            tokio::spawn(async move { dns.proxy.drain().await });
        }
    }
}

impl PodHost for Hosting {
    fn start(&self, uid: Arc<str>, workload: WorkloadName, namespace: Arc<Namespace>) -> Starting<'_> {
        Box::pin(self.start_pod(uid, workload, namespace))
    }

    fn stop(&self, uid: Arc<str>) -> Stopping<'_> {
        Box::pin(async move { self.stop_pod(&uid).await })
    }
}
