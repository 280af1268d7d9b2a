//! A capture file (pcapng, draft-ietf-opsawg-pcapng) whose packets have the rule as comment.
//!
//! Own code: what is written are three kinds of blocks, each in one place, and the library for it is
//! between two major versions. All numbers are little-endian; the section header says so.
//!
//! Dropped packets come with the link layer's header or without, which a file tells by interface:
//! a device has an interface of each kind here. Packets without that header that are not IP get a
//! made-up one, since nothing else would tell what they are.

use super::{Named, line};
use crate::packet::ether_type;
use std::{
    collections::HashMap,
    io::{self, Write},
};

const SECTION_HEADER: u32 = 0x0a0d_0d0a;
const BYTE_ORDER_MAGIC: u32 = 0x1a2b_3c4d;
const INTERFACE_DESCRIPTION: u32 = 1;
const ENHANCED_PACKET: u32 = 6;

const OPT_END: u16 = 0;
const OPT_COMMENT: u16 = 1;
const SHB_USERAPPL: u16 = 4;
const IF_NAME: u16 = 2;
const IF_DESCRIPTION: u16 = 3;
const IF_TSRESOL: u16 = 9;
/// Of `if_tsresol`: times are in 10^-9 s.
const NANOSECONDS: u8 = 9;

/// Link types, as <https://www.tcpdump.org/linktypes.html> numbers them.
const ETHERNET: u16 = 1;
const RAW: u16 = 101;

/// Most interfaces; packets of further ones share the last.
const MAX_INTERFACES: usize = 4096;

/// A device, its namespace, a link type.
type Interface = (String, Option<u32>, u16);

/// Writes a capture file.
#[derive(Debug, Default)]
pub struct Pcapng {
    interfaces: HashMap<Interface, u32>,
}

impl Pcapng {
    /// The header.
    pub fn begin(to: &mut impl Write) -> io::Result<()> {
        let mut body = BYTE_ORDER_MAGIC.to_le_bytes().to_vec();
        body.extend([1, 0, 0, 0]); // version 1.0
        body.extend(u64::MAX.to_le_bytes()); // of any length
        let program = concat!(env!("CARGO_PKG_NAME"), " ", env!("CARGO_PKG_VERSION"));
        option(&mut body, SHB_USERAPPL, program.as_bytes());
        option(&mut body, OPT_END, &[]);
        block(to, SECTION_HEADER, &body)
    }

    /// One drop, and its interface if that is new.
    pub fn print(&mut self, named: &Named, to: &mut impl Write) -> io::Result<()> {
        let drop = named.drop;
        let packet = &drop.packet;
        let (link_type, made_up) = match (packet.network, packet.protocol) {
            (0, ether_type::IP | ether_type::IP6) => (RAW, vec![]),
            (0, protocol) => (ETHERNET, [&[0; 12][..], &protocol.to_be_bytes()].concat()),
            _ => (ETHERNET, vec![]),
        };
        let device = drop.iif.as_ref().or(drop.oif.as_ref());
        let device = device.map_or("unknown", |device| &device.name);
        let interface = self.interface((device.to_owned(), drop.netns, link_type), to)?;

        let captured = (made_up.len() + packet.bytes.len()) as u32;
        let link_len = (made_up.len() + packet.network) as u32;
        // A length that is not known, or is that of a fragment list's head, is no shorter than this.
        let original = drop.len.map_or(captured, |len| len.saturating_add(link_len)).max(captured);
        let mut body = vec![];
        let time = [(drop.time >> 32) as u32, drop.time as u32];
        for word in [interface, time[0], time[1], captured, original] {
            body.extend(word.to_le_bytes());
        }
        body.extend(made_up);
        body.extend(&packet.bytes);
        body.resize(body.len().next_multiple_of(4), 0);
        option(&mut body, OPT_COMMENT, comment(named).as_bytes());
        option(&mut body, OPT_END, &[]);
        block(to, ENHANCED_PACKET, &body)
    }

    fn interface(&mut self, interface: Interface, to: &mut impl Write) -> io::Result<u32> {
        if let Some(number) = self.interfaces.get(&interface) {
            return Ok(*number);
        }
        let number = self.interfaces.len();
        let (device, netns, link_type) = match (number < MAX_INTERFACES, &interface) {
            (true, _) => interface,
            // For these the file has one interface of each link type more.
            (false, (_, _, link_type)) => ("others".to_owned(), None, *link_type),
        };
        if let Some(number) = self.interfaces.get(&(device.clone(), netns, link_type)) {
            return Ok(*number);
        }
        let mut body = [link_type.to_le_bytes(), [0; 2]].concat();
        body.extend([0; 4]); // packets of any length
        option(&mut body, IF_NAME, line(&device).as_bytes());
        if let Some(netns) = netns {
            option(&mut body, IF_DESCRIPTION, format!("netns {netns}").as_bytes());
        }
        option(&mut body, IF_TSRESOL, &[NANOSECONDS]);
        option(&mut body, OPT_END, &[]);
        block(to, INTERFACE_DESCRIPTION, &body)?;
        self.interfaces.insert((device, netns, link_type), number as u32);
        Ok(number as u32)
    }
}

