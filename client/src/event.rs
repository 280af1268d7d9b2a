//! A drop, as the BPF program saw it: what the ring buffer's records say.
//!
//! The record is `struct event` of `client/bpf/nfdrop.bpf.c`, in the machine's byte order, followed by
//! the packet's first bytes. Names come from kernel memory and are cut at 63 bytes; the ruleset
//! (`names`) has them whole.

use crate::packet::{self, Flow};
use nfdrop_db::Event;
use std::fmt;

/// One dropped packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Drop {
    /// Nanoseconds since 1970.
    pub time: u64,
    /// By a rule, or by a base chain's policy.
    pub event: Event,
    /// Of the table.
    pub family: Family,
    /// The table's name.
    pub table: String,
    /// The table's handle, which no other table of the namespace ever has; 0 where the plan does not
    /// tell where it is.
    pub table_handle: u64,
    /// The base chain through which the packet came. The rule may be in a chain it jumped to.
    pub base_chain: String,
    /// The rule's handle, unique in its table; `None` for a policy drop.
    pub handle: Option<u64>,
    /// The hook's number, of the protocol family [`Drop::protocol_family`].
    pub hook: Option<u8>,
    /// `NFPROTO_*` of the hook: as the table's, but for `inet`, whose hooks are the families' own.
    pub protocol_family: Family,
    /// Where the packet came in.
    pub iif: Option<Device>,
    /// Where it was to go out.
    pub oif: Option<Device>,
    /// The network namespace's inode number, as in `/proc/PID/ns/net`.
    pub netns: Option<u32>,
    /// `meta mark`.
    pub mark: Option<u32>,
    /// Bytes of the packet, from its network header.
    pub len: Option<u32>,
    /// Its first bytes.
    pub packet: Packet,
}

/// The rule or the policy that dropped: one packet, or those that are counted together.
#[derive(Debug, Clone, Copy)]
pub struct DroppedBy<'a> {
    /// By a rule, or by a policy.
    pub event: Event,
    /// The table's family and name, where they are known.
    pub table: Option<(&'a str, &'a str)>,
    /// The base chain that the packet went through.
    pub base_chain: &'a str,
    /// The chain with the rule, where it is known.
    pub chain: Option<&'a str>,
    /// The rule's handle.
    pub handle: Option<u64>,
}

/// A network device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Device {
    /// Its index in its namespace.
    pub index: u32,
    /// Its name.
    pub name: String,
}

/// The first bytes of a packet.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Packet {
    /// From the link layer's header where there is one, else from the network header.
    pub bytes: Vec<u8>,
    /// Where in them the network header begins: 0, or the length of the link layer's header.
    pub network: usize,
    /// `EtherType` of what the network header is.
    pub protocol: u16,
}

impl Packet {
    /// Addresses, ports and protocol, as far as the bytes tell.
    pub fn flow(&self) -> Flow {
        packet::flow(self.protocol, self.bytes.get(self.network..).unwrap_or_default())
    }
}

/// A protocol family, `NFPROTO_*` of `include/uapi/linux/netfilter.h`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Family(pub u8);

impl Family {
    /// Both IP versions.
    pub const INET: Self = Self(1);
    /// IP version 4.
    pub const IP: Self = Self(2);
    /// ARP.
    pub const ARP: Self = Self(3);
    /// One device.
    pub const NETDEV: Self = Self(5);
    /// Between the ports of a bridge.
    pub const BRIDGE: Self = Self(7);
    /// IP version 6.
    pub const IP6: Self = Self(10);

    /// The name that `nft` uses.
    pub fn name(self) -> &'static str {
        match self {
            Self::INET => "inet",
            Self::IP => "ip",
            Self::ARP => "arp",
            Self::NETDEV => "netdev",
            Self::BRIDGE => "bridge",
            Self::IP6 => "ip6",
            _ => "unknown",
        }
    }

    /// The family of that name in `nft`.
    pub fn from_name(name: &str) -> Option<Self> {
        let all = [Self::INET, Self::IP, Self::ARP, Self::NETDEV, Self::BRIDGE, Self::IP6];
        all.into_iter().find(|family| family.name() == name)
    }

    /// The name of this family's hook of that number; `None` where there is none.
    pub fn hook(self, number: u8) -> Option<&'static str> {
        let names: &[&str] = match self {
            Self::INET | Self::IP | Self::IP6 | Self::BRIDGE => {
                &["prerouting", "input", "forward", "output", "postrouting", "ingress"]
            }
            Self::ARP => &["input", "output", "forward"],
            Self::NETDEV => &["ingress", "egress"],
            _ => &[],
        };
        names.get(usize::from(number)).copied()
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}
