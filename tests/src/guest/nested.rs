//! A guest inside the host guest, attached to the switch that runs there.
//!
//! It runs on the virtualisation of the processor that QEMU emulates for the host guest (AMD's, nested paging included): emulation inside
//! an emulation would take more than a minute to boot, this takes about ten seconds. Its command channel is a serial port that
//! the host guest hands through, so it is talked to like any other guest.

use std::time::Duration;

use super::host::HostGuest;
use super::{Guest, Nic};
use crate::failure::{Failure, Result};

/// What a nested guest is made of.
#[derive(Debug, Clone)]
pub struct NestedConfig {
    /// Network cards; their sockets are paths in the host guest.
    pub nics: Vec<Nic>,
    /// Memory in MiB.
    pub memory: u32,
    /// Virtual processors.
    pub cpus: usize,
    /// It does not boot, but is the guest that will arrive at this socket of the host guest.
    pub arrives_at: Option<String>,
}

impl NestedConfig {
    /// A guest of one processor and 128 MiB with one network card.
    #[must_use]
    pub fn new(nic: Nic) -> Self {
        Self { nics: vec![nic], memory: 128, cpus: 1, arrives_at: None }
    }

    fn command(&self, index: usize) -> String {
        let (memory, cpus) = (self.memory, self.cpus);
        let arrives = self.arrives_at.as_ref().map_or(String::new(), |at| format!("-incoming unix:{at}"));
        let monitor = format!("/tmp/nested{index}.monitor");
        let nics: Vec<String> = self.nics.iter().enumerate().flat_map(|(i, nic)| nic.arguments(i)).collect();
        format!(
            "mkfifo {monitor}.in {monitor}.out; cat {monitor}.out >{monitor} & \
             /nested/qemu -accel kvm -cpu host -bios qboot.rom -nodefaults -display none -machine q35,memory-backend=m0 \
             -m {memory} -smp {cpus} -object memory-backend-memfd,id=m0,size={memory}M,share=on -kernel /nested/kernel \
             -initrd /nested/image -append 'console=ttyS0 quiet panic=-1 no_timer_check nokaslr' \
             -serial file:/tmp/nested{index}.serial -chardev serial,id=con,path=/dev/ttyS{port} -serial chardev:con \
             -chardev pipe,id=mon,path={monitor} -mon chardev=mon,mode=readline {arrives} {} \
             >/tmp/nested{index}.log 2>&1 & echo $! >/tmp/nested{index}.pid",
            nics.join(" "),
            port = index + 2
        )
    }
}

impl HostGuest {
    /// Starts a guest in this one; it goes when this one goes. Follow with [`Guest::wait_ready`].
    ///
    /// # Errors
    /// This one was not configured for (so many) guests, or takes no commands.
    pub fn nested(&mut self, config: &NestedConfig) -> Result<Guest> {
        let free = self.channels.iter_mut().enumerate().find_map(|(i, slot)| Some((i, slot.take()?)));
        let Some((index, (console, console_path))) = free else {
            return Err(Failure::new("the host guest has no place for a guest: see HostConfig::guests"));
        };
        self.guest.run("[ -e /dev/kvm ]")?;
        self.guest.run(&config.command(index))?;
        let name = format!("nested{index}");
        let serial = console_path.with_extension("serial.log");
        let monitor_path = console_path.with_extension("qmp");
        Ok(Guest { name, process: None, console, console_path, serial, monitor_path, monitor: None })
    }

    /// Moves nested guest `index` to the QEMU that waits at `socket`, and gives what QEMU says of that when it is over. Here it stands still
    /// then.
    ///
    /// # Errors
    /// It fails, or does not end within `patience`.
    pub fn migrate_nested(&mut self, index: usize, socket: &str, patience: Duration) -> Result<String> {
        let monitor = format!("/tmp/nested{index}.monitor");
        self.guest.run(&format!("echo 'migrate -d unix:{socket}' >{monitor}.in"))?;
        let over = "[Ss]tatus:[[:space:]]*(completed|failed|cancelled)";
        let ask =
            format!("echo 'info migrate' >{monitor}.in; sleep 0.2; grep -qE '{over}' {monitor} && exit 0");
        let seconds = patience.as_secs();
        let wait = format!("(for i in $(seq {}); do {ask}; done; exit 1)", seconds * 5);
        let (status, _) = self.guest.try_run(&wait, patience * 4)?;
        let said = self.guest.run(&format!("tail -n 40 {monitor} | tr -d '\\r\\033'"))?;
        if status == 0 && said.contains("completed") {
            return Ok(said);
        }
        Err(Failure::new(format!("nested guest {index} is not moved within {seconds} s: {said}")))
    }

    /// What QEMU and the kernel of nested guest `index` have printed, for a message.
    pub fn nested_log(&mut self, index: usize) -> String {
        let command = format!(
            "tail -n 15 /tmp/nested{index}.log /tmp/nested{index}.serial; dmesg | tail -n 5; top -b -n 1 | head -n 12"
        );
        self.guest.run(&command).unwrap_or_else(|e| e.to_string())
    }
}
