//! Somebody who looks on while the resolver works, so that what it saw can be told without running the
//! function again.
//!
//! A spectator changes nothing: neither what is found nor how long it may be looked for, so that a
//! body has one outcome whether or not anybody looks on. So its work is not weighed, and has to be
//! little for every instruction.

use super::edges::Edges;
use super::infer::{Candidate, RunSet};
use super::layout::Abi;
use super::link::Linked;
use super::memory::Memory;
use super::pointers::Found;
use super::rules::Outcome;
use super::run::Observer;
use super::world::World;
use crate::arch::Cpu;

/// Looks on. All of it may be left out.
pub(super) trait Spectator {
    /// A layout is tried.
    fn begin(&mut self, first: &Linked, abi: &Abi) {
        let _ = (first, abi);
    }
    /// The first runs are done, which only tell how often packets that pass come by.
    fn walked(&mut self, first: &Linked) {
        let _ = first;
    }
    /// The runs on which the choice is made begin, maybe once more.
    fn restart(&mut self, first: &Linked) {
        let _ = first;
    }
    /// The next runs are on this ruleset.
    fn enter(&mut self) {}
    /// A run begins.
    fn begin_run(&mut self) {}
    /// An instruction is about to be run.
    fn visit(&mut self, at: At<'_>, instruction: usize, cpu: &Cpu, memory: &Memory, freed: bool) {
        let _ = (at, instruction, cpu, memory, freed);
    }
    /// A branch went this way.
    fn edge(&mut self, instruction: usize, taken: bool) {
        let _ = (instruction, taken);
    }
    /// The run ended, as it should.
    fn end_run(&mut self, outcome: Outcome) {
        let _ = outcome;
    }
    /// A choice was made of these.
    fn chosen(
        &mut self,
        candidates: Vec<Candidate>,
        found: Vec<Option<Found>>,
        drops: [RunSet; 2],
    ) {
        let _ = (candidates, found, drops);
    }
    /// It is proven.
    fn proven(&mut self, edges: &Edges) {
        let _ = edges;
    }
}

/// Where a run is.
#[derive(Debug, Clone, Copy)]
pub(super) struct At<'a> {
    pub(super) linked: &'a Linked,
    pub(super) world: &'a World,
}

/// Nobody looks on.
pub(super) struct Nobody;

impl Spectator for Nobody {}

/// An observer, and somebody who looks on.
pub(super) struct Seen<'a, O, S> {
    pub(super) observer: &'a mut O,
    pub(super) spectator: &'a mut S,
    pub(super) at: At<'a>,
}

impl<O: Observer, S: Spectator> Observer for Seen<'_, O, S> {
    fn visit(&mut self, instruction: usize, cpu: &Cpu, memory: &Memory, freed: bool) {
        self.spectator.visit(self.at, instruction, cpu, memory, freed);
        self.observer.visit(instruction, cpu, memory, freed);
    }

    fn weight(&self, instruction: usize) -> u64 {
        self.observer.weight(instruction)
    }

    fn edge(&mut self, instruction: usize, taken: bool) {
        self.spectator.edge(instruction, taken);
        self.observer.edge(instruction, taken);
    }
}
