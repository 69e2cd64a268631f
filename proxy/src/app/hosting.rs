//! How a pod begins and ceases to be served.

use std::collections::HashMap;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use tokio::sync::oneshot;
use zeroize::Zeroizing;

use super::lead::workers;
use super::listeners::Listeners;
use super::standing::Handover;
use crate::config::ListenerConfig;
use crate::dns::{DnsProxy, DnsSockets};
use crate::handover::parts::PodPart;
use crate::namespace::Namespace;
use crate::pod::{Pod, WorkloadName};
use crate::shared::Shared;
use crate::worker::{Listening, Message};
use crate::zds::{PodHost, StartPodError, Starting, Stopping};

/// A pod and copies of its listeners.
type PodListeners = (Arc<Pod>, Vec<(Listening, TcpListener)>);

/// Gives pods their listeners, and takes back everything of those that go.
pub(super) struct Hosting {
    shared: Arc<Shared>,
    listeners: ListenerConfig,
    dns: Option<Dns>,
    /// Listeners are dealt out in turn, so that no worker accepts for everybody.
    dealt: AtomicUsize,
    /// To whom the end of a pod is told besides.
    handover: OnceLock<Handover>,
}

/// Who answers the pods' questions of names, and at which addresses.
#[derive(Clone)]
pub(super) struct Dns {
    pub(super) proxy: DnsProxy,
    pub(super) addresses: Vec<SocketAddr>,
}

impl Hosting {
    pub(super) fn new(shared: Arc<Shared>, listeners: ListenerConfig, dns: Option<Dns>) -> Self {
        Self { shared, listeners, dns, dealt: AtomicUsize::new(0), handover: OnceLock::new() }
    }

    /// Serves a pod whose listeners are bound.
    pub(super) fn serve(
        &self,
        uid: Arc<str>,
        workload: WorkloadName,
        namespace: Arc<Namespace>,
        listeners: Listeners,
    ) -> Arc<Pod> {
        let pod = self.add(Pod::new(uid, workload, namespace, listeners.transparent));
        self.listen(&pod, listeners);
        pod
    }

    fn add(&self, pod: Pod) -> Arc<Pod> {
        let shared = &self.shared;
        let pod = Arc::new(pod);
        shared.pods.insert(pod.clone());
        if let Some(demand) = &shared.demand {
            // Its resource is needed before anybody asks for it.
            let WorkloadName { namespace, name, .. } = pod.workload();
            demand(&format!("{}//Pod/{namespace}/{name}", shared.location.cluster));
        }
        pod
    }

    fn listen(&self, pod: &Arc<Pod>, listeners: Listeners) {
        let shared = &self.shared;
        if let (Some(dns), Some(sockets)) = (&self.dns, listeners.dns) {
            dns.proxy.serve(pod.clone(), sockets);
        }
        for (listening, listener) in listeners.sockets {
            let worker = self.dealt.fetch_add(1, Ordering::Relaxed) % workers(shared).len().max(1);
            shared.post(worker, Message::Listen(listening, listener, pod.clone()));
        }
    }

    /// Serves the pod that this process lives in, or is.
    pub(super) fn serve_resident(&self, workload: WorkloadName, listeners: Listeners) {
        self.serve("".into(), workload, self.shared.home.clone(), listeners);
    }

