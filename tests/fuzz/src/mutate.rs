//! Inputs by chance, the same chance every time.

/// What numbers go wrong at.
const NUMBERS: [&[u8]; 8] =
    [b"0", b"-1", b"65536", b"2147483648", b"4294967295", b"9223372036854775807", b"18446744073709551615", b"1e999"];
/// What bytes go wrong at.
const BYTES: [u8; 10] = [0, 1, 7, 0x20, 0x22, 0x2f, 0x7f, 0x80, 0xc3, 0xff];
/// The longest input.
const LENGTH_MAX: usize = 64 << 10;

/// Makes inputs from seeds.
#[derive(Debug)]
pub struct Mutator<'a> {
    seeds: Vec<&'a [u8]>,
    words: &'a [&'a str],
    state: u64,
}

impl<'a> Mutator<'a> {
    /// From seeds, of which there must be one, and words.
    #[must_use]
    pub fn new(seeds: Vec<&'a [u8]>, words: &'a [&'a str], seed: u64) -> Self {
        Self { seeds, words, state: seed | 1 }
    }

    /// A number below a limit above 0.
    fn below(&mut self, limit: usize) -> usize {
        // Steele and Vigna's splitmix64.
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((z ^ (z >> 31)) % limit as u64).unwrap_or(0)
    }

    fn seed(&mut self) -> &'a [u8] {
        let at = self.below(self.seeds.len());
        self.seeds[at]
    }

    /// The next input.
    pub fn input(&mut self) -> Vec<u8> {
        let mut input = self.seed().to_vec();
        for _ in 0..=self.below(6) {
            self.change(&mut input);
        }
        input.truncate(LENGTH_MAX);
        input
    }

    fn change(&mut self, input: &mut Vec<u8>) {
        let at = self.below(input.len() + 1);
        let some = self.below(input.len() - at + 1).min(1 << self.below(10));
        match self.below(9) {
            0 if at < input.len() => input[at] ^= 1 << self.below(8),
            1 if at < input.len() => input[at] = BYTES[self.below(BYTES.len())],
            2 => drop(input.drain(at..at + some)),
            3 => {
                let copy = input[at..at + some].to_vec();
                input.splice(at..at, copy);
            }
            4 => {
                let other = self.seed();
                let from = self.below(other.len() + 1);
                let to = from + self.below(other.len() - from + 1);
                input.splice(at..at + some, other[from..to].iter().copied());
            }
            5 if !self.words.is_empty() => {
                let word = self.words[self.below(self.words.len())];
                input.splice(at..at, word.bytes());
            }
            6 => {
                let digits = input[at..].iter().take_while(|byte| byte.is_ascii_digit()).count();
                let number = NUMBERS[self.below(NUMBERS.len())];
                input.splice(at..at + digits, number.iter().copied());
            }
            7 => input.truncate(at),
            _ => {
                let byte = BYTES[self.below(BYTES.len())];
                let count = 1 << self.below(12);
                input.splice(at..at, std::iter::repeat_n(byte, count));
            }
        }
    }
}
