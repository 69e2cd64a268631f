//! One process tells another of the mesh. Each has a control plane of its own, so that they can say different things.

use super::*;
use crate::telling::Telling;

/// A client that waits for what it is told.
async fn successor(on_demand: bool) -> World {
    let authority = Authority::new();
    let discovery = Discovery::start(&authority).await;
    let server = server(config(discovery.replica.address, &authority));
    World::of(discovery, ClientConfig { server, node: node(), on_demand, begins_later: true })
}

/// What a real one would: through bytes.
fn pass(telling: &Telling, to: &World) {
    to.client.learn(Telling::decode(&telling.encode()).unwrap());
}

/// Passes all tellings on until that of a generation.
async fn pass_until(generation: u64, from: &mut mpsc::Receiver<Telling>, to: &World) {
    loop {
        let telling = from.recv().await.unwrap();
        pass(&telling, to);
        if telling.generation() >= generation {
            return;
        }
    }
}

async fn caught_up(world: &World, generation: u64) {
    world.client.caught_up().wait_for(|reached| *reached >= generation).await.unwrap();
}

fn dump(world: &World) -> serde_json::Value {
    serde_json::to_value(world.store.load().dump()).unwrap()
}

/// The server says so, and the client has heard it.
async fn say<const N: usize>(stream: &mut Stream, type_url: &str, resources: [Resource; N]) {
    stream.respond(response(type_url, "n", resources)).await;
    assert_eq!(stream.request().await.response_nonce, "n");
}

async fn say_removed(stream: &mut Stream, name: &str) {
    let removed_resources = vec![name.to_owned()];
    stream.respond(DeltaDiscoveryResponse { removed_resources, ..response(ADDRESS, "n", []) }).await;
    assert_eq!(stream.request().await.response_nonce, "n");
}

/// Two processes of which the first knows of something, and the second was told and has not begun.
async fn told() -> (World, Stream, mpsc::Receiver<Telling>, World) {
    let mut owner = World::start(false).await;
    let mut stream = owner.synced().await;
    say(&mut stream, AUTHORIZATION, [policy("p")]).await;
    let workloads = [workload("a", "v1", &["n/p"]), workload("b", "v1", &[]), broken("c")];
    say(&mut stream, ADDRESS, workloads).await;
    let mut tellings = owner.client.tell();
    let candidate = successor(false).await;
    let first = tellings.recv().await.unwrap();
    assert!(first.is_complete());
    assert_eq!(first.generation(), owner.store.load().generation());
    pass(&first, &candidate);
    caught_up(&candidate, first.generation()).await;
    (owner, stream, tellings, candidate)
}

/// The successor's stream begins, and all that its control plane adds is this.
async fn begin<const N: usize>(candidate: &mut World, resources: [Resource; N]) -> Stream {
    candidate.client.begin();
    let mut stream = candidate.discovery.stream().await;
    assert_eq!(stream.request().await.type_url, ADDRESS);
    assert_eq!(stream.request().await.type_url, AUTHORIZATION);
    say(&mut stream, ADDRESS, resources).await;
    say(&mut stream, AUTHORIZATION, []).await;
    candidate.client.synced().await;
    stream
}

#[tokio::test]
async fn a_successor_begins_with_what_it_was_told() {
    let (owner, mut stream, mut tellings, mut candidate) = told().await;
    assert_eq!(dump(&candidate), dump(&owner));
    assert_eq!(candidate.discovery.replica.accepted(), 0);

    // Changes are visible as they come, as long as it has no stream.
    say(&mut stream, ADDRESS, [workload("b", "v2", &[]), workload("d", "v1", &[])]).await;
    say_removed(&mut stream, "a").await;
    let generation = owner.store.load().generation();
    pass_until(generation, &mut tellings, &candidate).await;
    caught_up(&candidate, generation).await;
    assert_eq!(dump(&candidate), dump(&owner));
    assert!(candidate.has("d") && !candidate.has("a"));

    candidate.client.begin();
    let mut stream = candidate.discovery.stream().await;
    let first = stream.request().await;
    assert_eq!(first.node, Some(node()));
    assert_eq!(super::told(&first), [("b", "v2"), ("c", ""), ("d", "v1")]);
    assert_eq!(super::told(&stream.request().await), [("n/p", "")]);
    assert!(!*candidate.client.synced.borrow());
    say(&mut stream, ADDRESS, []).await;
    say(&mut stream, AUTHORIZATION, []).await;
    candidate.client.synced().await;
    assert_eq!(dump(&candidate), dump(&owner));
}

#[tokio::test]
async fn once_its_own_stream_is_synced_a_successor_waits_for_that() {
    let (owner, mut stream, mut tellings, mut candidate) = told().await;
    let mut own = begin(&mut candidate, []).await;
    let before = *candidate.client.caught_up().borrow();
    say(&mut stream, ADDRESS, [workload("d", "v1", &[])]).await;
    pass_until(owner.store.load().generation(), &mut tellings, &candidate).await;
    say_removed(&mut stream, "b").await;
    let generation = owner.store.load().generation();
    pass_until(generation, &mut tellings, &candidate).await;

    // The answer to something else comes after all that was told was heard.
    say(&mut own, ADDRESS, [workload("x", "v1", &[])]).await;
    assert_eq!(*candidate.client.caught_up().borrow(), before);
    assert!(!candidate.has("d") && candidate.has("b"));
    say_removed(&mut own, "b").await;
    assert_eq!(*candidate.client.caught_up().borrow(), before);
    say(&mut own, ADDRESS, [workload("d", "v1", &[])]).await;
    caught_up(&candidate, generation).await;
}

