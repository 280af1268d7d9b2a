//! What is seen while the resolver finds a plan.

use super::watch::Watch;
use super::{Choice, Observed};
use crate::arch::Cpu;
use crate::resolve::edges::Edges;
use crate::resolve::infer::{Candidate, RunSet};
use crate::resolve::layout::Abi;
use crate::resolve::link::Linked;
use crate::resolve::memory::Memory;
use crate::resolve::pointers::Found;
use crate::resolve::rules::Outcome;
use crate::resolve::spectate::{At, Spectator};

/// Looks on, and keeps what was seen with the layout that a plan was found with.
#[derive(Debug, Default)]
pub(super) struct Recorder {
    now: Option<Tried>,
    done: Option<(Observed, Choice)>,
}

/// One layout that is being tried.
#[derive(Debug)]
struct Tried {
    abi: Abi,
    watch: Watch,
    /// As it was after the first runs: where the next ones begin, maybe again.
    fresh: Option<Watch>,
    walk: Vec<u64>,
    runs: [u32; 4],
    choice: Option<Choice>,
}

impl Recorder {
    /// What was seen with the layout that is proven.
    pub(super) fn done(self) -> Option<(Observed, Choice)> {
        self.done
    }
}

impl Spectator for Recorder {
    fn begin(&mut self, first: &Linked, abi: &Abi) {
        self.now = Some(Tried {
            abi: abi.clone(),
            watch: Watch::new(first, abi),
            fresh: None,
            walk: Vec::new(),
            runs: [0; 4],
            choice: None,
        });
    }

    fn walked(&mut self, first: &Linked) {
        if let Some(now) = &mut self.now {
            now.walk = now.watch.walked(first);
            now.fresh = Some(now.watch.clone());
        }
    }

    fn restart(&mut self, _: &Linked) {
        if let Some(now) = &mut self.now
            && let Some(fresh) = &now.fresh
        {
            now.watch = fresh.clone();
            now.runs = [0; 4];
        }
    }

    fn enter(&mut self) {
        if let Some(now) = &mut self.now {
            now.watch.enter();
        }
    }

    fn begin_run(&mut self) {
        if let Some(now) = &mut self.now {
            now.watch.begin_run();
        }
    }

    fn visit(&mut self, at: At<'_>, instruction: usize, cpu: &Cpu, memory: &Memory, freed: bool) {
        if let Some(now) = &mut self.now {
            now.watch.visit(at, instruction, cpu, memory, freed);
        }
    }

    fn edge(&mut self, instruction: usize, taken: bool) {
        if let Some(now) = &mut self.now {
            now.watch.edge(instruction, taken);
        }
    }

    fn end_run(&mut self, outcome: Outcome) {
        if let Some(now) = &mut self.now {
            now.watch.end_run(Some(outcome));
            now.runs[outcome as usize] += 1;
        }
    }

    fn chosen(
        &mut self,
        candidates: Vec<Candidate>,
        found: Vec<Option<Found>>,
        drops: [RunSet; 2],
    ) {
        if let Some(now) = &mut self.now {
            now.choice = Some(Choice { candidates, found, drops });
        }
    }

    fn proven(&mut self, edges: &Edges) {
        let Some(Tried { abi, watch, walk, runs, choice: Some(choice), .. }) = self.now.take()
        else {
            return;
        };
        let observed = Observed {
            abi,
            slots: watch.slots,
            stats: watch.stats,
            edges: edges.clone(),
            runs,
            failures: Vec::new(),
            walk,
        };
        self.done = Some((observed, choice));
    }
}
