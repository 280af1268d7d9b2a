//! Inference: what all runs together say about an instruction. Which conditions single out the
//! drops that reach it, and where rule, packet and base chain are then.
//!
//! First pass, [`Coverage`]: per instruction and condition, which drops it sees, struck out as soon
//! as it sees one twice or anything else. Second pass, [`super::pointers`]: for what is left, which registers
//! and stack slots hold the wanted pointers at every hit.
//!
//! What a register holds on another way to the instruction is no evidence: it may be left over from a
//! callee, and may be anything. So a condition is struck out, too, as soon as it would look at what was
//! not computed from constants, verdicts and policies, or read anything but the frame and the base
//! chain's policy; and a place holds a pointer only if the function has set it at every visit.

use super::frame::{MAX_NUMBERS, Slot, Stack};
use super::layout::Abi;
use super::memory::Memory;
use super::rules::Outcome;
use super::run::Observer;
use super::values::policy;
use crate::arch::{Cpu, calls};
use nfdrop_db::{Condition, Event, Location, Reg};

/// Conditions per instruction: none, per register, the policy behind a register, per register at the end
/// of a chain, and per slot.
const CONDITIONS: usize = 1 + 16 + 16 + 16 + MAX_NUMBERS;
/// Most sets of runs held for candidates; the most seen (5.10) is 7500.
const MAX_SETS: usize = 40_000;

/// A set of [`CONDITIONS`].
type ConditionSet = u128;
/// The one that always holds.
const NO_CONDITION: ConditionSet = 1;

/// Those on the policy behind a register.
const POLICY_CONDITIONS: std::ops::Range<usize> = 17..33;
/// Those on a register where the verdict says that a chain has come to its end: where a policy's drop and a
/// rule's end in one place with 0 in one register, as in a common epilogue.
const END_CONDITIONS: std::ops::Range<usize> = 33..49;
/// Those on slots begin here.
const SLOT_CONDITIONS: usize = END_CONDITIONS.end;
/// What tells the end of a chain (`NFT_CONTINUE` is -1, `NFT_RETURN` -5) from all other verdicts: drop, accept,
/// stolen and queue are 0 to 3, `NFT_BREAK`, `NFT_JUMP` and `NFT_GOTO` -2 to -4
/// (`include/uapi/linux/netfilter/nf_tables.h`).
const END: (u64, u64) = (0x83, 0x83);

/// Which sites are looked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Those that only drops come by.
    DropOnly,
    /// Those, and those where a value tells drops apart.
    Conditional,
    /// Those, and those where the verdict has to tell besides that a chain has ended.
    AtEnd,
}

/// A set of runs.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default, PartialOrd, Ord)]
pub struct RunSet(Vec<u64>);

impl RunSet {
    /// Adds a run.
    pub fn insert(&mut self, run: usize) {
        let word = run / 64;
        if self.0.len() <= word {
            self.0.resize(word + 1, 0);
        }
        self.0[word] |= 1 << (run % 64);
    }

    /// Whether it has no run.
    pub fn is_empty(&self) -> bool {
        self.0.iter().all(|&word| word == 0)
    }

    /// How many runs are in it.
    pub fn len(&self) -> usize {
        self.0.iter().map(|word| word.count_ones() as usize).sum()
    }

    /// Whether no run is in both.
    pub fn is_disjoint(&self, other: &Self) -> bool {
        self.0.iter().zip(&other.0).all(|(a, b)| a & b == 0)
    }

    /// Adds all runs of another set.
    pub fn extend(&mut self, other: &Self) {
        if self.0.len() < other.0.len() {
            self.0.resize(other.0.len(), 0);
        }
        for (word, &more) in self.0.iter_mut().zip(&other.0) {
            *word |= more;
        }
    }

    /// Whether a run is in it.
    pub fn contains(&self, run: usize) -> bool {
        self.0.get(run / 64).is_some_and(|word| word >> (run % 64) & 1 != 0)
    }

