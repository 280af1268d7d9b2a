//! Addresses and ports out of a packet's first bytes.
//!
//! By hand, not with a packet library: two addresses and two ports are all that is wanted, of packets
//! that are cut somewhere, and the walk over IPv6's extension headers has to end where the kernel's
//! does (`ipv6_find_hdr()` of `net/ipv6/exthdrs_core.c`), or the protocol would not be the one that
//! the rule saw as `meta l4proto`.

use std::{
    borrow::Cow,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

/// `EtherType`s, `ETH_P_*` of `include/uapi/linux/if_ether.h`.
pub mod ether_type {
    /// IP version 4.
    pub const IP: u16 = 0x0800;
    /// ARP.
    pub const ARP: u16 = 0x0806;
    /// A VLAN tag (802.1Q): two bytes of tag, then the inner type.
    pub const VLAN: u16 = 0x8100;
    /// IP version 6.
    pub const IP6: u16 = 0x86dd;
    /// A provider's VLAN tag (802.1ad).
    pub const QINQ: u16 = 0x88a8;
}

/// Numbers of protocols over IP, `IPPROTO_*` and `NEXTHDR_*`.
mod proto {
    pub(super) const HOP: u8 = 0;
    pub(super) const TCP: u8 = 6;
    pub(super) const UDP: u8 = 17;
    pub(super) const DCCP: u8 = 33;
    pub(super) const ROUTING: u8 = 43;
    pub(super) const FRAGMENT: u8 = 44;
    pub(super) const AUTH: u8 = 51;
    pub(super) const DEST: u8 = 60;
    pub(super) const SCTP: u8 = 132;
    pub(super) const UDPLITE: u8 = 136;
}

/// Who sends to whom, as far as the bytes tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Flow {
    /// `EtherType` behind VLAN tags.
    pub ether_type: u16,
    /// Source address; of ARP, the sender's.
    pub src: Option<IpAddr>,
    /// Destination address; of ARP, the one looked for.
    pub dst: Option<IpAddr>,
    /// Source port; `None` in later fragments and in protocols without ports.
    pub sport: Option<u16>,
    /// Destination port.
    pub dport: Option<u16>,
    /// IP's protocol number, behind IPv6's extension headers.
    pub proto: Option<u8>,
}

impl Flow {
    /// What is transported: `tcp`, `udp`, …, `arp`, the number of a protocol without a name here;
    /// `None` where the bytes do not tell. Names are those of `nft describe ip protocol`, where it
    /// has one.
    pub fn protocol_name(&self) -> Option<Cow<'static, str>> {
        let Some(proto) = self.proto else {
            return (self.ether_type == ether_type::ARP).then_some(Cow::Borrowed("arp"));
        };
        let name = match proto {
            1 => "icmp",
            2 => "igmp",
            4 => "ipip",
            proto::TCP => "tcp",
            proto::UDP => "udp",
            proto::DCCP => "dccp",
            41 => "ipv6",
            47 => "gre",
            50 => "esp",
            proto::AUTH => "ah",
            58 => "ipv6-icmp",
            89 => "ospf",
            103 => "pim",
            108 => "comp",
            112 => "vrrp",
            proto::SCTP => "sctp",
            proto::UDPLITE => "udplite",
            number => return Some(Cow::Owned(number.to_string())),
        };
        Some(Cow::Borrowed(name))
    }
}

/// The flow of a packet whose network header is of this `EtherType` and begins with these bytes.
/// A VLAN tag that is still in the packet counts as network header.
pub fn flow(protocol: u16, bytes: &[u8]) -> Flow {
    let (mut protocol, mut bytes) = (protocol, bytes);
    while matches!(protocol, ether_type::VLAN | ether_type::QINQ) {
        let Some((&[_, _, high, low], inner)) = bytes.split_first_chunk() else { break };
        (protocol, bytes) = (u16::from_be_bytes([high, low]), inner);
    }
    let known = match protocol {
        ether_type::IP => ip(bytes),
        ether_type::IP6 => ip6(bytes),
        ether_type::ARP => arp(bytes),
        _ => None,
    };
    Flow { ether_type: protocol, ..known.unwrap_or_default() }
}

fn ip(bytes: &[u8]) -> Option<Flow> {
    let header: &[u8; 20] = bytes.first_chunk()?;
    let header_len = usize::from(header[0] & 0xf) * 4;
    if header[0] >> 4 != 4 || header_len < header.len() {
        return None;
    }
    let later_fragment = u16::from_be_bytes([header[6], header[7]]) & 0x1fff != 0;
    let total_len = usize::from(u16::from_be_bytes([header[2], header[3]]));
    let address = |at: usize| word(header, at).map(|four| Ipv4Addr::from(four).into());
    let flow =
        Flow { src: address(12), dst: address(16), proto: Some(header[9]), ..Flow::default() };
    if later_fragment {
        return Some(flow);
    }
    // Behind the packet there may be an Ethernet frame's padding. Packets of more than 64 KiB (GSO)
    // have a length of 0.
    let bytes = bytes.get(..total_len).filter(|_| total_len > 0).unwrap_or(bytes);
    Some(flow.with_ports(bytes.get(header_len..)))
}

