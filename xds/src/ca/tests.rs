use super::*;
use crate::connect::{RootCertificates, Token};
use crate::testing::{Authority, Certificates, Signing, config, file, server};

fn web() -> Identity {
    "spiffe://cluster.local/ns/shop/sa/web".parse().unwrap()
}

/// A CA and its client.
async fn world(impersonate: bool) -> (Certificates, CaClient) {
    let authority = Authority::new();
    let ca = Certificates::start(&authority).await;
    let server = server(config(ca.replica.address, &authority));
    (ca, CaClient::new(server, Duration::from_secs(86_400), impersonate))
}

/// One request that the CA answers like this, and how it came there.
async fn ask(
    ca: &mut Certificates,
    client: &CaClient,
    answer: Result<Vec<String>, Status>,
) -> (Result<Vec<String>, CaError>, Request<IstioCertificateRequest>) {
    let web = web();
    let serve = async {
        let signing: Signing = ca.signing().await;
        signing.answer.send(answer).unwrap();
        signing.request
    };
    tokio::join!(client.create_certificate(&web, "CSR"), serve)
}

#[tokio::test]
async fn a_request_has_what_istiod_reads() {
    for (impersonate, expected) in [(true, Some("spiffe://cluster.local/ns/shop/sa/web")), (false, None)] {
        let (mut ca, client) = world(impersonate).await;
        let chain = vec!["leaf".to_owned(), "root".to_owned()];
        let (answer, request) = ask(&mut ca, &client, Ok(chain.clone())).await;
        assert_eq!(answer, Ok(chain));
        assert_eq!(request.metadata().get("clusterid").unwrap(), "Kubernetes");
        let request = request.into_inner();
        assert_eq!((&*request.csr, request.validity_duration), ("CSR", 86_400));
        let fields = request.metadata.map(|metadata| metadata.fields).unwrap_or_default();
        let identity = fields.get("ImpersonatedIdentity").and_then(|value| match &value.kind {
            Some(Kind::StringValue(text)) => Some(text.as_str()),
            _ => None,
        });
        assert_eq!(identity, expected);
    }
}

#[tokio::test]
async fn each_request_has_the_token_as_it_is_then_on_one_connection() {
    let authority = Authority::new();
    let mut ca = Certificates::start(&authority).await;
    let token = file("one");
    let mut config = config(ca.replica.address, &authority);
    config.token = Some(Token::File(token.path().to_owned()));
    let client = CaClient::new(server(config), Duration::from_secs(1), false);
    for content in ["one", "two"] {
        std::fs::write(token.path(), content).unwrap();
        let (_, request) = ask(&mut ca, &client, Ok(Vec::new())).await;
        assert_eq!(request.metadata().get("authorization").unwrap(), &*format!("Bearer {content}"));
    }
    assert_eq!(ca.replica.accepted(), 1);
    std::fs::remove_file(token.path()).unwrap();
    let error = client.create_certificate(&web(), "CSR").await.unwrap_err();
    assert!(matches!(&error, CaError::Unreachable(text) if text.contains("token: cannot read")), "{error}");
}

#[tokio::test]
async fn refusals_tell_what_is_not_accepted() {
    let (mut ca, client) = world(false).await;
    let mut refused = Vec::new();
    for status in [Status::unauthenticated("expired"), Status::permission_denied("not yours")] {
        let (answer, _) = ask(&mut ca, &client, Err(status)).await;
        refused.push(answer.unwrap_err());
    }
    assert_eq!(refused[0], CaError::Refused("our token is not accepted: expired".to_owned()));
    assert!(
        matches!(&refused[1], CaError::Refused(text) if text.contains("permission") && text.ends_with("not yours"))
    );
    assert_eq!(ca.replica.accepted(), 1, "a refusal says nothing against the connection");
}

#[tokio::test]
async fn a_connection_that_failed_or_hangs_is_not_used_again() {
    let (mut ca, client) = world(false).await;
    let (answer, _) = ask(&mut ca, &client, Err(Status::unavailable("going"))).await;
    assert!(matches!(answer, Err(CaError::Unreachable(_))));
    ask(&mut ca, &client, Ok(Vec::new())).await.0.unwrap();
    assert_eq!(ca.replica.accepted(), 2);

    // The caller's patience ends while the CA still thinks.
    let web = web();
    tokio::select! {
        answer = client.create_certificate(&web, "CSR") => panic!("{answer:?}"),
        _ = ca.signing() => {}
    }
    ask(&mut ca, &client, Ok(Vec::new())).await.0.unwrap();
    assert_eq!(ca.replica.accepted(), 3);
}

#[tokio::test]
async fn a_kept_connection_that_has_ended_is_not_felt() {
    let (mut ca, client) = world(false).await;
    ask(&mut ca, &client, Ok(Vec::new())).await.0.unwrap();
    let web = web();
    let serve = async {
        ca.signing().await.answer.send(Err(Status::unavailable("going"))).unwrap();
        ca.signing().await.answer.send(Ok(vec!["leaf".to_owned()])).unwrap();
        std::future::pending::<()>().await;
    };
    let answer = tokio::select! {
        answer = client.create_certificate(&web, "CSR") => answer,
        () = serve => unreachable!("it waits"),
    };
    assert_eq!(answer, Ok(vec!["leaf".to_owned()]));
    assert_eq!(ca.replica.accepted(), 2);
}

#[tokio::test]
async fn new_roots_make_a_new_connection() {
    let (authority, other) = (Authority::new(), Authority::new());
    let mut ca = Certificates::start(&authority).await;
    let roots = file(authority.pem());
    let mut config = config(ca.replica.address, &authority);
    config.roots = RootCertificates::File(roots.path().to_owned());
    let client = CaClient::new(server(config), Duration::from_secs(1), false);
    ask(&mut ca, &client, Ok(Vec::new())).await.0.unwrap();
    std::fs::write(roots.path(), format!("{}{}", authority.pem(), other.pem())).unwrap();
    ask(&mut ca, &client, Ok(Vec::new())).await.0.unwrap();
    assert_eq!(ca.replica.accepted(), 2);
    // A root that the CA is not of is not overlooked because there is a connection.
    std::fs::write(roots.path(), other.pem()).unwrap();
    let error = client.create_certificate(&web(), "CSR").await.unwrap_err();
    assert!(matches!(&error, CaError::Unreachable(text) if text.contains("TLS: invalid peer")), "{error}");
}
