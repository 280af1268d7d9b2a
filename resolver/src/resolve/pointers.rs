//! Where rule, packet and base chain are found at a site: in which register, or behind which one.

use super::frame::{MAX_SLOTS, Slot, Stack};
use super::infer::Candidate;
use super::memory::{Address, Memory};
use super::run::Observer;
use super::values::holds;
use crate::arch::Cpu;
use nfdrop_db::{Event, Location, Reg};

/// Largest distance between a register's value and a wanted pointer.
const MAX_ADD: u64 = 512;

/// The pointers a probe reports, as they are in one run.
#[derive(Debug, Clone, Copy)]
pub struct Truth {
    /// The rule that drops; `None` for a policy drop.
    pub rule: Option<Address>,
    /// The pktinfo.
    pub pkt: Address,
    /// The base chain.
    pub base_chain: Address,
}

/// Where one pointer may be found: base locations with the constant to add; `None` before the first
/// hit.
#[derive(Debug, Clone, Default)]
struct Search(Option<Vec<(u8, i64)>>);

impl Search {
    fn narrow(&mut self, values: &[Option<u64>], wanted: Address) {
        let distance = |number: usize| {
            let distance = wanted.0.wrapping_sub(values[number]?) as i64;
            (distance.unsigned_abs() <= MAX_ADD).then_some(distance)
        };
        if let Some(left) = &mut self.0 {
            left.retain(|&(number, add)| distance(number.into()) == Some(add));
        } else {
            let near = (0..values.len()).filter_map(|n| Some((n as u8, distance(n)?)));
            self.0 = Some(near.collect());
        }
    }

    /// Leaves only places that hold something.
    fn keep(&mut self, values: &[Option<u64>]) {
        if let Some(left) = &mut self.0 {
            left.retain(|&(number, _)| values[usize::from(number)].is_some());
        }
    }

    /// Whether nothing is left.
    fn is_over(&self) -> bool {
        self.0.as_ref().is_some_and(Vec::is_empty)
    }

    /// Values that the next hit is compared with.
    fn width(&self) -> usize {
        self.0.as_ref().map_or(16 + MAX_SLOTS, Vec::len)
    }

    /// All places, best first: nothing to add, registers, near slots.
    fn locations(&self, slots: &[Slot]) -> Vec<Location> {
        let mut found: Vec<(bool, usize, Location)> = Vec::new();
        for &(number, add) in self.0.iter().flatten() {
            let number = usize::from(number);
            let mut location = if number < 16 {
                Location::reg(Reg::ALL[number])
            } else {
                Location::memory(slots[number - 16].base, slots[number - 16].offset)
            };
            location.add = (add != 0).then_some(add as i32);
            found.push((add != 0, number, location));
        }
        let offset = |location: &Location| location.deref.unwrap_or(0).unsigned_abs();
        found.sort_by_key(|&(add, number, location)| {
            (number >= 16, add, if number < 16 { number as u32 } else { offset(&location) })
        });
        found.into_iter().map(|(.., location)| location).collect()
    }
}

/// Where a candidate finds its pointers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Found {
    /// The rule, for rule drops.
    pub rule: Option<Location>,
    /// The pktinfo.
    pub pkt: Location,
    /// The base chain.
    pub base_chain: Location,
}

/// Second pass: hits of candidates in the runs they see, and of those with a condition all other visits,
/// at which nothing they look at may be left over.
#[derive(Debug)]
pub struct Places<'a> {
    by_instruction: Vec<Vec<usize>>,
    candidates: &'a [Candidate],
    slots: &'a [Slot],
    searches: Vec<[Search; 3]>,
    /// Of the last visit: values compared.
    compared: usize,
    run: usize,
    event: Option<Event>,
    truth: Option<Truth>,
}

impl<'a> Places<'a> {
    /// For these candidates over so many instructions.
    pub fn new(candidates: &'a [Candidate], slots: &'a [Slot], instructions: usize) -> Self {
        let mut by_instruction = vec![Vec::new(); instructions];
        for (number, candidate) in candidates.iter().enumerate() {
            by_instruction[candidate.instruction].push(number);
        }
        let searches = candidates.iter().map(|_| Default::default()).collect();
        Self {
            by_instruction,
            candidates,
            slots,
            searches,
            compared: 0,
            run: 0,
            event: None,
            truth: None,
        }
    }

