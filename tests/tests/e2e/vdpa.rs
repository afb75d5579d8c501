//! A guest in the host guest whose frames go out by a virtual function, moved by the switch.

use tests::guest::{Guest, HostGuest};
use tests::lab::Lab;

use crate::nested::twice_at_most;
use crate::vdpa_site::{
    FUNCTION, OUTSIDE, PATIENCE, Site, begin_pings, lost_pings, more_answers, moved, until_engine,
};

/// As [`FUNCTION`], with two queue pairs.
const TWO_PAIRS: &str = ",disable-legacy=on,iommu_platform=on,ats=on,page-per-vq=on,mq=on,vectors=6";

/// The guest's pings are answered, and the switch has no part in it.
fn passes_the_switch_by(host: &mut HostGuest, guest: &mut Guest) {
    let before = moved(host);
    // Ends with the last answer; waits for it as long as it takes on a busy machine.
    let said = guest.run_for(&format!("ping -c 5 -i 0.2 -W 60 {OUTSIDE}"), PATIENCE).unwrap();
    assert!(said.contains(" 5 packets received"), "{said}");
    assert_eq!(moved(host), before, "frames went by the switch");
}

/// Changes who moves the frames to `engine` while pings go on. Returns how many were lost.
fn change_under_pings(
    host: &mut HostGuest,
    guest: &mut Guest,
    engine: &str,
    change: impl FnOnce(&mut HostGuest),
) -> usize {
    begin_pings(guest, host);
    change(host);
    until_engine(host, "vm0", engine);
    more_answers(guest, host);
    lost_pings(guest)
}

/// Has a guest of one processor, which would use one pair, use two, and send by the second: the answers come by the pair of the questions.
fn use_second_pair(guest: &mut Guest, host: &mut HostGuest) {
    guest
        .run("ethtool -L eth0 combined 2; cd /sys/class/net/eth0/queues; echo 0 >tx-0/xps_cpus; echo 1 >tx-1/xps_cpus")
        .unwrap();
    let line = "get Interface vm0 status:n_rxq";
    host.vsctl_until(line, PATIENCE, |text| text.trim_matches('"') == "2").unwrap();
}

