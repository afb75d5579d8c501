//! A guest inside the host guest, attached to the switch that runs there.
//!
//! It runs on the virtualisation of the processor that QEMU emulates for the host guest (AMD's, nested paging included): emulation inside
//! an emulation would take more than a minute to boot, this takes about ten seconds. Its command channel is a serial port that
//! the host guest hands through, so it is talked to like any other guest.

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
}

impl NestedConfig {
    /// A guest of one processor and 128 MiB with one network card.
    #[must_use]
    pub fn new(nic: Nic) -> Self {
        Self { nics: vec![nic], memory: 128, cpus: 1 }
    }

    fn command(&self, index: usize) -> String {
        let (memory, cpus) = (self.memory, self.cpus);
        let nics: Vec<String> = self.nics.iter().enumerate().flat_map(|(i, nic)| nic.arguments(i)).collect();
        format!(
            "/nested/qemu -accel kvm -cpu host -bios qboot.rom -nodefaults -display none -machine q35,memory-backend=m0 \
             -m {memory} -smp {cpus} -object memory-backend-memfd,id=m0,size={memory}M,share=on -kernel /nested/kernel \
             -initrd /nested/image -append 'console=ttyS0 quiet panic=-1 no_timer_check nokaslr' \
             -serial file:/tmp/nested{index}.serial -chardev serial,id=con,path=/dev/ttyS{port} -serial chardev:con {} \
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

    /// What QEMU and the kernel of nested guest `index` have printed, for a message.
    pub fn nested_log(&mut self, index: usize) -> String {
        let command = format!(
            "tail -n 15 /tmp/nested{index}.log /tmp/nested{index}.serial; dmesg | tail -n 5; top -b -n 1 | head -n 12"
        );
        self.guest.run(&command).unwrap_or_else(|e| e.to_string())
    }
}
