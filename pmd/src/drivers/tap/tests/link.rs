//! A device that comes up, goes down and goes away.

use super::*;
use crate::port::test_events::Told;

#[test]
fn what_happens_to_the_device_is_told() {
    in_namespace(|| {
        let port = open(&TapConfig { name: "tap0".into(), queues: 1, bring_up: true }).unwrap();
        let (sender, told) = mpsc::channel();
        port.subscribe(Arc::new(Told(sender)));
        let until = |done: &dyn Fn(&PortInfo) -> bool| {
            while !done(&port.info()) {
                told.recv_timeout(Duration::from_secs(30)).expect("a change to be told");
            }
        };
        until(&|info| info.link == LinkState::Up);
        ip("link set tap0 down");
        until(&|info| info.link == LinkState::Down);
        ip("link set tap0 name other mtu 2000");
        until(&|info| info.mtu == 2000 && info.status.iter().any(|(_, value)| value == "other"));
        ip("link set other up");
        until(&|info| (info.link, info.rx_queues) == (LinkState::Up, 1));
        port.set_admin(false);
        until(&|info| (info.link, info.rx_queues) == (LinkState::Down, 0));
        port.set_admin(true);
        until(&|info| info.link == LinkState::Up);
        ip("link del other");
        until(&|info| info.link == LinkState::Down && info.error.is_some());
        // The queues of a device that is gone do nothing, and do not keep their worker awake.
        let (mut rx, mut tx) = (port.rx_queue(0).unwrap(), port.tx_queue(0).unwrap());
        let mut storage = BatchStorage::new();
        assert_eq!(rx.rx_burst(&mut storage.begin()), 0);
        assert_eq!(rx.arm(), Armed::Idle);
        let mut batch = storage.begin();
        assert!(batch.receive(Span::from_slice(&[0; 60])));
        assert_eq!(tx.tx_burst(&batch, &[0]), 0);
        assert!(tx.counters().drops.nonzero().count() == 1);
    });
}

/// A datagram from the host to the other end of `tap0`, of which `len` bytes are data.
fn send(socket: &UdpSocket, len: usize) {
    // Forgotten whenever the device goes down.
    ip("neigh replace 10.9.0.2 lladdr 02:00:00:00:00:09 dev tap0");
    socket.send_to(&vec![7; len], "10.9.0.2:701").unwrap();
}

#[test]
fn a_device_of_the_host_is_polled_while_the_host_has_it_up() {
    in_namespace(|| {
        let port = open(&TapConfig { name: "tap0".into(), queues: 1, bring_up: false }).unwrap();
        let (sender, told) = mpsc::channel();
        port.subscribe(Arc::new(Told(sender)));
        let until = |link, rx_queues| {
            while (port.info().link, port.info().rx_queues) != (link, rx_queues) {
                told.recv_timeout(Duration::from_secs(30)).expect("a change to be told");
            }
        };
        until(LinkState::Down, 0);
        ip("addr add 10.9.0.1/24 dev tap0");
        ip("link set tap0 up");
        let socket = UdpSocket::bind("10.9.0.1:700").unwrap();
        // Before anybody has a queue of it.
        send(&socket, 100);
        until(LinkState::Up, 1);
        let mut rx = port.rx_queue(0).unwrap();
        let fd = rx.wait_fd().unwrap();
        let wait = || {
            poll(&mut [PollFd::new(&*fd, PollFlags::IN)], None).unwrap();
        };
        assert_eq!(receive_udp(&mut *rx, &wait)[0].0.len(), 142);
        // Nobody reads what is sent just before it goes down, and it does not come out later.
        send(&socket, 200);
        ip("link set tap0 down");
        until(LinkState::Down, 0);
        let counters = rx.counters();
        drop(rx);
        assert!(counters.drops.get(DropReason::RxDisabled) >= 1);
        ip("link set tap0 up");
        send(&socket, 300);
        until(LinkState::Up, 1);
        let mut rx = port.rx_queue(0).unwrap();
        assert_eq!(receive_udp(&mut *rx, &wait)[0].0.len(), 342);
        // A queue of a device that is up leaves frames to the one after it.
        send(&socket, 400);
        drop(rx);
        let mut rx = port.rx_queue(0).unwrap();
        assert_eq!(receive_udp(&mut *rx, &wait)[0].0.len(), 442);
    });
}
