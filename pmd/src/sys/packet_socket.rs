//! Packet sockets: frames of a network device (packet(7), Linux `include/uapi/linux/if_packet.h`).
#![expect(unsafe_code, reason = "setsockopt, getsockopt and bind with structures of the kernel")]

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};

use super::ring_map::RingMap;

/// What a receive ring is made of: `count` slots of `slot` bytes, both powers of two, `slot` at most [`RingShape::BLOCK`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RingShape {
    /// Bytes of a slot.
    pub slot: usize,
    /// Slots.
    pub count: usize,
}

impl RingShape {
    /// Bytes the kernel allocates in one piece. Slots follow each other without a gap, since it is a multiple of any of them.
    pub const BLOCK: usize = 64 << 10;
}

/// A packet socket. It receives nothing before [`PacketSocket::bind`].
#[derive(Debug)]
pub struct PacketSocket {
    fd: Arc<OwnedFd>,
}

impl PacketSocket {
    /// Opens one that does not block. Needs CAP_NET_RAW.
    pub fn open() -> io::Result<PacketSocket> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let fd = socket_with(AddressFamily::PACKET, SocketType::RAW, flags, None)?;
        Ok(PacketSocket { fd: Arc::new(fd) })
    }

    /// The descriptor, to wait on.
    pub fn fd(&self) -> &Arc<OwnedFd> {
        &self.fd
    }

    fn set<T>(&self, level: libc::c_int, option: libc::c_int, value: &T) -> io::Result<()> {
        let len = size_of::<T>() as libc::socklen_t;
        let value = core::ptr::from_ref(value).cast();
        // SAFETY: the kernel reads `len` bytes, those of one T, which is plain data at every caller.
        check(unsafe { libc::setsockopt(self.fd.as_raw_fd(), level, option, value, len) })
    }

    fn set_int(&self, option: libc::c_int, value: libc::c_int) -> io::Result<()> {
        self.set(libc::SOL_PACKET, option, &value)
    }

    /// Every frame is preceded by a virtio-net header of ten bytes, in both directions. Before the ring is made.
    pub fn use_net_header(&self) -> io::Result<()> {
        self.set_int(libc::PACKET_VNET_HDR, 1)
    }

    /// Frames sent go to the driver's ring and past queueing disciplines and taps.
    pub fn bypass_qdisc(&self) -> io::Result<()> {
        self.set_int(libc::PACKET_QDISC_BYPASS, 1)
    }

    /// Frames the host sends by the device are not received (Linux 4.20).
    pub fn ignore_outgoing(&self) -> io::Result<()> {
        self.set_int(libc::PACKET_IGNORE_OUTGOING, 1)
    }

    /// Makes room for `bytes` of frames on their way in and out.
    pub fn set_buffers(&self, bytes: i32) -> io::Result<()> {
        self.set(libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, &bytes)?;
        self.set(libc::SOL_SOCKET, libc::SO_SNDBUFFORCE, &bytes)
    }

    /// Makes a receive ring with headers of version 2. A frame longer than its slot is there in part and can be read whole from
    /// the socket, as long as the socket has room.
    pub fn receive_ring(&self, shape: RingShape) -> io::Result<RingMap> {
        self.set_int(libc::PACKET_VERSION, libc::tpacket_versions::TPACKET_V2 as libc::c_int)?;
        self.set_int(libc::PACKET_COPY_THRESH, 1)?;
        let bytes = shape.slot * shape.count;
        let request = libc::tpacket_req {
            tp_block_size: RingShape::BLOCK as libc::c_uint,
            tp_block_nr: (bytes / RingShape::BLOCK) as libc::c_uint,
            tp_frame_size: shape.slot as libc::c_uint,
            tp_frame_nr: shape.count as libc::c_uint,
        };
        self.set(libc::SOL_PACKET, libc::PACKET_RX_RING, &request)?;
        RingMap::of(&*self.fd, 0, bytes)
    }

    /// Binds to a device; from now on its frames come in, or, without `receive`, can only be sent.
    pub fn bind(&self, ifindex: u32, receive: bool) -> io::Result<()> {
        let invalid = |_| io::Error::from(io::ErrorKind::InvalidInput);
        // SAFETY: sockaddr_ll is plain data; all zero is a value of it.
        let mut address: libc::sockaddr_ll = unsafe { core::mem::zeroed() };
        address.sll_family = libc::AF_PACKET as libc::c_ushort;
        address.sll_protocol = if receive { (libc::ETH_P_ALL as u16).to_be() } else { 0 };
        address.sll_ifindex = i32::try_from(ifindex).map_err(invalid)?;
        let len = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
        // SAFETY: the kernel reads one sockaddr_ll, which lives here.
        check(unsafe { libc::bind(self.fd.as_raw_fd(), (&raw const address).cast(), len) })
    }

    /// Shares the device's frames with other sockets by a hash of their flow. Without `group` it founds one. Returns the group's
    /// number. After [`PacketSocket::bind`].
    pub fn join_fanout(&self, group: Option<u16>) -> io::Result<u16> {
        let mut flags = libc::PACKET_FANOUT_HASH | libc::PACKET_FANOUT_FLAG_IGNORE_OUTGOING;
        if group.is_none() {
            flags |= libc::PACKET_FANOUT_FLAG_UNIQUEID;
        }
        self.set_int(libc::PACKET_FANOUT, (flags << 16 | libc::c_uint::from(group.unwrap_or(0))) as i32)?;
        let mut value: libc::c_int = 0;
        self.get(libc::PACKET_FANOUT, &mut value)?;
        Ok(value as u16)
    }

    /// Has the device receive frames for every address, while this socket is open.
    pub fn promiscuous(&self, ifindex: u32) -> io::Result<()> {
        // SAFETY: packet_mreq is plain data; all zero is a value of it.
        let mut request: libc::packet_mreq = unsafe { core::mem::zeroed() };
        request.mr_ifindex = ifindex as libc::c_int;
        request.mr_type = libc::PACKET_MR_PROMISC as libc::c_ushort;
        self.set(libc::SOL_PACKET, libc::PACKET_ADD_MEMBERSHIP, &request)
    }

    /// Frames lost for want of room since the last call.
    pub fn take_drops(&self) -> u32 {
        // SAFETY: tpacket_stats is plain data; all zero is a value of it.
        let mut stats: libc::tpacket_stats = unsafe { core::mem::zeroed() };
        // It fails only for a socket that is none.
        if self.get(libc::PACKET_STATISTICS, &mut stats).is_ok() { stats.tp_drops } else { 0 }
    }

    fn get<T>(&self, option: libc::c_int, value: &mut T) -> io::Result<()> {
        let mut len = size_of::<T>() as libc::socklen_t;
        let value = core::ptr::from_mut(value).cast();
        // SAFETY: the kernel writes at most `len` bytes, those of one T, which is plain data at every caller.
        check(unsafe { libc::getsockopt(self.fd.as_raw_fd(), libc::SOL_PACKET, option, value, &raw mut len) })
    }
}

impl AsFd for PacketSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
