//! Watches runs for the report: who comes by, which way branches go, who is called, what every
//! register and stack slot holds.
//!
//! All but the last is counted at every visit. Naming the values of all places takes longer than the
//! instruction itself, so it is done at the first visits of each instruction, and from there on in one
//! run of each ruleset, in another state of the static keys each time: what is true in all of those is
//! what is told.

use super::roles::{Known, Role, Roles};
use super::{Callee, Holding};
use crate::arch::{
    Cpu, Flow, Instruction,
    calls::{self, Thunk},
};
use crate::resolve::frame::{Frame, Slot};
use crate::resolve::layout::Abi;
use crate::resolve::link::Linked;
use crate::resolve::memory::{Address, Memory};
use crate::resolve::rules::Outcome;
use crate::resolve::run::{Observer, evaluated, may_free};
use crate::resolve::spectate::At;
use crate::resolve::world::World;
use nfdrop_db::{Location, Reg};
use std::collections::BTreeSet;

/// Instructions that are remembered of a run's end.
pub(super) const TRAIL: usize = 12;
/// Most targets of an indirect jump, and most callees, that are told.
const MAX_TARGETS: usize = 64;

/// Visits of each instruction at which values are looked at, whatever the run.
const FIRST_LOOKS: u32 = 256;

/// What an instruction does that needs watching.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Plain,
    Call,
    /// A jump to where a register or table says, through a thunk or not.
    Indirect,
}

/// What is true in all visits so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Same {
    Unseen,
    Always(i64),
    Differs,
}

impl Same {
    fn and(&mut self, value: Option<i64>) {
        *self = match (*self, value) {
            (Self::Unseen, Some(value)) => Self::Always(value),
            (Self::Always(known), Some(value)) if known == value => *self,
            _ => Self::Differs,
        };
    }
}

/// One instruction over all runs.
#[derive(Debug, Clone)]
pub(super) struct Stat {
    kind: Kind,
    /// Runs that came by, by outcome; the last are those that did not end as they should.
    pub(super) runs: [u32; 4],
    /// How often.
    pub(super) visits: [u64; 4],
    /// Whether a run that drops came by more than once, by outcome.
    pub(super) again: [bool; 2],
    /// Whether a run that drops came by when the packet may have been freed.
    pub(super) late: [bool; 2],
    /// Not taken, taken.
    pub(super) edges: [u64; 2],
    pub(super) targets: BTreeSet<usize>,
    pub(super) callees: BTreeSet<Callee>,
    roles: Vec<Roles>,
    /// The first value of each place, and whether another was seen.
    first: Vec<Option<u64>>,
    varies: u128,
    /// From the registers that frames are addressed by to `struct nft_regs`.
    regs: [Same; 2],
    /// How often values were looked at.
    looks: u32,
    /// In this run.
    count: u32,
    freed: bool,
}

impl Stat {
    /// What places hold at every visit.
    pub(super) fn holdings(&self, slots: &[Slot]) -> Vec<Holding> {
        let mut holdings = Vec::new();
        if self.runs == [0; 4] {
            return holdings;
        }
        for (number, &roles) in self.roles.iter().enumerate() {
            let mut roles = roles;
            if self.varies >> number & 1 == 0 {
                // One value at all visits may be like the verdict by chance.
                roles.remove(Role::Verdict);
                roles.remove(Role::VerdictByte);
            }
            let Some(role) = roles.best() else { continue };
            let slot = number.checked_sub(16).map(|number| slots.get(number));
            let place = match slot {
                None => Location::reg(Reg::ALL[number]),
                Some(None) => continue,
                Some(Some(slot)) => Location::memory(slot.base, slot.offset),
            };
            holdings.push(Holding { place, role });
        }
        for (reg, same) in calls::FRAME.into_iter().zip(self.regs) {
            if let Same::Always(distance) = same
                && distance != 0
            {
                let place = Location { add: Some(distance as i32), ..Location::reg(reg) };
                holdings.push(Holding { place, role: Role::Regs });
            }
        }
        holdings
    }
}

/// Watches; one for all runs.
#[derive(Debug, Clone)]
pub(super) struct Watch {
    abi: Abi,
    /// The frame's, that the code names.
    pub(super) slots: Vec<Slot>,
    pub(super) stats: Vec<Stat>,
    touched: Vec<usize>,
    /// Of this ruleset, once it is asked for.
    known: Option<Known>,
    /// Number of the ruleset, of the run on it, and how many there were on the one before.
    ruleset: usize,
    run: usize,
    runs_before: usize,
    looking: bool,
    pkt: u64,
    /// The rule whose expression was evaluated last.
    rule: Option<Address>,
    /// `struct nft_regs`, once something was evaluated in some run: it is at a fixed distance from
    /// where the stack was at entry.
    regs: Option<u64>,
    regs_distance: Option<u64>,
    stack: u64,
    last: Option<usize>,
    trail: [usize; TRAIL],
    steps: usize,
    /// The instructions that called `eval` in this run, in order.
    pub(super) evaluations: Vec<usize>,
}

