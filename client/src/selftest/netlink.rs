//! The few netlink messages that the scenario needs. By hand, because nothing else of the client speaks
//! netlink, and a library for it would be a twentieth of the static program.

use rustix::{
    io::Errno,
    net::{
        AddressFamily, Protocol, RecvFlags, SendFlags, SocketFlags, SocketType, connect, netdevice,
        netlink::{self, SocketAddrNetlink},
        recv, send, socket_with,
    },
};
use std::{io, net::Ipv4Addr, os::fd::OwnedFd};

/// Flags of messages (`include/uapi/linux/netlink.h`).
const REQUEST: u16 = 1;
const ACK: u16 = 4;
const CREATE: u16 = 0x400;
/// `NETLINK_ROUTE` is protocol 0.
const ROUTE: Option<Protocol> = None;
const HEADER: usize = 16;
/// `NLMSG_ERROR`: an answer, whose error may be 0.
const ANSWER: u16 = 2;

/// A message that is being written.
struct Message(Vec<u8>);

impl Message {
    /// `header`: of the message's own kind, behind netlink's.
    fn new(kind: u16, flags: u16, header: &[u8]) -> Self {
        let mut bytes = vec![0; HEADER];
        bytes[4..6].copy_from_slice(&kind.to_ne_bytes());
        bytes[6..8].copy_from_slice(&(REQUEST | flags).to_ne_bytes());
        bytes.extend(header);
        Self(bytes)
    }

    fn attribute(mut self, kind: u16, value: &[u8]) -> Self {
        self.0.extend((4 + value.len() as u16).to_ne_bytes());
        self.0.extend(kind.to_ne_bytes());
        self.0.extend(value);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
        self
    }

    /// An attribute that holds `header` and the attributes that `inner` adds.
    fn nest(mut self, kind: u16, header: &[u8], inner: impl FnOnce(Self) -> Self) -> Self {
        let start = self.0.len();
        self.0.extend([0; 2]);
        self.0.extend(kind.to_ne_bytes());
        self.0.extend(header);
        let mut message = inner(self);
        let length = (message.0.len() - start) as u16;
        message.0[start..start + 2].copy_from_slice(&length.to_ne_bytes());
        message
    }

    fn name(self, kind: u16, name: &str) -> Self {
        self.attribute(kind, &[name.as_bytes(), b"\0"].concat())
    }

    fn finish(mut self) -> Vec<u8> {
        let length = self.0.len() as u32;
        self.0[..4].copy_from_slice(&length.to_ne_bytes());
        self.0
    }
}

fn open(protocol: Option<Protocol>) -> io::Result<OwnedFd> {
    let (kind, flags) = (SocketType::RAW, SocketFlags::CLOEXEC);
    let socket = socket_with(AddressFamily::NETLINK, kind, flags, protocol)?;
    connect(&socket, &SocketAddrNetlink::new(0, 0))?;
    Ok(socket)
}

