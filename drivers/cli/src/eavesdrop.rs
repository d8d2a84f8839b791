//! What somebody on the way can make of the datagrams: sizes, first bytes, entropy, plaintext.

use std::sync::{Mutex, PoisonError};

use memchr::memmem::Finder;

/// The part of a data packet that is not encrypted.
pub const CLEAR: usize = 13;
/// How many first headers are kept.
const SAMPLES: usize = 3;
/// The first byte of data packets.
const DATA: u8 = 5;

/// Listens to one direction.
pub struct Eavesdropper {
    finders: Vec<Finder<'static>>,
    heard: Overheard,
}

/// What was overheard.
#[derive(Clone, Debug)]
pub struct Overheard {
    /// How many datagrams.
    pub datagrams: u64,
    /// Their bytes.
    pub bytes: u64,
    /// The shortest one.
    pub smallest: usize,
    /// The longest one.
    pub largest: usize,
    /// How often each length occurred.
    sizes: Vec<u64>,
    /// First bytes of some data packets.
    pub headers: Vec<[u8; CLEAR]>,
    /// How often each byte occurred in encrypted parts.
    histogram: [u64; 256],
    /// Markers that were found.
    pub matches: u64,
}

impl Default for Overheard {
    fn default() -> Self {
        Self {
            datagrams: 0,
            bytes: 0,
            smallest: usize::MAX,
            largest: 0,
            sizes: Vec::new(),
            headers: Vec::new(),
            histogram: [0; 256],
            matches: 0,
        }
    }
}

impl Eavesdropper {
    /// Looks for `markers`.
    pub fn new(markers: &[Vec<u8>]) -> Self {
        let finders = markers.iter().map(|marker| Finder::new(marker).into_owned()).collect();
        Self { finders, heard: Overheard::default() }
    }

    /// Takes in a datagram.
    pub fn hear(&mut self, datagram: &[u8]) {
        let heard = &mut self.heard;
        heard.datagrams += 1;
        heard.bytes += datagram.len() as u64;
        heard.smallest = heard.smallest.min(datagram.len());
        heard.largest = heard.largest.max(datagram.len());
        if heard.sizes.len() <= datagram.len() {
            heard.sizes.resize(datagram.len() + 1, 0);
        }
        heard.sizes[datagram.len()] += 1;
        heard.matches +=
            self.finders.iter().map(|finder| finder.find_iter(datagram).count() as u64).sum::<u64>();
        if let (Some(&DATA), Some((header, sealed))) =
            (datagram.first(), datagram.split_first_chunk::<CLEAR>())
        {
            if heard.headers.len() < SAMPLES {
                heard.headers.push(*header);
            }
            sealed.iter().for_each(|byte| heard.histogram[usize::from(*byte)] += 1);
        }
    }

    /// Adds what was heard to what others heard.
    pub fn report(self, all: &Mutex<Overheard>) {
        all.lock().unwrap_or_else(PoisonError::into_inner).merge(self.heard);
    }
}

impl Overheard {
    /// Adds what somebody else heard.
    pub fn merge(&mut self, other: Self) {
        self.datagrams += other.datagrams;
        self.bytes += other.bytes;
        self.smallest = self.smallest.min(other.smallest);
        self.largest = self.largest.max(other.largest);
        if self.sizes.len() < other.sizes.len() {
            self.sizes.resize(other.sizes.len(), 0);
        }
        self.sizes.iter_mut().zip(other.sizes).for_each(|(sum, n)| *sum += n);
        self.histogram.iter_mut().zip(other.histogram).for_each(|(sum, n)| *sum += n);
        self.matches += other.matches;
        self.headers.extend(other.headers);
        self.headers.truncate(SAMPLES);
    }

    /// The length in the middle of all lengths.
    pub fn median(&self) -> usize {
        let mut seen = 0;
        self.sizes
            .iter()
            .position(|n| {
                seen += n;
                seen * 2 >= self.datagrams && self.datagrams > 0
            })
            .unwrap_or(0)
    }

    /// Shannon entropy of the encrypted bytes, in bits a byte: 8 is noise.
    pub fn entropy(&self) -> f64 {
        entropy(&self.histogram)
    }
}

fn entropy(histogram: &[u64; 256]) -> f64 {
    let total = histogram.iter().sum::<u64>() as f64;
    histogram.iter().filter(|n| **n > 0).map(|n| *n as f64 / total).map(|p| -p * p.log2()).sum()
}

/// The same measure for plaintext, to compare.
pub fn entropy_of(bytes: &[u8]) -> f64 {
    let mut histogram = [0; 256];
    bytes.iter().for_each(|byte| histogram[usize::from(*byte)] += 1);
    entropy(&histogram)
}

/// How many of the markers occur in `text`: shows that the search would find them.
pub fn found_in(text: &[u8], markers: &[Vec<u8>]) -> usize {
    markers.iter().filter(|marker| memchr::memmem::find(text, marker).is_some()).count()
}

/// Up to `n` pieces of 16 bytes from all over `text` that are varied enough not to occur by chance.
pub fn markers(text: &[u8], n: usize) -> Vec<Vec<u8>> {
    let varied = |piece: &[u8]| entropy_of(piece) > 2.5;
    let step = (text.len() / n.max(1)).max(16);
    (0..n)
        .filter_map(|i| text.get(i * step..)?.chunks_exact(16).take(step.div_ceil(16)).find(|p| varied(p)))
        .map(<[u8]>::to_vec)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn markers_come_from_the_text_and_are_found_in_it() {
        let mut text = vec![0; 1000];
        text.extend((0..4000u32).map(|i| (i * 7 % 251) as u8));
        let markers = markers(&text, 8);
        assert!(markers.len() >= 7, "{}", markers.len());
        assert_eq!(found_in(&text, &markers), markers.len());
        assert_eq!(found_in(&[0; 5000], &markers), 0);
    }

    #[test]
    fn plaintext_in_a_datagram_is_noticed() {
        let mut ear = Eavesdropper::new(&[b"secret words".to_vec()]);
        ear.hear(b"\x05 nothing to see here at all");
        assert_eq!(ear.heard.matches, 0);
        ear.hear(b"\x05 some secret words here");
        assert_eq!((ear.heard.matches, ear.heard.datagrams), (1, 2));
        assert_eq!(ear.heard.headers[0], *b"\x05 nothing to ");
    }

    #[test]
    fn entropy_tells_noise_from_text() {
        let every: Vec<u8> = (0..=255).collect();
        assert!((entropy_of(&every) - 8.0).abs() < 1e-9);
        assert_eq!(entropy_of(&[7; 100]), 0.0);
        assert_eq!(entropy_of(&[]), 0.0);
    }

    #[test]
    fn the_median_lies_in_the_middle() {
        let mut ear = Eavesdropper::new(&[]);
        assert_eq!(ear.heard.median(), 0);
        for len in [10, 20, 30, 40, 50] {
            ear.hear(&vec![1; len]);
        }
        assert_eq!((ear.heard.median(), ear.heard.smallest, ear.heard.largest), (30, 10, 50));
    }
}