fn ip6(bytes: &[u8]) -> Option<Flow> {
    let (header, mut rest): (&[u8; 40], _) = bytes.split_first_chunk()?;
    if header[0] >> 4 != 6 {
        return None;
    }
    let payload_len = usize::from(u16::from_be_bytes([header[4], header[5]]));
    rest = rest.get(..payload_len).filter(|_| payload_len > 0).unwrap_or(rest);
    let address = |at: usize| {
        let sixteen: [u8; 16] = header.get(at..at + 16)?.try_into().ok()?;
        Some(Ipv6Addr::from(sixteen).into())
    };
    let flow = Flow { src: address(8), dst: address(24), ..Flow::default() };
    let mut next = header[6];
    loop {
        let len = match next {
            proto::HOP | proto::ROUTING | proto::DEST => |words: u8| usize::from(words) * 8 + 8,
            proto::AUTH => |words: u8| usize::from(words) * 4 + 8,
            proto::FRAGMENT => |_| 8,
            _ => break,
        };
        // Cut inside an extension header: what is transported cannot be told.
        let Some(&[inner, words, high, low]) = rest.first_chunk() else { return Some(flow) };
        let fragment = next == proto::FRAGMENT;
        next = inner;
        if fragment && u16::from_be_bytes([high, low]) & !7 != 0 {
            return Some(Flow { proto: Some(next), ..flow });
        }
        // An empty rest of a cut packet ends the walk at the next header that wants bytes.
        rest = rest.get(len(words)..).unwrap_or_default();
    }
    Some(Flow { proto: Some(next), ..flow }.with_ports(Some(rest)))
}

/// `ar_sip` and `ar_tip` behind hardware addresses of any length (`struct arphdr`).
fn arp(bytes: &[u8]) -> Option<Flow> {
    let (header, addresses): (&[u8; 8], _) = bytes.split_first_chunk()?;
    let &[_, _, 0x08, 0x00, hardware_len, 4, ..] = header else { return None };
    let hardware_len = usize::from(hardware_len);
    let address = |at: usize| word(addresses, at).map(|four| Ipv4Addr::from(four).into());
    let src = address(hardware_len);
    Some(Flow { src, dst: address(2 * hardware_len + 4), ..Flow::default() })
}

fn word(bytes: &[u8], at: usize) -> Option<[u8; 4]> {
    bytes.get(at..at + 4)?.try_into().ok()
}

