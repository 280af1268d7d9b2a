//! Two network namespaces, and what is in them besides rules. They have no name and are mounted nowhere: an
//! open file is all that keeps them, so that nothing of them is left however the process ends.

use super::netlink;
use crate::names::namespace;
use rustix::thread::UnshareFlags;
use std::{
    fs::File,
    io,
    net::Ipv4Addr,
    os::{fd::AsRawFd, unix::fs::MetadataExt},
    thread,
};

/// Addresses at the two ends of the veth pair: of the documentation, and used nowhere.
pub(super) const VETH: [Ipv4Addr; 2] = [Ipv4Addr::new(192, 0, 2, 1), Ipv4Addr::new(192, 0, 2, 2)];
/// Their devices.
pub(super) const VETH_NAMES: [&str; 2] = ["nfdrop0", "nfdrop1"];
/// Of the first end. Locally administered.
const LINK_ADDRESS: [u8; 6] = [2, 0, 0x5e, 0, 0, 1];

/// A network namespace of our own.
pub(super) struct Namespace {
    file: File,
    /// Its inode number.
    pub(super) inode: u32,
}

impl Namespace {
    /// A new one, whose loopback device is up.
    pub(super) fn new() -> io::Result<Self> {
        // A thread is all that moves there, and it ends.
        let file = thread::spawn(|| {
            #[expect(deprecated, reason = "unsafe with other flags only: those of files")]
            rustix::thread::unshare(UnshareFlags::NEWNET)?;
            File::open("/proc/thread-self/ns/net")
        });
        let file = file.join().unwrap_or_else(|_| Err(io::Error::other("a thread panicked")))?;
        let inode = file.metadata()?.ino() as u32;
        let space = Self { file, inode };
        space.inside(|| netlink::set_up("lo"))??;
        Ok(space)
    }

    /// Does it in this namespace. Sockets that are opened there stay there.
    pub(super) fn inside<T: Send>(&self, work: impl FnOnce() -> T + Send) -> io::Result<T> {
        namespace::inside(&self.file, work)
    }
}

/// A veth pair, an end in each.
pub(super) fn add_veth(first: &Namespace, second: &Namespace) -> io::Result<()> {
    let peer = (VETH_NAMES[1], second.file.as_raw_fd());
    first.inside(|| {
        netlink::add_veth(VETH_NAMES[0], LINK_ADDRESS, peer)?;
        netlink::add_address(VETH_NAMES[0], VETH[0])?;
        netlink::set_up(VETH_NAMES[0])
    })??;
    // The end that sends comes up last: it can send at once then, the other only when the kernel finds time.
    second.inside(|| {
        netlink::add_address(VETH_NAMES[1], VETH[1])?;
        netlink::set_up(VETH_NAMES[1])?;
        netlink::add_neighbour(VETH_NAMES[1], VETH[0], LINK_ADDRESS)
    })?
}
