//! The checksum of LVM2: CRC-32 with a start value of its own and no final inversion.

const POLYNOMIAL: u32 = 0xedb8_8320;
const INITIAL: u32 = 0xf597_a6cf;

const TABLE: [u32; 256] = table();

const fn table() -> [u32; 256] {
    let mut table = [0; 256];
    let mut index = 0;
    while index < 256 {
        let mut value = index as u32;
        let mut bit = 0;
        while bit < 8 {
            value = if value & 1 == 1 { value >> 1 ^ POLYNOMIAL } else { value >> 1 };
            bit += 1;
        }
        table[index] = value;
        index += 1;
    }
    table
}

/// The checksum of `bytes`.
pub(crate) fn checksum(bytes: &[u8]) -> u32 {
    bytes.iter().fold(INITIAL, |crc, byte| crc >> 8 ^ TABLE[(crc as u8 ^ byte) as usize])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agrees_with_what_the_tools_write() {
        assert_eq!(checksum(b""), INITIAL);
        // Inverting before and after, and starting at ones, makes it the usual CRC-32.
        let usual = |bytes: &[u8]| {
            !bytes.iter().fold(!0_u32, |crc, byte| crc >> 8 ^ TABLE[(crc as u8 ^ byte) as usize])
        };
        assert_eq!(usual(b"123456789"), 0xcbf4_3926);
    }
}
