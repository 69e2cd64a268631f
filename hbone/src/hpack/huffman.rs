//! The Huffman code for strings (RFC 7541 section 5.2 and appendix B).

use super::HpackError;

/// Decodes `coded` and appends the string to `out`: at most 8 bytes for 5.
pub(super) fn decode(coded: &[u8], out: &mut Vec<u8>) -> Result<(), HpackError> {
    let mut bits = Bits::new(coded);
    loop {
        let window = bits.window();
        let (symbol, length) = CODE.first_symbol(window);
        if length > bits.available {
            return bits.check_padding(window);
        }
        let byte = u8::try_from(symbol).map_err(|_| HpackError::InvalidHuffman)?; // 256 is EOS
        out.push(byte);
        bits.skip(length);
    }
}

/// The bits of a coded string, as they are used up.
struct Bits<'a> {
    rest: &'a [u8],
    /// The next `available` bits, from the top; zeros below.
    buffer: u64,
    available: u32,
}

impl<'a> Bits<'a> {
    fn new(coded: &'a [u8]) -> Self {
        Self { rest: coded, buffer: 0, available: 0 }
    }

    /// The next 32 bits, the first on top, filled up with ones behind the end.
    fn window(&mut self) -> u32 {
        while self.available < MAX_LENGTH
            && let Some((&byte, rest)) = self.rest.split_first()
        {
            self.buffer |= u64::from(byte) << (56 - self.available);
            self.available += 8;
            self.rest = rest;
        }
        let filled = self.buffer | u64::MAX >> self.available;
        (filled >> 32) as u32
    }

    fn skip(&mut self, length: u32) {
        self.buffer <<= length;
        self.available -= length;
    }

    /// What is left has no symbol in it: it must be fewer than 8 bits, all of them ones.
    fn check_padding(&self, window: u32) -> Result<(), HpackError> {
        let ones = window.leading_ones() >= self.available;
        if ones && self.available < 8 { Ok(()) } else { Err(HpackError::InvalidHuffman) }
    }
}

/// The longest code, in bits.
const MAX_LENGTH: u32 = 30;

const SYMBOLS: usize = 257;

/// The code, laid out for decoding.
static CODE: Code = Code::from_lengths(&LENGTHS);

/// A canonical Huffman code: codes of one length are consecutive numbers in the order of their symbols, and
/// follow, extended by a zero bit for each further bit of length, on the shorter ones. So lengths say it all.
struct Code {
    /// By length: where the codes of this length end, as a left-aligned 32-bit number (exclusive).
    end: [u64; MAX_LENGTH as usize + 1],
    /// By length: the first code.
    first: [u32; MAX_LENGTH as usize + 1],
    /// By length: where its symbols begin in `symbols`.
    offset: [usize; MAX_LENGTH as usize + 1],
    /// In the order of their codes.
    symbols: [u16; SYMBOLS],
}

impl Code {
    const fn from_lengths(lengths: &[u8; SYMBOLS]) -> Self {
        let mut code = Self {
            end: [0; MAX_LENGTH as usize + 1],
            first: [0; MAX_LENGTH as usize + 1],
            offset: [0; MAX_LENGTH as usize + 1],
            symbols: [0; SYMBOLS],
        };
        let (mut next, mut placed) = (0, 0);
        let mut length = 1;
        while length <= MAX_LENGTH as usize {
            next <<= 1;
            code.first[length] = next;
            code.offset[length] = placed;
            let mut symbol = 0;
            while symbol < SYMBOLS {
                if lengths[symbol] as usize == length {
                    code.symbols[placed] = symbol as u16;
                    placed += 1;
                    next += 1;
                }
                symbol += 1;
            }
            code.end[length] = (next as u64) << (32 - length);
            length += 1;
        }
        code
    }

    /// The symbol whose code `window` begins with, and the code's length. The code is complete: there is one.
    fn first_symbol(&self, window: u32) -> (u16, u32) {
        let mut length = MIN_LENGTH;
        while u64::from(window) >= self.end[length] && length < MAX_LENGTH as usize {
            length += 1;
        }
        let rank = (window >> (32 - length)) - self.first[length];
        (self.symbols[self.offset[length] + rank as usize], length as u32)
    }
}

/// The shortest code, in bits.
const MIN_LENGTH: usize = 5;