    /// The first run that is in this set and not in the other.
    pub fn first_missing(&self, other: &Self) -> Option<usize> {
        self.0.iter().enumerate().find_map(|(index, &word)| {
            let rest = word & !other.0.get(index).copied().unwrap_or(0);
            (rest != 0).then(|| index * 64 + rest.trailing_zeros() as usize)
        })
    }
}

/// The condition of a number in a [`ConditionSet`]; `None` for the first, which always holds.
fn condition(number: usize, abi: &Abi, slots: &[Slot]) -> Option<Condition> {
    let location = match number {
        0 => return None,
        1..=16 => Location::reg(Reg::ALL[number - 1]),
        17..=32 => Location::memory(Reg::ALL[number - POLICY_CONDITIONS.start], abi.policy),
        33..49 => Location::reg(Reg::ALL[number - END_CONDITIONS.start]),
        n => slots.get(n - SLOT_CONDITIONS).map(|slot| Location::memory(slot.base, slot.offset))?,
    };
    Some(Condition { value: location, mask: 0xff, equals: 0 })
}

/// Of the wanted conditions `(value & 0xff) == 0` those that can be tested now, and those that hold.
fn tested(
    cpu: &Cpu,
    memory: &Memory,
    abi: &Abi,
    slots: &[Slot],
    verdict: Option<u64>,
    wanted: ConditionSet,
) -> (ConditionSet, ConditionSet) {
    let (mut testable, mut holding) = (NO_CONDITION, NO_CONDITION);
    let mut left = wanted & !NO_CONDITION;
    if left == 0 {
        return (testable, holding);
    }
    let stack = Stack::new(cpu, memory);
    let verdict = verdict.and_then(|offset| {
        let (value, origin) = stack.word(calls::STACK_POINTER, i32::try_from(offset).ok()?)?;
        origin.decides().then_some(value)
    });
    while left != 0 {
        let number = left.trailing_zeros() as usize;
        let value = match number {
            1..=16 => {
                let register = number - 1;
                cpu.origins[register].decides().then_some(cpu.registers[register])
            }
            17..=32 => policy(Reg::ALL[number - POLICY_CONDITIONS.start], abi.policy, cpu, memory),
            33..49 => verdict.and_then(|verdict| {
                let register = number - END_CONDITIONS.start;
                let (mask, equals) = END;
                let ends = verdict & mask == equals;
                let value = if ends { cpu.registers[register] } else { u64::MAX };
                cpu.origins[register].decides().then_some(value)
            }),
            _ => slots.get(number - SLOT_CONDITIONS).and_then(|slot| {
                let (value, origin) = stack.word(slot.base, slot.offset)?;
                origin.decides().then_some(value)
            }),
        };
        if let Some(value) = value {
            testable |= 1 << number;
            holding |= ConditionSet::from(value.trailing_zeros() >= 8) << number;
        }
        left &= left - 1;
    }
    (testable, holding)
}

/// First pass.
#[derive(Debug)]
pub struct Coverage<'a> {
    abi: &'a Abi,
    slots: &'a [Slot],
    below_entry: Option<u64>,
    /// By instruction.
    sites: Vec<Site>,
    visited: Vec<usize>,
    /// All runs that ended with a rule's and with a policy's drop.
    pub drops: [RunSet; 2],
    runs: usize,
    /// Sets that have been made.
    sets: usize,
    /// A drop came by no site that only drops have come by.
    hopeless: bool,
}

#[derive(Debug, Clone)]
struct Site {
    /// Per event, the conditions not struck out.
    left: [ConditionSet; 2],
    /// Per event, what each condition has seen.
    seen: [Vec<RunSet>; 2],
    /// In this run: seen once, twice or more, with the packet gone.
    once: ConditionSet,
    twice: ConditionSet,
    late: ConditionSet,
    /// Those that cannot be tested at some visit.
    untestable: ConditionSet,
    /// From the stack pointer to the verdict, at the first visit.
    verdict: Option<u64>,
}

