//! What the resolver saw: for those who want to check its choice, or to know why there is none.
//!
//! Somebody looks on and writes everything down while the resolver makes its runs, so that telling of
//! a plan costs a fraction of finding it, and plain resolving pays nothing ([`record`]). Where there is
//! no plan the resolver stops at the first run that went wrong; then the runs are made once more, to
//! the end.

mod record;
mod roles;
mod sites;
mod watch;

pub use roles::Role;
pub use sites::{Beaten, Refusal, Site, Verdict};

use super::choose::Ranked;
use super::detect_layout::detect_layout;
use super::edges::{self, Edges};
use super::frame::{Frame, Slot};
use super::infer::{Candidate, Coverage, Kind, RunSet, Visits};
use super::layout::Abi;
use super::link::{self, Key, KeyState, Linked, Placement};
use super::pointers::Found;
use super::run::{Budget, DropConvention, Stop};
use super::runner::{Failed, FoundOut, Runner, disagreement};
use super::spectate::At;
use super::world::{Case, World};
use super::worlds::{self, Vocabulary};
use super::{Findings, RANDOM_CASES, SEEDS, Unresolved};
use crate::arch::{Flow, Rules, patch};
use crate::image::function::{Function, Place};
use nfdrop_db::Location;
use watch::{Stat, Watch, Watching};

/// Most runs whose failing is told one by one.
const MAX_FAILURES: usize = 8;
/// A layout whose first runs all fail is not the function's.
const MIN_AGREED: u32 = 1;
const FIRST_RUNS: u32 = 64;

/// What was seen of a function.
#[derive(Debug, Clone)]
pub struct Report {
    /// What [`super::resolve`] says.
    pub outcome: Result<Findings, Unresolved>,
    /// The static keys, by name.
    pub keys: Vec<String>,
    /// The layout the runs were made with; `None` where none could be made.
    pub layout: Option<Abi>,
    /// All instructions that can be reached, by place; empty where the code does not decode.
    pub instructions: Vec<Seen>,
    /// Runs that ended as they should, by [`Outcome`](super::rules::Outcome), and those that did not.
    pub runs: [u32; 4],
    /// The first of those that did not.
    pub failures: Vec<Failure>,
    /// Branch edges taken, and all.
    pub edges: (usize, usize),
}

/// One instruction over all runs.
#[derive(Debug, Clone)]
pub struct Seen {
    /// Where.
    pub place: Place,
    /// Runs that came by, by [`Outcome`](super::rules::Outcome), and of those that failed.
    pub runs: [u32; 4],
    /// How often they did.
    pub visits: [u64; 4],
    /// Whether execution may go two ways here, by a condition and not by a static key.
    pub branch: bool,
    /// How often it went on, and how often it jumped.
    pub edges: [u64; 2],
    /// Whether these ways count: those that only code with a defect goes do not.
    pub counted: [bool; 2],
    /// Where an indirect jump went.
    pub targets: Vec<Place>,
    /// What was called.
    pub callees: Vec<Callee>,
    /// What registers and stack slots held at every visit.
    pub holds: Vec<Holding>,
    /// As a place for probes, for each event that comes by.
    pub sites: Vec<Site>,
}

/// A function that was called.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Callee {
    /// Its symbol.
    pub name: String,
    /// With an expression, `struct nft_regs` and the packet: `expr->ops->eval(expr, regs, pkt)`.
    pub evaluates: bool,
    /// With the packet, which it may free.
    pub frees: bool,
}

/// What is in a place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Holding {
    /// Register or slot.
    pub place: Location,
    /// What it holds.
    pub role: Role,
}

/// A run that did not end as it should.
#[derive(Debug, Clone)]
pub struct Failure {
    /// Why, as the resolver says it.
    pub what: String,
    /// The instruction where it stopped, or the last one.
    pub at: Option<Place>,
    /// Where the last `eval` was called that the reference calls too.
    pub agreed: Option<Place>,
    /// So many calls of `eval` were as expected.
    pub calls: usize,
    /// So many should have been made.
    pub expected_calls: usize,
    /// The last instructions, the last one last.
    pub trail: Vec<Place>,
    /// The static keys that were enabled.
    pub keys: Vec<String>,
}

/// Resolves a function, and tells what was seen on the way.
pub fn observe(function: &Function) -> Report {
    let mut recorder = record::Recorder::default();
    let outcome = super::resolve_before(function, &mut |_| {}, &mut recorder);
    let seen = outcome.is_ok().then(|| recorder.done()).flatten();
    report(function, outcome, seen)
}

