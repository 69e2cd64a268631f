//! Whole connections: two of ours on virtual time, and stock peers in memory.

#![expect(
    clippy::unwrap_used,
    reason = "clippy's exception for tests covers test functions, not their helpers"
)]

mod authority;
mod end;
mod fields;
mod golden;
mod misuse;
mod moves;
mod script;
mod stock;

use hbone::{Connection, Established, Handshake, SessionConfig, Time};

/// Two connections right after their handshake, client first.
fn established(client: SessionConfig, server: SessionConfig) -> (Connection, Connection) {
    let authority = authority::Authority::new();
    let mut client = Handshake::client(&authority.client(), client).unwrap();
    let mut server = Handshake::server(&authority.server(), server).unwrap();
    while !(client.is_complete() && server.is_complete()) {
        exchange(&mut client, &mut server);
        exchange(&mut server, &mut client);
    }
    // The server is complete once it has the client's last flight, which therefore has left.
    let connection = |handshake: Handshake| {
        let Established { connection, .. } = handshake.finish(Time(0)).unwrap();
        connection
    };
    (connection(client), connection(server))
}

fn exchange(from: &mut Handshake, to: &mut Handshake) {
    to.receive(from.output()).unwrap();
    from.advance(from.output().len());
}