/// Sends one datagram; the first error that the kernel answers with is the error. It has answered when sending
/// returns.
fn request(protocol: Option<Protocol>, datagram: &[u8]) -> io::Result<()> {
    let socket = open(protocol)?;
    send(&socket, datagram, SendFlags::empty())?;
    let mut answer = [0; 8192];
    loop {
        let count = match recv(&socket, &mut answer, RecvFlags::DONTWAIT) {
            Ok((count, _)) => count,
            Err(Errno::AGAIN) => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        let mut rest = &answer[..count];
        while let Some(length) = rest.first_chunk().map(|word| u32::from_ne_bytes(*word) as usize) {
            let kind = rest.get(4..6).map(|kind| u16::from_ne_bytes([kind[0], kind[1]]));
            let code = rest.get(HEADER..).and_then(<[u8]>::first_chunk);
            if let (Some(ANSWER), Some(code)) = (kind, code)
                && let code @ 1.. = i32::from_ne_bytes(*code).wrapping_neg()
            {
                return Err(io::Error::from_raw_os_error(code));
            }
            rest = rest.get(length.next_multiple_of(4).max(HEADER)..).unwrap_or_default();
        }
    }
}

/// `RTM_*`, and attributes of devices and addresses (`include/uapi/linux/rtnetlink.h`, `if_link.h`, `veth.h`).
const NEW_LINK: u16 = 16;
const NEW_ADDRESS: u16 = 20;
const NEW_NEIGHBOUR: u16 = 28;
const LINK_ADDRESS: u16 = 1;
const LINK_NAME: u16 = 3;
const LINK_INFO: u16 = 18;
const INFO_KIND: u16 = 1;
const INFO_DATA: u16 = 2;
const VETH_PEER: u16 = 1;
const LINK_NAMESPACE_FD: u16 = 28;

/// `struct ifinfomsg`.
fn link(index: u32, up: bool) -> [u8; 16] {
    let mut header = [0; 16];
    header[4..8].copy_from_slice(&index.to_ne_bytes());
    for at in [8, 12] {
        header[at..at + 4].copy_from_slice(&u32::from(up).to_ne_bytes());
    }
    header
}

/// Of the device of this name in the calling thread's network namespace.
fn index(name: &str) -> io::Result<u32> {
    Ok(netdevice::name_to_index(open(ROUTE)?, name)?)
}

/// Brings a device of the calling thread's network namespace up.
pub(super) fn set_up(name: &str) -> io::Result<()> {
    let message = Message::new(NEW_LINK, ACK, &link(index(name)?, true));
    request(ROUTE, &message.finish())
}

/// Makes a veth device in the calling thread's network namespace, and its peer in the one of the file.
pub(super) fn add_veth(
    name: &str,
    address: [u8; 6],
    (peer, namespace): (&str, i32),
) -> io::Result<()> {
    let message = Message::new(NEW_LINK, ACK | CREATE, &link(0, false))
        .name(LINK_NAME, name)
        .attribute(LINK_ADDRESS, &address)
        .nest(LINK_INFO, &[], |info| {
            info.attribute(INFO_KIND, b"veth").nest(INFO_DATA, &[], |data| {
                data.nest(VETH_PEER, &link(0, false), |other| {
                    other
                        .name(LINK_NAME, peer)
                        .attribute(LINK_NAMESPACE_FD, &namespace.to_ne_bytes())
                })
            })
        });
    request(ROUTE, &message.finish())
}

/// Gives a device an address of a network of four.
pub(super) fn add_address(name: &str, address: Ipv4Addr) -> io::Result<()> {
    let mut header = [2, 30, 0, 0, 0, 0, 0, 0];
    header[4..].copy_from_slice(&index(name)?.to_ne_bytes());
    let message = Message::new(NEW_ADDRESS, ACK | CREATE, &header)
        .attribute(2, &address.octets())
        .attribute(1, &address.octets());
    request(ROUTE, &message.finish())
}

/// Tells a device where a neighbour is, so that the first packets do not wait for ARP.
pub(super) fn add_neighbour(
    name: &str,
    address: Ipv4Addr,
    link_address: [u8; 6],
) -> io::Result<()> {
    // `NUD_PERMANENT`
    let mut header = [2, 0, 0, 0, 0, 0, 0, 0, 0x80, 0, 0, 0];
    header[4..8].copy_from_slice(&index(name)?.to_ne_bytes());
    let message = Message::new(NEW_NEIGHBOUR, ACK | CREATE, &header)
        .attribute(1, &address.octets())
        .attribute(2, &link_address);
    request(ROUTE, &message.finish())
}

/// `NFNL_SUBSYS_NFTABLES`, and messages of it (`include/uapi/linux/netfilter/nf_tables.h`).
const NFTABLES: u16 = 10;
const NEW_TABLE: u16 = NFTABLES << 8;
const DELETE_TABLE: u16 = NFTABLES << 8 | 2;
const NEW_CHAIN: u16 = NFTABLES << 8 | 3;
const BEGIN: u16 = 0x10;
const END: u16 = 0x11;

/// `struct nfgenmsg`.
fn netfilter(kind: u16, flags: u16, family: u8) -> Message {
    Message::new(kind, flags, &[family, 0, 0, 0])
}

fn transaction(messages: impl IntoIterator<Item = Message>) -> io::Result<()> {
    let edge = |kind| Message::new(kind, 0, &[0, 0, 0, NFTABLES as u8]).finish();
    let mut datagram = edge(BEGIN);
    datagram.extend(messages.into_iter().flat_map(Message::finish));
    datagram.extend(edge(END));
    request(Some(netlink::NETFILTER), &datagram)
}

/// Makes a table with a base chain that counts what comes through it, which `nft` does not offer.
pub(super) fn add_counting_chain(family: u8, table: &str, hook: u32) -> io::Result<()> {
    const NESTED: u16 = 1 << 15;
    let (zero, priority) = (0_u64.to_be_bytes(), 100_i32.to_be_bytes());
    let chain = netfilter(NEW_CHAIN, ACK | CREATE, family)
        .name(1, table)
        .name(3, "counting")
        .nest(4 | NESTED, &[], |at| at.attribute(1, &hook.to_be_bytes()).attribute(2, &priority))
        .name(7, "filter")
        .nest(8 | NESTED, &[], |counters| counters.attribute(1, &zero).attribute(2, &zero));
    let table = netfilter(NEW_TABLE, ACK | CREATE, family).name(1, table);
    transaction([table, chain])
}

/// Deletes a table with all that is in it.
pub(super) fn delete_table(family: u8, table: &str) -> io::Result<()> {
    transaction([netfilter(DELETE_TABLE, ACK, family).name(1, table)])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_of_nested_attributes_hold_what_is_in_them() {
        let message = Message::new(NEW_LINK, ACK, &[]).name(LINK_NAME, "lo").nest(
            LINK_INFO,
            &[9, 9, 9, 9],
            |info| info.attribute(INFO_KIND, b"veth"),
        );
        let expected = [
            &[40, 0, 0, 0, 16, 0, 5, 0, 0, 0, 0, 0, 0, 0, 0, 0][..],
            &[7, 0, 3, 0, b'l', b'o', 0, 0],
            &[16, 0, 18, 0, 9, 9, 9, 9, 8, 0, 1, 0, b'v', b'e', b't', b'h'],
        ];
        assert_eq!(message.finish(), expected.concat());
    }

    #[test]
    fn the_kernel_answers_no_as_an_error() {
        // No device has this number, with whatever rights.
        let message = Message::new(NEW_LINK, ACK, &link(u32::MAX >> 1, true));
        assert!(request(ROUTE, &message.finish()).is_err());
    }
}