/// `seen`: what was seen when the resolver found its plan.
fn report(
    function: &Function,
    outcome: Result<Findings, Unresolved>,
    seen: Option<(Observed, Choice)>,
) -> Report {
    let keys = link::keys(function).unwrap_or_default();
    let mut report = Report {
        outcome,
        keys: keys.iter().map(key_name).collect(),
        layout: None,
        instructions: Vec::new(),
        runs: [0; 4],
        failures: Vec::new(),
        edges: (0, 0),
    };
    let images = |placement| super::images(function, placement);
    let bounded = super::bounded(function);
    let (Ok(()), Ok(first), Ok(again)) =
        (bounded, images(Placement::Odd), images(Placement::Round))
    else {
        // What can be reached may still be known.
        let linked = Linked::new(function, &keys, KeyState(0), Placement::Odd);
        let decoded = linked.into_iter().flat_map(|linked| linked.instructions);
        report.instructions = decoded.map(|decoded| Seen::never(decoded.place)).collect();
        return report;
    };
    if let Some((observed, choice)) = seen {
        observed.finish(function, [&first, &again], Some(choice), &mut report);
        return report;
    }
    let candidates = Abi::candidates(&function.fields).unwrap_or_default();
    let budget = Budget::default();
    let mut best: Option<Observed> = None;
    let warnings = first[0].warnings(function);
    for abi in candidates.into_iter().filter(Abi::fits) {
        // One that does not agree is shown as it is, with what goes wrong.
        let abi = detect_layout(&first[0], &warnings, abi.clone(), &budget).unwrap_or(abi);
        let observed = Observed::new(function, [&first, &again], &keys, &abi, &budget);
        let whole = observed.runs[3] == 0;
        let agreed = |observed: &Observed| observed.runs[..3].iter().sum::<u32>();
        if best.as_ref().is_none_or(|best| agreed(best) < agreed(&observed)) {
            best = Some(observed);
        }
        if whole {
            break;
        }
    }
    if let Some(best) = best {
        best.finish(function, [&first, &again], None, &mut report);
    } else {
        let decoded = first[0].instructions.iter();
        report.instructions = decoded.map(|decoded| Seen::never(decoded.place)).collect();
    }
    report
}

impl Seen {
    fn never(place: Place) -> Self {
        Self {
            place,
            runs: [0; 4],
            visits: [0; 4],
            branch: false,
            edges: [0; 2],
            counted: [false; 2],
            targets: Vec::new(),
            callees: Vec::new(),
            holds: Vec::new(),
            sites: Vec::new(),
        }
    }
}

/// All runs with one layout.
#[derive(Debug)]
struct Observed {
    abi: Abi,
    stats: Vec<Stat>,
    slots: Vec<Slot>,
    edges: Edges,
    runs: [u32; 4],
    failures: Vec<Failure>,
    /// How often a packet that walks many rules and is accepted comes by.
    walk: Vec<u64>,
}

