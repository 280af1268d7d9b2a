//! Whether the instructions that a plan expects are there: compared through `/proc/kcore`, where it
//! may be read.
//!
//! A build-id names the bytes that were loaded. Livepatches, other tracers and bugs of whoever made
//! the plan can still make the bytes that run others.

use crate::host::Host;
use nfdrop_db::{
    HexBytes,
    plan::{FnOffset, MAX_INSTRUCTION, Plan, SYMBOL},
};
use std::{fs::File, os::unix::fs::FileExt};

/// A probe's jump takes the place of five bytes, `int3` of one.
const JUMP: u32 = 5;
/// Most program headers looked at: one per range of memory.
const MAX_HEADERS: u16 = 1024;

/// How the comparison ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Sites {
    /// All are as expected.
    Same,
    /// Some are hidden by probes of others, which the kernel lists; the rest is as expected.
    Probed,
    /// They cannot be read, because of this.
    Unreadable(&'static str),
    /// This one is not as expected.
    Other {
        /// Where.
        offset: FnOffset,
        /// What the plan expects.
        expected: HexBytes,
        /// What is there.
        found: HexBytes,
    },
}

/// Compares every site of the plan. `address`: of the function.
pub fn compare(host: &Host, plan: &Plan, address: Option<u64>) -> Sites {
    let Some(address) = address else {
        return Sites::Unreadable("/proc/kallsyms hides addresses from this user");
    };
    let Ok(memory) = File::open(host.path("/proc/kcore")) else {
        return Sites::Unreadable("/proc/kcore cannot be opened by this user");
    };
    let mut probed = None;
    let mut ended = Sites::Same;
    for probe in &plan.probes {
        let (offset, expected) = (probe.offset, &probe.bytes);
        let mut found = [0; MAX_INSTRUCTION];
        let found = &mut found[..expected.0.len().min(MAX_INSTRUCTION)];
        if read(&memory, address.wrapping_add(offset.0.into()), found).is_none() {
            return Sites::Unreadable("/proc/kcore does not have the function");
        }
        if found == expected.0 {
            continue;
        }
        let others = probed.get_or_insert_with(|| probes(host));
        let end = offset.0 + expected.0.len() as u32;
        if others.iter().any(|other| *other < end && offset.0 < other + JUMP) {
            ended = Sites::Probed;
            continue;
        }
        let (expected, found) = (expected.clone(), HexBytes(found.to_vec()));
        return Sites::Other { offset, expected, found };
    }
    ended
}

/// Memory at `address`, from an ELF64 core file of this machine's byte order
/// (fs/proc/kcore.c: a program header for every range).
fn read(core: &File, address: u64, to: &mut [u8]) -> Option<()> {
    let mut header = [0; 64];
    core.read_exact_at(&mut header, 0).ok()?;
    let u16_at = |at: usize| Some(u16::from_ne_bytes(header.get(at..at + 2)?.try_into().ok()?));
    let table = u64::from_ne_bytes(header[32..40].try_into().ok()?);
    let (size, count) = (u16_at(54)?, u16_at(56)?);
    if !header.starts_with(b"\x7fELF\x02") || size < 56 || count > MAX_HEADERS {
        return None;
    }
    for index in 0..u64::from(count) {
        let mut entry = [0; 56];
        core.read_exact_at(&mut entry, table.checked_add(index * u64::from(size))?).ok()?;
        let word = |at: usize| Some(u64::from_ne_bytes(entry.get(at..at + 8)?.try_into().ok()?));
        let (offset, start, size) = (word(8)?, word(16)?, word(40)?);
        let Some(distance) = address.checked_sub(start) else { continue };
        if distance < size && to.len() as u64 <= size - distance {
            return core.read_exact_at(to, offset.checked_add(distance)?).ok();
        }
    }
    None
}

/// Where in the function others have probes:
/// `ffffffffc0a1d3fe  k  nft_do_chain+0x3fe  [nf_tables]  [OPTIMIZED]`.
fn probes(host: &Host) -> Vec<u32> {
    let list = host.text("/sys/kernel/debug/kprobes/list").unwrap_or_default();
    let place = |line: &str| {
        let (_, rest) = line.split_once(SYMBOL)?;
        let digits = rest.strip_prefix("+0x")?;
        let end = digits.find(|c: char| !c.is_ascii_hexdigit()).unwrap_or(digits.len());
        u32::from_str_radix(&digits[..end], 16).ok()
    };
    list.lines().filter_map(place).collect()
}
