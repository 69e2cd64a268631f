use tokio::net::TcpListener;

use super::*;
use crate::testing::{Authority, Discovery, Replica, config, file, server};

/// Serves nothing: connections are all that these tests make.
async fn replica(authority: &Authority, names: &[&str]) -> Replica {
    let nothing = service_fn(|_| std::future::ready(Ok(http::Response::new(tonic::body::Body::empty()))));
    Replica::start(authority.acceptor(names), nothing).await
}

fn step(result: Result<(Channel, SocketAddr), ConnectError>) -> (Step, String) {
    match result {
        Err(ConnectError::Addresses(errors)) => (errors[0].step, errors[0].reason.clone()),
        other => panic!("{:?}", other.map(|(_, address)| address)),
    }
}

#[tokio::test]
async fn the_certificate_must_fit_the_host_or_the_alternative_name() {
    let authority = Authority::new();
    for (names, alternative, good) in [
        (["127.0.0.1"], None, true),
        (["istiod.example"], None, false),
        (["istiod.example"], Some("istiod.example"), true),
        (["istiod.example"], Some("other.example"), false),
        (["127.0.0.1"], Some("other.example"), true),
    ] {
        let replica = replica(&authority, &names).await;
        let mut config = config(replica.address, &authority);
        config.alternative_name = alternative.map(str::to_owned);
        let result = server(config).connect(None).await;
        if good {
            assert_eq!(result.unwrap().1, replica.address, "{names:?} {alternative:?}");
        } else {
            let (step, reason) = step(result);
            assert_eq!(step, Step::Tls);
            assert!(reason.contains("not valid for name \"127.0.0.1\""), "{reason}");
        }
    }
}

#[tokio::test]
async fn a_certificate_of_another_root_is_refused_until_the_file_has_it() {
    let (authority, other) = (Authority::new(), Authority::new());
    let replica = replica(&authority, &["127.0.0.1", "istiod.example"]).await;
    let roots = file(other.pem());
    let mut config = config(replica.address, &authority);
    config.roots = RootCertificates::File(roots.path().to_owned());
    // A right name does not help.
    config.alternative_name = Some("istiod.example".to_owned());
    let server = server(config);
    let (step, reason) = step(server.connect(None).await);
    // Both authorities have the same name.
    assert_eq!((step, &*reason), (Step::Tls, "invalid peer certificate: BadSignature"));

    std::fs::write(roots.path(), format!("{}{}", other.pem(), authority.pem())).unwrap();
    server.connect(None).await.unwrap();
}

#[tokio::test]
async fn files_that_cannot_be_used_are_named() {
    let authority = Authority::new();
    let failing = |roots: RootCertificates, token: Option<Token>| {
        let mut config = config(([127, 0, 0, 1], 1).into(), &authority);
        (config.roots, config.token) = (roots, token);
        server(config)
    };
    let good = RootCertificates::Pem(authority.pem().to_owned());
    for (roots, expected) in [
        (
            RootCertificates::File("/no/roots.pem".into()),
            "root certificates: cannot read /no/roots.pem: No such file or directory (os error 2)",
        ),
        (RootCertificates::Pem(String::new()), "root certificates: there is none"),
        (
            RootCertificates::Pem(authority.pem().replace("MII", "AAA")),
            "root certificates: none of 1 can be read",
        ),
    ] {
        let error = failing(roots, None).connect(None).await.err().unwrap();
        assert_eq!(error.to_string(), expected);
    }
    let empty = file(" \n");
    for (token, expected) in [
        (
            Token::File("/no/token".into()),
            "token: cannot read /no/token: No such file or directory (os error 2)".to_owned(),
        ),
        (Token::File(empty.path().into()), format!("token: that of {} is empty", empty.path().display())),
        (
            Token::Static("s3cr\0t".into()),
            "token: that of the configuration has bytes that a header cannot carry".to_owned(),
        ),
    ] {
        let error = failing(good.clone(), Some(token)).metadata().unwrap_err();
        assert_eq!(error.to_string(), expected);
    }
}

#[tokio::test]
async fn metadata_has_the_token_as_it_is_now() {
    let authority = Authority::new();
    let token = file("first\n");
    let mut config = config(([127, 0, 0, 1], 1).into(), &authority);
    config.token = Some(Token::File(token.path().to_owned()));
    config.headers =
        vec![(http::HeaderName::from_static("x-tenant"), http::HeaderValue::from_static("acme-tenant"))];
    let server = server(config);
    for content in ["first", "second"] {
        std::fs::write(token.path(), content).unwrap();
        let metadata = server.metadata().unwrap();
        assert_eq!(metadata.get("authorization").unwrap(), &*format!("Bearer {content}"));
        assert_eq!(metadata.get("clusterid").unwrap(), "Kubernetes");
        assert_eq!(metadata.get("x-tenant").unwrap(), "acme-tenant");
        assert!(!format!("{metadata:?}").contains(content), "{metadata:?}");
    }
    assert!(!format!("{server:?}").contains("acme-tenant"));
}