impl Observed {
    fn new(
        function: &Function,
        images: [&[Linked]; 2],
        keys: &[Key],
        abi: &Abi,
        budget: &Budget,
    ) -> Self {
        let first = &images[0][0];
        let vocabulary = Vocabulary::new(first, abi);
        let mut watch = Watch::new(first, abi);
        let mut all = FoundOut::new(first);
        let mut observed = Self {
            abi: abi.clone(),
            stats: Vec::new(),
            slots: watch.slots.clone(),
            edges: all.edges.clone(),
            runs: [0; 4],
            failures: Vec::new(),
            walk: vec![0; first.instructions.len()],
        };
        // The first runs tell where the verdict is, which the others know from the start.
        let walk = worlds::walk(&vocabulary, SEEDS[0]);
        let warnings = first.warnings(function);
        let runs = Runner { images: images[0], abi, cases: &walk, warnings, budget };
        for (case, world) in runs.worlds() {
            watch.enter();
            watch.begin_run();
            let at = At { linked: first, world: &world };
            let mut watching = Watching { watch: &mut watch, at };
            // A run that fails will fail again below, where its reason is told.
            let _ = runs.one(first, case, &world, &mut all, &mut watching);
            watch.end_run(Some(case.expected.end.outcome()));
        }
        all.convention = DropConvention::ANY;
        observed.walk = watch.walked(first);
        'runs: for which in 0..2 {
            let warnings = images[which][0].warnings(function);
            let cases = worlds::generate(&vocabulary, SEEDS[which], RANDOM_CASES[which]);
            let runs = Runner { images: images[which], abi, cases: &cases, warnings, budget };
            for (number, (case, world)) in runs.worlds().enumerate() {
                watch.enter();
                for linked in runs.states(number, case) {
                    watch.begin_run();
                    let at = At { linked, world: &world };
                    let mut watching = Watching { watch: &mut watch, at };
                    let ran = runs.one(linked, case, &world, &mut all, &mut watching);
                    let outcome = ran.is_ok().then(|| case.expected.end.outcome());
                    if let Err(failed) = &ran {
                        observed.fail(
                            &watch,
                            linked,
                            case,
                            failed,
                            enabled(function, linked, keys),
                        );
                    }
                    watch.end_run(outcome);
                    observed.runs[outcome.map_or(3, |outcome| outcome as usize)] += 1;
                    let agreed: u32 = observed.runs[..3].iter().sum();
                    let lost = observed.runs[3] >= FIRST_RUNS && agreed < MIN_AGREED;
                    if lost || budget.is_exhausted() {
                        break 'runs;
                    }
                }
            }
        }
        (observed.stats, observed.edges) = (watch.stats, all.edges);
        observed
    }

    fn fail(
        &mut self,
        watch: &Watch,
        linked: &Linked,
        case: &Case,
        failed: &Failed,
        keys: Vec<String>,
    ) {
        if self.failures.len() >= MAX_FAILURES {
            return;
        }
        let (what, at, calls) = match failed {
            Failed::Stopped(stop) => (stop.to_string(), stop_at(stop), &[][..]),
            Failed::Disagreed(ran) => (disagreement(case, ran), None, &ran.calls[..]),
        };
        let place = |number: &usize| linked.instructions[*number].place;
        let trail: Vec<Place> = watch.trail().iter().map(place).collect();
        let at = at.or(trail.last().copied());
        if self.failures.iter().any(|other| other.at == at && other.what == what) {
            return;
        }
        let expected = &case.expected.calls;
        // A run that stopped does not say what it called, but all of it was seen.
        let made = if calls.is_empty() { watch.evaluations.len() } else { calls.len() };
        let differ = calls.iter().zip(expected).position(|(a, b)| a != b);
        let agreed = differ.unwrap_or(made.min(expected.len()));
        self.failures.push(Failure {
            what,
            at,
            agreed: agreed.checked_sub(1).and_then(|last| watch.evaluations.get(last)).map(place),
            calls: agreed,
            expected_calls: expected.len(),
            trail,
            keys,
        });
    }

    /// Chooses as the resolver does, keeping what it throws away.
    fn finish(
        self,
        function: &Function,
        images: [&[Linked]; 2],
        choice: Option<Choice>,
        report: &mut Report,
    ) {
        let first = &images[0][0];
        let rules = Rules::new(function, first);
        report.edges = edges::count_edges(function, first, &self.edges);
        let mut counted = vec![[false; 2]; first.instructions.len()];
        for (number, ways) in edges::branch_edges(function, first, &self.edges) {
            counted[number] = ways.map(|way| way.is_some());
        }
        let probes = report.outcome.as_ref().map_or(&[][..], |findings| &findings.probes);
        let conditions = probes.iter().map(|probe| probe.when.len()).max();
        let kind = match conditions {
            Some(0) => Kind::DropOnly,
            Some(1) => Kind::Conditional,
            _ => Kind::AtEnd,
        };
        let mut sites = vec![Vec::new(); first.instructions.len()];
        if self.runs[3] == 0 {
            let choice =
                choice.unwrap_or_else(|| Choice::new(function, images[0], &self.abi, &rules, kind));
            let ranked = choice.ranked(first, &rules, &self.walk);
            let drops = &choice.drops;
            sites = sites::sites(
                function,
                first,
                &rules,
                &self.stats,
                &ranked,
                (probes, drops, &self.slots),
            );
        }
        let place = |number: &usize| first.instructions[*number].place;
        let labels: Vec<Place> =
            function.jump_labels.iter().flatten().map(|label| label.code).collect();
        let slots = &self.slots;
        let instructions = first.instructions.iter().zip(self.stats).zip(sites).zip(counted);
        report.instructions = instructions
            .map(|(((decoded, stat), sites), counted)| {
                let conditional = decoded.instruction.flow() == Flow::Branch;
                Seen {
                    place: decoded.place,
                    runs: stat.runs,
                    visits: stat.visits,
                    branch: conditional && !labels.contains(&decoded.place),
                    edges: stat.edges,
                    counted,
                    targets: stat.targets.iter().map(place).collect(),
                    callees: stat.callees.iter().cloned().collect(),
                    holds: stat.holdings(slots),
                    sites,
                }
            })
            .collect();
        (report.runs, report.failures) = (self.runs, self.failures);
        report.layout = Some(self.abi);
    }
}

