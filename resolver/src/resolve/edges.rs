//! Which branch edges the runs have taken, and which of them count.

use super::link::{Decoded, Linked};
use super::memory::{self, Memory};
use super::run::Observer;
use crate::arch::{Access, Cpu, Flow, Instruction};
use crate::image::function::Function;

/// Branch edges taken, by number of the instruction, and which instructions read KASAN's shadow.
#[derive(Debug, Clone)]
pub(super) struct Edges {
    taken: Vec<[bool; 2]>,
    shadow: Vec<bool>,
    /// Which instructions may read it and have not been seen to do so.
    may_shadow: Vec<bool>,
    has_shadow: bool,
}

impl Edges {
    pub(super) fn new(linked: &Linked) -> Self {
        let count = linked.instructions.len();
        let has_shadow = linked.symbol_names().any(|name| name.starts_with("__asan_"));
        let may_shadow = |decoded: &Decoded| has_shadow && may_shadow(&decoded.instruction);
        let may_shadow = linked.instructions.iter().map(may_shadow).collect();
        Self { taken: vec![[false; 2]; count], shadow: vec![false; count], may_shadow, has_shadow }
    }

    /// Whether a conditional branch belongs to KASAN's check of an access: nothing but arithmetic lies
    /// between it and a look at the shadow.
    fn checks_shadow(&self, linked: &Linked, number: usize) -> bool {
        const MOST: usize = 12;
        for before in (0..number).rev().take(MOST) {
            if self.shadow[before] {
                return true;
            }
            let (i, next) = (&linked.instructions[before], &linked.instructions[before + 1]);
            let i = &i.instruction;
            let plain = matches!(i.flow(), Flow::Next | Flow::Branch);
            let touches_memory = i.memory().is_some_and(|memory| memory.access != Access::Address);
            if i.next_address() != next.instruction.address() || !plain || touches_memory {
                return false;
            }
        }
        false
    }
}

/// Whether an instruction has an operand in memory that is not plainly in the frame.
fn may_shadow(i: &Instruction) -> bool {
    i.memory().is_some() && !i.is_on_stack()
}

/// Both an observer of its own kind and of the edges.
pub(super) struct Watching<'a, O> {
    pub(super) linked: &'a Linked,
    pub(super) inner: &'a mut O,
    pub(super) edges: &'a mut Edges,
}

impl<O: Observer> Observer for Watching<'_, O> {
    fn visit(&mut self, instruction: usize, cpu: &Cpu, memory: &Memory, freed: bool) {
        if self.edges.may_shadow[instruction] {
            let i = &self.linked.instructions[instruction].instruction;
            if cpu.effective_address(i).is_some_and(memory::is_shadow) {
                self.edges.shadow[instruction] = true;
                self.edges.may_shadow[instruction] = false;
            }
        }
        self.inner.visit(instruction, cpu, memory, freed);
    }

    fn weight(&self, instruction: usize) -> u64 {
        self.inner.weight(instruction)
    }

    fn edge(&mut self, instruction: usize, taken: bool) {
        self.edges.taken[instruction][usize::from(taken)] = true;
        self.inner.edge(instruction, taken);
    }
}

/// Branch edges taken, and all of them but those that only code with a defect takes (a sanitizer's
/// report, a failed check of the stack or of a callee's type). A jump label's two edges are its two states; the runs take
/// every label they come by in both, since every key is tried in both.
pub(super) fn count_edges(function: &Function, linked: &Linked, edges: &Edges) -> (usize, usize) {
    let ways = branch_edges(function, linked, edges).into_iter().flat_map(|(_, ways)| ways);
    let counted: Vec<bool> = ways.flatten().collect();
    (counted.iter().filter(|&&taken| taken).count(), counted.len())
}

/// By number of each conditional branch whether a run went on and whether one jumped; `None` where
/// that does not count.
pub(super) fn branch_edges(
    function: &Function,
    linked: &Linked,
    edges: &Edges,
) -> Vec<(usize, [Option<bool>; 2])> {
    let warnings = linked.warnings(function);
    let labels: Vec<_> = function.jump_labels.iter().flatten().map(|label| label.code).collect();
    let mut branches = Vec::new();
    for (number, (decoded, taken)) in linked.instructions.iter().zip(&edges.taken).enumerate() {
        let branch = decoded.instruction.flow() == Flow::Branch;
        if branch && !labels.contains(&decoded.place) {
            let target = decoded.instruction.target().unwrap_or_default();
            let ways = [decoded.instruction.next_address(), target];
            // What decides over a report of KASAN lies out of line in some builds.
            let reports = || edges.has_shadow && ways.iter().any(|&to| linked.fails(to, &warnings));
            let checks_shadow = edges.checks_shadow(linked, number) || reports();
            let counts =
                |way: usize| taken[way] || !(checks_shadow || linked.fails(ways[way], &warnings));
            branches.push((number, [0, 1].map(|way| counts(way).then_some(taken[way]))));
        }
    }
    branches
}
