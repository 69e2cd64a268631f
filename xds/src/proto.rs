//! The messages of the control plane, generated from the schemas in `proto/`.

/// Delta ADS (`envoy.service.discovery.v3`).
pub mod discovery {
    #![allow(missing_docs, unused_qualifications, clippy::all, clippy::pedantic, reason = "generated")]
    tonic::include_proto!("envoy.service.discovery.v3");
}

/// Workloads and services (`istio.workload`).
pub mod workload {
    #![allow(missing_docs, unused_qualifications, clippy::all, clippy::pedantic, reason = "generated")]
    tonic::include_proto!("istio.workload");
}

/// Authorization policies (`istio.security`).
pub mod security {
    #![allow(missing_docs, unused_qualifications, clippy::all, clippy::pedantic, reason = "generated")]
    tonic::include_proto!("istio.security");
}

/// The certificate authority (`istio.v1.auth`).
pub mod ca {
    #![allow(missing_docs, unused_qualifications, clippy::all, clippy::pedantic, reason = "generated")]
    tonic::include_proto!("istio.v1.auth");
}

/// The type URL of [`workload::Address`].
pub const ADDRESS: &str = "type.googleapis.com/istio.workload.Address";
/// The type URL of [`security::Authorization`].
pub const AUTHORIZATION: &str = "type.googleapis.com/istio.security.Authorization";
