//! Records of events: `struct event` of `client/bpf/nfdrop.bpf.c`, in the machine's byte
//! order.

use crate::event::{Device, Drop, Family, Packet};
use nfdrop_db::plan::Event;

const NAME: usize = 64;
const DEVICE_NAME: usize = 16;
/// Bits of `has`.
const HOOK: u16 = 1;
const NETNS: u16 = 1 << 1;
const MARK: u16 = 1 << 2;
const LEN: u16 = 1 << 3;
const IIF: u16 = 1 << 4;
const OIF: u16 = 1 << 5;

/// The record's bytes, read from the front.
struct Record<'a>(&'a [u8]);

impl<'a> Record<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }
}

/// Up to the first NUL; of a name that was cut, with `…` behind it: whoever reads it should see that
/// it is. Only names of tables and chains can be longer than their place.
pub(super) fn name(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    let name = &bytes[..end];
    // What is lossy takes far longer, and hardly any name needs it.
    let mut name = str::from_utf8(name)
        .map_or_else(|_| String::from_utf8_lossy(name).into_owned(), str::to_owned);
    if bytes.len() == NAME && end + 1 >= NAME {
        name.push('…');
    }
    name
}

/// The drop that a record tells of. `epoch`: nanoseconds from 1970 to the zero of `CLOCK_MONOTONIC`.
/// `None`: no record of this program's.
pub fn decode(bytes: &[u8], epoch: u64) -> Option<Drop> {
    let mut record = Record(bytes);
    let time = u64::from_ne_bytes(record.array()?);
    let handle = u64::from_ne_bytes(record.array()?);
    let table_handle = u64::from_ne_bytes(record.array()?);
    let netns = u32::from_ne_bytes(record.array()?);
    let mark = u32::from_ne_bytes(record.array()?);
    let len = u32::from_ne_bytes(record.array()?);
    let iif = u32::from_ne_bytes(record.array()?);
    let oif = u32::from_ne_bytes(record.array()?);
    let captured = u16::from_ne_bytes(record.array()?);
    let network = u16::from_ne_bytes(record.array()?);
    let protocol = u16::from_be_bytes(record.array()?);
    let [event, family, protocol_family, hook] = record.array()?;
    let has = u16::from_ne_bytes(record.array()?);
    let iif_name = name(record.take(DEVICE_NAME)?);
    let oif_name = name(record.take(DEVICE_NAME)?);
    let table = name(record.take(NAME)?);
    let base_chain = name(record.take(NAME)?);
    let event = match event {
        0 => Event::RuleDrop,
        1 => Event::PolicyDrop,
        _ => return None,
    };
    let packet = record.take(captured.into())?.to_vec();
    let has = |bit| has & bit != 0;
    Some(Drop {
        time: epoch.wrapping_add(time),
        event,
        family: Family(family),
        table,
        table_handle,
        base_chain,
        handle: (event == Event::RuleDrop).then_some(handle),
        hook: has(HOOK).then_some(hook),
        protocol_family: Family(protocol_family),
        iif: has(IIF).then_some(Device { index: iif, name: iif_name }),
        oif: has(OIF).then_some(Device { index: oif, name: oif_name }),
        netns: has(NETNS).then_some(netns),
        mark: has(MARK).then_some(mark),
        len: has(LEN).then_some(len),
        packet: Packet { network: usize::from(network).min(packet.len()), bytes: packet, protocol },
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A rule's drop in table `t`, base chain `in`, with four bytes of packet.
    fn record() -> Vec<u8> {
        let mut bytes = vec![];
        for word in [1_000_u64, 7, 3] {
            bytes.extend(word.to_ne_bytes());
        }
        for word in [4_026_531_840_u32, 0x10, 60, 2, 0] {
            bytes.extend(word.to_ne_bytes());
        }
        bytes.extend(4_u16.to_ne_bytes());
        bytes.extend(0_u16.to_ne_bytes());
        bytes.extend([0x08, 0x00]);
        bytes.extend([0, 2, 2, 1]);
        bytes.extend((HOOK | NETNS | MARK | LEN | IIF).to_ne_bytes());
        for (name, size) in [("eth0", 16), ("", 16), ("t", 64), ("in", 64)] {
            let end = bytes.len() + size;
            bytes.extend(name.as_bytes());
            bytes.resize(end, 0);
        }
        bytes.extend([0x45, 0, 0, 60, 0xff, 0xff]);
        bytes
    }

    #[test]
    fn a_record_is_a_drop() {
        let drop = decode(&record(), 500).unwrap();
        assert_eq!((drop.time, drop.event, drop.handle), (1500, Event::RuleDrop, Some(7)));
        assert_eq!(
            (drop.table.as_str(), drop.table_handle, drop.base_chain.as_str()),
            ("t", 3, "in")
        );
        assert_eq!(drop.iif, Some(Device { index: 2, name: "eth0".to_owned() }));
        assert_eq!((drop.oif, drop.len, drop.mark), (None, Some(60), Some(0x10)));
        assert_eq!(
            drop.packet,
            Packet { bytes: vec![0x45, 0, 0, 60], network: 0, protocol: 0x800 }
        );
    }

    #[test]
    fn a_cut_name_shows_it() {
        let mut bytes = record();
        let table = bytes.len() - 6 - 128;
        bytes[table..table + 63].fill(b'x');
        assert_eq!(decode(&bytes, 0).unwrap().table, "x".repeat(63) + "…");
    }

    proptest! {
        #[test]
        fn no_record_panics(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            let _ = decode(&bytes, 0);
        }

        #[test]
        fn a_short_record_is_none(cut in 1_usize..200) {
            let bytes = record();
            prop_assert!(cut <= 2 || decode(&bytes[..bytes.len() - cut], 0).is_none());
        }
    }
}
