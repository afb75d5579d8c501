//! TCP through network cards: between the machine's kernel on one side of the wire, and on the other the kernel of the host guest or of a guest inside it.

use tests::guest::{Card, Guest, HostConfig, HostGuest, NestedConfig, Nic, Socket};
use tests::lab::Lab;
use tests::netns::Netns;
use tests::process::Process;

use crate::nested::twice_at_most;
use crate::nic_ports::{VIRTIO, add_port, statistic};
use crate::stage::PATIENCE;

/// A card whose wire ends in a TAP device in a namespace of the machine, and what its driver leaves to it.
struct Wired {
    model: &'static str,
    properties: String,
    settings: &'static str,
    /// Whether segments larger than the MTU come in whole, and go out whole.
    large: [bool; 2],
}

fn every_driver() -> [Wired; 4] {
    let plain = |model, large| Wired { model, properties: String::new(), settings: "", large };
    let virtio = Wired {
        properties: format!("{VIRTIO},mq=on,vectors=6"),
        settings: "options:n_rxq=2",
        ..plain("virtio-net-pci", [true, true])
    };
    [virtio, plain("e1000e", [false, true]), plain("igb", [false, true]), plain("vmxnet3", [false, true])]
}

/// An address as a URL has it.
fn host_of_url(address: &str) -> String {
    if address.contains(':') { format!("[{address}]") } else { address.to_owned() }
}

/// The far side of every wire.
struct Outside<'lab> {
    lab: &'lab Lab,
    netns: Netns<'lab>,
    _server: Process,
}

fn checksum(text: &str) -> String {
    text.split_whitespace().next().unwrap_or_default().to_owned()
}

impl<'lab> Outside<'lab> {
    fn new(lab: &'lab Lab) -> Self {
        let netns = Netns::new(lab).unwrap();
        let folder = lab.path("").display().to_string();
        let log = lab.path("httpd.log");
        let server = netns.start("busybox", &["httpd", "-f", "-p", "9000", "-h", &folder], &log).unwrap();
        Self { lab, netns, _server: server }
    }

    /// Fetches data from `inside`, an address of the guest, which then fetches it from `there`, an address of ours. An error says how
    /// both ends of the stream see it; nothing may have changed on the way.
    fn exchange(
        &self,
        guest: &mut Guest,
        (inside, there): (&str, &str),
        megabytes: u32,
    ) -> Result<(), String> {
        let data = self.lab.path("data").display().to_string();
        let url = format!("http://{}:9000/data", host_of_url(inside));
        let moved =
            guest.reaches(there, PATIENCE).and_then(|()| guest.serve_data(megabytes)).and_then(|sent| {
                self.netns.run("busybox", &["wget", "-q", "-O", &data, &url])?;
                Ok([
                    sent,
                    self.lab.run("busybox", &["md5sum", &data])?,
                    guest.fetch_data(&host_of_url(there))?,
                ])
            });
        match moved {
            Ok(sums) => {
                let [sent, out, back] = sums.map(|sum| checksum(&sum));
                assert_eq!([&out, &back], [&sent, &sent], "changed on the way");
                Ok(())
            }
            Err(error) => {
                let state = guest.run("cat /proc/net/dev /proc/interrupts; dmesg | tail -n 5");
                let state = state.unwrap_or_else(|e| e.to_string());
                Err(format!("{error}\n{state}\n{}", self.connections()))
            }
        }
    }

    /// What the kernel outside knows of its streams, for a message.
    fn connections(&self) -> String {
        let streams = self.netns.run("busybox", &["netstat", "-tne"]);
        let counters = self.netns.run("ip", &["-s", "link"]);
        [streams, counters].map(|said| said.unwrap_or_else(|e| e.to_string())).join("\n")
    }
}

fn port_states(host: &mut HostGuest) -> String {
    let ports = host.try_vsctl("list Interface").map_or_else(|e| e.to_string(), |said| said.1);
    format!("{ports}\n{}", host.nested_log(0))
}

/// Each driver's card in turn is the uplink of a bridge with the host's own port, which talks IPv4, and a guest, which talks IPv6.
#[test]
fn tcp_streams_cross_every_card() {
    twice_at_most("nic_streams", cross_every_card);
}

fn cross_every_card() {
    let lab = Lab::open().unwrap();
    let wired = every_driver();
    let taps: Vec<_> = (0..wired.len()).map(|i| lab.device(&format!("n{i}"))).collect();
    let cards = wired.iter().zip(&taps).zip(1..).map(|((wired, tap), number)| Card {
        tap: Some(tap.clone()),
        ..Card::new(wired.model, number, &wired.properties)
    });
    let config = HostConfig { cards: cards.collect(), guests: 1, ..HostConfig::default() };
    let mut host = HostGuest::boot_with(&lab, &config).unwrap();
    host.vsctl("add-br br0").unwrap();
    host.vsctl("add-port br0 vm0 -- set Interface vm0 type=vhost-user options:path=/run/vs/vm0.sock")
        .unwrap();
    let nic = Nic::new("/run/vs/vm0.sock", Socket::SwitchListens, 0x77);
    let mut guest = host.nested(&NestedConfig::new(nic)).unwrap();
    if let Err(error) = guest.wait_ready() {
        panic!("{error}\n{}", host.nested_log(0));
    }
    // Nobody else has its address: no second to find that out.
    guest.run("echo 0 > /proc/sys/net/ipv6/conf/eth0/accept_dad").unwrap();
    let outside = Outside::new(&lab);
    for (card, (wired, tap)) in wired.iter().zip(&taps).enumerate() {
        let [there, of_host] = [100, 1].map(|last| format!("10.3.{card}.{last}"));
        let [there6, of_guest] = [100, 2].map(|last| format!("fd03::{card}:{last}"));
        outside.netns.adopt(tap, &format!("{there}/24")).unwrap();
        outside.netns.ip(&["addr", "add", &format!("{there6}/112"), "nodad", "dev", tap]).unwrap();
        add_port(&mut host, "br0", card, wired.settings);
        host.guest.address("br0", &format!("{of_host}/24")).unwrap();
        guest.address("eth0", &format!("{of_guest}/112")).unwrap();
        outside
            .exchange(&mut host.guest, (&of_host, &there), 4)
            .and_then(|()| outside.exchange(&mut guest, (&of_guest, &there6), 1))
            .unwrap_or_else(|error| panic!("{}: {error}\n{}", wired.model, port_states(&mut host)));
        for direction in ["rx", "tx"] {
            let enough = |text: &str| text.trim().parse().is_ok_and(|n: u64| n > 5 << 20);
            let bytes = format!("get Interface up{card} statistics:{direction}_bytes");
            host.vsctl_until(&bytes, PATIENCE, enough).unwrap();
        }
        let mean = statistic(&mut host, card, "rx_bytes") / statistic(&mut host, card, "rx_packets").max(1);
        let cut = statistic(&mut host, card, "tx_sw_gso_packets");
        println!("{}: {mean} bytes a frame in, {cut} frames cut on the way out", wired.model);
        // Half of the frames are bare acknowledgements of the other direction.
        assert_eq!([mean > 1600, cut == 0], wired.large, "{}", wired.model);
        let queues = host.vsctl(&format!("get Interface up{card} status:n_rxq")).unwrap();
        assert_eq!(queues.trim(), if wired.settings.is_empty() { "\"1\"" } else { "\"2\"" });
        assert_eq!(host.vsctl(&format!("get Interface up{card} status:restarts")).unwrap().trim(), "\"0\"");
        host.vsctl(&format!("del-port br0 up{card}")).unwrap();
    }
}
