//! Frames to start from, one of each kind the parser knows, written by hand.

/// Ethernet header for an EtherType.
fn ethernet(eth_type: u16) -> Vec<u8> {
    let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2];
    frame.extend(eth_type.to_be_bytes());
    frame
}

/// The Internet checksum's sum: 0xffff over data whose checksum is right.
pub fn sum(bytes: &[u8]) -> u16 {
    let words =
        bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | pair.get(1).map_or(0, |&b| u32::from(b)));
    let mut total: u32 = words.sum();
    while total > 0xffff {
        total = (total & 0xffff) + (total >> 16);
    }
    total as u16
}

/// IPv4 header with a right checksum, in front of `payload`.
fn ipv4(protocol: u8, fragment: u16, options: &[u8], payload: &[u8]) -> Vec<u8> {
    let header_len = 20 + options.len();
    let mut header = vec![0x40 | (header_len / 4) as u8, 0];
    header.extend(((header_len + payload.len()) as u16).to_be_bytes());
    header.extend([0, 7]);
    header.extend(fragment.to_be_bytes());
    header.extend([64, protocol, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
    header.extend(options);
    let checksum = !sum(&header);
    header[10..12].copy_from_slice(&checksum.to_be_bytes());
    [ethernet(0x0800), header, payload.to_vec()].concat()
}

/// IPv6 header in front of `payload`.
fn ipv6(next: u8, payload: &[u8]) -> Vec<u8> {
    let mut header = vec![0x60, 0x12, 0x34, 0x56];
    header.extend((payload.len() as u16).to_be_bytes());
    header.extend([next, 64]);
    header.extend([0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
    header.extend([0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2]);
    [ethernet(0x86dd), header, payload.to_vec()].concat()
}

/// TCP header with options and some data; the checksum is whatever it is.
fn tcp(data: usize) -> Vec<u8> {
    let mut header =
        vec![0x30, 0x39, 0, 80, 0, 0, 1, 0, 0, 0, 2, 0, 0x60, 0x98, 0xff, 0xff, 0x12, 0x34, 0, 0];
    header.extend([2, 4, 5, 0xb4]);
    header.extend(vec![0x55; data]);
    header
}

fn udp(data: usize) -> Vec<u8> {
    let mut header = vec![0x12, 0xb7, 0x12, 0xb5];
    header.extend(((8 + data) as u16).to_be_bytes());
    header.extend([0x43, 0x21]);
    header.extend(vec![0x77; data]);
    header
}

/// The frame with tags behind its MAC addresses.
fn tagged(frame: &[u8], tags: &[u8]) -> Vec<u8> {
    [&frame[..12], tags, &frame[12..]].concat()
}

/// TCP over IPv4, header checksum right.
pub fn tcp4(data: usize) -> Vec<u8> {
    ipv4(6, 0, &[], &tcp(data))
}

/// TCP over IPv6.
pub fn tcp6(data: usize) -> Vec<u8> {
    ipv6(6, &tcp(data))
}

/// UDP over IPv4.
pub fn udp4(data: usize) -> Vec<u8> {
    ipv4(17, 0, &[], &udp(data))
}

/// UDP over IPv6.
pub fn udp6(data: usize) -> Vec<u8> {
    ipv6(17, &udp(data))
}

/// One frame of each kind.
pub fn all() -> Vec<Vec<u8>> {
    let arp = [0, 1, 8, 0, 6, 4, 0, 1, 2, 0, 0, 0, 0, 2, 10, 0, 0, 1, 0, 0, 0, 0, 0, 0, 10, 0, 0, 2];
    let mut solicit = vec![135, 0, 0xab, 0xcd, 0, 0, 0, 0];
    solicit.extend([0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2]);
    solicit.extend([1, 1, 2, 0, 0, 0, 0, 2]);
    let mut extensions = vec![43, 0, 1, 4, 0, 0, 0, 0]; // hop-by-hop with padding
    extensions.extend([51, 0, 0, 1, 0, 0, 0, 0]); // routing, one segment left
    extensions.extend([44, 1, 0, 0, 0, 0, 0, 1, 0, 0, 0, 2]); // authentication
    extensions.extend([60, 0, 0, 1, 0, 0, 0, 9]); // first fragment
    extensions.extend([17, 0, 1, 4, 0, 0, 0, 0]); // destination options
    extensions.extend(udp(6));
    let sctp = [0, 7, 0, 9, 1, 2, 3, 4, 0xde, 0xad, 0xbe, 0xef, 0, 3, 0, 4];
    let snap = [&ethernet(60)[..], &[0xaa, 0xaa, 3, 0, 0, 0, 8, 0], &tcp4(4)[14..]].concat();
    vec![
        tcp4(20),
        tcp6(20),
        udp4(20),
        udp6(20),
        tagged(&tcp4(4), &[0x81, 0, 0x20, 5]),
        tagged(&udp6(4), &[0x88, 0xa8, 0, 7, 0x81, 0, 0, 5]),
        ipv4(17, 0x2000, &[7, 3, 4, 0x94, 4, 0, 0, 0], &udp(8)),
        ipv4(17, 0x00b9, &[], &[1; 16]),
        ipv4(1, 0, &[], &[8, 0, 0x12, 0x34, 0, 1, 0, 2]),
        ipv4(132, 0, &[], &sctp),
        ipv6(132, &sctp),
        ipv6(58, &solicit),
        ipv6(0, &extensions),
        [&ethernet(0x0806)[..], &arp].concat(),
        snap,
        ethernet(0x88cc),
    ]
}
