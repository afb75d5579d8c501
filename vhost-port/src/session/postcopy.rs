//! A guest that runs here before all of its memory has arrived (vhost-user, "Postcopy"; protocol feature PAGEFAULT).
//!
//! ```text
//!   ADVISE ▶ pager, userfaultfd   LISTEN ▶ pages mode   regions ▶ our addresses   ack ▶ registered   …   END ▶ as ever
//! ```
//!
//! From LISTEN to END rings work as those of a guest with an IOMMU do, whose translations are the pages known to have arrived: what a burst
//! does not find there ends it and is reported, the ring is set aside, and goes on when the page is there ([`iommu`](super::iommu)). Who is
//! asked is not the front-end but the [`Pager`], a process that may sleep where a worker must not. The addresses that the front-end is told,
//! and that faults name, are the pager's.
//!
//! **No worker sleeps**, not even if the front-end takes pages away again that had arrived: our own mapping of the memory is not registered,
//! so such a page reads as zeros. **None touches a page too early**, which would fill it with zeros and lose what is on its way.
//! Nor does the control thread. Devices get no memory meanwhile: they would pin, and so fill, all of it.
//!
//! A guest that has an IOMMU besides waits for its memory as a whole: its rings are set aside until END.

use std::collections::BTreeSet;
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use pmd::sys::pager::{PagedRange, Pager};
use pmd::virtio::features::VIRTIO_F_ACCESS_PLATFORM;

use super::divert::{reply, reply_with};
use super::iommu::Iommu;
use super::machine::Session;
use crate::memory::{Access, MAX_REGIONS, MemTable, PAGE, Region, RegionSpec, Translation};

/// Most pages asked for and not arrived.
const MAX_ASKED: usize = 256;
/// Most regions a pager is ever given: memory may come and go while the rest arrives.
const MAX_MAPPED: usize = 2 * MAX_REGIONS;

/// A region as the pager has it.
struct Paged {
    spec: RegionSpec,
    range: PagedRange,
    registered: bool,
}

/// A session's part in a postcopy migration.
pub(super) struct Postcopy {
    pager: Pager,
    /// Memory may be missing.
    listening: bool,
    regions: Vec<Paged>,
    /// Regions the pager has been given.
    mapped: usize,
    /// Guest addresses of pages asked for.
    asked: BTreeSet<u64>,
    fetched: u64,
}

impl Postcopy {
    /// What becomes readable when a page has arrived.
    pub(super) fn event(&self) -> Arc<OwnedFd> {
        self.pager.event()
    }

    /// The whole page of its file in which a guest address lies, as a translation.
    fn page_of(&self, gpa: u64) -> Option<Translation> {
        let Paged { spec, range, .. } = self.region(gpa)?;
        let offset = gpa - spec.gpa;
        let before = ((spec.offset + offset) & (range.page - 1)).min(offset);
        let start = offset - before;
        let in_page = range.page - ((spec.offset + start) & (range.page - 1));
        let len = in_page.min(spec.len - start);
        Some(Translation { iova: spec.gpa + start, len, uva: spec.uva + start, access: Access::BOTH })
    }

    fn region(&self, gpa: u64) -> Option<&Paged> {
        self.regions.iter().find(|region| gpa.wrapping_sub(region.spec.gpa) < region.spec.len)
    }

    /// Has a page fetched, unless it is asked for already, or that has to be tried later.
    fn want(&mut self, gpa: u64) -> Result<(), String> {
        if self.asked.contains(&gpa) || self.asked.len() >= MAX_ASKED {
            return Ok(());
        }
        let Some(region) = self.region(gpa).filter(|region| region.registered) else { return Ok(()) };
        let address = region.range.first + (gpa - region.spec.gpa);
        if self.pager.fetch(address, gpa).map_err(|e| e.to_string())? {
            self.asked.insert(gpa);
        }
        Ok(())
    }
}

/// Regions as a message has them, with their files.
pub(super) type Regions = Vec<(RegionSpec, File)>;

/// Messages of a postcopy migration.
#[derive(Debug)]
pub(super) enum PostcopyMessage {
    Advise,
    Listen,
    End,
    /// Memory, while it arrives: all of it, or one region more. The body is answered with our addresses in it.
    Regions {
        all: bool,
        regions: Regions,
        body: Vec<u8>,
    },
    /// The front-end is ready for faults in the regions it has been told of.
    Ready,
}

/// Bytes of a region in a message, and of its part before our address goes.
const REGION: usize = 32;
const ADDRESS_AT: usize = 16;

