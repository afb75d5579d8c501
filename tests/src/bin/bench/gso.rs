//! 64 KiB TCP frames from guest to guest, as guests with TSO send them: nobody cuts them on the way.

use ::tests::failure::{Failure, Result};
use ::tests::hugepages::Hugepages;

use crate::Bench;
use crate::contestants::{self, BASELINE, Contestant, OURS, OVS, Setup, TESTPMD, Way};
use crate::copying;
use crate::forwarding::PAGES;
use crate::report::{Report, Table};
use crate::rounds::{Tables, alternate};
use crate::vsgen::{self, Offer, Stream};

/// Bytes of a frame with its FCS: 45 segments of 1448 bytes behind one header, what Linux makes of a full socket.
/// (Open vSwitch cannot receive much more: DPDK describes a buffer's length in 16 bits, headroom included.)
const SIZE: u32 = 65_230;
/// Its bytes in a guest's buffer: without FCS.
const BYTES: usize = SIZE as usize - 4;
/// The series that no switch can exceed.
const COPY: &str = "nothing but one copy of each frame";
/// Frames in flight. Each takes tens of descriptors of a ring, and tens of buffers of a peer's pool.
const WINDOW: u32 = 16;

/// Measures the row.
pub(crate) fn gso_64k(bench: &Bench, report: &mut Report) -> Result<()> {
    let title = format!(
        "TCP frames of {SIZE} B from guest to guest, never cut, split ring, one worker, one direction"
    );
    let mut tables = Tables::new([Table::new(title, "Gbit/s")]);
    let _pages = Hugepages::reserve(PAGES)?;
    let setup = Setup { tso: true, ..Setup::default() };
    alternate(bench, &setup, &contestants::all(bench), &mut tables, |tables, contestant| {
        measure(bench, tables, contestant)
    })?;
    let [mut table] = tables.into_inner();
    table.compare(OURS, OVS);
    table.compare(OURS, TESTPMD);
    table.compare(OURS, BASELINE);
    table.compare(OURS, COPY);
    report.push(table);
    Ok(())
}

fn measure(bench: &Bench, tables: &mut Tables<1>, contestant: &mut Contestant) -> Result<()> {
    contestant.forward(&bench.lab, Way::Rule)?;
    let offer = Offer {
        ab: Some(format!("size={SIZE},proto=tcp,window={WINDOW}")),
        settle: 0.5,
        seconds: bench.sample.as_secs_f64(),
        tso: true,
        ..Offer::default()
    };
    tables.look()?;
    let streams = vsgen::send(bench, contestant, &offer)?;
    let Some(stream) = streams.first() else { return Err(Failure::new("vsgen: no stream")) };
    whole(stream)?;
    println!("    {}: {:.1} Gbit/s", contestant.name(), stream.gbps);
    tables.add(contestant.name(), stream.gbps);
    if matches!(contestant, Contestant::Ours(_)) {
        let copied = copying::rate(BYTES, bench.sample)?;
        println!("    {COPY}: {copied:.1} Gbit/s");
        tables.add(COPY, copied);
    }
    Ok(())
}

/// An error unless frames arrived, and arrived as they were sent.
fn whole(stream: &Stream) -> Result<()> {
    if stream.received <= 0.0 {
        return Err(Failure::new("no frame arrived"));
    }
    if stream.foreign > 0.0 {
        return Err(Failure::new(format!("{} frames arrived cut or changed", stream.foreign)));
    }
    // What arrived per second, counted in frames and in bytes, must agree.
    let by_frames = stream.mpps * f64::from(SIZE) * 8.0 / 1000.0;
    if (stream.gbps / by_frames - 1.0).abs() > 0.01 {
        return Err(Failure::new(format!(
            "{:.2} Gbit/s arrived in frames of {by_frames:.2}: cut",
            stream.gbps
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{SIZE, whole};
    use crate::vsgen::Stream;

    fn stream(received: f64, foreign: f64, share: f64) -> Stream {
        let mpps = 0.1;
        let gbps = mpps * f64::from(SIZE) * 8.0 / 1000.0 * share;
        Stream {
            sent: 1.0,
            offered: 0.0,
            refused: 0.0,
            received,
            lost: 0.0,
            foreign,
            mpps,
            gbps,
            latency: None,
        }
    }

    #[test]
    fn only_whole_frames_count() {
        assert!(whole(&stream(1.0, 0.0, 1.0)).is_ok());
        assert!(whole(&stream(0.0, 0.0, 1.0)).is_err());
        assert!(whole(&stream(1.0, 1.0, 1.0)).is_err());
        assert!(whole(&stream(1.0, 0.0, 0.5)).is_err());
    }
}