impl Flow {
    /// All protocols with ports begin with them.
    fn with_ports(self, transport: Option<&[u8]>) -> Self {
        use proto::{DCCP, SCTP, TCP, UDP, UDPLITE};
        let start = transport.and_then(|bytes| word(bytes, 0));
        match (self.proto, start) {
            (Some(TCP | UDP | DCCP | SCTP | UDPLITE), Some([a, b, c, d])) => Self {
                sport: Some(u16::from_be_bytes([a, b])),
                dport: Some(u16::from_be_bytes([c, d])),
                ..self
            },
            _ => self,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use etherparse::{
        ArpHardwareId, ArpOperation, ArpPacket, EtherType, IpFragOffset, IpNumber, Ipv4Header,
        PacketBuilder,
    };
    use proptest::prelude::*;

    const SRC: [u8; 4] = [10, 0, 0, 2];
    const DST: [u8; 4] = [10, 0, 0, 1];

    fn said(flow: &Flow) -> String {
        let address = |address: Option<IpAddr>| address.map_or("-".into(), |a| a.to_string());
        let port = |port: Option<u16>| port.map_or("-".into(), |port| port.to_string());
        let name = flow.protocol_name().unwrap_or_else(|| "-".into());
        let (src, dst) = (address(flow.src), address(flow.dst));
        format!("{name} {src} {} > {dst} {}", port(flow.sport), port(flow.dport))
    }

    fn told(protocol: u16, bytes: &[u8]) -> String {
        said(&flow(protocol, bytes))
    }

    fn ip_header(proto: IpNumber, payload: usize) -> Ipv4Header {
        Ipv4Header::new(payload as u16, 64, proto, SRC, DST).unwrap()
    }

    fn ipv4(header: &Ipv4Header, payload: &[u8]) -> Vec<u8> {
        let mut bytes = vec![];
        header.write(&mut bytes).unwrap();
        bytes.extend(payload);
        bytes
    }

    /// Behind extension headers: of each its number and its bytes, but for the next header's number.
    /// By hand: etherparse 0.19 has the flag and the offset of fragment headers at other bits than
    /// RFC 8200.
    fn ipv6(extensions: &[(u8, &[u8])], last: u8, payload: &[u8]) -> Vec<u8> {
        let numbers = extensions.iter().map(|(number, _)| *number).chain([last]);
        let mut next = numbers.collect::<Vec<_>>().into_iter();
        let mut bytes = vec![0x60, 0, 0, 0, 0, 0, next.next().unwrap(), 64];
        for last in [2, 1] {
            bytes.extend([&[0xfd][..], &[0; 14], &[last]].concat());
        }
        for (_, body) in extensions {
            bytes.push(next.next().unwrap());
            bytes.extend(*body);
        }
        bytes.extend(payload);
        let len = (bytes.len() - 40) as u16;
        bytes[4..6].copy_from_slice(&len.to_be_bytes());
        bytes
    }

    /// Hop by hop, destination, routing, fragment, authentication header.
    const EXTENSIONS: [(u8, &[u8]); 5] = [
        (0, &[1, 1, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
        (60, &[0, 1, 4, 0, 0, 0, 0]),
        (43, &[0, 0, 0, 0, 0, 0, 0]),
        (44, &[0, 0, 1, 0, 0, 0, 7]),
        (51, &[4, 0, 0, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
    ];

    const PORTS: [u8; 8] = [0x9c, 0x40, 0x03, 0xea, 0, 8, 0, 0];

    #[test]
    fn protocols_with_ports_and_without() {
        let named = [6, 17, 33, 132, 136, 1, 47, 200]
            .map(|proto| told(0x0800, &ipv4(&ip_header(IpNumber(proto), 8), &PORTS)));
        assert_eq!(
            named,
            [
                "tcp 10.0.0.2 40000 > 10.0.0.1 1002",
                "udp 10.0.0.2 40000 > 10.0.0.1 1002",
                "dccp 10.0.0.2 40000 > 10.0.0.1 1002",
                "sctp 10.0.0.2 40000 > 10.0.0.1 1002",
                "udplite 10.0.0.2 40000 > 10.0.0.1 1002",
                "icmp 10.0.0.2 - > 10.0.0.1 -",
                "gre 10.0.0.2 - > 10.0.0.1 -",
                "200 10.0.0.2 - > 10.0.0.1 -",
            ]
        );
    }

    #[test]
    fn options_shift_the_ports() {
        let mut header = ip_header(IpNumber::UDP, 8);
        header.options = [1; 8].into();
        header.total_len += 8;
        assert_eq!(told(0x0800, &ipv4(&header, &PORTS)), "udp 10.0.0.2 40000 > 10.0.0.1 1002");
    }

    #[test]
    fn only_the_first_fragment_has_ports() {
        let mut header = ip_header(IpNumber::UDP, 8);
        header.more_fragments = true;
        assert_eq!(told(0x0800, &ipv4(&header, &PORTS)), "udp 10.0.0.2 40000 > 10.0.0.1 1002");
        header.fragment_offset = IpFragOffset::try_new(1).unwrap();
        assert_eq!(told(0x0800, &ipv4(&header, &PORTS)), "udp 10.0.0.2 - > 10.0.0.1 -");
    }

    #[test]
    fn padding_is_no_port_and_lengths_may_lie() {
        let padded = ipv4(&ip_header(IpNumber::UDP, 2), &PORTS);
        assert_eq!(told(0x0800, &padded), "udp 10.0.0.2 - > 10.0.0.1 -");
        for total_len in [0, 9000] {
            let mut header = ip_header(IpNumber::UDP, 8);
            header.total_len = total_len;
            let bytes = ipv4(&header, &PORTS);
            assert_eq!(told(0x0800, &bytes), "udp 10.0.0.2 40000 > 10.0.0.1 1002");
        }
    }

    #[test]
    fn the_versions_of_both_headers_have_to_agree() {
        let bytes = ipv4(&ip_header(IpNumber::UDP, 8), &PORTS);
        assert_eq!(told(0x86dd, &bytes), "- - - > - -");
        let bytes = ipv6(&[], 17, &PORTS);
        assert_eq!(told(0x0800, &bytes), "- - - > - -");
    }

    #[test]
    fn ipv6_behind_extension_headers() {
        for count in 0..=EXTENSIONS.len() {
            let bytes = ipv6(&EXTENSIONS[..count], 6, &PORTS);
            assert_eq!(told(0x86dd, &bytes), "tcp fd00::2 40000 > fd00::1 1002", "{count}");
        }
    }

    #[test]
    fn later_fragments_end_the_walk() {
        let later: (u8, &[u8]) = (44, &[0, 0, 8, 0, 0, 0, 7]);
        assert_eq!(told(0x86dd, &ipv6(&[later], 17, &PORTS)), "udp fd00::2 - > fd00::1 -");
        // The payload would lead on to TCP if it were read as destination options.
        let payload = [&[6, 0, 0, 0, 0, 0, 0, 0][..], &PORTS].concat();
        assert_eq!(told(0x86dd, &ipv6(&[later], 60, &payload)), "60 fd00::2 - > fd00::1 -");
    }

    #[test]
    fn cut_between_extension_headers() {
        let whole = ipv6(&EXTENSIONS, 6, &PORTS);
        assert_eq!(told(0x86dd, &whole[..40 + 16 + 2]), "- fd00::2 - > fd00::1 -");
        assert_eq!(told(0x86dd, &whole[..whole.len() - 5]), "tcp fd00::2 - > fd00::1 -");
    }

    #[test]
    fn vlan_tags_are_looked_through() {
        let inner = ipv4(&ip_header(IpNumber::UDP, 8), &PORTS);
        let tagged = [&[0, 7, 0x81, 0, 0, 8, 0x08, 0][..], &inner].concat();
        let found = flow(0x88a8, &tagged);
        assert_eq!(said(&found), "udp 10.0.0.2 40000 > 10.0.0.1 1002");
        assert_eq!(found.ether_type, 0x0800);
        // As an Ethernet header announces them.
        let mut frame = vec![];
        let builder = PacketBuilder::ethernet2([2; 6], [4; 6])
            .single_vlan(etherparse::VlanId::try_new(7).unwrap())
            .ipv4(SRC, DST, 64)
            .udp(40000, 1002);
        builder.write(&mut frame, &[]).unwrap();
        let protocol = u16::from_be_bytes([frame[12], frame[13]]);
        assert_eq!(told(protocol, &frame[14..]), "udp 10.0.0.2 40000 > 10.0.0.1 1002");
    }

    #[test]
    fn arp_names_sender_and_target() {
        let packet = |hardware: &[u8]| {
            let (hardware_id, operation) = (ArpHardwareId::ETHERNET, ArpOperation::REQUEST);
            let ip = EtherType::IPV4;
            ArpPacket::new(hardware_id, ip, operation, hardware, &SRC, hardware, &DST).unwrap()
        };
        for hardware in [&[2; 6][..], &[], &[2; 255]] {
            let bytes = packet(hardware).to_bytes();
            assert_eq!(told(0x0806, &bytes), "arp 10.0.0.2 - > 10.0.0.1 -");
            assert_eq!(told(0x0806, &bytes[..bytes.len() - 1]), "arp 10.0.0.2 - > - -");
        }
        let mut chaosnet = packet(&[2; 6]).to_bytes();
        chaosnet[3] = 4;
        assert_eq!(told(0x0806, &chaosnet), "arp - - > - -");
    }

    #[test]
    fn other_ether_types_say_nothing() {
        assert_eq!(told(0x88cc, &[0; 64]), "- - - > - -");
        assert_eq!(flow(0x88cc, &[]).ether_type, 0x88cc);
    }

    proptest! {
        #[test]
        fn any_bytes(protocol in prop::sample::select(vec![0x0800, 0x0806, 0x8100, 0x86dd, 0x88a8]),
                     bytes in prop::collection::vec(any::<u8>(), 0..128)) {
            flow(protocol, &bytes);
        }

        /// A cut packet tells less, never something else.
        #[test]
        fn cut_packets_tell_no_lies(sport: u16, dport: u16, v6: bool,
                                    extensions in 0..=EXTENSIONS.len(), cut in 0usize..200) {
            let udp = [sport.to_be_bytes(), dport.to_be_bytes(), [0, 8], [0, 0]].concat();
            let (protocol, bytes) = if v6 {
                (0x86dd, ipv6(&EXTENSIONS[..extensions], 17, &udp))
            } else {
                (0x0800, ipv4(&ip_header(IpNumber::UDP, udp.len()), &udp))
            };
            let whole = flow(protocol, &bytes);
            prop_assert_eq!((whole.sport, whole.dport), (Some(sport), Some(dport)));
            let part = flow(protocol, bytes.get(..cut).unwrap_or(&bytes));
            prop_assert!(part.src.is_none() || part.src == whole.src);
            prop_assert!(part.dst.is_none() || part.dst == whole.dst);
            prop_assert!(part.sport.is_none() || part.sport == whole.sport);
            prop_assert!(part.dport.is_none() || part.dport == whole.dport);
            prop_assert!(part.proto.is_none() || part.proto == whole.proto);
        }
    }
}
