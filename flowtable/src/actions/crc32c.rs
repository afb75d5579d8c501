//! How the CRC32c of a packet changes when two of its bytes do.
//!
//! A CRC is linear: the checksums of two packets of one length differ by the (unseeded) CRC of their
//! difference. The difference is two bytes and then zeros, and a run of zeros multiplies by a power of x modulo
//! the polynomial, which square-and-multiply finds in as many steps as the length has bits. So neither payload
//! nor its checksum need be read, and a packet that was damaged before stays recognisably damaged.
//!
//! Polynomials are stored with the lowest power in the highest bit, as CRC32c (RFC 9260, appendix A) works.

/// The CRC32c polynomial without its highest power.
const POLYNOMIAL: u32 = 0x82f6_3b78;
/// The polynomial 1.
const ONE: u32 = 1 << 31;

/// `POWERS[i]` is x to the power of 2^i.
const POWERS: [u32; 32] = {
    let mut powers = [0; 32];
    powers[0] = ONE >> 1;
    let mut i = 1;
    while i < powers.len() {
        powers[i] = multiply(powers[i - 1], powers[i - 1]);
        i += 1;
    }
    powers
};

/// Product modulo the polynomial.
const fn multiply(a: u32, mut b: u32) -> u32 {
    let mut product = 0;
    let mut bit = ONE;
    while bit != 0 {
        if a & bit != 0 {
            product ^= b;
        }
        b = if b & 1 != 0 { (b >> 1) ^ POLYNOMIAL } else { b >> 1 };
        bit >>= 1;
    }
    product
}

/// What to exclusive-or into the CRC when the big-endian 16-bit word `difference` is exclusive-ored into the
/// packet with `behind` bytes (fewer than 2^29) between it and the packet's end.
pub(super) fn change(difference: u32, behind: usize) -> u32 {
    let [high, low] = (difference as u16).to_be_bytes();
    let mut crc = 0;
    for byte in [high, low] {
        // Eight steps of the shift register for one byte: times x^8.
        crc = multiply(crc ^ u32::from(byte), POWERS[3]);
    }
    // Bit i of the number of zero bytes stands for 2^i bytes, and so for 2^(i+3) bits.
    for (bit, power) in POWERS.iter().skip(3).enumerate() {
        if behind >> bit & 1 != 0 {
            crc = multiply(crc, *power);
        }
    }
    crc
}