/// Interrupts that the guest's second receive ring has had.
fn interrupts_of_second_pair(guest: &mut Guest) -> u64 {
    let line = guest.run("grep input.1 /proc/interrupts").unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// Gives the guest's card to its driver anew.
fn restart_driver(guest: &mut Guest) {
    let driver = "/sys/bus/virtio/drivers/virtio_net";
    guest
        .run(&format!(
            "d=$(basename $(ls -d {driver}/virtio*)); echo $d > {driver}/unbind; echo $d > {driver}/bind"
        ))
        .unwrap();
    guest.address("eth0", "10.4.0.2/24").unwrap();
}

/// The whole way of a guest with `options:vdpa`: its frames go by the virtual function and not by the switch, until the option is taken away;
/// then by the switch, without a word to the guest; back by the function; and by the switch again when the function goes.
#[test]
fn a_guest_is_moved_to_a_virtual_function_and_back() {
    twice_at_most("a_guest_is_moved_to_a_virtual_function_and_back", to_a_virtual_function_and_back);
}

fn to_a_virtual_function_and_back() {
    let lab = Lab::open().unwrap();
    let mut site = Site::new(&lab, &[TWO_PAIRS], &[]);
    let function = site.functions[0].clone();
    let mut guest = site.guest(&function, 2);
    use_second_pair(&mut guest, &mut site.host);
    // The guest's processors write the function's registers themselves, one for each ring.
    let doorbells = site.host.vsctl("get Interface vm0 status:vdpa-doorbells").unwrap();
    assert_eq!(doorbells.trim_matches(['"', '\n']), "4");
    site.host.guest.run("grep -q vfio /proc/$(cat /tmp/nested0.pid)/maps").unwrap();
    // The switch has nothing to do: its workers sleep, and count none of the guest's frames.
    let before = interrupts_of_second_pair(&mut guest);
    passes_the_switch_by(&mut site.host, &mut guest);
    assert!(interrupts_of_second_pair(&mut guest) > before, "answers came by the first pair");
    site.host.vsctl_until("--format=csv pmd", PATIENCE, |text| text.contains("sleeping")).unwrap();
    // What the function has moved is seen in its rings. QEMU's cards count nothing for their functions, which is not the same as zero.
    let counters = site.host.vsctl("get Interface vm0 statistics").unwrap();
    assert!(counters.contains("vdpa_rx_buffers") && !counters.contains("vdpa_rx_packets"), "{counters}");

    let before = moved(&mut site.host);
    let lost = change_under_pings(&mut site.host, &mut guest, "software", |host| {
        host.vsctl("remove Interface vm0 options vdpa").unwrap();
    });
    assert!(lost <= 20 && moved(&mut site.host) > before, "{lost} pings lost");

    // Back, behind a relay: the function can begin only with rings that nobody has used. With a driver that starts it has the guest's own.
    let lost = change_under_pings(&mut site.host, &mut guest, "shadow", |host| {
        host.vsctl(&format!("set Interface vm0 options:vdpa={function}")).unwrap();
    });
    assert!(lost <= 20, "{lost} pings lost");
    passes_the_switch_by(&mut site.host, &mut guest);
    restart_driver(&mut guest);
    guest.reaches(OUTSIDE, PATIENCE).unwrap();
    until_engine(&mut site.host, "vm0", "direct");

    // The function goes while it is in use, and the kernel gets it.
    let lost = change_under_pings(&mut site.host, &mut guest, "software", |host| {
        let physical = function.replace(".1", ".0");
        let file = format!("/sys/bus/pci/devices/{physical}/sriov_numvfs");
        host.guest.run_for(&format!("echo 0 > {file}"), PATIENCE).unwrap();
    });
    let error = site.host.vsctl("get Interface vm0 status:vdpa-error").unwrap();
    assert!(lost <= 20 && error.contains(&function), "{lost} pings lost; {error}");
    drop(site.outside);
}

/// Devices without switch and guest first: the virtual function, and a device of the kernel's vDPA bus that a program plays. Then a guest on
/// the latter, which can be given a guest that runs already, and back.
#[test]
fn a_guest_is_moved_to_a_device_of_the_kernel_and_back() {
    twice_at_most("a_guest_is_moved_to_a_device_of_the_kernel_and_back", to_a_device_of_the_kernel_and_back);
}

fn to_a_device_of_the_kernel_and_back() {
    let lab = Lab::open().unwrap();
    let mut site =
        Site::new(&lab, &[FUNCTION], &[env!("CARGO_BIN_EXE_vdpa_device"), env!("CARGO_BIN_EXE_vduse")]);
    let function = site.functions[0].clone();
    let try_device = |site: &mut Site<'_>, device: &str| {
        let line = format!("ulimit -l unlimited; /host/vdpa_device {device} 10.4.0.3 {OUTSIDE}");
        let (status, said) = site.host.guest.try_run(&line, PATIENCE).unwrap();
        let log = site.host.guest.run("tail -n 40 /tmp/vduse.log; dmesg | tail -n 5").unwrap();
        assert!(status == 0 && said.ends_with("all well"), "{said}\n{log}");
        println!("{said}");
    };
    site.host.guest.run(">/tmp/vduse.log").unwrap();
    try_device(&mut site, &function);

    // Behind the kernel's device is the function again, as the kernel drives it.
    site.host.vsctl(&format!("nic unbind {function}")).unwrap();
    let devices = format!("ls /sys/bus/pci/devices/{function}/virtio*/net");
    let wire = site.host.guest.run(&devices).unwrap();
    site.host
        .guest
        .run(&format!(
            "ip link set {wire} up; /host/vduse card0 {wire} >/tmp/vduse.log 2>&1 & \
        until [ -e /dev/vduse/card0 ]; do sleep 0.1; done; vdpa dev add name card0 mgmtdev vduse"
        ))
        .unwrap();
    let device = "/dev/vhost-vdpa-0";
    try_device(&mut site, device);

    let mut guest = site.guest(device, 1);
    passes_the_switch_by(&mut site.host, &mut guest);
    let lost = change_under_pings(&mut site.host, &mut guest, "software", |host| {
        host.vsctl("remove Interface vm0 options vdpa").unwrap();
    });
    assert!(lost <= 20, "{lost} pings lost");
    // It can begin anywhere, so the guest's driver need not start anew.
    let lost = change_under_pings(&mut site.host, &mut guest, "direct", |host| {
        host.vsctl(&format!("set Interface vm0 options:vdpa={device}")).unwrap();
    });
    assert!(lost <= 20, "{lost} pings lost");
    passes_the_switch_by(&mut site.host, &mut guest);
    // The kernel waits for whoever has it open, and takes its name away before.
    let lost = change_under_pings(&mut site.host, &mut guest, "software", |host| {
        host.guest.run_for("vdpa dev del card0", PATIENCE).unwrap();
    });
    let error = site.host.vsctl("get Interface vm0 status:vdpa-error").unwrap();
    assert!(lost <= 20 && error.contains(device), "{lost} pings lost; {error}");
    drop(site.outside);
}