impl Watch {
    pub(super) fn new(linked: &Linked, abi: &Abi) -> Self {
        let slots = Frame::new(linked).slots;
        let stat = |instruction: &Instruction| Stat {
            kind: kind(instruction, linked),
            runs: [0; 4],
            visits: [0; 4],
            again: [false; 2],
            late: [false; 2],
            edges: [0; 2],
            targets: BTreeSet::new(),
            callees: BTreeSet::new(),
            roles: vec![Roles::ALL; 16 + slots.len()],
            first: vec![None; 16 + slots.len()],
            varies: 0,
            regs: [Same::Unseen; 2],
            looks: 0,
            count: 0,
            freed: false,
        };
        let stats = linked.instructions.iter().map(|decoded| stat(&decoded.instruction)).collect();
        Self {
            abi: abi.clone(),
            slots,
            stats,
            touched: Vec::new(),
            known: None,
            ruleset: 0,
            run: 0,
            runs_before: 1,
            looking: true,
            pkt: 0,
            rule: None,
            regs: None,
            regs_distance: None,
            stack: 0,
            last: None,
            trail: [0; TRAIL],
            steps: 0,
            evaluations: Vec::new(),
        }
    }

    /// All runs up to the next call of this are of this world.
    pub(super) fn enter(&mut self) {
        self.known = None;
        self.ruleset += 1;
        (self.runs_before, self.run) = (self.run.max(1), 0);
    }

    pub(super) fn begin_run(&mut self) {
        (self.rule, self.last, self.steps) = (None, None, 0);
        (self.regs, self.pkt) = (None, 0);
        self.evaluations.clear();
        self.looking = self.run == self.ruleset % self.runs_before;
        self.run += 1;
    }

    /// `None`: it did not end as it should.
    pub(super) fn end_run(&mut self, outcome: Option<Outcome>) {
        let which = outcome.map_or(3, |outcome| outcome as usize);
        for number in self.touched.drain(..) {
            let stat = &mut self.stats[number];
            stat.runs[which] += 1;
            stat.visits[which] += u64::from(stat.count);
            if which < 2 {
                stat.again[which] |= stat.count > 1;
                stat.late[which] |= stat.freed;
            }
            (stat.count, stat.freed) = (0, false);
        }
    }

    /// Forgets the first runs, but for the ways that branches went; how often each instruction was run.
    pub(super) fn walked(&mut self, linked: &Linked) -> Vec<u64> {
        let visits = self.stats.iter().map(|stat| stat.visits.iter().sum()).collect();
        let turns: Vec<[u64; 2]> = self.stats.iter().map(|stat| stat.edges).collect();
        self.forget(linked);
        for (stat, edges) in self.stats.iter_mut().zip(turns) {
            stat.edges = edges;
        }
        visits
    }

    /// Forgets what was seen, but not where `struct nft_regs` is.
    fn forget(&mut self, linked: &Linked) {
        let distance = self.regs_distance;
        *self = Self { regs_distance: distance, ..Self::new(linked, &self.abi) };
    }

    /// The last instructions of the run, the last one last.
    pub(super) fn trail(&self) -> Vec<usize> {
        (self.steps.saturating_sub(TRAIL)..self.steps).map(|n| self.trail[n % TRAIL]).collect()
    }

    fn called(&mut self, number: usize, cpu: &Cpu, memory: &Memory, at: (&Linked, &World)) {
        let (linked, world) = at;
        let instruction = &linked.instructions[number].instruction;
        let Some(target) = target(instruction, linked, cpu, memory) else { return };
        let rsi = cpu.get(calls::ARGUMENTS[1]);
        let inside = linked.instruction_at(target).is_some();
        let evaluation = evaluated(cpu, world).filter(|_| !inside);
        let name = linked.name_at(Address(target)).unwrap_or_default();
        if let Some(evaluation) = evaluation {
            let rule = evaluation.of.and_then(|(rule, _)| world.rules.get(&rule).copied());
            self.rule = rule.or(self.rule);
            self.regs = Some(rsi);
            self.regs_distance = Some(self.stack.wrapping_sub(rsi));
            self.evaluations.push(number);
        }
        let callees = &mut self.stats[number].callees;
        if callees.len() < MAX_TARGETS {
            let evaluates = evaluation.is_some();
            let frees = !inside && !evaluates && may_free(name, cpu, world.skb);
            let known = |callee: &Callee| {
                (callee.name.as_str(), callee.evaluates, callee.frees) == (name, evaluates, frees)
            };
            if !callees.iter().any(known) {
                callees.insert(Callee { name: name.to_owned(), evaluates, frees });
            }
        }
    }

