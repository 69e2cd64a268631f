//! The CA is away, changes its root, or no longer knows our token.

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use demo::control_plane::Misbehaviour;
use demo::node::Node;
use demo::traffic::Dial;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use tests::istiod::{Istiod, certificate_requests, connected, synced};
use tests::said::{Since, dump};
use tests::traffic::{Traffic, all_whole, echo, everything, visit};
use tests::wait;
use tests::world::{APPLICATION, Host, Variant, World, log_line};
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::NODE;

/// A certificate's life. It is backdated by more than that, so that a quarter of it is the interval of renewal.
const LIFE: Duration = Duration::from_secs(24);
/// For tests that wait for a renewal and do not fear the end of the old certificate.
const SHORT_LIFE: Duration = Duration::from_secs(12);

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_ca_that_refuses_is_felt_by_new_identities_alone() {
    let world = World::new(NODE, Variant::Moving);
    let istiod = Istiod::start(&world);
    istiod.authority().set_lifetime(Some(LIFE));
    let [client, server] = [Host::Client, Host::Server].map(|host| istiod.node(host, &[]));
    let application = world.application(Host::Server);
    let traffic = Traffic::start(Dial::Socks5(client.socks5()), vec![application.address()], everything());
    traffic.progress().await;
    echo(world.at(Host::Client, APPLICATION)).await;
    let logs = [&client, &server].map(Since::now);

    istiod.replica().misbehave(Misbehaviour::RefuseCertificates);
    wait::until("renewal is due, and fails more than once", || {
        [&client, &server].iter().all(|node| certificate_requests(node, &["refused"]) >= 2.0)
    })
    .await;
    // Nothing went this way before: both show their certificates anew.
    visit(&server, world.at(Host::Client, APPLICATION)).await.expect("they are still valid");
    traffic.progress().await;

    let new = istiod.node(Host::Stock, &[]);
    visit(&new, application.address()).await.expect_err("nobody can tell who it is");
    log_line(&new, &["error\taccess\tconnection complete", "certificates are refused for now"]).await;
    visit(&server, world.at(Host::Client, APPLICATION)).await.expect("the old ones are not concerned");
    for log in &logs {
        log.one_warning(&["no certificate", "certificates are refused for now"]);
    }
    Since::start(&new).one_warning(&["no certificate", "certificates are refused for now"]);

    let signed = [&client, &server].map(|node| certificate_requests(node, &["signed"]));
    istiod.replica().misbehave(Misbehaviour::None);
    for (node, signed) in [&client, &server].into_iter().zip(signed) {
        wait::until("it is renewed", || certificate_requests(node, &["signed"]) > signed).await;
    }
    wait::until("the new one gets its first", || certificate_requests(&new, &["signed"]) > 0.0).await;
    visit(&new, world.at(Host::Client, APPLICATION)).await.expect("a certificate");
    for (node, log) in [&client, &server].into_iter().zip(&logs) {
        log.one_warning(&["certificates are refused for now"]);
        log.line("info", &["certificates are signed again"]).await;
        world.check(node);
    }
    traffic.finish();
    all_whole(application.tally()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_ca_that_is_gone_is_not_felt_while_certificates_are_valid() {
    let world = World::new(NODE, Variant::Moving);
    let mut istiod = Istiod::start(&world);
    istiod.authority().set_lifetime(Some(LIFE));
    let [client, server] = [Host::Client, Host::Server].map(|host| istiod.node(host, &[]));
    let application = world.application(Host::Server);
    let traffic = Traffic::start(Dial::Socks5(client.socks5()), vec![application.address()], everything());
    traffic.progress().await;
    echo(world.at(Host::Client, APPLICATION)).await;

    let signed = [&client, &server].map(|node| certificate_requests(node, &["signed"]));
    istiod.stop();
    wait::until("renewal is due, and fails more than once", || {
        [&client, &server].iter().all(|node| certificate_requests(node, &["unreachable"]) >= 2.0)
    })
    .await;
    visit(&server, world.at(Host::Client, APPLICATION)).await.expect("they are still valid");
    traffic.progress().await;

    istiod.restart();
    synced(istiod.replica(), 2).await;
    for (node, signed) in [&client, &server].into_iter().zip(signed) {
        wait::until("it is renewed", || certificate_requests(node, &["signed"]) > signed).await;
        Since::start(node).line("info", &["certificates are signed again"]).await;
        let told = Since::start(node).lines("warn", &["no certificate"]);
        assert_eq!(told.len(), 1, "said once: {told:#?}");
        world.check(node);
    }
    traffic.finish();
    all_whole(application.tally()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_new_root_is_taken() {
    let world = World::new(NODE, Variant::Moving);
    let mut istiod = Istiod::start(&world);
    istiod.authority().set_lifetime(Some(SHORT_LIFE));
    let [client, server] = [Host::Client, Host::Server].map(|host| istiod.node(host, &[]));
    let application = world.application(Host::Server);
    let traffic = Traffic::start(Dial::Socks5(client.socks5()), vec![application.address()], everything());
    traffic.progress().await;
    assert_eq!(issuer(&client), "O=cluster.local, CN=root 1");

    istiod.authority().rotate_root().expect("a root");
    for node in [&client, &server] {
        wait::until("its certificate is of the new root", || issuer(node) == "O=cluster.local, CN=root 2")
            .await;
        assert_eq!(certificates(node)["rootCerts"].as_array().map(Vec::len), Some(2), "it trusts both");
    }
    echo(world.at(Host::Client, APPLICATION)).await;
    visit(&server, world.at(Host::Client, APPLICATION)).await.expect("both are of the new root");
    // istiod itself is of the new root now, too.
    istiod.restart();
    synced(istiod.replica(), 2).await;
    let signed = [&client, &server].map(|node| certificate_requests(node, &["signed"]));
    for (node, signed) in [&client, &server].into_iter().zip(signed) {
        wait::until("it is renewed", || certificate_requests(node, &["signed"]) > signed).await;
        world.check(node);
    }
    traffic.progress().await;
    traffic.finish();
    all_whole(application.tally()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn an_expired_token_is_said_once_and_a_fresh_one_is_found() {
    let world = World::new(NODE, Variant::Still);
    let mut istiod = Istiod::start(&world);
    istiod.authority().set_lifetime(Some(LIFE));
    let [client, server] = [Host::Client, Host::Server].map(|host| istiod.node(host, &[]));
    synced(istiod.replica(), 2).await;
    echo(world.at(Host::Server, APPLICATION)).await;
    visit(&client, world.at(Host::Server, APPLICATION)).await.expect("all is well");

    istiod.authority().expire_tokens();
    wait::until("renewal is due, and fails more than once", || {
        [&client, &server].iter().all(|node| certificate_requests(node, &["refused"]) >= 2.0)
    })
    .await;
    for node in [&client, &server] {
        Since::start(node).one_warning(&["no certificate", "token"]);
        assert!(connected(node), "the stream goes on");
    }
    let logs = [&client, &server].map(Since::now);
    istiod.restart();
    for log in &logs {
        let said = log.line("warn", &["token"]).await;
        assert!(said.contains("no control plane"), "{said}");
    }
    wait::until("they try again", || istiod.replica().statistics().token_failures >= 6).await;
    for log in &logs {
        assert_eq!(log.lines("warn", &["token"]).len(), 1, "said once");
    }
    visit(&client, world.at(Host::Server, APPLICATION)).await.expect("what is known holds");

    let signed = [&client, &server].map(|node| certificate_requests(node, &["signed"]));
    for host in [Host::Client, Host::Server] {
        istiod.fresh_token(host);
    }
    synced(istiod.replica(), 2).await;
    for (node, signed) in [&client, &server].into_iter().zip(signed) {
        wait::until("it is renewed", || certificate_requests(node, &["signed"]) > signed).await;
        world.check(node);
    }
    visit(&client, world.at(Host::Server, APPLICATION)).await.expect("all is well");
    let [unreachable, unusable] =
        ["unreachable", "unusable"].map(|result| certificate_requests(&client, &[result]));
    assert_eq!((unreachable, unusable), (0.0, 0.0), "a restart between two requests is not felt");
}

/// The certificates of the node's only identity, as its dump shows them.
fn certificates(node: &Node) -> serde_json::Value {
    dump(node)["certificates"][0].take()
}

/// Who signed the node's certificate.
fn issuer(node: &Node) -> String {
    let certificates = certificates(node);
    let text = certificates["certChain"][0]["pem"].as_str().expect("a certificate").to_owned();
    let pem = STANDARD.decode(text).expect("base64");
    let der = CertificateDer::from_pem_slice(&pem).expect("PEM");
    let (_, certificate) = X509Certificate::from_der(&der).expect("a certificate");
    certificate.issuer().to_string()
}
