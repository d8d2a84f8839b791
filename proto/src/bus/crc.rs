//! CRC-32C (Castagnoli), for records on disk.

const POLYNOMIAL: u32 = 0x82f6_3b78;

const TABLES: [[u32; 256]; 8] = {
    let mut tables = [[0u32; 256]; 8];
    let mut i = 0;
    while i < 256 {
        let mut crc = i as u32;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 1 == 1 { crc >> 1 ^ POLYNOMIAL } else { crc >> 1 };
            bit += 1;
        }
        tables[0][i] = crc;
        i += 1;
    }
    let mut t = 1;
    while t < 8 {
        let mut i = 0;
        while i < 256 {
            let before = tables[t - 1][i];
            tables[t][i] = before >> 8 ^ tables[0][(before & 0xff) as usize];
            i += 1;
        }
        t += 1;
    }
    tables
};

/// The checksum of `bytes`.
#[must_use]
pub fn crc32c(bytes: &[u8]) -> u32 {
    let byte = |word: u64, n: u32| (word >> (8 * n) & 0xff) as usize;
    let mut crc = !0u32;
    let mut words = bytes.chunks_exact(8);
    for word in &mut words {
        let mut eight = [0; 8];
        eight.copy_from_slice(word);
        // Eight tables take eight bytes in one step.
        let word = u64::from_le_bytes(eight) ^ u64::from(crc);
        crc = TABLES[7][byte(word, 0)]
            ^ TABLES[6][byte(word, 1)]
            ^ TABLES[5][byte(word, 2)]
            ^ TABLES[4][byte(word, 3)]
            ^ TABLES[3][byte(word, 4)]
            ^ TABLES[2][byte(word, 5)]
            ^ TABLES[1][byte(word, 6)]
            ^ TABLES[0][byte(word, 7)];
    }
    for b in words.remainder() {
        crc = crc >> 8 ^ TABLES[0][usize::from(crc as u8 ^ b)];
    }
    !crc
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vectors() {
        // RFC 3720 appendix B.4.
        assert_eq!(crc32c(&[0; 32]), 0x8a91_36aa);
        assert_eq!(crc32c(&[0xff; 32]), 0x62a8_ab43);
        let rising: [u8; 32] = core::array::from_fn(|n| n as u8);
        assert_eq!(crc32c(&rising), 0x46dd_794e);
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
        assert_eq!(crc32c(b""), 0);
    }
}