impl PostcopyMessage {
    /// Reads SET_MEM_TABLE, ADD_MEM_REG or the acknowledgement of either, while memory arrives.
    pub(super) fn of_memory(code: u32, body: &[u8], files: Vec<OwnedFd>) -> Result<PostcopyMessage, String> {
        if let Ok(acknowledged) = <[u8; 8]>::try_from(body) {
            return match u64::from_le_bytes(acknowledged) {
                0 => Ok(PostcopyMessage::Ready),
                bad => Err(format!("the front-end is not ready for faults: {bad:#x}")),
            };
        }
        let all = code == 5;
        let count = match body.first_chunk::<4>() {
            Some(count) if all => u32::from_le_bytes(*count) as usize,
            _ => 1,
        };
        let (regions, rest) = body.get(8..).unwrap_or_default().as_chunks::<REGION>();
        if regions.len() != count || files.len() != count || !rest.is_empty() || count == 0 {
            let (len, files) = (body.len(), files.len());
            return Err(format!(
                "message {code} of {count} regions in {len} bytes, with {files} descriptors"
            ));
        }
        let region = |region: &[u8; REGION]| {
            let word = |at: usize| u64::from_le_bytes(std::array::from_fn(|i| region[at + i]));
            RegionSpec { gpa: word(0), len: word(8), uva: word(16), offset: word(24) }
        };
        let regions = regions.iter().map(region).zip(files.into_iter().map(File::from)).collect();
        Ok(PostcopyMessage::Regions { all, regions, body: body.to_vec() })
    }
}

impl Session {
    /// Whether memory may be missing.
    pub(super) fn arriving(&self) -> bool {
        self.postcopy.as_ref().is_some_and(|postcopy| postcopy.listening)
    }

    /// Whether rings work by pages that have arrived.
    pub(super) fn paging(&self) -> bool {
        self.arriving() && self.features & VIRTIO_F_ACCESS_PLATFORM == 0
    }

    /// A message of a postcopy migration, which it answers. `ack` says that an acknowledgement is wanted.
    pub(super) fn postcopy(
        &mut self,
        socket: &mut UnixStream,
        code: u32,
        message: PostcopyMessage,
        ack: bool,
    ) -> Result<(), String> {
        let sent = |result: std::io::Result<()>| result.map_err(|e| format!("send: {e}"));
        match message {
            PostcopyMessage::Advise => {
                let descriptor = self.advise()?;
                sent(reply_with(socket, code, &[], descriptor.as_ref().map(AsFd::as_fd)))
            }
            PostcopyMessage::Listen => {
                let result = self.listen();
                if ack {
                    sent(reply(socket, code, u64::from(result.is_err())))?;
                }
                result
            }
            PostcopyMessage::End => {
                let result = self.end_postcopy();
                sent(reply(socket, code, u64::from(result.is_err())))?;
                result
            }
            PostcopyMessage::Regions { all, regions, mut body } => {
                let addresses = self.add_paged(all, &regions)?;
                for (region, address) in body[8..].chunks_mut(REGION).zip(addresses) {
                    region[ADDRESS_AT..ADDRESS_AT + 8].copy_from_slice(&address.to_le_bytes());
                }
                sent(reply_with(socket, code, &body, None))
            }
            PostcopyMessage::Ready => self.register_regions(),
        }
    }

    /// POSTCOPY_ADVISE. Without a descriptor in the answer the front-end knows that it cannot be.
    fn advise(&mut self) -> Result<Option<OwnedFd>, String> {
        if self.arriving() {
            return Err("POSTCOPY_ADVISE while memory arrives".to_owned());
        }
        match Pager::start() {
            Ok((pager, descriptor)) => {
                let (regions, asked) = (Vec::new(), BTreeSet::new());
                self.postcopy =
                    Some(Postcopy { pager, listening: false, regions, mapped: 0, asked, fetched: 0 });
                Ok(Some(descriptor))
            }
            Err(e) => {
                let what = format!("no postcopy migration to here: no process to fetch pages: {e}");
                log::error!("{}: {what}", self.shared.config.name);
                self.shared.peer().error = Some(what);
                self.changed = true;
                Ok(None)
            }
        }
    }

    /// POSTCOPY_LISTEN.
    fn listen(&mut self) -> Result<(), String> {
        let empty = self.memory.is_empty();
        let postcopy = self.postcopy.as_mut().filter(|postcopy| !postcopy.listening && empty);
        let postcopy =
            postcopy.ok_or("POSTCOPY_LISTEN without POSTCOPY_ADVISE, or with memory there already")?;
        postcopy.listening = true;
        log::info!("{}: the guest runs before its memory has arrived", self.shared.config.name);
        // A guest that took GUEST_ANNOUNCE needs seconds for it here, while it waits for page after page of its own.
        let mac = self.shared.peer().mac.or(self.shared.config.mac);
        self.shared.rings[1].announce(mac);
        self.forget_pages();
        self.tell_of_pages();
        self.carry_memory();
        Ok(())
    }

    /// Starts with no page known.
    pub(super) fn forget_pages(&mut self) {
        if self.paging() {
            self.iommu = Some(Iommu::new(self));
            self.use_addresses();
        }
    }

