//! The frame that tells the network where a guest has gone, when the guest does not say so itself.
//!
//! After a migration the front-end asks for it (SEND_RARP) unless the guest took GUEST_ANNOUNCE. It is a reverse ARP request (RFC 903)
//! from the guest's address to everybody, which means nothing to anybody, but passes every bridge and teaches it. It comes out
//! of the port's first receive queue as if the guest had sent it.

/// Shortest Ethernet frame, without checksum.
pub(crate) const ANNOUNCEMENT: usize = 60;

/// Ethernet's type of reverse ARP.
const RARP: [u8; 2] = [0x80, 0x35];
/// Ethernet, IPv4, their address lengths; a request for the address of the one who asks.
const REQUEST_REVERSE: [u8; 8] = [0, 1, 8, 0, 6, 4, 0, 3];

/// The announcement of a MAC address.
pub(crate) fn announcement(mac: [u8; 6]) -> [u8; ANNOUNCEMENT] {
    let parts: [&[u8]; 7] = [&[0xff; 6], &mac, &RARP, &REQUEST_REVERSE, &mac, &[0; 4], &mac];
    let mut frame = [0; ANNOUNCEMENT];
    // The target's IP address and padding are zero.
    frame.iter_mut().zip(parts.into_iter().flatten()).for_each(|(to, &from)| *to = from);
    frame
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn asks_in_the_name_of_the_guest() {
        let mac = [0x52, 0x54, 0, 1, 2, 3];
        let frame = announcement(mac);
        assert_eq!((&frame[..6], &frame[6..12]), (&[0xff; 6][..], &mac[..]));
        assert_eq!(frame[12..22], [0x80, 0x35, 0, 1, 8, 0, 6, 4, 0, 3]);
        assert_eq!((&frame[22..28], &frame[28..32]), (&mac[..], &[0; 4][..]));
        assert_eq!((&frame[32..38], &frame[38..]), (&mac[..], &[0; 22][..]));
    }
}
