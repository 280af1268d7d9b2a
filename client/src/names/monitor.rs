//! Tells whether a network namespace's ruleset may have changed.
//!
//! nf_tables tells the listeners of a netlink group about each change. What the messages say is of no
//! interest: one, or the news that some were lost, and what was listed before is old.

use rustix::{
    io::Errno,
    net::{
        AddressFamily, RecvFlags, SocketFlags, SocketType, bind,
        netlink::{NETFILTER, SocketAddrNetlink},
        recv, socket_with,
    },
};
use std::{io, os::fd::OwnedFd};

/// `NFNLGRP_NFTABLES` (7) of `include/uapi/linux/netfilter/nfnetlink.h`, as a mask for `bind`.
const NFTABLES_GROUP: u32 = 1 << (7 - 1);
/// Most messages read at once: where they come faster than they are read, the answer is clear.
const MAX_MESSAGES: usize = 10_000;

/// Listens in one namespace, and keeps it alive.
#[derive(Debug)]
pub struct Monitor(OwnedFd);

impl Monitor {
    /// Listens in the calling thread's network namespace. Needs `CAP_NET_ADMIN` there.
    pub fn open() -> io::Result<Self> {
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let family = AddressFamily::NETLINK;
        let socket = socket_with(family, SocketType::RAW, flags, Some(NETFILTER))?;
        bind(&socket, &SocketAddrNetlink::new(0, NFTABLES_GROUP))?;
        Ok(Self(socket))
    }

    /// Whether something changed since this was asked last, or since it was opened.
    pub fn changed(&mut self) -> bool {
        let mut changed = false;
        // Datagrams: of longer ones the rest is thrown away.
        let mut byte = [0; 1];
        for _ in 0..MAX_MESSAGES {
            match recv(&self.0, &mut byte, RecvFlags::empty()) {
                Ok(_) | Err(Errno::NOBUFS) => changed = true,
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return changed,
                // A socket that says nothing any more must not keep old names alive.
                Err(_) => return true,
            }
        }
        true
    }
}