    /// The next run, in the order of the first pass.
    pub fn begin_run(&mut self, run: usize, event: Option<Event>, truth: Truth) {
        (self.run, self.event, self.truth) = (run, event, Some(truth));
    }

    /// Whether runs that do not drop matter.
    pub fn wants_others(&self) -> bool {
        self.candidates.iter().any(|candidate| candidate.when.is_some())
    }

    /// Per candidate where its pointers are, if all of them are found.
    pub fn found(&self) -> Vec<Option<Found>> {
        let found = |(candidate, [rule, pkt, chain]): (&Candidate, &[Search; 3])| {
            let first = |search: &Search| search.locations(self.slots).first().copied();
            let rule = match candidate.event {
                Event::RuleDrop => Some(first(rule)?),
                Event::PolicyDrop => None,
            };
            Some(Found { rule, pkt: first(pkt)?, base_chain: first(chain)? })
        };
        self.candidates.iter().zip(&self.searches).map(found).collect()
    }
}

impl Observer for Places<'_> {
    fn weight(&self, _: usize) -> u64 {
        // Of what an instruction takes, comparing one value takes an eighth.
        1 + self.compared as u64 / 8
    }

    fn visit(&mut self, instruction: usize, cpu: &Cpu, memory: &Memory, _: bool) {
        self.compared = 0;
        let Some(truth) = self.truth else { return };
        let numbers = &self.by_instruction[instruction];
        if numbers.is_empty() {
            return;
        }
        let mut values: Vec<Option<u64>> = Vec::new();
        for &number in numbers {
            let candidate = &self.candidates[number];
            self.compared += 1;
            // Without one of its pointers a candidate is none.
            if self.searches[number].iter().any(Search::is_over) {
                continue;
            }
            let hit = Some(candidate.event) == self.event
                && candidate.seen.contains(self.run)
                && candidate.conditions().all(|when| holds(&when, cpu, memory));
            if !hit && candidate.when.is_none() {
                continue;
            }
            if values.is_empty() {
                values = set_values(cpu, memory, self.slots);
                self.compared += values.len();
            }
            self.compared += self.searches[number].iter().map(Search::width).sum::<usize>();
            let [rule, pkt, chain] = &mut self.searches[number];
            if hit {
                if let Some(wanted) = truth.rule {
                    rule.narrow(&values, wanted);
                }
                pkt.narrow(&values, truth.pkt);
                chain.narrow(&values, truth.base_chain);
            } else {
                for search in [rule, pkt, chain] {
                    search.keep(&values);
                }
            }
        }
    }

    fn edge(&mut self, _: usize, _: bool) {}
}

/// What all places hold, registers first, if the function has set it.
fn set_values(cpu: &Cpu, memory: &Memory, slots: &[Slot]) -> Vec<Option<u64>> {
    let stack = Stack::new(cpu, memory);
    let registers = cpu.registers.iter().zip(&cpu.origins);
    let registers = registers.map(|(&value, origin)| origin.is_defined().then_some(value));
    let slots = slots.iter().map(|slot| {
        let (value, origin) = stack.word(slot.base, slot.offset)?;
        origin.is_defined().then_some(value)
    });
    registers.chain(slots).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_what_all_hits_agree_on() {
        let mut search = Search::default();
        assert!(search.locations(&[]).is_empty(), "nothing seen, nothing found");
        let wanted = Address(0xffff_8881_0000_1000);
        let hit = |values: [u64; 4]| values.map(Some);
        let far = wanted.0.wrapping_sub(i64::MIN as u64);
        search.narrow(&hit([far, wanted.0, wanted.0 - 16, wanted.0]), wanted);
        let next = Address(wanted.0 + 0x240);
        search.narrow(&hit([next.0, next.0, next.0 - 16, wanted.0]), next);
        let add = Location { add: Some(16), ..Location::reg(Reg::ALL[2]) };
        assert_eq!(search.locations(&[]), [Location::reg(Reg::ALL[1]), add]);
    }
}
