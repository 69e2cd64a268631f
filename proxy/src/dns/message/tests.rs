use std::net::Ipv4Addr;

use hickory_proto::rr::rdata::A;
use hickory_proto::rr::{Name, RData, RecordType};

use super::*;

fn question(name: &str, payload: Option<u16>) -> Message {
    let mut message = Message::query();
    message.metadata.recursion_desired = true;
    message.add_query(Question::query(Name::from_ascii(name).unwrap(), RecordType::A));
    if let Some(payload) = payload {
        message.set_edns(Edns::new().set_max_payload(payload).clone());
    }
    message
}

fn read(message: &Message, transport: DnsTransport) -> Query {
    Query::read(&message.to_vec().unwrap(), transport).unwrap()
}

fn records(count: u8) -> Vec<Record> {
    let name = Name::from_ascii("Web.shop.").unwrap();
    (0..count)
        .map(|n| Record::from_rdata(name.clone(), 30, RData::A(A(Ipv4Addr::new(10, 0, 0, n)))))
        .collect()
}

#[test]
fn what_is_no_question_is_refused_or_ignored() {
    let refusal = |bytes: &[u8]| match Query::read(bytes, DnsTransport::Udp).unwrap_err() {
        Unusable::Ignored => None,
        Unusable::Refused(reply) => Some(Message::from_vec(&reply).unwrap()),
    };
    let good = question("web.", None);
    let mut response = good.clone();
    response.metadata.message_type = MessageType::Response;
    assert_eq!(refusal(&response.to_vec().unwrap()), None);
    assert_eq!(refusal(&good.to_vec().unwrap()[..11]), None);

    let mut update = good.clone();
    update.metadata.op_code = OpCode::Update;
    let mut empty = good.clone();
    empty.queries.clear();
    let mut two = good.clone();
    two.add_query(good.queries[0].clone());
    let whole = good.to_vec().unwrap();
    for (bytes, code) in [
        (update.to_vec().unwrap(), ResponseCode::NotImp),
        (empty.to_vec().unwrap(), ResponseCode::FormErr),
        (two.to_vec().unwrap(), ResponseCode::FormErr),
        (whole[..whole.len() - 1].to_vec(), ResponseCode::FormErr),
    ] {
        let reply = refusal(&bytes).unwrap();
        assert_eq!((reply.metadata.response_code, reply.metadata.id), (code, good.metadata.id));
        assert_eq!(reply.metadata.message_type, MessageType::Response);
    }
}

#[test]
fn an_answer_of_our_own_keeps_the_question_as_it_was_written() {
    let asked = question("wEb.SHOP.", Some(1232));
    let reply = Message::from_vec(&read(&asked, DnsTransport::Udp).answered(records(3))).unwrap();
    assert_eq!(reply.metadata.id, asked.metadata.id);
    assert!(
        reply.metadata.authoritative
            && reply.metadata.recursion_available
            && reply.metadata.recursion_desired
    );
    assert!(reply.queries[0].name().eq_case(asked.queries[0].name()));
    assert_eq!((reply.answers.len(), reply.metadata.truncation), (3, false));
    assert_eq!(reply.edns.unwrap().max_payload(), 1232);
    let plain = read(&question("web.", None), DnsTransport::Udp).failed(ResponseCode::ServFail);
    let plain = Message::from_vec(&plain).unwrap();
    assert_eq!((plain.edns.is_none(), plain.metadata.response_code), (true, ResponseCode::ServFail));
}

#[test]
fn what_the_client_cannot_take_is_left_out_and_it_is_told() {
    for (payload, transport, whole, limit) in [
        (None, DnsTransport::Udp, false, 512),
        (Some(100), DnsTransport::Udp, false, 512),
        (Some(1232), DnsTransport::Udp, false, 1232),
        (Some(4096), DnsTransport::Udp, true, 4096),
        (None, DnsTransport::Tcp, true, 65535),
    ] {
        let query = read(&question("web.shop.", payload), transport);
        let bytes = query.answered(records(200));
        let reply = Message::from_vec(&bytes).unwrap();
        assert!(bytes.len() <= limit, "{} bytes", bytes.len());
        assert_eq!(reply.metadata.truncation, !whole, "{payload:?}");
        assert_eq!(reply.answers.len() == 200, whole);
        assert!(reply.answers.len() > 20, "only {} fitted", reply.answers.len());
        assert_eq!(reply.edns.is_some(), payload.is_some());
    }
}

