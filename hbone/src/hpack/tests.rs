//! RFC 7541's own examples, and what each rule refuses.

use super::huffman::tests::encode as huffman;
use super::table::RestoreError;
use super::*;

type Field = (String, String);

fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<char> = text.chars().filter(char::is_ascii_hexdigit).collect();
    digits.chunks(2).map(|pair| u8::from_str_radix(&String::from_iter(pair), 16).unwrap()).collect()
}

fn owned(name: &[u8], value: &[u8]) -> Field {
    (String::from_utf8_lossy(name).into(), String::from_utf8_lossy(value).into())
}

fn fields(text: &[(&str, &str)]) -> Vec<Field> {
    text.iter().map(|(name, value)| owned(name.as_bytes(), value.as_bytes())).collect()
}

const NO_LIMIT: usize = 1 << 20;

fn decode(decoder: &mut Decoder, block: &[u8]) -> Result<Vec<Field>, HpackError> {
    let mut list = Vec::new();
    decoder.decode(block, NO_LIMIT, |name, value| list.push(owned(name, value)))?;
    Ok(list)
}

/// The dynamic table as the RFC shows it: newest first.
fn table(decoder: &Decoder) -> Vec<Field> {
    let mut entries: Vec<_> = decoder.entries().map(|(name, value)| owned(name, value)).collect();
    entries.reverse();
    entries
}

fn table_size(decoder: &Decoder) -> usize {
    decoder.entries().map(|(name, value)| entry_size(name, value)).sum()
}

fn frozen_and_thawed(decoder: &Decoder) -> Decoder {
    let mut copy = Decoder::restore(decoder.sizes()).unwrap();
    for (name, value) in decoder.entries() {
        copy.restore_entry(name, value).unwrap();
    }
    copy
}

/// A block of an example, its header list, the dynamic table after it (newest first) and its size.
struct Step(
    &'static str,
    &'static [(&'static str, &'static str)],
    &'static [(&'static str, &'static str)],
    usize,
);

/// Decodes a series of blocks; the decoder is frozen and thawed after each.
fn check_series(name: &str, table_bytes: usize, steps: &[Step]) {
    let mut decoder = Decoder::new(table_bytes);
    for (number, Step(block, list, after, size)) in steps.iter().enumerate() {
        let at = format!("{name}.{}", number + 1);
        assert_eq!(decode(&mut decoder, &hex(block)), Ok(fields(list)), "{at}");
        assert_eq!(table(&decoder), fields(after), "table after {at}");
        assert_eq!(table_size(&decoder), *size, "table size after {at}");
        decoder = frozen_and_thawed(&decoder);
        assert_eq!(table(&decoder), fields(after), "table after thaw, {at}");
    }
}

#[test]
fn integers_of_appendix_c1() {
    for (block, prefix, value) in
        [(&[0b1110_1010][..], 5, 10), (&[0b0001_1111, 0b1001_1010, 0b0000_1010], 5, 1337), (&[42], 8, 42)]
    {
        assert_eq!(input::Input::new(block).integer(prefix), Ok(value));
    }
}

#[test]
fn single_fields_of_appendix_c2() {
    const CUSTOM: &[(&str, &str)] = &[("custom-key", "custom-header")];
    let custom = "400a 6375 7374 6f6d 2d6b 6579 0d63 7573 746f 6d2d 6865 6164 6572";
    check_series("C.2.1", 4096, &[Step(custom, CUSTOM, CUSTOM, 55)]);
    let path = Step("040c 2f73 616d 706c 652f 7061 7468", &[(":path", "/sample/path")], &[], 0);
    check_series("C.2.2", 4096, &[path]);
    let password = Step("1008 7061 7373 776f 7264 0673 6563 7265 74", &[("password", "secret")], &[], 0);
    check_series("C.2.3", 4096, &[password]);
    check_series("C.2.4", 4096, &[Step("82", &[(":method", "GET")], &[], 0)]);
}

const REQUEST_1: &[(&str, &str)] =
    &[(":method", "GET"), (":scheme", "http"), (":path", "/"), (":authority", "www.example.com")];