#[tokio::test]
async fn what_its_own_stream_said_before_counts_at_once() {
    let (owner, mut stream, mut tellings, mut candidate) = told().await;
    let _own = begin(&mut candidate, [workload("d", "v1", &[])]).await;
    say(&mut stream, ADDRESS, [workload("d", "v1", &[])]).await;
    let generation = owner.store.load().generation();
    pass_until(generation, &mut tellings, &candidate).await;
    caught_up(&candidate, generation).await;
}

#[tokio::test]
async fn when_its_own_stream_ends_a_successor_takes_what_it_was_told() {
    let (owner, mut stream, mut tellings, mut candidate) = told().await;
    let own = begin(&mut candidate, []).await;
    say(&mut stream, ADDRESS, [workload("d", "v1", &[])]).await;
    let generation = owner.store.load().generation();
    pass_until(generation, &mut tellings, &candidate).await;
    assert!(!candidate.has("d"));
    own.fail(Status::unavailable("going")).await;
    caught_up(&candidate, generation).await;
    assert!(candidate.has("d"));
    // The next stream begins with it.
    let first = candidate.discovery.stream().await.request().await;
    assert!(super::told(&first).contains(&("d", "v1")));
}

#[tokio::test]
async fn what_is_told_while_the_stream_syncs_waits() {
    let (owner, mut stream, mut tellings, mut candidate) = told().await;
    candidate.client.begin();
    let mut own = candidate.discovery.stream().await;
    own.request().await;
    own.request().await;
    say(&mut stream, ADDRESS, [workload("d", "v2", &[])]).await;
    let generation = owner.store.load().generation();
    pass_until(generation, &mut tellings, &candidate).await;
    say(&mut own, ADDRESS, [workload("e", "v1", &[])]).await;
    assert!(!candidate.has("d"));
    assert!(*candidate.client.caught_up().borrow() < generation);
    own.fail(Status::unavailable("going")).await;
    caught_up(&candidate, generation).await;
    assert!(candidate.has("d") && candidate.has("e"));
}

#[tokio::test]
async fn what_was_asked_for_is_told_with_its_answers() {
    let mut owner = World::start(true).await;
    let mut stream = owner.discovery.stream().await;
    stream.request().await;
    stream.request().await;
    say(&mut stream, AUTHORIZATION, []).await;
    owner.client.demand("net/a");
    assert_eq!(stream.request().await.resource_names_subscribe, ["net/a"]);
    let mut tellings = owner.client.tell();
    let mut candidate = successor(true).await;
    pass(&tellings.recv().await.unwrap(), &candidate);
    say(&mut stream, ADDRESS, [workload("a", "v1", &[])]).await;
    owner.client.demand("net/b");
    assert_eq!(stream.request().await.resource_names_subscribe, ["net/b"]);
    say_removed(&mut stream, "net/b").await;
    owner.client.demand("net/c");
    let generation = owner.store.load().generation();
    loop {
        let telling = tellings.recv().await.unwrap();
        pass(&telling, &candidate);
        if telling.demanded().any(|name| **name == *"net/c") {
            break;
        }
    }
    caught_up(&candidate, generation).await;
    let answered = ["net/a", "net/b", "net/c"].map(|name| candidate.store.load().is_answered(name));
    assert_eq!(answered, [true, true, false]);

    candidate.client.begin();
    let mut own = candidate.discovery.stream().await;
    let first = own.request().await;
    assert_eq!(first.resource_names_subscribe, ["*", "net/a", "net/b", "net/c"]);
    assert_eq!(super::told(&first), [("a", "v1")]);
    assert_eq!(own.request().await.type_url, AUTHORIZATION);
    // Only what is not yet answered waits for an answer, and nothing is asked for twice.
    candidate.client.demand("net/a");
    candidate.client.demand("net/d");
    assert_eq!(own.request().await.resource_names_subscribe, ["net/d"]);
}

#[tokio::test]
async fn a_slow_listener_hears_what_holds_in_the_end() {
    let (owner, mut stream, mut tellings, candidate) = told().await;
    for n in 0..50 {
        let version = format!("v{n}");
        say(&mut stream, ADDRESS, [workload("d", &version, &[]), workload(&version, "v1", &[])]).await;
        say_removed(&mut stream, &version).await;
    }
    let generation = owner.store.load().generation();
    pass_until(generation, &mut tellings, &candidate).await;
    caught_up(&candidate, generation).await;
    assert_eq!(dump(&candidate), dump(&owner));
}

#[tokio::test]
async fn who_learns_tells_others() {
    let (owner, mut stream, mut tellings, candidate) = told().await;
    let mut further = candidate.client.tell();
    let third = successor(false).await;
    pass(&further.recv().await.unwrap(), &third);
    say(&mut stream, ADDRESS, [workload("d", "v1", &["n/p"])]).await;
    pass_until(owner.store.load().generation(), &mut tellings, &candidate).await;
    caught_up(&candidate, owner.store.load().generation()).await;
    let generation = candidate.store.load().generation();
    pass_until(generation, &mut further, &third).await;
    caught_up(&third, generation).await;
    assert_eq!(dump(&third), dump(&owner));
}

#[tokio::test]
async fn a_listener_that_is_gone_is_forgotten() {
    let (owner, mut stream, tellings, _candidate) = told().await;
    let mut other = owner.client.tell();
    assert!(other.recv().await.unwrap().is_complete());
    drop(tellings);
    say(&mut stream, ADDRESS, [workload("d", "v1", &[])]).await;
    assert_eq!(other.recv().await.unwrap().generation(), owner.store.load().generation());
}