/// `drop: ip t4 in4 handle 7: udp dport 1001 drop`
fn comment(named: &Named) -> String {
    let handle = named.drop.handle.map(|handle| format!(" handle {handle}")).unwrap_or_default();
    let text = Some(named.text()).filter(|text| !text.is_empty());
    let text = text.map(|text| format!(": {text}")).unwrap_or_default();
    format!("{}: {}{handle}{text}", named.verdict().name(), named.place())
}

/// Code, length, and the value padded to four bytes. No value here is nearly as long as 64 KiB.
fn option(body: &mut Vec<u8>, code: u16, value: &[u8]) {
    let value = &value[..value.len().min(usize::from(u16::MAX))];
    body.extend(code.to_le_bytes());
    body.extend((value.len() as u16).to_le_bytes());
    body.extend(value);
    body.resize(body.len().next_multiple_of(4), 0);
}

/// Type and length, the body, and the length again.
fn block(to: &mut impl Write, kind: u32, body: &[u8]) -> io::Result<()> {
    let len = (body.len() as u32 + 12).to_le_bytes();
    to.write_all(&[&kind.to_le_bytes()[..], &len, body, &len].concat())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{event::Device, output::samples};
    use std::process::{Command, Stdio};

    fn file() -> Vec<u8> {
        let (mut pcapng, mut out) = (Pcapng::default(), vec![]);
        Pcapng::begin(&mut out).unwrap();
        for (drop, rule) in &samples::all() {
            pcapng.print(&Named::new(drop, rule.as_ref()), &mut out).unwrap();
        }
        out
    }

    fn word(bytes: &[u8], at: usize) -> u32 {
        u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap())
    }

    /// Kinds and bodies of the blocks, whose both lengths agree.
    fn blocks(mut bytes: &[u8]) -> Vec<(u32, &[u8])> {
        let mut blocks = vec![];
        while !bytes.is_empty() {
            let len = word(bytes, 4) as usize;
            assert!(len.is_multiple_of(4) && word(bytes, len - 4) as usize == len);
            blocks.push((word(bytes, 0), &bytes[8..len - 4]));
            bytes = &bytes[len..];
        }
        blocks
    }

    #[test]
    fn blocks_of_a_file() {
        let file = file();
        let dump: Vec<String> = blocks(&file)
            .into_iter()
            .map(|(kind, body)| {
                let printable = |byte: &u8| match byte {
                    b' '..=b'~' => char::from(*byte),
                    _ => '.',
                };
                // The program's version is in the header.
                let body = if kind == SECTION_HEADER { &body[..20] } else { body };
                let hex: Vec<_> = body.iter().map(|byte| format!("{byte:02x}")).collect();
                let text: String = body.iter().map(printable).collect();
                format!("{kind:08x} {}\n  {text}", hex.concat())
            })
            .collect();
        insta::assert_snapshot!(dump.join("\n"));
    }

    #[test]
    fn interfaces_are_bounded() {
        let (mut pcapng, mut out) = (Pcapng::default(), vec![]);
        let (mut drop, _) = samples::all().remove(0);
        for index in 0..2 * MAX_INTERFACES {
            drop.iif = Some(Device { index: 1, name: format!("veth{index}") });
            pcapng.print(&Named::new(&drop, None), &mut out).unwrap();
        }
        let described =
            blocks(&out).iter().filter(|(kind, _)| *kind == INTERFACE_DESCRIPTION).count();
        assert_eq!(described, MAX_INTERFACES + 1);
        let (_, last) = blocks(&out).pop().unwrap();
        assert_eq!(word(last, 0) as usize, MAX_INTERFACES);
    }

    /// What Wireshark reads from it, where its command-line program is at hand.
    #[test]
    fn wireshark_reads_it() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(&file, super::tests::file()).unwrap();
        let fields = "frame.time_epoch frame.interface_name frame.cap_len frame.len ip.src ipv6.src \
                      udp.dstport arp.dst.proto_ipv4 frame.comment";
        let mut tshark = Command::new("tshark");
        tshark.args(["-n", "-T", "fields", "-E", "separator=|", "-r"]).arg(file.path());
        tshark.args(fields.split_whitespace().flat_map(|field| ["-e", field]));
        let Ok(output) = tshark.stderr(Stdio::piped()).output() else { return };
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        insta::assert_snapshot!(String::from_utf8(output.stdout).unwrap());
    }
}