const REQUEST_2: &[(&str, &str)] = &[
    (":method", "GET"),
    (":scheme", "http"),
    (":path", "/"),
    (":authority", "www.example.com"),
    ("cache-control", "no-cache"),
];
const REQUEST_3: &[(&str, &str)] = &[
    (":method", "GET"),
    (":scheme", "https"),
    (":path", "/index.html"),
    (":authority", "www.example.com"),
    ("custom-key", "custom-value"),
];
const AFTER_REQUEST_1: &[(&str, &str)] = &[(":authority", "www.example.com")];
const AFTER_REQUEST_2: &[(&str, &str)] = &[("cache-control", "no-cache"), (":authority", "www.example.com")];
const AFTER_REQUEST_3: &[(&str, &str)] =
    &[("custom-key", "custom-value"), ("cache-control", "no-cache"), (":authority", "www.example.com")];

#[test]
fn requests_of_appendix_c3() {
    let blocks = [
        "8286 8441 0f77 7777 2e65 7861 6d70 6c65 2e63 6f6d",
        "8286 84be 5808 6e6f 2d63 6163 6865",
        "8287 85bf 400a 6375 7374 6f6d 2d6b 6579 0c63 7573 746f 6d2d 7661 6c75 65",
    ];
    check_requests("C.3", blocks);
}

#[test]
fn requests_of_appendix_c4() {
    let blocks = [
        "8286 8441 8cf1 e3c2 e5f2 3a6b a0ab 90f4 ff",
        "8286 84be 5886 a8eb 1064 9cbf",
        "8287 85bf 4088 25a8 49e9 5ba9 7d7f 8925 a849 e95b b8e8 b4bf",
    ];
    check_requests("C.4", blocks);
}

