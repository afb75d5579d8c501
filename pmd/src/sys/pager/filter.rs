//! What the pager may ask of the kernel once it is set up: its two loops' calls, and nothing that would reach anybody else.
//!
//! The program is compiled before the fork, because the new process must not allocate, and travels on the stack, because large private memory
//! is unmapped there. Anything else ends the process at once, by SIGSYS, which the other end of its sockets sees.

use std::collections::BTreeMap;
use std::io;

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    TargetArch,
};

use super::child::UFFDIO_REGISTER;

/// Room for the program; it has some fifty instructions.
const ROOM: usize = 128;

/// A compiled filter, ready to cross a fork.
#[derive(Clone, Copy)]
pub(super) struct Filter {
    pub(super) program: [libc::sock_filter; ROOM],
    pub(super) len: u16,
}

impl Filter {
    /// The filter of a pager with these sockets.
    pub(super) fn new(control: i32, pages: i32) -> io::Result<Filter> {
        let is = |argument: u8, value: i64| {
            SeccompCondition::new(argument, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, value as u64)
        };
        let only = |conditions: Vec<SeccompCondition>| Ok(vec![SeccompRule::new(conditions)?]);
        let by = |socket: i32| only(vec![is(0, socket.into())?]);
        let (prot, flags) = (libc::PROT_READ, libc::MAP_SHARED | libc::MAP_NORESERVE);
        let rules = || {
            Ok(BTreeMap::from([
                // Requests and answers.
                (libc::SYS_recvmsg, by(control)?),
                (libc::SYS_sendmsg, by(control)?),
                // Pages.
                (libc::SYS_recvfrom, by(pages)?),
                (libc::SYS_sendto, by(pages)?),
                // A region: nothing that could be written or run.
                (libc::SYS_mmap, only(vec![is(2, prot.into())?, is(3, flags.into())?])?),
                (libc::SYS_close, Vec::new()),
                (libc::SYS_ioctl, only(vec![is(1, UFFDIO_REGISTER as i64)?])?),
                (libc::SYS_exit_group, Vec::new()),
            ]))
        };
        let compile = || -> Result<BpfProgram, seccompiler::BackendError> {
            let arch = TargetArch::try_from(std::env::consts::ARCH)?;
            let (others, these) = (SeccompAction::KillProcess, SeccompAction::Allow);
            SeccompFilter::new(rules()?, others, these, arch)?.try_into()
        };
        let compiled = compile().map_err(io::Error::other)?;
        let nothing = libc::sock_filter { code: 0, jt: 0, jf: 0, k: 0 };
        let mut program = [nothing; ROOM];
        let place = program.get_mut(..compiled.len()).ok_or_else(|| io::Error::other("filter too long"))?;
        for (place, from) in place.iter_mut().zip(&compiled) {
            *place = libc::sock_filter { code: from.code, jt: from.jt, jf: from.jf, k: from.k };
        }
        Ok(Filter { program, len: compiled.len() as u16 })
    }
}
