//! The choice: the smallest set of sites that together see every drop once.

use super::infer::{Candidate, RunSet};
use super::pointers::Found;
use nfdrop_db::Cost;
use std::collections::BTreeMap;

/// Most probes per event.
const MAX_PROBES: usize = 6;
/// Most steps of the search per number of probes.
const MAX_STEPS: u32 = 200_000;

/// A candidate with all that its rank depends on.
#[derive(Debug, Clone)]
pub struct Ranked<'a> {
    /// What it sees.
    pub candidate: &'a Candidate,
    /// Where its pointers are.
    pub found: Found,
    /// How cheaply it is run.
    pub cost: Cost,
    /// How often the instruction is run for a packet that walks many rules and is accepted.
    pub visits: u64,
    /// Of the instruction.
    pub offset: u32,
}

/// Smaller is better: drop-only, jump-optimizable, a condition on what the function has read rather than on
/// a policy that is read again and may have been changed meanwhile, registers over memory, fewer hits by
/// packets that are not dropped, earlier.
pub(super) type Rank = (bool, bool, bool, usize, u64, u32);

impl Ranked<'_> {
    pub(super) fn rank(&self) -> Rank {
        let when = self.candidate.when;
        let found = &self.found;
        let places = [found.rule, Some(found.pkt), Some(found.base_chain)];
        let tested = self.candidate.conditions().map(|when| when.value);
        let all = tested.chain(places.into_iter().flatten());
        let in_memory = all.filter(|place| place.deref.is_some()).count();
        let slow = self.cost != Cost::Optimized;
        let rereads = self.candidate.rereads;
        (when.is_some(), slow, rereads, in_memory, self.visits, self.offset)
    }
}

/// The best set of candidates that together see each of `drops` exactly once; `None` if there is
/// none. Sets of drop-only sites come first, however many they are: they cost packets that are not
/// dropped nothing.
pub fn choose<'a>(ranked: &'a [Ranked<'a>], drops: &RunSet) -> Option<Vec<&'a Ranked<'a>>> {
    let drop_only = |entry: &&Ranked<'_>| entry.candidate.when.is_none();
    let plain = classes(ranked.iter().filter(drop_only));
    cover(&plain, drops).or_else(|| cover(&classes(ranked.iter()), drops))
}

/// Of all candidates that see the same drops the best.
fn classes<'a>(ranked: impl Iterator<Item = &'a Ranked<'a>>) -> Vec<&'a Ranked<'a>> {
    // Ordered, since ranks may be equal and the same file has to give the same plan.
    let mut best: BTreeMap<&RunSet, &Ranked<'_>> = BTreeMap::new();
    for entry in ranked {
        let slot = best.entry(&entry.candidate.seen).or_insert(entry);
        if entry.rank() < slot.rank() {
            *slot = entry;
        }
    }
    let mut classes: Vec<&Ranked<'_>> = best.into_values().collect();
    classes.sort_by_key(|entry| entry.rank());
    classes
}

/// Exact cover by the fewest classes; of several the one with the best ranks.
fn cover<'a>(classes: &[&'a Ranked<'a>], drops: &RunSet) -> Option<Vec<&'a Ranked<'a>>> {
    for count in 1..=MAX_PROBES {
        let mut search = Search { classes, drops, chosen: Vec::new(), best: None, steps: 0 };
        search.extend(&RunSet::default(), count);
        if let Some((_, best)) = search.best {
            return Some(best.into_iter().map(|index| classes[index]).collect());
        }
    }
    None
}

struct Search<'s, 'a> {
    classes: &'s [&'a Ranked<'a>],
    drops: &'s RunSet,
    chosen: Vec<usize>,
    best: Option<(Vec<Rank>, Vec<usize>)>,
    steps: u32,
}

impl Search<'_, '_> {
    fn extend(&mut self, covered: &RunSet, left: usize) {
        let Some(run) = self.drops.first_missing(covered) else {
            let mut ranks: Vec<Rank> =
                self.chosen.iter().map(|&index| self.classes[index].rank()).collect();
            // The worst site weighs most.
            ranks.sort_by(|a, b| b.cmp(a));
            if self.best.as_ref().is_none_or(|(best, _)| ranks < *best) {
                self.best = Some((ranks, self.chosen.clone()));
            }
            return;
        };
        if left == 0 {
            return;
        }
        for index in 0..self.classes.len() {
            let seen = &self.classes[index].candidate.seen;
            self.steps += 1;
            if self.steps > MAX_STEPS {
                return;
            }
            // Two probes of an event at one place are no plan, whatever tells them apart.
            let offset = self.classes[index].offset;
            let taken = self.chosen.iter().any(|&other| self.classes[other].offset == offset);
            if seen.contains(run) && seen.is_disjoint(covered) && !taken {
                let mut more = covered.clone();
                more.extend(seen);
                self.chosen.push(index);
                self.extend(&more, left - 1);
                self.chosen.pop();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nfdrop_db::{Condition, Event, Location, Reg};

    fn set(runs: &[usize]) -> RunSet {
        let mut set = RunSet::default();
        for &run in runs {
            set.insert(run);
        }
        set
    }

    fn candidate(offset: u32, when: Option<Reg>, runs: &[usize]) -> (u32, Candidate) {
        let condition = |reg| Condition { value: Location::reg(reg), mask: 0xff, equals: 0 };
        let (event, when, seen) = (Event::RuleDrop, when.map(condition), set(runs));
        let instruction = offset as usize;
        (offset, Candidate { instruction, event, when, and: None, rereads: false, seen })
    }

    fn chosen(candidates: &[(u32, Candidate)]) -> Option<Vec<u32>> {
        let place = Location::reg(Reg::Rbx);
        let found = Found { rule: Some(place), pkt: place, base_chain: place };
        let ranked: Vec<_> = candidates
            .iter()
            .map(|&(offset, ref candidate)| Ranked {
                candidate,
                found,
                cost: Cost::Boosted,
                visits: 0,
                offset,
            })
            .collect();
        let chosen = choose(&ranked, &set(&[0, 1, 70]))?;
        let mut offsets: Vec<u32> = chosen.iter().map(|entry| entry.offset).collect();
        offsets.sort_unstable();
        Some(offsets)
    }

    #[test]
    fn every_drop_once_and_drop_only_sites_first() {
        let split = [candidate(1, None, &[0, 1]), candidate(2, None, &[70])];
        assert_eq!(chosen(&split), Some(vec![1, 2]));
        let overlapping = [candidate(1, None, &[0, 1]), candidate(2, None, &[1, 70])];
        assert_eq!(chosen(&overlapping), None);
        let with_condition =
            [split.as_slice(), &[candidate(3, Some(Reg::Rdx), &[0, 1, 70])]].concat();
        assert_eq!(chosen(&with_condition), Some(vec![1, 2]));
        assert_eq!(chosen(&with_condition[1..]), Some(vec![3]));
    }

    #[test]
    fn no_two_probes_at_one_place() {
        let mut same =
            vec![candidate(1, Some(Reg::Rdx), &[0, 1]), candidate(1, Some(Reg::Rcx), &[70])];
        assert_eq!(chosen(&same), None);
        same.push(candidate(0, Some(Reg::Rcx), &[70]));
        assert_eq!(chosen(&same), Some(vec![0, 1]));
    }
}