/// The candidates of the choice with their pointers.
#[derive(Debug)]
struct Choice {
    candidates: Vec<Candidate>,
    found: Vec<Option<Found>>,
    drops: [RunSet; 2],
}

impl Choice {
    fn new(
        function: &Function,
        images: &[Linked],
        abi: &Abi,
        rules: &Rules<'_>,
        kind: Kind,
    ) -> Self {
        let first = &images[0];
        let eligible = super::eligible(first, rules);
        let vocabulary = Vocabulary::new(first, abi);
        let cases = worlds::generate(&vocabulary, SEEDS[0], RANDOM_CASES[0]);
        let warnings = first.warnings(function);
        let budget = Budget::default();
        let runs = Runner { images, abi, cases: &cases, warnings, budget: &budget };
        let mut all = FoundOut::new(first);
        let frame = Frame::new(first);
        // For where the verdict is.
        let mut visits = Visits::new(first.instructions.len());
        for case in &worlds::walk(&vocabulary, SEEDS[0]) {
            let world = World::new(&case.scene, abi, first);
            let _ = runs.one(first, case, &world, &mut all, &mut visits);
        }
        let mut coverage = Coverage::new(abi, &frame.numbers, visits.below_entry, &eligible, kind);
        let mut whole = true;
        for (number, (case, world)) in runs.worlds().enumerate() {
            for image in runs.states(number, case) {
                let ran = runs.one(image, case, &world, &mut all, &mut coverage);
                whole &= ran.is_ok() && !coverage.too_much();
                coverage.end_run(case.expected.end.outcome());
            }
            if !whole {
                break;
            }
        }
        let drops = coverage.drops.clone();
        let candidates = if whole { coverage.candidates() } else { Vec::new() };
        let Ok(found) = runs.places(&candidates, &frame.slots) else {
            return Self { candidates: Vec::new(), found: Vec::new(), drops };
        };
        Self { candidates, found, drops }
    }

    fn ranked(&self, linked: &Linked, rules: &Rules<'_>, walk: &[u64]) -> Vec<Ranked<'_>> {
        let ranked = self.candidates.iter().zip(&self.found).filter_map(|(candidate, found)| {
            let offset = linked.instructions[candidate.instruction].place.offset;
            let visits = walk[candidate.instruction];
            Some(Ranked { candidate, found: (*found)?, cost: rules.cost(offset), visits, offset })
        });
        ranked.collect()
    }
}

fn stop_at(stop: &Stop) -> Option<Place> {
    match stop {
        Stop::Trap { at, .. } => Some(*at),
        _ => None,
    }
}

/// The keys that are enabled in an image: its jump labels and variables say so.
fn enabled(function: &Function, linked: &Linked, keys: &[Key]) -> Vec<String> {
    let patched = |key: &Key| {
        let labels = function.jump_labels.iter().flatten();
        let label = labels.filter(|_| key.offset == 0).find(|label| label.key == key.symbol);
        label.is_some_and(|label| {
            let (.., bytes) = &linked.parts[usize::from(label.code.part)];
            let code = bytes.get(label.code.offset as usize..).unwrap_or_default();
            patch::jumps(code) != label.branch
        })
    };
    let variable = |key: &Key| {
        let at = linked.known_symbol(&key.symbol).map(|at| at.0.wrapping_add(key.offset));
        linked.variables.iter().any(|&(address, _, value)| Some(address.0) == at && value != 0)
    };
    keys.iter().filter(|key| patched(key) || variable(key)).map(key_name).collect()
}

/// As the listing names it.
fn key_name(key: &Key) -> String {
    match key.offset {
        0 => key.symbol.clone(),
        offset => format!("{}+{offset:#x}", key.symbol),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image;

    /// Built with link-time optimization, which has inlined `eval` functions. It has no plan: too few of its
    /// branches are taken.
    const WITH_LTO: &[u8] =
        include_bytes!("../../../../tests/corpus/variants/6.12.117-clang-19-lto-full-cfi.json");

    #[test]
    fn runs_unresolved_lto_function_with_layout_of_resolver() {
        let function = image::load(WITH_LTO, None).unwrap();
        let report = observe(&function);
        assert!(report.outcome.is_err());
        assert!(!report.layout.unwrap().inlined_evals.is_empty());
        assert_eq!((report.runs[3], report.failures.len()), (0, 0));
    }
}