#[test]
fn a_static_token_is_never_shown() {
    let token = Token::Static("s3cret".to_owned());
    let shown = format!("{token:?} {}", serde_json::to_string(&token).unwrap());
    assert!(!shown.contains("s3cret"), "{shown}");
}

#[tokio::test]
async fn all_addresses_are_tried() {
    let authority = Authority::new();
    let good = replica(&authority, &["127.0.0.1"]).await;
    let wrong = replica(&authority, &["istiod.example"]).await;
    let dead = SocketAddr::from(([127, 0, 0, 1], 1));
    let server = server(config(good.address, &authority));
    let tls = tls::connector(server.roots().unwrap(), None).unwrap();

    let addresses = vec![dead, wrong.address, good.address];
    assert_eq!(server.connect_to_any(addresses, &tls).await.unwrap().1, good.address);

    for addresses in [vec![dead, wrong.address], vec![wrong.address, dead]] {
        let error = server.connect_to_any(addresses, &tls).await.err().unwrap().to_string();
        let of_dead = format!("{dead}: TCP: Connection refused (os error 111)");
        let of_wrong = format!("{}: TLS: invalid peer certificate: ", wrong.address);
        let places = (error.find(&of_dead).unwrap(), error.find(&of_wrong).unwrap());
        assert_eq!(places.0 < places.1, dead < wrong.address, "{error}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_server_that_accepts_and_says_nothing_is_given_up_after_5_s() {
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let server = server(config(silent.local_addr().unwrap(), &Authority::new()));
    let begin = tokio::time::Instant::now();
    let (step, reason) = step(server.connect(None).await);
    assert_eq!((step, &*reason), (Step::Tls, "no answer within 5 s"));
    assert_eq!(begin.elapsed().as_secs(), 5);
}

#[test]
fn the_address_that_failed_comes_last_and_the_others_by_chance() {
    let addresses: Vec<SocketAddr> = (1..=4).map(|n| ([10, 0, 0, n], 15012).into()).collect();
    let mut firsts = std::collections::BTreeSet::new();
    for _ in 0..200 {
        let order = in_random_order([&addresses[..], &addresses[..]].concat(), Some(addresses[2]));
        assert_eq!((order.len(), order[3]), (4, addresses[2]));
        firsts.insert(order[0]);
    }
    assert_eq!(firsts.len(), 3);
}

#[tokio::test]
async fn a_connection_is_not_made_anew_behind_the_caller_s_back() {
    let authority = Authority::new();
    let mut discovery = Discovery::start(&authority).await;
    let (channel, _) = server(config(discovery.replica.address, &authority)).connect(None).await.unwrap();
    let call = || async {
        let mut client =
            crate::proto::discovery::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient::new(
                channel.clone(),
            );
        client.delta_aggregated_resources(tokio_stream::empty()).await.map(tonic::Response::into_inner)
    };
    let mut responses = call().await.unwrap();
    let _stream = discovery.stream().await;
    discovery.replica.cut();
    assert!(responses.message().await.is_err());
    let refused = call().await.unwrap_err();
    assert_eq!(refused.code(), tonic::Code::Unavailable);
    assert!(format!("{refused:?}").contains("the connection has ended"), "{refused:?}");
}

#[test]
fn what_is_wrong_with_a_configuration_is_said_at_once() {
    let authority = Authority::new();
    let refused = |change: fn(&mut ServerConfig)| {
        let mut config = config(([127, 0, 0, 1], 1).into(), &authority);
        change(&mut config);
        Server::new(config).unwrap_err().to_string()
    };
    assert_eq!(
        refused(|config| config.address = "http://localhost:15010".parse().unwrap()),
        "http://localhost:15010/ is not of the form https://host:port"
    );
    assert_eq!(
        refused(|config| config.alternative_name = Some("not a name".into())),
        "\"not a name\" is neither a DNS name nor an IP address"
    );
    assert_eq!(
        refused(|config| config.cluster_id = "a\nb".into()),
        "the cluster id \"a\\nb\" cannot be sent in a header"
    );
    let mut six = config(([127, 0, 0, 1], 1).into(), &authority);
    six.address = "https://[::1]".parse().unwrap();
    let six = server(six);
    assert_eq!((&*six.shared.host, six.shared.port), ("::1", 443));
}
