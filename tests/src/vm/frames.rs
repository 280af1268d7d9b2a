//! Ethernet frames with right checksums.

use etherparse::{
    ArpHardwareId, ArpOperation, ArpPacket, EtherType, Ethernet2Header, IpFragOffset, IpHeaders,
    IpNumber, Ipv4Extensions, Ipv4Header, PacketBuilder, PacketBuilderStep, VlanId,
};
use std::net::{Ipv4Addr, Ipv6Addr};

/// A frame, from its destination's address.
pub type Frame = Vec<u8>;

/// Who sends, and to whom.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Link {
    /// The last byte of the destination's hardware address, which begins with 02:00:00:00:00.
    pub to: u8,
    /// The 802.1Q tag.
    pub vlan: Option<u16>,
}

/// Payload of all packets.
const PAYLOAD: [u8; 32] = *b"nfdrop: what became of this one?";
const SOURCE_PORT: u16 = 40_000;
const TTL: u8 = 64;

const fn mac(last: u8) -> [u8; 6] {
    [2, 0, 0, 0, 0, last]
}

/// What stands in front of an IP header.
fn link(link: Link) -> PacketBuilderStep<Ethernet2Header> {
    PacketBuilder::ethernet2(mac(0xff), mac(link.to))
}

fn written(result: &Result<(), impl std::fmt::Debug>, frame: Frame) -> Frame {
    // Writing to memory fails only for payloads that are too long.
    assert!(result.is_ok(), "{result:?}");
    frame
}

/// An IPv4 or IPv6 packet of a transport.
macro_rules! over_ip {
    ($link:expr, $ip:expr, |$step:ident| $transport:expr) => {{
        let (mut frame, link_) = (Frame::new(), $link);
        let result = match ($ip, link_.vlan.and_then(|id| VlanId::try_new(id).ok())) {
            (Ip::V4(from, to), None) => {
                let $step = link(link_).ipv4(from.octets(), to.octets(), TTL);
                $transport.write(&mut frame, &PAYLOAD)
            }
            (Ip::V4(from, to), Some(id)) => {
                let $step = link(link_).single_vlan(id).ipv4(from.octets(), to.octets(), TTL);
                $transport.write(&mut frame, &PAYLOAD)
            }
            (Ip::V6(from, to), None) => {
                let $step = link(link_).ipv6(from.octets(), to.octets(), TTL);
                $transport.write(&mut frame, &PAYLOAD)
            }
            (Ip::V6(from, to), Some(id)) => {
                let $step = link(link_).single_vlan(id).ipv6(from.octets(), to.octets(), TTL);
                $transport.write(&mut frame, &PAYLOAD)
            }
        };
        written(&result, frame)
    }};
}

/// Source and destination.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ip {
    /// Version 4.
    V4(Ipv4Addr, Ipv4Addr),
    /// Version 6.
    V6(Ipv6Addr, Ipv6Addr),
}

/// A UDP packet to a port.
pub fn udp(link_: Link, ip: Ip, port: u16) -> Frame {
    over_ip!(link_, ip, |step| step.udp(SOURCE_PORT, port))
}

/// The first packet of a TCP connection to a port.
pub fn tcp_syn(link_: Link, ip: Ip, port: u16) -> Frame {
    over_ip!(link_, ip, |step| step.tcp(SOURCE_PORT, port, 1, 64_000).syn())
}

/// An echo request.
pub fn ping(link_: Link, ip: Ip) -> Frame {
    match ip {
        Ip::V4(..) => over_ip!(link_, ip, |step| step.icmpv4_echo_request(1, 1)),
        Ip::V6(..) => over_ip!(link_, ip, |step| step.icmpv6_echo_request(1, 1)),
    }
}

/// The answer to an echo request that nobody sent, which a kernel takes without a word.
pub fn pong(link_: Link, ip: Ip) -> Frame {
    match ip {
        Ip::V4(..) => over_ip!(link_, ip, |step| step.icmpv4_echo_reply(1, 1)),
        Ip::V6(..) => over_ip!(link_, ip, |step| step.icmpv6_echo_reply(1, 1)),
    }
}

/// A UDP packet in fragments of at most `size` bytes each, a multiple of 8.
pub fn udp_fragments(
    link_: Link,
    (from, to): (Ipv4Addr, Ipv4Addr),
    port: u16,
    id: u16,
    size: u16,
    fragments: u16,
) -> Vec<Frame> {
    const ETHERNET: usize = 14;
    const IP: usize = 20;
    let payload = vec![0x6e; usize::from(size * fragments) - 8];
    let mut whole = Frame::new();
    let builder = link(link_).ipv4(from.octets(), to.octets(), TTL).udp(SOURCE_PORT, port);
    let result = builder.write(&mut whole, &payload);
    let whole = written(&result, whole);
    let pieces = whole[ETHERNET + IP..].chunks(usize::from(size));
    let fragment = |(index, piece): (usize, &[u8])| {
        let mut header = Ipv4Header {
            identification: id,
            dont_fragment: false,
            more_fragments: index + 1 < usize::from(fragments),
            time_to_live: TTL,
            protocol: IpNumber::UDP,
            source: from.octets(),
            destination: to.octets(),
            ..Ipv4Header::default()
        };
        let offset = u16::try_from(index * usize::from(size) / 8);
        header.fragment_offset =
            offset.ok().and_then(|o| IpFragOffset::try_new(o).ok()).unwrap_or_default();
        let mut frame = Frame::new();
        let builder = link(link_).ip(IpHeaders::Ipv4(header, Ipv4Extensions::default()));
        let result = builder.write(&mut frame, IpNumber::UDP, piece);
        written(&result, frame)
    };
    pieces.enumerate().map(fragment).collect()
}

/// Who has this address?
pub fn arp_request(link_: Link, from: Ipv4Addr, wanted: Ipv4Addr) -> Frame {
    let packet = ArpPacket::new(
        ArpHardwareId::ETHERNET,
        EtherType::IPV4,
        ArpOperation::REQUEST,
        &mac(0xff),
        &from.octets(),
        &[0; 6],
        &wanted.octets(),
    );
    let mut frame = Frame::new();
    let result = match packet {
        Ok(packet) => link(link_).arp(packet).write(&mut frame).map_err(|error| error.to_string()),
        Err(error) => Err(error.to_string()),
    };
    written(&result, frame)
}