    /// SET_MEM_TABLE or ADD_MEM_REG. Returns where the pager has them.
    fn add_paged(&mut self, all: bool, regions: &Regions) -> Result<Vec<u64>, String> {
        let mut table = MemTable::default();
        if all {
            self.forget_pages();
        } else {
            table = self.memory.same();
        }
        let Some(postcopy) = &mut self.postcopy else { return Ok(Vec::new()) };
        if all {
            postcopy.regions.clear();
            postcopy.asked.clear();
        }
        postcopy.mapped += regions.len();
        if postcopy.mapped > MAX_MAPPED {
            return Err(format!("more than {MAX_MAPPED} memory regions while memory arrives"));
        }
        let mut added = Vec::new();
        for (spec, file) in regions {
            let spec = *spec;
            if [spec.gpa, spec.len, spec.offset].iter().any(|n| !n.is_multiple_of(PAGE)) {
                return Err(format!("memory region at guest address {:#x} is not whole pages", spec.gpa));
            }
            let mapped = Region::map(spec, file, &self.shared.alarm).map_err(|e| e.to_string())?;
            table = table.with(mapped).map_err(|e| e.to_string())?;
            let Some(postcopy) = &mut self.postcopy else { break };
            let range = postcopy.pager.map(file, spec.offset, spec.len);
            let range = range.map_err(|e| format!("memory region at guest address {:#x}: {e}", spec.gpa))?;
            added.push(range.first);
            postcopy.regions.push(Paged { spec, range, registered: false });
        }
        self.use_memory(table).map_err(|e| self.explain(&e))?;
        Ok(added)
    }

    /// The front-end can handle faults now.
    fn register_regions(&mut self) -> Result<(), String> {
        let Some(postcopy) = &mut self.postcopy else { return Ok(()) };
        for region in postcopy.regions.iter_mut().filter(|region| !region.registered) {
            postcopy.pager.register(&region.range).map_err(|e| {
                format!("memory region at guest address {:#x}: userfaultfd: {e}", region.spec.gpa)
            })?;
            region.registered = true;
        }
        // What rings have missed meanwhile could not be asked for.
        self.look_again()
    }

    /// Has rings look again for what they need.
    fn look_again(&mut self) -> Result<(), String> {
        if self.paging() {
            self.use_addresses();
            self.readdress_rings(true)?;
            self.ask_pager()?;
        }
        Ok(())
    }

    /// A region has gone.
    pub(super) fn forget_region(&mut self, gpa: u64, len: u64) {
        let paging = self.paging();
        if let Some(postcopy) = &mut self.postcopy {
            postcopy.regions.retain(|region| region.spec.gpa != gpa);
            postcopy.asked.retain(|&page| page.wrapping_sub(gpa) >= len);
        }
        if let Some(iommu) = self.iommu.as_mut().filter(|_| paging) {
            iommu.forget(gpa, len);
        }
    }

    /// Has what rings have missed fetched.
    pub(super) fn ask_pager(&mut self) -> Result<(), String> {
        let (Some(iommu), Some(postcopy)) = (&self.iommu, &mut self.postcopy) else { return Ok(()) };
        iommu.missing().into_iter().try_for_each(|gpa| postcopy.want(gpa))
    }

    /// Takes note of pages that have arrived, and has the rings go on.
    pub(super) fn take_pages(&mut self) -> Result<(), String> {
        let Some(mut postcopy) = self.postcopy.take() else { return Ok(()) };
        let arrived = self.take_arrived(&mut postcopy);
        self.postcopy = Some(postcopy);
        if arrived? {
            self.tell_of_pages();
            self.look_again()?;
        }
        Ok(())
    }

    /// Adds pages that have arrived to those known. Whether there were any.
    fn take_arrived(&mut self, postcopy: &mut Postcopy) -> Result<bool, String> {
        let mut any = false;
        while let Some(gpa) = postcopy.pager.fetched().map_err(|e| e.to_string())? {
            // Others were asked for when there was other memory.
            if !postcopy.asked.remove(&gpa) {
                continue;
            }
            postcopy.fetched += 1;
            if let (Some(page), Some(iommu)) = (postcopy.page_of(gpa), &mut self.iommu) {
                iommu.know(page, &self.memory).map_err(|e| e.to_string())?;
            }
            any = true;
        }
        Ok(any)
    }

    /// POSTCOPY_END: all memory is there.
    fn end_postcopy(&mut self) -> Result<(), String> {
        let (arriving, paging) = (self.arriving(), self.paging());
        self.postcopy = None;
        if !arriving {
            return Ok(());
        }
        log::info!("{}: the guest's memory has arrived", self.shared.config.name);
        self.tell_of_pages();
        if paging {
            self.addresses = Arc::clone(&self.memory);
        } else {
            self.use_addresses();
        }
        self.carry_memory();
        // Frames that were held are sent by what is forgotten after that.
        self.refresh_rings().map_err(|e| self.explain(&e))?;
        if paging {
            self.iommu = None;
        }
        Ok(())
    }

    /// Ends it all, and does not wait for any page.
    pub(super) fn forget_postcopy(&mut self) {
        if self.postcopy.take().is_some() {
            self.tell_of_pages();
        }
    }

    /// Lets the operator see how many pages have been waited for.
    fn tell_of_pages(&mut self) {
        let listening = self.postcopy.as_ref().filter(|postcopy| postcopy.listening);
        self.shared.peer().fetched_pages = listening.map(|postcopy| postcopy.fetched);
        self.changed = true;
    }
}
