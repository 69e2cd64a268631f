//! The certificate service, as istiod's.

use std::sync::Arc;
use std::time::Duration;

use prost_types::value::Kind;
use tonic::{Request, Response, Status};
use xds::Identity;
use xds::proto::ca::istio_certificate_service_server::IstioCertificateService;
use xds::proto::ca::{IstioCertificateRequest, IstioCertificateResponse};

use super::Misbehaviour;
use super::authority::{Issuing, SigningError};
use super::replica::Shared;

#[derive(Clone)]
pub(super) struct Certificates {
    pub(super) replica: Arc<Shared>,
}

#[tonic::async_trait]
impl IstioCertificateService for Certificates {
    async fn create_certificate(
        &self,
        request: Request<IstioCertificateRequest>,
    ) -> Result<Response<IstioCertificateResponse>, Status> {
        let caller = self.replica.bearer(request.metadata())?;
        self.replica.count(|statistics| statistics.certificate_requests += 1);
        let request = request.into_inner();
        let issuing = match self.replica.misbehaviour() {
            Misbehaviour::RefuseCertificates => {
                return Err(Status::permission_denied("certificates are refused for now"));
            }
            Misbehaviour::ChainOfAnotherRoot => Issuing::ByAStranger,
            Misbehaviour::ChainOfAnotherIdentity => Issuing::ForAnother,
            _ => Issuing::Properly,
        };
        let authority = &self.replica.authority;
        let identity = match impersonated(&request)? {
            None => caller,
            Some(identity) if authority.may_impersonate(&caller) => identity,
            Some(_) => return Err(Status::permission_denied(format!("{caller} may not impersonate"))),
        };
        let wish = u64::try_from(request.validity_duration).ok().filter(|wish| *wish > 0);
        let lifetime = wish.map_or(USUAL_LIFETIME, Duration::from_secs);
        let cert_chain =
            authority.sign(&request.csr, &identity, lifetime, issuing).map_err(|error| match error {
                SigningError::AnotherName => Status::permission_denied(error.to_string()),
                SigningError::Request(_) => Status::invalid_argument(error.to_string()),
            })?;
        Ok(Response::new(IstioCertificateResponse { cert_chain }))
    }
}

/// For whom a certificate is asked, if not for the caller.
fn impersonated(request: &IstioCertificateRequest) -> Result<Option<Identity>, Status> {
    let value = request.metadata.as_ref().and_then(|metadata| metadata.fields.get("ImpersonatedIdentity"));
    match value.and_then(|value| value.kind.as_ref()) {
        None => Ok(None),
        Some(Kind::StringValue(identity)) => match identity.parse() {
            Ok(identity) => Ok(Some(identity)),
            Err(error) => Err(Status::invalid_argument(format!("ImpersonatedIdentity: {error}"))),
        },
        Some(_) => Err(Status::invalid_argument("ImpersonatedIdentity is no text")),
    }
}

const USUAL_LIFETIME: Duration = Duration::from_secs(24 * 60 * 60);
