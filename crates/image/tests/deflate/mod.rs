//! How far back a deflate stream refers: RFC 1951, read symbol by symbol, without making the output.

#![allow(clippy::unwrap_used)]

/// Bits of a stream, lowest first.
struct Bits<'a> {
    bytes: &'a [u8],
    place: usize,
}

impl Bits<'_> {
    fn take(&mut self, count: usize) -> usize {
        let mut value = 0;
        for index in 0..count {
            let bit = self.bytes[self.place / 8] >> (self.place % 8) & 1;
            value |= usize::from(bit) << index;
            self.place += 1;
        }
        value
    }
}

/// A canonical Huffman code: symbols in the order of their codes, and how many there are of each length.
struct Code {
    counts: [usize; 16],
    symbols: Vec<usize>,
}

impl Code {
    fn new(lengths: &[usize]) -> Self {
        let mut counts = [0; 16];
        lengths.iter().for_each(|length| counts[*length] += 1);
        counts[0] = 0;
        let mut symbols: Vec<usize> = (0..lengths.len()).filter(|symbol| lengths[*symbol] > 0).collect();
        symbols.sort_by_key(|symbol| (lengths[*symbol], *symbol));
        Self { counts, symbols }
    }

    /// Section 3.2.2: codes of one length are consecutive numbers, and longer ones follow on.
    fn read(&self, bits: &mut Bits<'_>) -> usize {
        let (mut code, mut first, mut index) = (0, 0, 0);
        for count in &self.counts[1..] {
            code |= bits.take(1);
            if code < first + count {
                return self.symbols[index + code - first];
            }
            index += count;
            first = (first + count) << 1;
            code <<= 1;
        }
        panic!("no such code");
    }
}

/// Section 3.2.7: the codes of a block with dynamic codes.
fn dynamic_codes(bits: &mut Bits<'_>) -> (Code, Code) {
    const ORDER: [usize; 19] = [16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15];
    let (literals, distances, lengths) = (bits.take(5) + 257, bits.take(5) + 1, bits.take(4) + 4);
    let mut code_lengths = [0; 19];
    ORDER[..lengths].iter().for_each(|place| code_lengths[*place] = bits.take(3));
    let code = Code::new(&code_lengths);
    let mut all = Vec::new();
    while all.len() < literals + distances {
        match code.read(bits) {
            16 => all.extend(vec![*all.last().unwrap(); 3 + bits.take(2)]),
            17 => all.extend(vec![0; 3 + bits.take(3)]),
            18 => all.extend(vec![0; 11 + bits.take(7)]),
            length => all.push(length),
        }
    }
    (Code::new(&all[..literals]), Code::new(&all[literals..]))
}

/// The value of a length or distance code: `steps` codes share each number of extra bits (section 3.2.5).
fn extended(bits: &mut Bits<'_>, symbol: usize, steps: usize, base: usize) -> usize {
    let extra = (symbol / steps).saturating_sub(1);
    let start = if symbol < 2 * steps { symbol } else { (steps + symbol % steps) << extra };
    base + start + bits.take(extra)
}

/// Length of what `stream` inflates to, and the largest distance in it.
pub(crate) fn length_and_reach(stream: &[u8]) -> (usize, usize) {
    let mut bits = Bits { bytes: stream, place: 0 };
    let (mut length, mut reach) = (0, 0);
    loop {
        let last = bits.take(1) == 1;
        let codes = match bits.take(2) {
            0 => {
                bits.place = bits.place.next_multiple_of(8);
                let count = bits.take(16);
                assert_eq!(bits.take(16), !count & 0xffff);
                bits.place += count * 8;
                length += count;
                None
            }
            1 => {
                let literals: Vec<usize> = [(8, 144), (9, 112), (7, 24), (8, 8)]
                    .into_iter()
                    .flat_map(|(length, count)| vec![length; count])
                    .collect();
                Some((Code::new(&literals), Code::new(&[5; 30])))
            }
            2 => Some(dynamic_codes(&mut bits)),
            _ => panic!("no such block"),
        };
        while let Some((literals, distances)) = &codes {
            match literals.read(&mut bits) {
                0..256 => length += 1,
                256 => break,
                285 => {
                    length += 258;
                    let symbol = distances.read(&mut bits);
                    reach = reach.max(extended(&mut bits, symbol, 2, 1));
                }
                symbol => {
                    length += extended(&mut bits, symbol - 257, 4, 3);
                    let symbol = distances.read(&mut bits);
                    reach = reach.max(extended(&mut bits, symbol, 2, 1));
                }
            }
        }
        if last {
            return (length, reach);
        }
    }
}