fn check_requests(name: &str, [first, second, third]: [&'static str; 3]) {
    let steps = [
        Step(first, REQUEST_1, AFTER_REQUEST_1, 57),
        Step(second, REQUEST_2, AFTER_REQUEST_2, 110),
        Step(third, REQUEST_3, AFTER_REQUEST_3, 164),
    ];
    check_series(name, 4096, &steps);
}

const COOKIE: &str = "foo=ASDJKHQKBZXOQWEOPIUAXQWEOIU; max-age=3600; version=1";
const RESPONSE_1: &[(&str, &str)] = &[
    (":status", "302"),
    ("cache-control", "private"),
    ("date", "Mon, 21 Oct 2013 20:13:21 GMT"),
    ("location", "https://www.example.com"),
];
const RESPONSE_2: &[(&str, &str)] = &[
    (":status", "307"),
    ("cache-control", "private"),
    ("date", "Mon, 21 Oct 2013 20:13:21 GMT"),
    ("location", "https://www.example.com"),
];
const RESPONSE_3: &[(&str, &str)] = &[
    (":status", "200"),
    ("cache-control", "private"),
    ("date", "Mon, 21 Oct 2013 20:13:22 GMT"),
    ("location", "https://www.example.com"),
    ("content-encoding", "gzip"),
    ("set-cookie", COOKIE),
];
const AFTER_RESPONSE_1: &[(&str, &str)] = &[
    ("location", "https://www.example.com"),
    ("date", "Mon, 21 Oct 2013 20:13:21 GMT"),
    ("cache-control", "private"),
    (":status", "302"),
];
const AFTER_RESPONSE_2: &[(&str, &str)] = &[
    (":status", "307"),
    ("location", "https://www.example.com"),
    ("date", "Mon, 21 Oct 2013 20:13:21 GMT"),
    ("cache-control", "private"),
];
const AFTER_RESPONSE_3: &[(&str, &str)] =
    &[("set-cookie", COOKIE), ("content-encoding", "gzip"), ("date", "Mon, 21 Oct 2013 20:13:22 GMT")];

#[test]
fn responses_of_appendix_c5() {
    let blocks = [
        "4803 3330 3258 0770 7269 7661 7465 611d 4d6f 6e2c 2032 3120 4f63 7420 3230 3133
         2032 303a 3133 3a32 3120 474d 546e 1768 7474 7073 3a2f 2f77 7777 2e65 7861 6d70
         6c65 2e63 6f6d",
        "4803 3330 37c1 c0bf",
        "88c1 611d 4d6f 6e2c 2032 3120 4f63 7420 3230 3133 2032 303a 3133 3a32 3220 474d
         54c0 5a04 677a 6970 7738 666f 6f3d 4153 444a 4b48 514b 425a 584f 5157 454f 5049
         5541 5851 5745 4f49 553b 206d 6178 2d61 6765 3d33 3630 303b 2076 6572 7369 6f6e
         3d31",
    ];
    check_responses("C.5", blocks);
}

#[test]
fn responses_of_appendix_c6() {
    let blocks = [
        "4882 6402 5885 aec3 771a 4b61 96d0 7abe 9410 54d4 44a8 2005 9504 0b81 66e0 82a6
         2d1b ff6e 919d 29ad 1718 63c7 8f0b 97c8 e9ae 82ae 43d3",
        "4883 640e ffc1 c0bf",
        "88c1 6196 d07a be94 1054 d444 a820 0595 040b 8166 e084 a62d 1bff c05a 839b d9ab
         77ad 94e7 821d d7f2 e6c7 b335 dfdf cd5b 3960 d5af 2708 7f36 72c1 ab27 0fb5 291f
         9587 3160 65c0 03ed 4ee5 b106 3d50 07",
    ];
    check_responses("C.6", blocks);
}

fn check_responses(name: &str, [first, second, third]: [&'static str; 3]) {
    let steps = [
        Step(first, RESPONSE_1, AFTER_RESPONSE_1, 222),
        Step(second, RESPONSE_2, AFTER_RESPONSE_2, 222),
        Step(third, RESPONSE_3, AFTER_RESPONSE_3, 215),
    ];
    check_series(name, 256, &steps);
}

/// Size updates.
const TO_0: &[u8] = &[0x20];
const TO_4096: &[u8] = &[0x3f, 0xe1, 0x1f];
const TO_4097: &[u8] = &[0x3f, 0xe2, 0x1f];
/// `a: b` as a literal that enters the table, and the index that it then has.
const INSERT: &[u8] = &[0x40, 1, b'a', 1, b'b'];
const NEWEST: &[u8] = &[0x80 | 62];

#[test]
fn a_malformed_block_is_refused() {
    for (what, block, error) in [
        ("index 0", &[0x80][..], HpackError::UnknownIndex),
        ("index beyond the static table, nothing dynamic", &[0x80 | 62], HpackError::UnknownIndex),
        ("name index beyond", &[0x40 | 62, 0], HpackError::UnknownIndex),
        ("name index beyond, without indexing", &[0x0f, 47, 0], HpackError::UnknownIndex),
        ("name index beyond, never indexed", &[0x1f, 47, 0], HpackError::UnknownIndex),
        ("largest index", &[0xff, 0x80, 0xff, 0xff, 0xff, 0x0f], HpackError::UnknownIndex),
        ("integer of 2^32", &[0xff, 0x81, 0xff, 0xff, 0xff, 0x0f], HpackError::IntegerTooLarge),
        ("integer of 6 more bytes", &[0xff, 0x80, 0x80, 0x80, 0x80, 0x80, 0], HpackError::IntegerTooLarge),
        ("integer cut off", &[0xff, 0x80], HpackError::Truncated),
        ("integer cut off at once", &[0xff], HpackError::Truncated),
        ("no name", &[0x40], HpackError::Truncated),
        ("no value", &[0x40, 1, b'a'], HpackError::Truncated),
        ("name cut off", &[0x00, 2, b'a'], HpackError::Truncated),
        ("value cut off", &[0x10, 1, b'a', 3, b'b', b'c'], HpackError::Truncated),
        ("string of 2^32-1", &[0x00, 0x7f, 0x80, 0xff, 0xff, 0xff, 0x0f], HpackError::Truncated),
        ("Huffman with zero padding", &[0x00, 0x81, 0b0001_1000, 0], HpackError::InvalidHuffman),
        ("Huffman with EOS", &[0x00, 0x84, 0xff, 0xff, 0xff, 0xff, 0], HpackError::InvalidHuffman),
        ("size update after a field", &[0x82, 0x20], HpackError::MisplacedSizeUpdate),
        ("size update above the maximum", TO_4097, HpackError::SizeUpdateTooLarge),
    ] {
        assert_eq!(decode(&mut Decoder::new(4096), block), Err(error), "{what}");
        assert_eq!(error.connection_error(), Some(ErrorCode::COMPRESSION_ERROR));
    }
}

#[test]
fn a_block_cut_anywhere_is_shorter_or_refused() {
    let block =
        hex("4882 6402 5885 aec3 771a 4b61 96d0 7abe 9410 54d4 44a8 2005 9504 0b81 66e0 82a6 2d1b ff");
    let whole = decode(&mut Decoder::new(4096), &block).unwrap();
    for cut in 0..block.len() {
        match decode(&mut Decoder::new(4096), &block[..cut]) {
            Ok(list) => assert!(list.len() < whole.len() && whole.starts_with(&list), "cut at {cut}"),
            Err(error) => assert_eq!(error, HpackError::Truncated, "cut at {cut}"),
        }
    }
}

#[test]
fn size_updates_evict() {
    let mut decoder = Decoder::new(4096);
    assert_eq!(decode(&mut decoder, &[INSERT, INSERT].concat()).unwrap().len(), 2);
    assert_eq!(table_size(&decoder), 68);
    let to_34 = &[0x3f, 3];
    assert_eq!(decode(&mut decoder, &[to_34, NEWEST].concat()), Ok(fields(&[("a", "b")])));
    assert_eq!(table_size(&decoder), 34, "one of two entries has room");
    decode(&mut decoder, &[TO_0, TO_4096].concat()).unwrap();
    assert_eq!(table_size(&decoder), 0, "down and up again in one block");
    decode(&mut decoder, INSERT).unwrap();
    assert_eq!(decoder.sizes(), Sizes { limit: 4096, maximum: 4096, update_owed: false });
    assert_eq!(decode(&mut decoder, NEWEST), Ok(fields(&[("a", "b")])));
}

#[test]
fn an_entry_too_large_for_the_table_empties_it() {
    let mut decoder = Decoder::new(70);
    decode(&mut decoder, &[INSERT, INSERT].concat()).unwrap();
    let large = [&[0x40, 1, b'n', 38][..], &[b'v'; 38]].concat(); // 71 in the table's measure
    assert_eq!(decode(&mut decoder, &large).unwrap().len(), 1);
    assert_eq!(table(&decoder), []);
    let fits = [&[0x40, 1, b'n', 37][..], &[b'v'; 37]].concat();
    decode(&mut decoder, &fits).unwrap();
    assert_eq!(table_size(&decoder), 70);
}

#[test]
fn a_name_may_come_from_the_entry_that_its_field_evicts() {
    let mut decoder = Decoder::new(34);
    decode(&mut decoder, INSERT).unwrap();
    assert_eq!(decode(&mut decoder, &[0x40 | 62, 1, b'c']), Ok(fields(&[("a", "c")])));
    assert_eq!(table(&decoder), fields(&[("a", "c")]));
}

#[test]
fn a_peer_with_entries_must_say_that_it_has_shrunk_its_table() {
    let lowered = || {
        let mut decoder = Decoder::new(DEFAULT_TABLE_SIZE);
        decode(&mut decoder, INSERT).unwrap();
        decoder.set_max_table_size(0);
        frozen_and_thawed(&decoder)
    };
    assert_eq!(decode(&mut lowered(), &[0x82]), Err(HpackError::MissingSizeUpdate));
    assert_eq!(decode(&mut lowered(), &[0x21]), Err(HpackError::SizeUpdateTooLarge));
    let mut decoder = lowered();
    assert_eq!(decode(&mut decoder, &[TO_0, &[0x82]].concat()), Ok(fields(&[(":method", "GET")])));
    assert_eq!(decode(&mut decoder, &[0x82]).unwrap().len(), 1, "once is enough");
    assert_eq!(decode(&mut decoder, NEWEST), Err(HpackError::UnknownIndex));
}

#[test]
fn a_peer_without_entries_need_not_but_has_no_table_left() {
    let mut decoder = Decoder::new(DEFAULT_TABLE_SIZE);
    decoder.set_max_table_size(0);
    assert_eq!(decode(&mut decoder, INSERT).unwrap().len(), 1);
    assert_eq!(table_size(&decoder), 0);
    assert_eq!(decoder.sizes(), Sizes { limit: 0, maximum: 0, update_owed: false });
    decoder.set_max_table_size(4096);
    assert_eq!(decoder.sizes().limit, 0, "a larger table is the peer's to ask for");
    assert_eq!(decode(&mut decoder, &[TO_4096, INSERT, NEWEST].concat()).unwrap().len(), 2);
}

#[test]
fn a_list_too_large_is_decoded_to_its_end_without_being_handed_out() {
    let mut decoder = Decoder::new(4096);
    let block = [&[0x82, 0x82][..], INSERT].concat(); // 42 + 42 + 34
    for (limit, handed_out, outcome) in [
        (118, 3, Ok(())),
        (117, 2, Err(HpackError::TooLarge)),
        (83, 1, Err(HpackError::TooLarge)),
        (41, 0, Err(HpackError::TooLarge)),
    ] {
        let mut count = 0;
        assert_eq!(decoder.decode(&block, limit, |_, _| count += 1), outcome);
        assert_eq!(count, handed_out, "limit {limit}");
    }
    assert_eq!(decoder.entries().len(), 4, "the table is in step all the same");
    assert_eq!(HpackError::TooLarge.connection_error(), None);
}

#[test]
fn a_list_far_too_large_is_not_decoded_to_its_end() {
    let mut decoder = Decoder::new(4096);
    let large = [&[0x40, 1, b'n', 0x7f, 0xf1, 0x1d][..], &[b'v'; 3952]].concat();
    decode(&mut decoder, &large).unwrap();
    let bomb = [0x80 | 62; 60_000]; // 239 MB
    let mut bytes = 0;
    let outcome = decoder.decode(&bomb, 16 << 10, |name, value| bytes += entry_size(name, value));
    assert_eq!(outcome, Err(HpackError::Excessive));
    assert_eq!(HpackError::Excessive.connection_error(), Some(ErrorCode::ENHANCE_YOUR_CALM));
    assert!(bytes <= 16 << 10);
}

#[test]
fn nonsense_is_not_restored() {
    let sizes = |limit, maximum| Sizes { limit, maximum, update_owed: false };
    assert_eq!(Decoder::restore(sizes(4097, 4096)).err(), Some(RestoreError::Sizes));
    assert_eq!(Decoder::restore(sizes(0, usize::MAX)).err(), Some(RestoreError::Sizes));
    let mut decoder = Decoder::restore(sizes(67, 4096)).unwrap();
    assert_eq!(decoder.restore_entry(b"a", b"b"), Ok(()));
    assert_eq!(decoder.restore_entry(b"a", b"b"), Err(RestoreError::Entries), "68 bytes in 67");
    assert_eq!(table(&decoder), fields(&[("a", "b")]));
}

#[test]
fn the_encoder_uses_the_static_table() {
    for (name, value, bytes) in [
        (":status", "200", &b"\x88"[..]),
        (":status", "503", b"\x08\x03503"),
        (":method", "GET", b"\x82"),
        (":method", "CONNECT", b"\x02\x07CONNECT"),
        (":authority", "10.0.0.1:80", b"\x01\x0b10.0.0.1:80"),
        ("www-authenticate", "", b"\xbd"),
        ("via", "x", b"\x0f\x2d\x01x"),
        ("baggage", "", b"\x00\x07baggage\x00"),
    ] {
        let mut out = Vec::new();
        encode(name.as_bytes(), value.as_bytes(), &mut out);
        assert_eq!(out, bytes, "{name}: {value}");
    }
    for length in [126, 127, 128, 254, 255, 256, 16_510, 16_511] {
        let value = "x".repeat(length);
        let mut out = Vec::new();
        encode(b"baggage", value.as_bytes(), &mut out);
        assert_eq!(decode(&mut Decoder::new(0), &out), Ok(fields(&[("baggage", &value)])), "{length}");
    }
}

#[test]
fn our_blocks_satisfy_a_peer_that_lowered_its_table() {
    let mut out = Vec::new();
    begin_block(&mut out);
    encode(b":path", b"/", &mut out);
    let mut strict = Decoder::new(DEFAULT_TABLE_SIZE);
    decode(&mut strict, INSERT).unwrap();
    strict.set_max_table_size(0);
    assert_eq!(decode(&mut strict, &out), Ok(fields(&[(":path", "/")])));
    assert_eq!(table_size(&strict), 0);
}

/// An encoder that uses all that the format has, at random, beside a plain list as the table.
struct WildEncoder {
    random: fastrand::Rng,
    /// Newest first.
    table: Vec<Field>,
    limit: usize,
}

impl WildEncoder {
    const NAMES: [&str; 5] = [":method", ":authority", "baggage", "forwarded", "x"];

    fn block(&mut self) -> (Vec<u8>, Vec<Field>) {
        let (mut block, mut list) = (Vec::new(), Vec::new());
        if self.random.u8(..8) == 0 {
            self.limit = self.random.usize(..=300);
            self.integer(0x20, 5, self.limit, &mut block);
            self.evict();
        }
        for _ in 0..self.random.usize(..6) {
            list.push(self.field(&mut block));
        }
        (block, list)
    }

    fn field(&mut self, block: &mut Vec<u8>) -> Field {
        let index = self.random.usize(1..=61 + self.table.len());
        if self.random.u8(..3) == 0 {
            self.integer(0x80, 7, index, block);
            return self.at(index);
        }
        let (pattern, prefix) = self.random.choice([(0x40, 6), (0x00, 4), (0x10, 4)]).unwrap();
        let name = if self.random.bool() {
            self.integer(pattern, prefix, index, block);
            self.at(index).0
        } else {
            block.push(pattern);
            let name = self.random.choice(Self::NAMES).unwrap();
            self.string(name, block);
            name.into()
        };
        let value: String = (0..self.random.usize(..60)).map(|_| self.random.char('\0'..='~')).collect();
        self.string(&value, block);
        if pattern == 0x40 {
            self.table.insert(0, (name.clone(), value.clone()));
            self.evict();
        }
        (name, value)
    }

    fn at(&self, index: usize) -> Field {
        match table::STATIC_TABLE.get(index - 1) {
            Some((name, value)) => owned(name.as_bytes(), value.as_bytes()),
            None => self.table[index - 62].clone(),
        }
    }

    fn evict(&mut self) {
        let size = |table: &[Field]| table.iter().map(|(n, v)| n.len() + v.len() + 32).sum::<usize>();
        while size(&self.table) > self.limit {
            self.table.pop();
        }
    }

    fn string(&mut self, string: &str, block: &mut Vec<u8>) {
        let (pattern, bytes) =
            if self.random.bool() { (0x80, huffman(string.as_bytes())) } else { (0, string.into()) };
        self.integer(pattern, 7, bytes.len(), block);
        block.extend(bytes);
    }

    fn integer(&self, pattern: u8, prefix: u32, value: usize, block: &mut Vec<u8>) {
        let mask = (1 << prefix) - 1;
        block.push(pattern | value.min(mask) as u8);
        let mut rest = value.checked_sub(mask);
        while let Some(more) = rest {
            let last = more < 128;
            block.push((more % 128) as u8 | if last { 0 } else { 128 });
            rest = (!last).then_some(more / 128);
        }
    }
}

#[test]
fn whatever_an_encoder_may_write_is_decoded_across_freezes() {
    for seed in 0..300 {
        let random = fastrand::Rng::with_seed(seed);
        let mut encoder = WildEncoder { random, table: Vec::new(), limit: 300 };
        let mut decoder = Decoder::new(300);
        for block_number in 0..20 {
            let (block, list) = encoder.block();
            assert_eq!(decode(&mut decoder, &block), Ok(list), "seed {seed}, block {block_number}");
            assert_eq!(table(&decoder), encoder.table, "seed {seed}, block {block_number}");
            if encoder.random.bool() {
                decoder = frozen_and_thawed(&decoder);
            }
        }
    }
}

#[test]
fn noise_never_panics_and_the_table_keeps_its_bounds() {
    for seed in 0..5_000 {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut decoder = Decoder::new(256);
        let outcome = std::panic::catch_unwind(move || {
            for _ in 0..20 {
                let block: Vec<u8> = (0..random.usize(..60)).map(|_| random.u8(..)).collect();
                let _ = decoder.decode(&block, random.usize(..200), |_, _| ());
                let Sizes { limit, maximum, .. } = decoder.sizes();
                assert!(table_size(&decoder) <= limit && limit <= maximum);
                if random.u8(..10) == 0 {
                    decoder.set_max_table_size(random.usize(..256));
                }
            }
        });
        assert!(outcome.is_ok(), "seed {seed}");
    }
}