    fn hold(&mut self, number: usize, cpu: &Cpu, memory: &Memory, world: &World) {
        let known = self.known.get_or_insert_with(|| Known::new(world, &self.abi));
        let code = self.regs.and_then(|regs| {
            let at = regs.wrapping_add(u64::from(self.abi.verdict_code));
            memory.read(Address(at), 4).ok()
        });
        let stat = &mut self.stats[number];
        let slot = |n: usize| {
            let slot = self.slots[n];
            let at = cpu.get(slot.base).wrapping_add_signed(i64::from(slot.offset));
            memory.read(Address(at), 8).ok()
        };
        for place in 0..stat.roles.len() {
            if stat.roles[place].is_empty() {
                continue;
            }
            let in_memory = place >= 16;
            let value = if in_memory { slot(place - 16) } else { Some(cpu.registers[place]) };
            let Some(value) = value else {
                stat.roles[place] = Roles::default();
                continue;
            };
            let mut roles = known.of(value);
            if self.rule.is_some_and(|rule| rule.0 == value) {
                roles.add(Role::Rule);
            }
            if self.regs == Some(value) {
                roles.add(Role::Regs);
            }
            // A slot's upper half may be another variable's.
            let value = if in_memory { value & 0xffff_ffff } else { value };
            if code == Some(value) {
                roles.add(Role::Verdict);
            }
            if !in_memory && code.is_some_and(|code| code & 0xff == value) {
                roles.add(Role::VerdictByte);
            }
            let first = *stat.first[place].get_or_insert(value);
            stat.varies |= u128::from(first != value) << place;
            stat.roles[place].keep(roles);
        }
        for (reg, same) in calls::FRAME.into_iter().zip(&mut stat.regs) {
            let distance = self.regs.map(|regs| regs.wrapping_sub(cpu.get(reg)) as i64);
            same.and(distance.filter(|distance| distance.unsigned_abs() < 4096));
        }
    }
}

impl Watch {
    pub(super) fn visit(
        &mut self,
        at: At<'_>,
        number: usize,
        cpu: &Cpu,
        memory: &Memory,
        freed: bool,
    ) {
        if self.steps == 0 {
            (self.pkt, self.stack) = (at.world.pkt.0, at.world.stack.0);
            self.regs = self.regs_distance.map(|distance| self.stack.wrapping_sub(distance));
        }
        if let Some(from) = self.last.take() {
            let targets = &mut self.stats[from].targets;
            if targets.len() < MAX_TARGETS {
                targets.insert(number);
            }
        }
        self.trail[self.steps % TRAIL] = number;
        self.steps += 1;
        if self.looks(number) {
            self.stats[number].looks += 1;
            self.hold(number, cpu, memory, at.world);
        }
        let stat = &mut self.stats[number];
        if stat.count == 0 {
            self.touched.push(number);
        }
        stat.count += 1;
        stat.freed |= freed;
        match stat.kind {
            Kind::Plain => {}
            Kind::Call => self.called(number, cpu, memory, (at.linked, at.world)),
            Kind::Indirect => self.last = Some(number),
        }
    }

    /// Whether values are looked at at this visit.
    fn looks(&self, number: usize) -> bool {
        self.looking || self.stats[number].looks < FIRST_LOOKS
    }

    pub(super) fn edge(&mut self, number: usize, taken: bool) {
        self.stats[number].edges[usize::from(taken)] += 1;
    }
}

/// Watches the runs of one world and image.
pub(super) struct Watching<'w> {
    pub(super) watch: &'w mut Watch,
    pub(super) at: At<'w>,
}

impl Observer for Watching<'_> {
    fn visit(&mut self, number: usize, cpu: &Cpu, memory: &Memory, freed: bool) {
        self.watch.visit(self.at, number, cpu, memory, freed);
    }

    fn weight(&self, number: usize) -> u64 {
        if !self.watch.looks(number) {
            return 1;
        }
        // Every place that may still hold something is a look-up.
        let live = self.watch.stats[number].roles.iter().filter(|roles| !roles.is_empty()).count();
        1 + live as u64 / 8
    }

    fn edge(&mut self, number: usize, taken: bool) {
        self.watch.edge(number, taken);
    }
}

fn kind(instruction: &Instruction, linked: &Linked) -> Kind {
    match instruction.flow() {
        Flow::Call | Flow::IndirectCall => Kind::Call,
        Flow::IndirectJump => Kind::Indirect,
        Flow::Jump if thunk(instruction, linked).is_some() => Kind::Indirect,
        _ => Kind::Plain,
    }
}

/// The register that a call or jump through a thunk goes to.
fn thunk(instruction: &Instruction, linked: &Linked) -> Option<Reg> {
    match calls::thunk(linked.name_at(Address(instruction.target()?))?)? {
        Thunk::Jump(reg) => Some(reg),
        Thunk::Return => None,
    }
}

/// Where a call goes.
fn target(instruction: &Instruction, linked: &Linked, cpu: &Cpu, memory: &Memory) -> Option<u64> {
    let Some(target) = instruction.target() else {
        return cpu.indirect_target(instruction, memory);
    };
    Some(thunk(instruction, linked).map_or(target, |reg| cpu.get(reg)))
}
