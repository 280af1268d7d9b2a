//! Whether the instructions that a plan expects are there: compared through `/proc/kcore`, where it
//! may be read.
//!
//! A build-id names the bytes that were loaded. Livepatches, other tracers and bugs of whoever made
//! the plan can still make the bytes that run others.

use super::arch::{BREAKPOINT, JUMP};
use crate::host::Host;
use nfdrop_db::{
    HexBytes,
    plan::{MAX_INSTRUCTION, Probe as PlanProbe, SYMBOL},
};
use std::{fs::File, os::unix::fs::FileExt};

/// Most program headers looked at: one per range of memory.
const MAX_HEADERS: u16 = 1024;

/// How the comparison ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Site {
    /// The instruction is the one expected, as far as the kernel's own probes let it be seen.
    Same,
    /// It cannot be read, because of this.
    Unreadable(&'static str),
    /// It is another one.
    Other {
        /// What the plan expects.
        expected: HexBytes,
        /// What is there.
        found: HexBytes,
    },
}

/// Compares the instruction at a probe of the plan. `address`: of the function; `listed`: the probes
/// that the kernel has in it, this one perhaps among them.
pub fn compare(host: &Host, probe: &PlanProbe, address: Option<u64>, listed: &[Probe]) -> Site {
    let Some(address) = address else {
        return Site::Unreadable(
            "neither /sys/kernel/debug/kprobes/list nor /proc/kallsyms tells addresses to this user",
        );
    };
    let Ok(memory) = File::open(host.path("/proc/kcore")) else {
        return Site::Unreadable("/proc/kcore cannot be opened by this user");
    };
    let expected = &probe.bytes.0;
    // With what may be the beginning of another's jump.
    let before = probe.offset.0.min(JUMP.1 - 1);
    let mut window = [0; MAX_INSTRUCTION + JUMP.1 as usize];
    let window = &mut window[..before as usize + expected.len().min(MAX_INSTRUCTION)];
    let start = probe.offset.0 - before;
    if read(&memory, address.wrapping_add(start.into()), window).is_none() {
        return Site::Unreadable("/proc/kcore does not have the function");
    }
    let found = &window[before as usize..];
    let byte = |offset: u32| window.get(offset.checked_sub(start)? as usize).copied();
    let hidden = |offset: u32| {
        listed.iter().any(|other| match (offset.checked_sub(other.offset), byte(other.offset)) {
            (Some(0), Some(first)) => first == BREAKPOINT || first == JUMP.0,
            (Some(distance), Some(first)) => {
                other.optimized && distance < JUMP.1 && first == JUMP.0
            }
            _ => false,
        })
    };
    let same = expected.len() == found.len()
        && (probe.offset.0..)
            .zip(expected.iter().zip(found))
            .all(|(offset, (expected, found))| expected == found || hidden(offset));
    if same {
        Site::Same
    } else {
        // Without what the kernel has put there for a probe, which is no difference.
        let bytes = (probe.offset.0..)
            .zip(expected.iter().zip(found))
            .map(|(offset, (expected, found))| if hidden(offset) { *expected } else { *found });
        Site::Other { expected: probe.bytes.clone(), found: HexBytes(bytes.collect()) }
    }
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

/// A probe in the function, whoever has set it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Probe {
    /// Where; 0 where addresses are hidden.
    pub address: u64,
    /// From the function's start.
    pub offset: u32,
    /// The kernel has replaced, or is about to replace, the breakpoint by a jump.
    pub optimized: bool,
    /// What else the kernel says of it: `[OPTIMIZED]`, `[FTRACE]`, `[DISABLED]`.
    pub says: String,
}

/// The kernel's list of its probes.
pub const LIST: &str = "/sys/kernel/debug/kprobes/list";

/// The probes that the kernel lists in the function:
/// `ffffffffc0a1d3fe  k  nft_do_chain+0x3fe  [nf_tables] [OPTIMIZED]` (kernel/kprobes.c).
pub fn probes(host: &Host) -> Vec<Probe> {
    let list = host.text(LIST).unwrap_or_default();
    let probe = |line: &str| {
        let (before, rest) = line.split_once(SYMBOL)?;
        // `nft_do_chain_inet` is another function.
        let digits = rest.strip_prefix("+0x")?;
        let end = digits.find(|c: char| !c.is_ascii_hexdigit()).unwrap_or(digits.len());
        let offset = u32::from_str_radix(&digits[..end], 16).ok()?;
        let address = u64::from_str_radix(before.split_whitespace().next()?, 16).ok()?;
        // Behind the offset the module's name, in brackets too, but small.
        let state = |word: &&str| word.len() > 2 && word[1..2].chars().all(char::is_uppercase);
        let says = digits[end..].split_whitespace().filter(|word| word.starts_with('['));
        let says = says.filter(state).collect::<Vec<_>>().join(" ");
        Some(Probe { address, offset, optimized: says.contains("[OPTIMIZED]"), says })
    };
    list.lines().filter_map(probe).collect()
}

