//! Mutations of a corpus from a seed: small changes to real inputs, parts of others, and words that mean
//! something to the parsers. It follows no coverage; that is what libFuzzer is for.

use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rand::{RngExt as _, SeedableRng as _};

/// Longer inputs only take longer.
const BYTES_MAX: usize = 4_096;
/// Changes to one input, at most.
const CHANGES_MAX: usize = 6;

/// What stands in inputs that mean something, or nearly.
const WORDS: &[&[u8]] = &[
    b"\"",
    b"\\",
    b"{",
    b"}",
    b"[",
    b"]",
    b",",
    b":",
    b".",
    b"*",
    b">",
    b" ",
    b"\n",
    b"\r\n",
    b"\0",
    b"null",
    b"true",
    b"-1",
    b"0",
    b"00",
    b"+1",
    b"1e400",
    b"-0.0",
    b"1.5",
    b"0.1",
    b"1e-7",
    b"9007199254740993",
    b"9223372036854775807",
    b"9223372036854775808",
    b"18446744073709551615",
    b"18446744073709551616",
    b"99999999999999999999999",
    b"\xff",
    b"\xed\xa0\x80",
    b"\xc3\xa9",
    b"\xf0\x9f\x98\x80",
    b"\xe2\x80\xae",
    b"\\u0000",
    b"\\ud800",
    b"\\ud83d\\ude00",
    b"\"id\":",
    b"\"op\":",
    b"\"room\":",
    b"\"cid\":",
    b"\"seq\":",
    b"\"ev\":",
    b"\"on\":",
    b"\"text\":",
    b"\"meta\":",
    b"\"have\":",
    b"\"why\":",
    b"\"user\":",
    b"\"target\":",
    b"natter1 events ",
    b"natter1 epoch ",
    b"cmd.",
    b"log.",
    b"live.",
    b"svc.history.",
    b"63",
    b"64",
    b"[[1,2]]",
    b"[[0,0]]",
    b"[[2,1]]",
    b"[[18446744073709551615,18446744073709551615]]",
    b"@room",
    b"s_",
    b"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
];

/// Makes one input after the other.
#[derive(Debug)]
pub(crate) struct Mutator<'a> {
    random: StdRng,
    corpus: &'a [Vec<u8>],
}

impl<'a> Mutator<'a> {
    pub(crate) fn new(seed: u64, corpus: &'a [Vec<u8>]) -> Self {
        let random = StdRng::seed_from_u64(seed);
        Self { random, corpus }
    }

    /// The next input.
    pub(crate) fn next(&mut self) -> Vec<u8> {
        let mut bytes = self.pick();
        for _ in 0..self.random.random_range(1..=CHANGES_MAX) {
            self.change(&mut bytes);
        }
        bytes.truncate(BYTES_MAX);
        bytes
    }

    fn pick(&mut self) -> Vec<u8> {
        let picked = self.corpus.choose(&mut self.random);
        picked.expect("a corpus is not empty").clone()
    }

    /// A place in the input, also behind its end.
    fn place(&mut self, bytes: &[u8]) -> usize {
        self.random.random_range(0..=bytes.len())
    }

    /// A part of the input, mostly a short one.
    fn part(&mut self, bytes: &[u8]) -> std::ops::Range<usize> {
        let from = self.place(bytes);
        let most = if self.random.random_bool(0.8) {
            8
        } else {
            BYTES_MAX
        };
        let length = self.random.random_range(0..=most.min(bytes.len() - from));
        from..from + length
    }

    fn change(&mut self, bytes: &mut Vec<u8>) {
        match self.random.random_range(0..8) {
            0 if !bytes.is_empty() => {
                let at = self.random.random_range(0..bytes.len());
                bytes[at] ^= 1 << self.random.random_range(0..8);
            }
            1 if !bytes.is_empty() => {
                let at = self.random.random_range(0..bytes.len());
                bytes[at] = self.random.random();
            }
            2 => {
                let part = self.part(bytes);
                bytes.drain(part);
            }
            3 => {
                let part = self.part(bytes);
                let (at, copy) = (self.place(bytes), bytes[part].to_vec());
                bytes.splice(at..at, copy);
            }
            4 => {
                let other = self.pick();
                let (part, at) = (self.part(&other), self.place(bytes));
                bytes.splice(at..at, other[part].iter().copied());
            }
            5 => {
                let other = self.pick();
                let (cut, from) = (self.place(bytes), self.place(&other));
                bytes.truncate(cut);
                bytes.extend(&other[from..]);
            }
            _ => {
                let word = *WORDS.choose(&mut self.random).expect("there are words");
                let part = self.part(bytes);
                let at = if self.random.random_bool(0.5) {
                    part.start..part.start
                } else {
                    part
                };
                bytes.splice(at, word.iter().copied());
            }
        }
    }
}
