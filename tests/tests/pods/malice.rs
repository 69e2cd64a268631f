//! Applications that talk to ports of the proxy itself.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::thread;
use std::time::Duration;

use demo::node::{
    ADMIN_PORT, INBOUND_PLAINTEXT_PORT, METRICS_PORT, OUTBOUND_PORT, READINESS_PORT, TUNNEL_PORT,
};
use demo::place::Place;
use tests::cluster::{KubeNode, PodSpec};
use tests::process::processor_time;
use tests::wait::PATIENCE;
use tests::world::{Variant, log};

use crate::scene::{APPLICATION, Conversations, Scene, specs, talk};

in_both_variants! { nobody_gets_in_by_the_proxys_own_ports }

async fn nobody_gets_in_by_the_proxys_own_ports(variant: Variant) {
    let mut wanted = specs(3, 1);
    wanted.push(PodSpec::new("plain", KubeNode::B).plain());
    let Some((scene, pods)) = Scene::new(variant, &wanted) else { return };
    let [evil, near, other, far, plain] = &pods[..] else { panic!("five pods") };
    let _applications = [near, far].map(|pod| pod.greet(APPLICATION));
    let conversations = Conversations::round(&[near.clone(), other.clone(), far.clone()]);
    conversations.go_on().await;

    let own_ports = [TUNNEL_PORT, OUTBOUND_PORT, INBOUND_PLAINTEXT_PORT];
    let mut attempts = Vec::new();
    for victim in [evil, near, far] {
        for address in [victim.at(0).ip(), victim.at_v6(0).ip()] {
            attempts.extend(own_ports.map(|port| (evil.place(), SocketAddr::new(address, port))));
            attempts.extend(own_ports.map(|port| (plain.place(), SocketAddr::new(address, port))));
        }
    }
    for loopback in [IpAddr::from(Ipv4Addr::LOCALHOST), Ipv6Addr::LOCALHOST.into()] {
        attempts.extend(own_ports.map(|port| (evil.place(), SocketAddr::new(loopback, port))));
    }
    for proxy in scene.cluster.proxy_addresses() {
        let ports = [ADMIN_PORT, OUTBOUND_PORT, INBOUND_PLAINTEXT_PORT, TUNNEL_PORT];
        attempts.extend(ports.map(|port| (evil.place(), SocketAddr::new(proxy, port))));
        // These are for everybody, but not in this tongue.
        attempts
            .extend([METRICS_PORT, READINESS_PORT].map(|port| (evil.place(), SocketAddr::new(proxy, port))));
    }
    let before = lines(&scene);
    let (count, attacks) = (attempts.len(), attempts);
    thread::scope(|scope| {
        let attack = |(place, target): &(&Place, SocketAddr)| {
            let answer = place.run(|| nonsense(*target)).expect("the namespace is there");
            assert!(
                is_refusal(&answer),
                "{target}: {:?}",
                answer.map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
            );
        };
        let attacks: Vec<_> = attacks.iter().map(|one| scope.spawn(move || attack(one))).collect();
        for attack in attacks {
            attack.join().expect("refused");
        }
    });
    conversations.go_on().await;
    conversations.finish().await;
    talk(near, far.at(APPLICATION));

    // Nothing went in circles: none made more than a connection out, one in, and one refused.
    let after = lines(&scene);
    assert!(after - before < 4 * count + 100, "{} lines of log for {count} attempts", after - before);
    for node in [&scene.a, &scene.b] {
        let used = processor_time(node.id());
        // Only what a process uses in this time is measured, not that something happens in it.
        thread::sleep(Duration::from_millis(500));
        let used = processor_time(node.id()) - used;
        assert!(used < Duration::from_millis(250), "{used:?} in half a second of rest");
    }
    scene.check();
}

/// Says something that no protocol has, and returns what comes.
fn nonsense(target: SocketAddr) -> io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect_timeout(&target, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(b"\0nonsense\r\n\r\n")?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    Ok(answer)
}

/// Nothing was listening there, the connection was broken off, or all that came was a TLS alert or an HTTP error.
fn is_refusal(answer: &io::Result<Vec<u8>>) -> bool {
    match answer {
        Ok(answer) => {
            answer.is_empty() || answer.starts_with(&[TLS_ALERT]) || answer.starts_with(b"HTTP/1.1 400")
        }
        Err(error) => matches!(
            error.kind(),
            io::ErrorKind::ConnectionRefused | io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe
        ),
    }
}

const TLS_ALERT: u8 = 21;

fn lines(scene: &Scene) -> usize {
    [&scene.a, &scene.b].map(|node| log(node).lines().count()).iter().sum()
}
