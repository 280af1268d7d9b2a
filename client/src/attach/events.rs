//! How events come from the kernel.
//!
//! A ring for all processors together, where its lock may be taken wherever probes are. It may not under
//! `PREEMPT_RT` before 6.12 (`raw_spinlock_t` in kernel/bpf/ringbuf.c): there the lock sleeps, while probes
//! are in places that must not. 5.10 rt takes no event from a breakpoint, which counts as an NMI; others
//! would sleep as soon as two processors drop at once. There every processor has a buffer of perf's,
//! which needs no lock.

use super::AttachError;
use crate::host::Host;
use aya::{
    maps::{MapData, RingBuf, perf::PerfEvent, perf::PerfEventArray, perf::PerfEventArrayBuffer},
    util::online_cpus,
};
use nfdrop_db::Series;
use rustix::event::epoll;
use std::{
    collections::VecDeque,
    io,
    os::fd::{AsFd, OwnedFd},
};

/// The release from which on the ring's lock is one that does not.
const RAW_LOCK: Series = Series(6, 12);

/// Events that the kernel has told, and nobody has taken.
pub struct Events(Way);

enum Way {
    Ring(RingBuf<MapData>),
    Stream(Stream),
}

/// A buffer for every processor.
struct Stream {
    buffers: Vec<PerfEventArrayBuffer<MapData>>,
    /// What was read of all of them, in the order of time.
    read: VecDeque<Vec<u8>>,
    /// Readable when any of the buffers is. Who asks it, or a buffer, takes what was announced: only the
    /// one who reads may.
    any: OwnedFd,
}

/// Whether the ring's lock sleeps.
pub fn ring_sleeps(host: &Host) -> bool {
    // Linux version 5.10.0-46-rt-amd64 (…) (gcc …) #1 SMP PREEMPT_RT Debian 5.10.262-1 (2026-10-20)
    let version = host.text("/proc/version").unwrap_or_default();
    host.series().is_some_and(|series| series < RAW_LOCK)
        && version.split_whitespace().any(|word| word == "PREEMPT_RT")
}

impl Events {
    pub(super) fn ring(ring: RingBuf<MapData>) -> Self {
        Self(Way::Ring(ring))
    }

    /// `size`: bytes of all buffers together; of a processor's share the next power of two of pages is taken.
    /// Of processors that come later nothing is told; their drops count as lost.
    pub(super) fn stream(
        mut array: PerfEventArray<MapData>,
        size: u32,
    ) -> Result<Self, AttachError> {
        let broken = |error: io::Error| AttachError::Map("STREAM", error.to_string());
        let processors = online_cpus().map_err(|(_, error)| broken(error))?;
        let each = size as usize / processors.len().max(1);
        let pages = each.div_ceil(rustix::param::page_size()).next_power_of_two();
        let any =
            epoll::create(epoll::CreateFlags::CLOEXEC).map_err(|error| broken(error.into()))?;
        let mut buffers = vec![];
        for processor in processors {
            let buffer = array.open(processor, Some(pages));
            let buffer = buffer.map_err(|error| broken(io::Error::other(error)))?;
            let data = epoll::EventData::new_u64(processor.into());
            epoll::add(&any, buffer.as_fd(), data, epoll::EventFlags::IN)
                .map_err(|error| broken(error.into()))?;
            buffers.push(buffer);
        }
        Ok(Self(Way::Stream(Stream { buffers, read: VecDeque::new(), any })))
    }

    /// Hands the next event's record over, if there is one.
    pub fn next<T>(&mut self, take: impl FnOnce(&[u8]) -> T) -> Option<T> {
        match &mut self.0 {
            Way::Ring(ring) => ring.next().map(|record| take(&record)),
            Way::Stream(stream) => stream.next().map(|record| take(&record)),
        }
    }

    /// What is readable when there are events.
    pub fn readable(&self) -> io::Result<OwnedFd> {
        match &self.0 {
            Way::Ring(ring) => ring.as_fd().try_clone_to_owned(),
            Way::Stream(stream) => stream.any.try_clone(),
        }
    }
}

impl Stream {
    fn next(&mut self) -> Option<Vec<u8>> {
        if self.read.is_empty() {
            let mut read = vec![];
            for buffer in &mut self.buffers {
                buffer.for_each(|event| {
                    // Those that were lost the program has counted.
                    if let PerfEvent::Sample { head, tail } = event {
                        read.push([head, tail].concat());
                    }
                });
            }
            // A record begins with its time, in the machine's byte order.
            let time = |record: &Vec<u8>| record.first_chunk().copied().map(u64::from_ne_bytes);
            read.sort_by_key(time);
            self.read = read.into();
        }
        self.read.pop_front()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn only_old_real_time_kernels_have_a_ring_that_sleeps() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir_all(root.path().join("proc/sys/kernel")).unwrap();
        for (release, preempt, expected) in [
            ("5.10.0-46-rt-amd64", " PREEMPT_RT", true),
            ("6.1.0-57-rt-amd64", " PREEMPT_RT", true),
            ("6.11", " PREEMPT_RT", true),
            ("6.11~rc4-rt-amd64", " PREEMPT_RT", true),
            ("6.12.118+deb13-rt-amd64", " PREEMPT_RT", false),
            ("7.3.4-rt-amd64", " PREEMPT_RT", false),
            ("6.1.0-57-amd64", " PREEMPT_DYNAMIC", false),
            ("5.10.0-46-rt-named", "", false),
            ("unnumbered", " PREEMPT_RT", false),
        ] {
            let version = format!(
                "Linux version {release} (builder@example) (gcc-10 (Debian 10.2.1-6) 10.2.1) #1 \
                 SMP{preempt} Debian 1 (2026-10-20)\n"
            );
            fs::write(root.path().join("proc/version"), version).unwrap();
            fs::write(root.path().join("proc/sys/kernel/osrelease"), release).unwrap();
            assert_eq!(ring_sleeps(&Host::new(root.path())), expected, "{release}");
        }
    }
}
