use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::mpsc;

use crate::worker::bench::{Bench, LOCAL, mesh, played};
use crate::worker::{Listening, Message};

#[test]
fn what_is_queued_when_a_listener_is_let_go_of_is_accepted_by_whoever_has_a_copy() {
    played(|| {
        let mut bench = Bench::new(2, &mesh(LOCAL));
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        bench.handles[0].post(Message::Listen(Listening::Tunnels, listener, bench.pod.clone()));
        bench.turn();
        let (send, copies) = mpsc::channel();
        bench.handles[0].post(Message::CopyListeners(Box::new(move |copies| send.send(copies).unwrap())));
        bench.turn();
        let copies = copies.recv().unwrap().unwrap();
        assert_eq!(copies.len(), 1);
        let (send, gone) = mpsc::channel();
        bench.handles[0]
            .post(Message::LetGoOfListeners { home: true, done: Box::new(move |()| send.send(()).unwrap()) });
        bench.turn();
        gone.recv().unwrap();

        let _peer = TcpStream::connect(address).unwrap();
        for _ in 0..5 {
            bench.turn();
        }
        assert!(bench.shared.registry.is_empty(), "it was accepted");
        for (pod, listening, listener) in copies {
            assert_eq!((&pod, listening), (&bench.pod, Listening::Tunnels));
            bench.handles[1].post(Message::Listen(listening, listener, pod));
        }
        bench.until("accept", |bench| (bench.shared.registry.len() == 1).then_some(()));
    });
}
