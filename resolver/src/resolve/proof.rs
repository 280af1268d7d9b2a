//! The proof: the chosen probes, read exactly as a client reads them, on rulesets that had no part
//! in the choice.

use super::link::Linked;
use super::memory::{Address, Memory};
use super::pointers::Truth;
use super::run::Observer;
use super::values::{holds, is_defined, is_testable, value};
use crate::arch::Cpu;
use crate::image::function::Place;
use nfdrop_db::{Event, FnOffset, Location, Probe};

/// A run that contradicts the probes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Contradiction {
    /// Not once, or in a run without such a drop.
    #[error("expected {expected} hits of the {event} probes in a run, found {found}")]
    Hits {
        /// Of which probes.
        event: Event,
        /// 0 or 1.
        expected: u32,
        /// So many.
        found: u32,
    },
    /// Another value than the pointer's.
    #[error("probe at {offset}: {what} is not at {location}")]
    Pointer {
        /// Which probe.
        offset: FnOffset,
        /// Rule, pkt or base chain.
        what: &'static str,
        /// Where it should be.
        location: Location,
    },
    /// Behind a call that frees the packet.
    #[error("probe at {0} is hit after the packet may have been freed")]
    Freed(FnOffset),
    /// At a visit, whether it is a hit or not, the plan uses what nobody has set there.
    #[error("probe at {offset}: {location} is left over from a callee or the caller")]
    LeftOver {
        /// Which probe.
        offset: FnOffset,
        /// What of it.
        location: Location,
    },
}

/// Checks probes, run by run.
#[derive(Debug)]
pub struct Proof<'a> {
    by_instruction: Vec<Vec<&'a Probe>>,
    expected: Option<Event>,
    truth: Option<Truth>,
    hits: [u32; 2],
    error: Option<Contradiction>,
}

impl<'a> Proof<'a> {
    /// Of these probes; instructions have the same numbers in all states of the static keys.
    pub fn new(probes: &'a [Probe], linked: &Linked) -> Self {
        let at = |place: &Place| {
            let here = |probe: &&Probe| place.part == 0 && probe.offset.0 == place.offset;
            probes.iter().filter(here).collect()
        };
        let by_instruction = linked.instructions.iter().map(|decoded| at(&decoded.place)).collect();
        Self { by_instruction, expected: None, truth: None, hits: [0; 2], error: None }
    }

    /// A run that should end with this drop, or none.
    pub fn begin_run(&mut self, expected: Option<Event>, truth: Truth) {
        (self.expected, self.truth, self.hits) = (expected, Some(truth), [0; 2]);
    }

    /// The run is over.
    pub fn end_run(&mut self) -> Result<(), Contradiction> {
        if let Some(error) = self.error.take() {
            return Err(error);
        }
        for (event, found) in [Event::RuleDrop, Event::PolicyDrop].into_iter().zip(self.hits) {
            let expected = u32::from(self.expected == Some(event));
            if found != expected {
                return Err(Contradiction::Hits { event, expected, found });
            }
        }
        Ok(())
    }
}

impl Observer for Proof<'_> {
    fn visit(&mut self, instruction: usize, cpu: &Cpu, memory: &Memory, freed: bool) {
        for probe in &self.by_instruction[instruction] {
            let tested = probe.when.iter().filter(|when| !is_testable(when, cpu, memory));
            let places = [probe.rule, Some(probe.pkt), Some(probe.base_chain)];
            let places = places.into_iter().flatten();
            let left_over = tested.map(|when| when.value);
            let left_over =
                left_over.chain(places.filter(|place| !is_defined(place, cpu, memory))).next();
            if let Some(location) = left_over {
                let offset = probe.offset;
                self.error.get_or_insert(Contradiction::LeftOver { offset, location });
            }
            if !probe.when.iter().all(|condition| holds(condition, cpu, memory)) {
                continue;
            }
            self.hits[probe.event as usize] += 1;
            let Some(truth) = self.truth else { continue };
            let rule = probe.rule.map(|location| ("rule", location, truth.rule));
            let pointers = [
                rule,
                Some(("pkt", probe.pkt, Some(truth.pkt))),
                Some(("base chain", probe.base_chain, Some(truth.base_chain))),
            ];
            if freed {
                self.error.get_or_insert(Contradiction::Freed(probe.offset));
            }
            for (what, location, wanted) in pointers.into_iter().flatten() {
                if value(&location, cpu, memory).map(Address) != wanted {
                    let offset = probe.offset;
                    self.error.get_or_insert(Contradiction::Pointer { offset, what, location });
                }
            }
        }
    }

    fn edge(&mut self, _: usize, _: bool) {}
}