    /// From now on the other side of a hand-over is told of pods that end.
    pub(super) fn tell(&self, handover: Handover) {
        let _ = self.handover.set(handover);
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

    /// The pod of another process, which is to be served here. If it is known here it is the same, with its connections.
    pub(super) fn meet(&self, part: &PodPart) -> Arc<Pod> {
        self.shared.pods.find(&part.uid, part.namespace.id()).unwrap_or_else(|| {
            let (uid, workload, namespace) =
                (part.uid.clone(), part.workload.clone(), part.namespace.clone());
            self.add(Pod::new(uid, workload, namespace, part.transparent))
        })
    }

    /// Serves a pod that another process has served, at the listeners that it gave.
    pub(super) fn serve_part(&self, part: PodPart) {
        self.listen(&self.meet(&part), part.into());
    }

    /// Accepts at copies of these sockets, if the pod is still here.
    pub(super) fn listen_again(&self, part: &PodPart) {
        let Some(pod) = self.shared.pods.find(&part.uid, part.namespace.id()) else { return };
        match part.try_clone() {
            Ok(part) => self.listen(&pod, part.into()),
            Err(error) => {
                tracing::error!(pod = %pod.workload(), %error, "a pod's listeners can't be used again");
            }
        }
    }

    /// Copies of all listeners, by pod; those of the process's own pod only with `home`.
    ///
    /// # Errors
    /// If descriptors have run out.
    pub(super) async fn copies(&self, home: bool) -> io::Result<Vec<PodPart>> {
        let mut listeners: HashMap<u64, PodListeners> = HashMap::new();
        for pod in self.shared.pods.load().values() {
            listeners.insert(pod.number(), (pod.clone(), Vec::new()));
        }
        for copied in self.ask_workers(Message::CopyListeners).await {
            for (pod, listening, listener) in copied? {
                let entry = listeners.entry(pod.number()).or_insert_with(|| (pod, Vec::new()));
                entry.1.push((listening, listener));
            }
        }
        let mut dns: HashMap<u64, DnsSockets> = HashMap::new();
        if let Some(proxy) = self.dns.as_ref().map(|dns| &dns.proxy) {
            dns.extend(proxy.copy().await?.into_iter().map(|(pod, sockets)| (pod.number(), sockets)));
        }
        let wanted = listeners.into_values().filter(|(pod, _)| home || !pod.uid().is_empty());
        let part = |(pod, listeners): (Arc<Pod>, _)| PodPart::new(&pod, listeners, dns.remove(&pod.number()));
        Ok(wanted.filter_map(part).collect())
    }

    /// The certificates in use, with their keys.
    pub(super) fn certificates(&self) -> Vec<Zeroizing<Vec<u8>>> {
        self.shared.certificates.parcels()
    }

    /// Uses a certificate that another process has had signed.
    pub(super) fn adopt_certificate(&self, parcel: &[u8]) {
        if let Err(error) = self.shared.certificates.adopt(parcel) {
            tracing::warn!(%error, "it is asked for anew");
        }
    }

    /// Accepts nothing any more; connections wait at the copies. The process's own pod only with `home`.
    pub(super) async fn let_go_of_listeners(&self, home: bool) {
        self.ask_workers(|done| Message::LetGoOfListeners { home, done }).await;
        if let Some(dns) = self.dns.clone() {
            // What was asked is answered, but nobody waits for that.
            tokio::spawn(async move { dns.proxy.let_go().await });
        }
    }

    async fn ask_workers<T: Send + 'static>(
        &self,
        message: impl Fn(Box<dyn FnOnce(T) + Send>) -> Message,
    ) -> Vec<T> {
        let ask = |worker| {
            let (done, answer) = oneshot::channel();
            let reply = Box::new(move |answer| {
                let _ = done.send(answer);
            });
            self.shared.post(worker, message(reply));
            answer
        };
        let asked: Vec<_> = workers(&self.shared).map(ask).collect();
        let mut answers = Vec::with_capacity(asked.len());
        for answer in asked {
            // A worker that has ended holds nothing.
            answers.extend(answer.await.ok());
        }
        answers
    }

    /// Serves a pod no more: nothing of it is left when this returns.
    pub(super) async fn stop_pod(&self, uid: &str) {
        let Some(pod) = self.shared.pods.remove(uid) else { return };
        pod.retire();
        if let Some(dns) = &self.dns {
            dns.proxy.stop(&pod).await;
        }
        // Twice: what was on its way from one worker to another has arrived, and was turned away, before the second.
        for _ in 0..2 {
            self.remove_from_workers(&pod).await;
        }
        if let Some(handover) = self.handover.get() {
            handover.pod_deleted(uid).await;
        }
        tracing::info!(uid = %pod.uid(), pod = %pod.workload(), "the pod is served no more");
    }

    async fn remove_from_workers(&self, pod: &Arc<Pod>) {
        self.ask_workers(|done| Message::RemovePod(pod.clone(), done)).await;
    }

    /// Where each pod has its listener for tunnels.
    pub(super) fn tunnel_port(&self) -> u16 {
        self.listeners.hbone.port()
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
