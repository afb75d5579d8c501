//! The guest's side: any bytes in the descriptor tables, the rings and the buffers.

use std::fs::File;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::FileExt as _;
use std::sync::{Mutex, OnceLock, PoisonError};

use pmd::packet::{BatchStorage, SlotId};
use rustix::event::{EventfdFlags, eventfd};
use rustix::fs::{MemfdFlags, ftruncate, memfd_create};

use super::front_end::{FrontEnd, Listening};

/// Guest memory: one region at guest address 0, small enough that random addresses often hit.
const MEMORY: u64 = 1 << 16;
/// Descriptors per ring.
const SIZE: u16 = 16;
/// Where ring `i` has its parts.
const fn ring(i: u64) -> [u64; 3] {
    let base = i * 0x800;
    [base, base + 0x200, base + 0x400]
}

/// Fills guest memory from `data`, starts a receive and a transmit ring over it and lets the worker's side run: what the
/// guest "sends" is received and sent back into the guest's other ring.
///
/// The first byte chooses features, the next two where the rings stand; then come pieces of memory, each with a
/// two-byte address and a one-byte length.
///
/// Invariants: no panic, no access outside guest memory (the process would die), bursts within their limits, and the
/// connection can still be ended in order.
pub fn descriptor_chains(data: &[u8]) {
    let Some((&[features, tx_base, rx_base], mut rest)) = data.split_first_chunk::<3>() else { return };
    static FIXTURE: OnceLock<Mutex<Listening>> = OnceLock::new();
    let fixture = FIXTURE.get_or_init(|| Mutex::new(Listening::open()));
    let listening = fixture.lock().unwrap_or_else(PoisonError::into_inner);

    let memory = memfd_create("guest", MemfdFlags::CLOEXEC).unwrap();
    ftruncate(&memory, MEMORY).unwrap();
    let memory = File::from(memory);
    while let Some((&[low, high, length], more)) = rest.split_first_chunk::<3>() {
        let (piece, more) = more.split_at(more.len().min(usize::from(length)));
        rest = more;
        // Near the rings more often than not.
        let address = u64::from(u16::from_le_bytes([low, if high & 0x80 == 0 { high & 0x0f } else { high }]));
        let fits =
            piece.get(..piece.len().min(usize::try_from(MEMORY - address).unwrap())).unwrap_or_default();
        memory.write_all_at(fits, address).unwrap();
    }

    let mut front_end = listening.connect();
    start(&front_end, &memory, features, [rx_base, tx_base]);
    assert!(front_end.settle(), "a valid start of the rings was refused");

    let mut storage = BatchStorage::new();
    let mut received = listening.port.rx_queue(0).unwrap();
    let mut transmit = listening.port.tx_queue(0).unwrap();
    for _ in 0..4 {
        {
            let mut batch = storage.begin();
            let count = received.rx_burst(&mut batch);
            assert!(count <= 32 && count == batch.len());
            let slots: Vec<SlotId> = (0..count).map(|i| SlotId::try_from(i).unwrap()).collect();
            for &slot in &slots {
                assert!(batch.frame(slot).len() <= 1 << 17, "a frame longer than any the guest could send");
            }
            assert!(transmit.tx_burst(&batch, &slots) <= count);
        }
        received.rx_done();
        received.arm();
        received.disarm();
    }
    drop(received);
    front_end.finish();
}

/// The messages of an ordinary start, as QEMU sends them for one queue pair.
fn start(front_end: &FrontEnd, memory: &File, features: u8, bases: [u8; 2]) {
    const SET_FEATURES: u32 = 2;
    const SET_OWNER: u32 = 3;
    const SET_MEM_TABLE: u32 = 5;
    const SET_VRING_NUM: u32 = 8;
    const SET_VRING_ADDR: u32 = 9;
    const SET_VRING_BASE: u32 = 10;
    const SET_VRING_KICK: u32 = 12;
    const SET_VRING_CALL: u32 = 13;
    const SET_VRING_ENABLE: u32 = 18;
    /// Where the front-end has the region in its own address space.
    const USER: u64 = 0x1_0000_0000;
    let send = |request, payload: &[u8]| front_end.send(request, 1, payload, &[]);
    let pair = |a: u32, b: u32| (u64::from(b) << 32 | u64::from(a)).to_le_bytes();

    // MRG_RXBUF, INDIRECT_DESC, EVENT_IDX, VERSION_1, CSUM both ways, TSO4 both ways; PROTOCOL_FEATURES always.
    let bits = [15, 28, 29, 32, 0, 1, 11, 7];
    let chosen = bits.iter().enumerate().filter(|(i, _)| features >> i & 1 != 0).map(|(_, bit)| 1u64 << bit);
    let mut acked = chosen.fold(1u64 << 30, |all, bit| all | bit);
    // What needs a checksum bit goes with it, as the specification demands of a driver.
    if acked & 1 == 0 {
        acked &= !(1 << 11);
    }
    if acked & 2 == 0 {
        acked &= !(1 << 7);
    }
    send(SET_OWNER, &[]);
    send(SET_FEATURES, &acked.to_le_bytes());
    let region: Vec<u8> =
        [1, 0, MEMORY, USER, 0].iter().flat_map(|field: &u64| field.to_le_bytes()).collect();
    front_end.send(SET_MEM_TABLE, 1, &region, &[memory.as_fd()]);
    for (index, base) in (0..2).zip(bases) {
        let [table, avail, used] = ring(u64::from(index)).map(|offset| (USER + offset).to_le_bytes());
        send(SET_VRING_NUM, &pair(index, u32::from(SIZE)));
        send(SET_VRING_BASE, &pair(index, u32::from(base)));
        send(SET_VRING_ADDR, &[&pair(index, 0)[..], &table, &used, &avail, &[0; 8]].concat());
        for request in [SET_VRING_KICK, SET_VRING_CALL] {
            let event: OwnedFd = eventfd(0, EventfdFlags::NONBLOCK).unwrap();
            front_end.send(request, 1, &u64::from(index).to_le_bytes(), &[event.as_fd()]);
        }
        send(SET_VRING_ENABLE, &pair(index, 1));
    }
}