#[test]
fn only_the_answer_to_what_was_asked_is_taken() {
    let query = read(&question("web.example.com.", None), DnsTransport::Udp);
    let answer = |name: &str, id: u16, message_type| {
        let mut message = Message::new(id, message_type, OpCode::Query);
        message.metadata.response_code = ResponseCode::NXDomain;
        message.add_query(Question::query(Name::from_ascii(name).unwrap(), RecordType::A));
        message.to_vec().unwrap()
    };
    let response = MessageType::Response;
    for (bytes, taken) in [
        (answer("web.example.com.", 7, response), true),
        (answer("WEB.example.com.", 7, response), true),
        (answer("web.example.com.", 8, response), false),
        (answer("web.example.org.", 7, response), false),
        (answer("web.example.com.", 7, MessageType::Query), false),
        (bare(&query.metadata, ResponseCode::NXDomain), false),
        (Vec::new(), false),
    ] {
        assert_eq!(query.is_answered_by(7, &bytes), taken.then_some(ResponseCode::NXDomain));
    }
}

#[test]
fn what_is_forwarded_and_passed_on_differs_by_the_id_alone() {
    // A type that nobody knows, and bytes behind it that no parser reads.
    let mut bytes = question("web.example.com.", None).to_vec().unwrap();
    let end = bytes.len();
    bytes[end - 4..end - 2].copy_from_slice(&65_280u16.to_be_bytes());
    bytes[11] = 1;
    bytes.extend(b"\0nonsense");
    let query = Query::read(&bytes, DnsTransport::Udp).unwrap();
    let forwarded = query.forwarded_as(0xabcd);
    assert_eq!((&forwarded[..2], &forwarded[2..]), (&[0xab, 0xcd][..], &bytes[2..]));

    let passed = query.passed_on(forwarded, ResponseCode::NoError);
    assert_eq!(passed, bytes);
    let too_long = Message::from_vec(&query.passed_on(vec![0; 513], ResponseCode::NXDomain)).unwrap();
    assert!(too_long.metadata.truncation && too_long.answers.is_empty());
    assert_eq!(too_long.metadata.response_code, ResponseCode::NXDomain);
}

/// Whatever comes, nothing panics and every reply can be read.
#[test]
fn bytes_of_any_kind() {
    let mut random = fastrand::Rng::with_seed(0x15053);
    let seeds = [
        question("a.very.long.name.with.many.labels.example.com.", Some(4096)).to_vec().unwrap(),
        question(".", None).to_vec().unwrap(),
        question("xn--e1afmkfd.*._tcp.", Some(0)).to_vec().unwrap(),
    ];
    for _ in 0..20_000 {
        let mut bytes = random.choice(&seeds).unwrap().clone();
        for _ in 0..random.usize(0..6) {
            let place = random.usize(0..bytes.len());
            match random.u8(0..3) {
                0 => bytes[place] = random.u8(..),
                1 => bytes.truncate(place.max(1)),
                _ => bytes.insert(place, random.choice([0, 0x3f, 0x40, 0xc0, 0xff]).unwrap()),
            }
        }
        let transport = random.choice([DnsTransport::Udp, DnsTransport::Tcp]).unwrap();
        let reply = match Query::read(&bytes, transport) {
            Err(Unusable::Ignored) => continue,
            Err(Unusable::Refused(reply)) => reply,
            Ok(query) => {
                let _ = super::super::names::text(query.question().name());
                let _ = query.is_answered_by(1, &bytes);
                query.answered(records(random.u8(..)))
            }
        };
        let reply = Message::from_vec(&reply).unwrap_or_else(|error| panic!("{bytes:?}: {error}"));
        assert_eq!(reply.metadata.id.to_be_bytes(), bytes[..2]);
    }
}
