//! Inference: what all runs together say about an instruction. Which conditions single out the
//! drops that come by it, and where rule, packet and base chain are then.
//!
//! First pass, [`Coverage`]: per instruction and condition, which drops it sees, struck out as soon
//! as it sees one twice or anything else. Second pass, [`Places`]: for what is left, which registers
//! and stack slots hold the wanted pointers at every hit.
//!
//! What a register holds on another way to the instruction is no evidence: it may be left over from a
//! callee, and may be anything. So a condition is struck out, too, as soon as it would look at what was
//! not computed from constants, verdicts and policies, or read anything but the frame and the base
//! chain's policy; and a place holds a pointer only if the function has set it at every visit.

use super::layout::Abi;
use super::link::Linked;
use super::memory::{Address, Memory, Near};
use super::origin::Origin;
use super::rules::Outcome;
use super::run::Observer;
use crate::arch::{Cpu, Instruction, calls};
use nfdrop_db::{Condition, Event, Location, Reg};

/// Most u64 of the frame that are looked at. The code's own operands tell which: the most seen is 60,
/// with KASAN 90.
const MAX_SLOTS: usize = 95;
/// Most of them that hold numbers.
const MAX_NUMBERS: usize = 79;
/// Conditions per instruction: none, per register, the policy behind a register, per register at the end
/// of a chain, and per slot.
const CONDITIONS: usize = 1 + 16 + 16 + 16 + MAX_NUMBERS;
/// Most sets of runs held for candidates; the most seen (5.10) is 7500.
const MAX_SETS: usize = 40_000;
/// Largest distance between a register's value and a wanted pointer.
const MAX_ADD: u64 = 512;

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

/// A u64 of the frame: where it is from the stack pointer, or from the frame pointer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Slot {
    /// `rsp` or `rbp`.
    pub base: Reg,
    /// In bytes.
    pub offset: i32,
}

/// The frame, as it is at a visit.
struct Stack<'a> {
    cpu: &'a Cpu,
    region: Near<'a>,
}

impl<'a> Stack<'a> {
    fn new(cpu: &'a Cpu, memory: &'a Memory) -> Self {
        Self { cpu, region: memory.near(Address(cpu.get(calls::STACK_POINTER))) }
    }

    /// The u64 at register + `offset` with its origin, if the register is set and points into the
    /// frame. Below the stack pointer is nothing: the probe's own exception writes there.
    fn word(&self, base: Reg, offset: i32) -> Option<(u64, Origin)> {
        let address = self.cpu.get(base).wrapping_add_signed(i64::from(offset));
        if !self.cpu.origin(base).is_defined() || address < self.cpu.get(calls::STACK_POINTER) {
            return None;
        }
        Some((self.region.word(address)?, self.region.origin(address)?))
    }
}

/// The frame's slots that the code itself names: whatever it keeps there it reads or writes by such
/// an operand.
#[derive(Debug, Clone, Default)]
pub struct Frame {
    /// All, those that the code keeps u64 in, such as pointers, first.
    pub slots: Vec<Slot>,
    /// Those it keeps smaller numbers in, such as verdicts and policies.
    pub numbers: Vec<Slot>,
}

impl Frame {
    /// Of a function.
    pub fn new(linked: &Linked) -> Self {
        let named = named_slots(linked);
        let mut frame = Self::default();
        for (size, slot) in named {
            if frame.slots.len() < MAX_SLOTS && !frame.slots.contains(&slot) {
                frame.slots.push(slot);
            }
            let number = size < 8 && !frame.numbers.contains(&slot);
            if number && frame.numbers.len() < MAX_NUMBERS {
                frame.numbers.push(slot);
            }
        }
        frame
    }
}

/// Operands in the frame with their sizes, the largest first.
fn named_slots(linked: &Linked) -> Vec<(usize, Slot)> {
    let of = |i: &Instruction| {
        let memory = i.memory().filter(|memory| memory.is_plain)?;
        let base = memory.base.filter(|base| calls::FRAME.contains(base))?;
        let offset = i32::try_from(memory.offset as i64).ok()?;
        Some((memory.size, Slot { base, offset }))
    };
    let instructions = linked.instructions.iter().map(|decoded| &decoded.instruction);
    let has_frame_pointer = instructions.clone().any(Instruction::sets_frame_pointer);
    let mut named: Vec<(usize, Slot)> = instructions
        .filter_map(of)
        .filter(|(_, slot)| slot.base == calls::STACK_POINTER || has_frame_pointer)
        .collect();
    named.sort_by_key(|&(size, slot)| (std::cmp::Reverse(size), slot));
    named
}

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

/// The u64 at register + `offset`, if that is the base chain's policy.
fn policy(reg: Reg, offset: i32, cpu: &Cpu, memory: &Memory) -> Option<u64> {
    let at = Address(cpu.get(reg).wrapping_add_signed(i64::from(offset)));
    let is_policy = cpu.origin(reg).is_defined() && memory.policy() == Some(at);
    if is_policy { memory.read(at, 8).ok() } else { None }
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

/// Whether the function has set what a location names, at this visit.
pub fn is_defined(location: &Location, cpu: &Cpu, memory: &Memory) -> bool {
    match location.deref {
        None => cpu.origin(location.reg).is_defined(),
        Some(offset) => {
            let word = Stack::new(cpu, memory).word(location.reg, offset);
            word.is_some_and(|(_, origin)| origin.is_defined())
        }
    }
}

/// Whether what a condition looks at can tell a drop from anything else, at this visit: in its lowest
/// byte, which all conditions are about.
pub fn is_testable(condition: &Condition, cpu: &Cpu, memory: &Memory) -> bool {
    let Location { reg, deref, .. } = condition.value;
    let origin = match deref {
        None => Some(cpu.origin(reg)),
        Some(offset) if policy(reg, offset, cpu, memory).is_some() => Some(Origin::COMPUTED),
        Some(offset) => Stack::new(cpu, memory).word(reg, offset).map(|(_, origin)| origin),
    };
    condition.mask <= 0xff && origin.is_some_and(Origin::decides)
}

/// The value at a location, as a client reads it.
pub fn value(location: &Location, cpu: &Cpu, memory: &Memory) -> Option<u64> {
    location.value(|reg| cpu.get(reg), |address| memory.read(Address(address), 8).ok())
}

/// Whether a condition holds, as a client tests it.
pub fn holds(condition: &Condition, cpu: &Cpu, memory: &Memory) -> bool {
    condition.holds(|reg| cpu.get(reg), |address| memory.read(Address(address), 8).ok())
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