/// Where the function is, as its probes tell.
pub fn address(probes: &[Probe]) -> Option<u64> {
    let probe = probes.iter().find(|probe| probe.address != 0)?;
    probe.address.checked_sub(probe.offset.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use nfdrop_db::sample;
    use std::fs;

    /// A core file with this range of memory.
    fn core(address: u64, memory: &[u8]) -> Vec<u8> {
        let mut file = b"\x7fELF\x02\x01\x01".to_vec();
        file.resize(64, 0);
        file[32..40].copy_from_slice(&64_u64.to_le_bytes());
        file[54..56].copy_from_slice(&56_u16.to_le_bytes());
        file[56..58].copy_from_slice(&1_u16.to_le_bytes());
        let size = memory.len() as u64;
        for word in [1_u64, 120, address, 0, size, size, 4096] {
            file.extend(word.to_le_bytes());
        }
        file.extend(memory);
        file
    }

    #[test]
    fn the_list_tells_the_address() {
        let root = tempfile::tempdir().unwrap();
        let directory = root.path().join("sys/kernel/debug/kprobes");
        fs::create_dir_all(&directory).unwrap();
        let list = "ffffffffc0a1d3fe  k  nft_do_chain+0x3fe  [nf_tables] [OPTIMIZED]\n\
                    ffffffffc0a1d010  k  nft_do_chain_inet+0x10  [nf_tables]\n\
                    ffffffff81000000  r  vfs_read+0x0    [DISABLED]\n";
        fs::write(directory.join("list"), list).unwrap();
        let found = probes(&Host::new(root.path()));
        let expected = Probe {
            address: 0xffff_ffff_c0a1_d3fe,
            offset: 0x3fe,
            optimized: true,
            says: "[OPTIMIZED]".to_owned(),
        };
        assert_eq!(found, [expected]);
        assert_eq!(address(&found), Some(0xffff_ffff_c0a1_d000));
    }

    #[test]
    fn sites_are_compared_with_memory() {
        let plan = sample::plan("0484cf00".parse().unwrap());
        let probe = &plan.probes[0];
        let root = tempfile::tempdir().unwrap();
        let host = Host::new(root.path());
        let start = 0xffff_ffff_c000_0000_u64;
        assert!(matches!(compare(&host, probe, None, &[]), Site::Unreadable(_)));
        assert!(matches!(compare(&host, probe, Some(start), &[]), Site::Unreadable(_)));
        let (offset, length) = (probe.offset.0 as usize, probe.bytes.0.len());
        let mut memory = vec![0x90; plan.symbol_size as usize];
        memory[offset..offset + length].copy_from_slice(&probe.bytes.0);
        let file = root.path().join("proc/kcore");
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        let check = |memory: &[u8], listed: &[Probe]| {
            fs::write(&file, core(start, memory)).unwrap();
            compare(&host, probe, Some(start), listed)
        };
        assert_eq!(check(&memory, &[]), Site::Same);

        // With a breakpoint, even of a probe that is going to be a jump.
        let at = |offset: usize, optimized| {
            let offset = offset as u32;
            [Probe { address: start + u64::from(offset), offset, optimized, says: String::new() }]
        };
        let mut probed = memory.clone();
        probed[offset] = BREAKPOINT;
        assert_eq!(check(&probed, &at(offset, true)), Site::Same);
        assert!(matches!(check(&probed, &[]), Site::Other { .. }), "a breakpoint of nobody");
        probed[offset + length - 1] ^= 1;
        assert!(matches!(check(&probed, &at(offset, true)), Site::Other { .. }), "another one");

        // With a jump, which may begin before.
        for begin in [offset, offset - 2] {
            let mut probed = memory.clone();
            probed[begin..begin + 5].copy_from_slice(&[JUMP.0, 1, 2, 3, 4]);
            assert_eq!(check(&probed, &at(begin, true)), Site::Same);
            assert!(matches!(check(&probed, &at(begin, false)), Site::Other { .. }));
        }
        assert!(matches!(check(&memory[..16], &[]), Site::Unreadable(_)), "no such memory");
    }
}