/// The length of each symbol's code, in bits (appendix B). The last symbol is EOS.
#[rustfmt::skip]
const LENGTHS: [u8; SYMBOLS] = [
    13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28,
    28, 28, 28, 28, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 28,
     6, 10, 10, 12, 13,  6,  8, 11, 10, 10,  8, 11,  8,  6,  6,  6,
     5,  5,  5,  6,  6,  6,  6,  6,  6,  6,  7,  8, 15,  6, 12, 10,
    13,  6,  7,  7,  7,  7,  7,  7,  7,  7,  7,  7,  7,  7,  7,  7,
     7,  7,  7,  7,  7,  7,  7,  7,  8,  7,  8, 13, 19, 13, 14,  6,
    15,  5,  6,  5,  6,  5,  6,  6,  6,  5,  7,  7,  6,  6,  6,  5,
     6,  7,  6,  5,  5,  6,  7,  7,  7,  7,  7, 15, 11, 14, 13, 28,
    20, 22, 20, 20, 22, 22, 22, 23, 22, 23, 23, 23, 23, 23, 24, 23,
    24, 24, 22, 23, 24, 23, 23, 23, 23, 21, 22, 23, 22, 23, 23, 24,
    22, 21, 20, 22, 22, 23, 23, 21, 23, 22, 22, 24, 21, 22, 23, 23,
    21, 21, 22, 21, 23, 22, 23, 23, 20, 22, 22, 22, 23, 22, 22, 23,
    26, 26, 20, 19, 22, 23, 22, 25, 26, 26, 26, 27, 27, 26, 24, 25,
    19, 21, 26, 27, 27, 26, 27, 24, 21, 21, 26, 26, 28, 27, 27, 27,
    20, 24, 20, 21, 22, 21, 21, 23, 22, 22, 25, 25, 24, 24, 26, 23,
    26, 27, 26, 26, 27, 27, 27, 27, 27, 28, 27, 27, 27, 27, 27, 26,
    30,
];

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// The codes as the RFC prints them: (code, length) by symbol.
    fn appendix_b() -> Vec<(u32, u32)> {
        let rows =
            include_str!("../../tests/data/rfc7541-huffman.txt").lines().filter(|l| !l.starts_with('#'));
        let codes = rows.enumerate().map(|(symbol, row)| {
            let columns: Vec<_> = row.split(' ').collect();
            assert_eq!(columns[0], symbol.to_string());
            (u32::from_str_radix(columns[1], 16).unwrap(), columns[2].parse().unwrap())
        });
        codes.collect()
    }

    /// Codes a string as RFC 7541 section 5.2 says.
    pub(in super::super) fn encode(string: &[u8]) -> Vec<u8> {
        let codes = appendix_b();
        let mut bits: Vec<bool> = Vec::new();
        for byte in string {
            let (code, length) = codes[usize::from(*byte)];
            bits.extend((0..length).rev().map(|bit| code >> bit & 1 == 1));
        }
        bits.resize(bits.len().next_multiple_of(8), true);
        bits.chunks(8).map(|octet| octet.iter().fold(0, |byte, bit| byte << 1 | u8::from(*bit))).collect()
    }

    fn decoded(coded: &[u8]) -> Result<Vec<u8>, HpackError> {
        let mut out = Vec::new();
        decode(coded, &mut out).map(|()| out)
    }

    #[test]
    fn the_code_is_appendix_b() {
        let codes = appendix_b();
        assert_eq!(codes.len(), SYMBOLS);
        for (symbol, (code, length)) in codes.into_iter().enumerate() {
            assert_eq!(u32::from(LENGTHS[symbol]), length, "length of {symbol}");
            let first = code << (32 - length);
            let last = first | u32::MAX >> length;
            assert_eq!(CODE.first_symbol(first), (symbol as u16, length), "first word with {symbol}");
            assert_eq!(CODE.first_symbol(last), (symbol as u16, length), "last word with {symbol}");
        }
    }

    #[test]
    fn the_code_is_complete_and_prefix_free() {
        let kraft: u64 = LENGTHS.iter().map(|length| 1 << (MAX_LENGTH - u32::from(*length))).sum();
        assert_eq!(kraft, 1 << MAX_LENGTH);
        let mut ranges: Vec<_> = appendix_b()
            .into_iter()
            .map(|(code, length)| (u64::from(code) << (32 - length), 1u64 << (32 - length)))
            .collect();
        ranges.sort_unstable();
        for pair in ranges.windows(2) {
            assert_eq!(pair[0].0 + pair[0].1, pair[1].0, "no gap, no overlap");
        }
    }

    #[test]
    fn every_pair_of_bytes_survives() {
        for a in 0..=255 {
            for b in [0, b'0', b'a', b'\\', 10, 255, a] {
                assert_eq!(decoded(&encode(&[a, b])), Ok(vec![a, b]));
            }
        }
    }

    #[test]
    fn padding_is_the_first_bits_of_eos_and_fewer_than_eight() {
        assert_eq!(decoded(b""), Ok(vec![]));
        assert_eq!(decoded(&[0b0001_1111]), Ok(b"a".to_vec()), "'a', 3 bits of padding");
        assert_eq!(decoded(&[0b1111_1000]), Ok(b"&".to_vec()), "'&', none");
        assert_eq!(decoded(&[0b0101_1000, 0b0111_1111]), Ok(b"-a".to_vec()), "5 bits");
        for coded in [
            &[0b0001_1110][..],                     // 'a', padding with a zero at its end
            &[0b0001_1000],                         // 'a', zeros
            &[0xff],                                // 8 bits of padding
            &[0b0001_1111, 0xff],                   // 'a', 11 bits
            &[0xff, 0xff, 0xff],                    // 24 bits
            &[0xff, 0xff, 0xff, 0xfc],              // EOS and 2 zero bits
            &[0xff, 0xff, 0xff, 0xff],              // EOS and 2 one bits
            &[0b0001_1111, 0xff, 0xff, 0xff, 0xff], // 'a', EOS, 5 one bits
        ] {
            assert_eq!(decoded(coded), Err(HpackError::InvalidHuffman), "{coded:x?}");
        }
    }
}
