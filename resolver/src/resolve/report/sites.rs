//! What was decided about every instruction that drops come by, and why.

use super::roles::Role;
use super::watch::Stat;
use crate::arch::Rules;
use crate::image::function::{Function, Part, Patched};
use crate::resolve::choose::Ranked;
use crate::resolve::frame::Slot;
use crate::resolve::infer::RunSet;
use crate::resolve::link::Linked;
use nfdrop_db::{Condition, Cost, Event, FnOffset, Probe};

/// An instruction as a place for a probe.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Site {
    /// For which drops.
    pub event: Event,
    /// How cheaply a probe would run here; `None` where the kernel refuses one.
    pub cost: Option<Cost>,
    /// The condition it would need.
    pub when: Option<Condition>,
    /// What became of it.
    pub verdict: Verdict,
}

/// What became of a site.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// In the plan.
    Chosen,
    /// It would do, another one is better.
    Beaten(Beaten),
    /// Others come by: so many runs, and no value tells them apart.
    Others(u32),
    /// The packet may have been freed.
    Freed,
    /// A drop comes by more than once.
    Again,
    /// The kernel refuses a probe.
    Refused(Refusal),
    /// These pointers are in no register and no slot; where none is named, not in all drops.
    NotHeld(Vec<&'static str>),
    /// So many of all drops come by, in their runs once.
    Part {
        /// So many.
        seen: u32,
        /// All.
        of: u32,
    },
}

/// In which way the chosen site is better: the first difference decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Beaten {
    /// Only drops come by there, here a condition is needed.
    Condition,
    /// It is jump-optimized.
    Cost,
    /// Its condition is on what the function has read, here the policy would be read again.
    Reread,
    /// More of its pointers are in registers.
    Memory,
    /// Packets that are not dropped come by less often.
    Visits,
    /// It is earlier.
    Later,
}

/// Why the kernel refuses a probe, or why its bytes are not known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// The function's first byte, where tracers are.
    Entry,
    /// Not in the function itself but in another part of its code.
    OtherPart,
    /// The kernel patches it.
    Patched(Patched),
    /// A relocated field: its bytes differ from boot to boot.
    Relocated,
    /// `endbr64`, `ud2` or `int3`.
    Marker,
    /// A nop, where the kernel may patch.
    Nop,
    /// By a rule that has no name here.
    Unnamed,
}

/// All sites that drops come by, by instruction; `ranked`: of the choice, by event.
pub(super) fn sites(
    function: &Function,
    linked: &Linked,
    rules: &Rules<'_>,
    stats: &[Stat],
    ranked: &[Ranked<'_>],
    (probes, drops, slots): (&[Probe], &[RunSet; 2], &[Slot]),
) -> Vec<Vec<Site>> {
    let held = |number: usize, event: Event| {
        let of = |entry: &&Ranked<'_>| {
            entry.candidate.instruction == number && entry.candidate.event == event
        };
        ranked.iter().filter(of).min_by_key(|entry| entry.rank())
    };
    let chosen: Vec<&Ranked<'_>> =
        probes.iter().filter_map(|probe| ranked.iter().find(|entry| is(entry, probe))).collect();
    let mut sites = vec![Vec::new(); linked.instructions.len()];
    for (number, stat) in stats.iter().enumerate() {
        let place = linked.instructions[number].place;
        let refusal = refusal(function, linked, rules, number);
        for (which, event) in [Event::RuleDrop, Event::PolicyDrop].into_iter().enumerate() {
            let seen = stat.runs[which];
            if seen == 0 {
                continue;
            }
            let others: u32 = (0..4).filter(|&other| other != which).map(|o| stat.runs[o]).sum();
            let passing = stat.runs[2] + stat.runs[3];
            let at = place.part == 0;
            let probe = probes
                .iter()
                .find(|probe| at && probe.event == event && probe.offset == FnOffset(place.offset));
            let entry = held(number, event);
            let when = match probe {
                Some(probe) => probe.when.first().copied(),
                None => entry.and_then(|entry| entry.candidate.when),
            };
            let verdict = if probe.is_some() {
                Verdict::Chosen
            } else if entry.is_none() && others > 0 && (!stat.late[which] || passing > 0) {
                Verdict::Others(others)
            } else if stat.late[which] {
                Verdict::Freed
            } else if entry.is_none() && stat.again[which] {
                Verdict::Again
            } else if let Some(refusal) = refusal {
                Verdict::Refused(refusal)
            } else {
                match entry {
                    Some(entry) => beaten(entry, &chosen, &drops[which]),
                    None => Verdict::NotHeld(not_held(stat, slots, event)),
                }
            };
            let cost = refusal.is_none().then(|| rules.cost(place.offset));
            sites[number].push(Site { event, cost, when, verdict });
        }
    }
    sites
}