/// What single instructions and conditions see.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// Number of the instruction.
    pub instruction: usize,
    /// What it reports.
    pub event: Event,
    /// When it does.
    pub when: Option<Condition>,
    /// And when this holds, too.
    pub and: Option<Condition>,
    /// Whether the condition reads the base chain's policy again.
    pub rereads: bool,
    /// The drops it sees, each once.
    pub seen: RunSet,
}

impl Candidate {
    /// All that have to hold.
    pub fn conditions(&self) -> impl Iterator<Item = Condition> {
        self.when.into_iter().chain(self.and)
    }
}

impl<'a> Coverage<'a> {
    /// For instructions of which some may hold probes.
    /// `below_entry`: from the stack pointer at entry down to the verdict, where that is known.
    pub fn new(
        abi: &'a Abi,
        slots: &'a [Slot],
        below_entry: Option<u64>,
        eligible: &[bool],
        kind: Kind,
    ) -> Self {
        let all = u128::MAX >> (MAX_NUMBERS - slots.len());
        let ends = 0xffff << END_CONDITIONS.start;
        let conditions = match kind {
            Kind::DropOnly => NO_CONDITION,
            Kind::Conditional => all & !ends,
            Kind::AtEnd => all,
        };
        let site = |&eligible: &bool| Site {
            left: [if eligible { conditions } else { 0 }; 2],
            seen: [Vec::new(), Vec::new()],
            once: 0,
            twice: 0,
            late: 0,
            untestable: 0,
            verdict: None,
        };
        Self {
            abi,
            slots,
            below_entry,
            sites: eligible.iter().map(site).collect(),
            visited: Vec::new(),
            drops: [RunSet::default(), RunSet::default()],
            runs: 0,
            sets: 0,
            hopeless: false,
        }
    }

    /// The run is over.
    pub fn end_run(&mut self, outcome: Outcome) {
        let run = self.runs;
        self.runs += 1;
        let event = match outcome {
            Outcome::RuleDrop => Some(0),
            Outcome::PolicyDrop => Some(1),
            Outcome::Other => None,
        };
        if let Some(event) = event {
            self.drops[event].insert(run);
        }
        let mut seen_by_any = event.is_none();
        for instruction in self.visited.drain(..) {
            let site = &mut self.sites[instruction];
            let (once, twice) = (site.once, site.twice | site.late);
            let untestable = site.untestable;
            (site.once, site.twice, site.late, site.untestable) = (0, 0, 0, 0);
            for which in 0..2 {
                let seen = if Some(which) == event { twice } else { once };
                let struck = site.left[which] & (seen | untestable);
                site.left[which] &= !struck;
                if struck != 0 && !site.seen[which].is_empty() {
                    for (number, seen) in site.seen[which].iter_mut().enumerate() {
                        if struck >> number & 1 != 0 && !seen.is_empty() {
                            *seen = RunSet::default();
                            self.sets -= 1;
                        }
                    }
                }
                if Some(which) != event {
                    continue;
                }
                let mut fresh = once & site.left[which];
                seen_by_any |= fresh != 0;
                if fresh != 0 && site.seen[which].is_empty() {
                    site.seen[which] = vec![RunSet::default(); CONDITIONS];
                }
                while fresh != 0 {
                    let seen = &mut site.seen[which][fresh.trailing_zeros() as usize];
                    self.sets += usize::from(seen.is_empty());
                    seen.insert(run);
                    fresh &= fresh - 1;
                }
            }
        }
        self.hopeless |= !seen_by_any;
    }

    /// Whether some drop is seen by nothing that is left, so that there is no need to look further:
    /// what is struck out stays so.
    pub fn hopeless(&self) -> bool {
        self.hopeless
    }

