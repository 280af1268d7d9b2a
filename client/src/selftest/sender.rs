//! Sockets of the scenario. A socket stays in the namespace in which it was opened, whoever sends with it.

use super::{
    network::Namespace,
    scenario::{Fate, Flow, Scenario},
};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use std::{
    io,
    net::{SocketAddr, UdpSocket},
    sync::Barrier,
    thread,
    time::Duration,
};

/// All sockets, by namespace and address.
pub(super) struct Sockets(Vec<(usize, SocketAddr, UdpSocket)>);

impl Sockets {
    /// Those that send, and those where what is accepted arrives.
    pub(super) fn open(scenario: &Scenario, spaces: &[Namespace; 2]) -> Result<Self, String> {
        let mut sockets = vec![];
        for (number, space) in spaces.iter().enumerate() {
            let senders = scenario.flows.iter().filter(|flow| flow.space == number);
            let mut addresses: Vec<_> = senders.map(|flow| flow.from).collect();
            let arrives = |flow: &&Flow| {
                flow.fate == Fate::Accepted && scenario.tables[flow.table].space == number
            };
            addresses.extend(scenario.flows.iter().filter(arrives).map(|flow| flow.to));
            addresses.sort();
            addresses.dedup();
            let open = || addresses.iter().map(UdpSocket::bind).collect::<io::Result<Vec<_>>>();
            let opened = space.inside(open).and_then(|opened| opened);
            let opened = opened.map_err(|error| format!("opening sockets: {error}"))?;
            let opened = addresses.iter().copied().zip(opened);
            sockets.extend(opened.map(|(address, socket)| (number, address, socket)));
        }
        Ok(Self(sockets))
    }

    fn get(&self, space: usize, address: SocketAddr) -> Result<&UdpSocket, String> {
        let mut sockets = self.0.iter();
        let socket = sockets.find(|socket| (socket.0, socket.1) == (space, address));
        socket.map(|(.., socket)| socket).ok_or_else(|| format!("no socket has {address}"))
    }

    /// Sends every flow once: those of two processors at the same time, the others one after the other.
    pub(super) fn send(&self, scenario: &Scenario) -> Result<(), String> {
        for flow in scenario.flows.iter().filter(|flow| flow.processor.is_none()) {
            self.send_flow(flow)?;
        }
        let pinned: Vec<_> = scenario.flows.iter().filter(|f| f.processor.is_some()).collect();
        let cpus = sched_getaffinity(None).map_err(|error| format!("processors: {error}"))?;
        let cpus = (0..CpuSet::MAX_CPU).filter(|cpu| cpus.is_set(*cpu));
        let together = Barrier::new(pinned.len());
        thread::scope(|scope| {
            let start = |(flow, cpu)| {
                let together = &together;
                scope.spawn(move || {
                    let mut only = CpuSet::new();
                    only.set(cpu);
                    let moved = sched_setaffinity(None, &only);
                    together.wait();
                    moved.map_err(|error| format!("moving to processor {cpu}: {error}"))?;
                    self.send_flow(flow)
                })
            };
            let senders: Vec<_> = pinned.into_iter().zip(cpus).map(start).collect();
            let joined = senders.into_iter().map(|sender| {
                sender.join().unwrap_or_else(|_| Err("a sender panicked".to_owned()))
            });
            joined.collect::<Result<(), _>>()
        })
    }

    fn send_flow(&self, flow: &Flow) -> Result<(), String> {
        let Flow { space, from, to, packets, .. } = flow;
        let socket = self.get(*space, *from)?;
        for _ in 0..*packets {
            let sent = socket.send_to(b"nfdrop", to);
            sent.map_err(|error| format!("sending from {from} to {to}: {error}"))?;
        }
        Ok(())
    }

    /// Takes what has to arrive.
    pub(super) fn receive(&self, scenario: &Scenario, patience: Duration) -> Result<(), String> {
        for flow in scenario.flows.iter().filter(|flow| flow.fate == Fate::Accepted) {
            let socket = self.get(scenario.tables[flow.table].space, flow.to)?;
            let waits = socket.set_read_timeout(Some(patience));
            waits.map_err(|error| format!("a socket's timeout: {error}"))?;
            for number in 0..flow.packets {
                socket.recv(&mut [0; 16]).map_err(|_| {
                    let of = flow.packets;
                    format!("{number} of {of} packets to {}, which rules accept, arrived", flow.to)
                })?;
            }
        }
        Ok(())
    }
}
