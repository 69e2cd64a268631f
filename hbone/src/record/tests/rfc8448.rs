//! The trace of RFC 8448, section 3, from the application traffic secrets on.

use super::*;

#[test]
fn keys_follow_from_the_secrets() {
    let keys = |secret| TrafficSecret::new(Suite::Aes128Gcm, &hex(secret)).unwrap().material().unwrap();
    let (client, server) = (keys(CLIENT_SECRET), keys(SERVER_SECRET));
    assert_eq!(client.bytes(), (hex("17422dda596ed5d9acd890e3c63f5051"), hex("5b78923dee08579033e523d9")));
    assert_eq!(server.bytes(), (hex("9f02283b6c9c07efc26bb9f2ac92e356"), hex("cf782b88dd83549aadf1e984")));
}

#[test]
fn its_records_are_opened() {
    let (mut client, mut server) = ends();
    let payload_sent: Vec<u8> = (0..50).collect();
    assert_eq!(payload(&mut server, hex(CLIENT_DATA)), payload_sent);
    handled(&mut client, hex(SERVER_TICKET));
    assert_eq!(payload(&mut client, hex(SERVER_DATA)), payload_sent);
    for (end, mut close) in [(&mut server, hex(CLIENT_CLOSE)), (&mut client, hex(SERVER_CLOSE))] {
        assert_eq!(end.open(&mut close), Ok(Opened::CloseNotify { consumed: 24 }));
    }
}

#[test]
fn its_records_are_sealed() {
    let (mut client, _) = ends();
    let payload: Vec<u8> = (0..50).collect();
    assert_eq!(data(&mut client, &payload), hex(CLIENT_DATA));
    let mut close = Vec::new();
    client.seal_alert(CLOSE_NOTIFY, &mut close).unwrap();
    assert_eq!(close, hex(CLIENT_CLOSE));
}

fn ends() -> (Records, Records) {
    let end = |role| Records::new(role, Suite::Aes128Gcm, &hex(CLIENT_SECRET), &hex(SERVER_SECRET)).unwrap();
    (end(Role::Client), end(Role::Server))
}

fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<_> = text.chars().filter_map(|digit| digit.to_digit(16)).collect();
    digits.chunks(2).map(|pair| u8::try_from(pair[0] * 16 + pair[1]).unwrap()).collect()
}

const CLIENT_SECRET: &str = "9e40646ce79a7f9dc05af8889bce6552875afa0b06df0087f792ebb7c17504a5";
const SERVER_SECRET: &str = "a11af9f05531f856ad47116b45a950328204b4f44bfb6b3a4b4f1f3fcb631643";

const CLIENT_DATA: &str = "1703030043 a23f7054b62c94d0affafe8228ba55cbefacea42f914aa66bcab3f2b9819a8a5
    b46b395bd54a9a20441e2b62974e1f5a6292a2977014bd1e3deae63aeebb21694915e4";
const CLIENT_CLOSE: &str = "1703030013 c9872760655666b74d7ff1153efd6db6d0b0e3";

const SERVER_TICKET: &str = "17030300de 3a6b8f90414a97d6959c3487680de5134a2b240e6cffac116e95d41d6af8f6b5
    80dcf3d11d63c758db289a015940252f55713e061dc13e078891a38efbcf5753ad8ef170ad3c7353d16d9da773b9ca7f
    2b9fa1b6c0d4a3d03f75e09c30ba1e62972ac46f75f7b981be63439b2999ce13064615139891d5e4c5b406f16e3fc181
    a77ca475840025db2f0a77f81b5ab05b94c01346755f69232c86519d86cbeeac87aac347d143f9605d64f650db4d023e
    70e952ca49fe5137121c74bc2697687e248746d6df353005f3bce18696129c8153556b3b6c6779b37bf15985684f";
const SERVER_DATA: &str = "1703030043 2e937e11ef4ac740e538ad36005fc4a46932fc3225d05f82aa1b36e30efaf97d
    90e6dffc602dcb501a59a8fcc49c4bf2e5f0a21c0047c2abf332540dd032e167c2955d";
const SERVER_CLOSE: &str = "1703030013 b58fd67166ebf599d24720cfbe7efa7a8864a9";