    /// Whether so much is left that it would not fit memory; no compiled function comes near.
    pub fn too_much(&self) -> bool {
        self.sets > MAX_SETS
    }

    /// What is left: everything that sees at least one drop, none twice, and nothing else.
    pub fn candidates(self) -> Vec<Candidate> {
        let mut candidates = Vec::new();
        for (instruction, site) in self.sites.into_iter().enumerate() {
            for (which, seen) in site.seen.into_iter().enumerate() {
                let event = [Event::RuleDrop, Event::PolicyDrop][which];
                for (number, seen) in seen.into_iter().enumerate() {
                    if site.left[which] >> number & 1 != 0 && !seen.is_empty() {
                        let when = condition(number, self.abi, self.slots);
                        let rereads = POLICY_CONDITIONS.contains(&number);
                        let (mask, equals) = END;
                        let at_end = END_CONDITIONS.contains(&number);
                        let verdict = site.verdict.filter(|_| at_end);
                        let and = verdict.and_then(|offset| {
                            let value =
                                Location::memory(calls::STACK_POINTER, i32::try_from(offset).ok()?);
                            Some(Condition { value, mask, equals })
                        });
                        if at_end == and.is_some() {
                            let candidate =
                                Candidate { instruction, event, when, and, rereads, seen };
                            candidates.push(candidate);
                        }
                    }
                }
            }
        }
        candidates
    }
}

impl Observer for Coverage<'_> {
    fn weight(&self, instruction: usize) -> u64 {
        let [rule, policy] = self.sites[instruction].left;
        // Every condition on memory is a look-up.
        1 + u64::from((rule | policy).count_ones() / 8)
    }

    fn visit(&mut self, instruction: usize, cpu: &Cpu, memory: &Memory, freed: bool) {
        let site = &mut self.sites[instruction];
        let wanted = site.left[0] | site.left[1];
        if wanted == 0 {
            return;
        }
        let verdict = self.below_entry.map(|distance| {
            memory.entry().0.wrapping_sub(distance).wrapping_sub(cpu.get(calls::STACK_POINTER))
        });
        site.verdict = site.verdict.or(verdict);
        // One place for all visits, or none.
        let verdict = verdict.filter(|_| site.verdict == verdict);
        let (testable, holding) = tested(cpu, memory, self.abi, self.slots, verdict, wanted);
        site.untestable |= wanted & !testable;
        if site.once == 0 {
            self.visited.push(instruction);
        }
        site.twice |= site.once & holding;
        site.once |= holding;
        if freed {
            site.late |= holding;
        }
    }

    fn edge(&mut self, _: usize, _: bool) {}
}

/// Counts how often instructions are run, and notes where the frame has the verdict.
#[derive(Debug)]
pub struct Visits {
    /// By instruction.
    pub counts: Vec<u64>,
    /// From the stack pointer at entry down to the verdict's code.
    pub below_entry: Option<u64>,
}

impl Visits {
    /// For so many instructions.
    pub fn new(instructions: usize) -> Self {
        Self { counts: vec![0; instructions], below_entry: None }
    }
}

impl Observer for Visits {
    fn visit(&mut self, instruction: usize, _: &Cpu, memory: &Memory, _: bool) {
        self.counts[instruction] += 1;
        if let (None, Some(verdict)) = (self.below_entry, memory.verdict()) {
            self.below_entry = Some(memory.entry().0.wrapping_sub(verdict.0));
        }
    }

    fn edge(&mut self, _: usize, _: bool) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_missing_in_a_set_are_found() {
        let mut some = RunSet::default();
        some.insert(3);
        some.insert(200);
        let mut other = RunSet::default();
        other.insert(3);
        assert_eq!(some.first_missing(&other), Some(200));
        assert!(!some.is_disjoint(&other) && !some.is_empty());
        other.extend(&some);
        assert_eq!(some.first_missing(&other), None);
    }
}