fn is(entry: &Ranked<'_>, probe: &Probe) -> bool {
    entry.candidate.event == probe.event
        && entry.offset == probe.offset.0
        && entry.candidate.when.as_ref() == probe.when.first()
}

/// The pointers that are in no place here.
fn not_held(stat: &Stat, slots: &[Slot], event: Event) -> Vec<&'static str> {
    let holdings = stat.holdings(slots);
    let wanted = match event {
        Event::RuleDrop => &[Role::Rule, Role::Pkt, Role::BaseChain][..],
        Event::PolicyDrop => &[Role::Pkt, Role::BaseChain],
    };
    let missing = |role: &&Role| !holdings.iter().any(|holding| holding.role == **role);
    wanted.iter().filter(missing).map(|role| role.name()).collect()
}

fn beaten(entry: &Ranked<'_>, chosen: &[&Ranked<'_>], drops: &RunSet) -> Verdict {
    let candidate = entry.candidate;
    let (seen, of) = (candidate.seen.len() as u32, drops.len() as u32);
    let same = |other: &&&Ranked<'_>| {
        other.candidate.event == candidate.event && other.candidate.seen == candidate.seen
    };
    let Some(other) = chosen.iter().find(same) else {
        // The choice prefers sites without a condition, however many it takes.
        if seen == of && candidate.when.is_some() {
            return Verdict::Beaten(Beaten::Condition);
        }
        return Verdict::Part { seen, of };
    };
    let (own, other) = (entry.rank(), other.rank());
    Verdict::Beaten(if own.0 != other.0 {
        Beaten::Condition
    } else if own.1 != other.1 {
        Beaten::Cost
    } else if own.2 != other.2 {
        Beaten::Reread
    } else if own.3 != other.3 {
        Beaten::Memory
    } else if own.4 != other.4 {
        Beaten::Visits
    } else {
        Beaten::Later
    })
}

fn refusal(
    function: &Function,
    linked: &Linked,
    rules: &Rules<'_>,
    number: usize,
) -> Option<Refusal> {
    let decoded = &linked.instructions[number];
    let (place, instruction) = (decoded.place, &decoded.instruction);
    if place.part != 0 {
        return Some(Refusal::OtherPart);
    }
    if rules.probe_site(place.offset).is_some() {
        return None;
    }
    let (start, end) = (place.offset, place.offset + instruction.len() as u32);
    let patched = function.keep_off.iter().find(|k| k.range.start < end && start < k.range.end);
    let relocated = |part: &Part| {
        part.relocations.iter().any(|r| r.offset < end && start < r.offset + r.kind.size())
    };
    Some(if let Some(keep) = patched {
        Refusal::Patched(keep.why)
    } else if start == 0 {
        Refusal::Entry
    } else if function.parts.first().is_some_and(relocated) {
        Refusal::Relocated
    } else if instruction.is_marker() {
        Refusal::Marker
    } else if instruction.is_nop() {
        Refusal::Nop
    } else {
        Refusal::Unnamed
    })
}
