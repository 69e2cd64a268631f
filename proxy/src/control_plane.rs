//! What joins this process to istiod: the stream of mesh state, and istiod as the signer of certificates.

use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use xds::client::{Client, ClientConfig};
use xds::proto::discovery;
use xds::{Identity, Store, ca};

use crate::config::xds::Node;
use crate::config::{ConfigError, ProxyMode, RemoteConfig, XdsConfig};
use crate::identity::{CaError, CertificateAuthority, SignedChain, Signing};
use crate::telemetry::Telemetry;

/// The stream of mesh state: a handle, and what has to run for it.
pub fn mesh_state(
    config: &XdsConfig,
    store: Store,
    telemetry: &Telemetry,
    begins_later: bool,
) -> Result<(Client, impl Future<Output = ()> + Send + use<>), ConfigError> {
    let config = ClientConfig {
        server: config.server.server()?,
        node: node(&config.node),
        on_demand: config.on_demand,
        begins_later,
    };
    Ok(xds::client::start(config, store, Arc::new(telemetry.control_plane().clone())))
}

/// istiod as the signer of certificates. In shared mode they are asked for on behalf of the node's pods, which istiod
/// allows the node's proxy; in dedicated mode a proxy asks for its own identity, which its token proves.
pub fn authority(
    remote: &RemoteConfig,
    lifetime: Duration,
    mode: &ProxyMode,
) -> Result<Arc<dyn CertificateAuthority>, ConfigError> {
    let impersonate = match mode {
        ProxyMode::Shared(_) => true,
        ProxyMode::Dedicated(_) => false,
    };
    Ok(Arc::new(Istiod(ca::CaClient::new(remote.server()?, lifetime, impersonate))))
}

struct Istiod(ca::CaClient);

impl CertificateAuthority for Istiod {
    fn sign<'a>(&'a self, identity: &'a Identity, csr: &'a str) -> Signing<'a> {
        Box::pin(async {
            self.0.create_certificate(identity, csr).await.map(SignedChain).map_err(|error| match error {
                ca::CaError::Unreachable(reason) => CaError::Unreachable(reason),
                ca::CaError::Refused(reason) => CaError::Refused(reason),
            })
        })
    }
}

fn node(node: &Node) -> discovery::Node {
    let fields = node.metadata.iter().map(|(key, value)| (key.clone(), protobuf(value))).collect();
    discovery::Node {
        id: node.id.clone(),
        metadata: Some(prost_types::Struct { fields }),
        ..discovery::Node::default()
    }
}

/// JSON as `google.protobuf.Value`.
fn protobuf(value: &Value) -> prost_types::Value {
    use prost_types::value::Kind;
    let kind = match value {
        Value::Null => Kind::NullValue(0),
        Value::Bool(value) => Kind::BoolValue(*value),
        // The message knows no other numbers; beyond 2⁵³ they lose digits, as everywhere in JSON.
        Value::Number(number) => Kind::NumberValue(number.as_f64().unwrap_or(f64::NAN)),
        Value::String(text) => Kind::StringValue(text.clone()),
        Value::Array(values) => {
            Kind::ListValue(prost_types::ListValue { values: values.iter().map(protobuf).collect() })
        }
        Value::Object(fields) => Kind::StructValue(prost_types::Struct {
            fields: fields.iter().map(|(key, value)| (key.clone(), protobuf(value))).collect(),
        }),
    };
    prost_types::Value { kind: Some(kind) }
}
