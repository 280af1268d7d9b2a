//! The resolver: finds out where in `nft_do_chain` drops can be seen by running the function.
//!
//! People find these places by reading disassembly and looking for patterns, which compilers do not
//! keep. What all builds keep is behaviour. So the function's own code is run on rulesets that are
//! made up ([`worlds`]) and laid out in memory as the kernel does ([`world`], [`layout`]), under
//! every combination of its static keys ([`link`]), by an interpreter ([`crate::arch`]) whose
//! surroundings are simulated ([`run`]). Every run has to end as an independent reference says
//! ([`rules`]); otherwise something is not understood and there is no plan. Over all runs it is seen
//! which instructions only drops come by, or which values tell drops apart there, and where rule,
//! packet and base chain are then ([`infer`]). Of those the best set is chosen ([`choose`]), and
//! proven again on rulesets that had no part in the choice ([`proof`]).
//!
//! Bytes in, plan or reason out: no I/O, no clock, no global.

pub mod check;
pub mod choose;
pub mod detect_layout;
mod edges;
pub mod frame;
pub mod infer;
pub mod layout;
pub mod leftovers;
pub mod link;
pub mod memory;
pub mod origin;
pub mod pointers;
pub mod proof;
pub mod random;
pub mod report;
pub mod rules;
pub mod run;
mod runner;
mod spectate;
pub mod values;
pub mod world;
pub mod worlds;

use crate::arch::Rules;
use crate::image::function::{Function, ObjectKind, Part, Place};
use choose::Ranked;
use detect_layout::detect_layout;
use edges::count_edges;
use frame::{Frame, Slot};
use infer::{Coverage, Kind, Visits};
use layout::Abi;
use link::{KeyState, LinkError, Linked, Placement};
use nfdrop_db::plan::{self, SCHEMA};
use nfdrop_db::{
    Arch, BuildId, Event, Evidence, FnOffset, HexBytes, Layout, Method, Plan, Probe, Reason, Share,
};
use rules::Outcome;
use run::Budget;
use runner::{FoundOut, Runner, truth};
use spectate::{Nobody, Spectator};
use world::World;
use worlds::Vocabulary;

/// Version of the resolver. Outcomes carry it, so that a better resolver redoes what it must.
pub const ANALYZER: &str = env!("CARGO_PKG_VERSION");

/// Seeds of the rulesets that the choice is made on, and of those that have to confirm it.
const SEEDS: [u64; 2] = [0x6e66_7461_626c_6573, 0x7061_636b_6574_7321];
/// Random rulesets besides the systematic ones, for the choice and for the proof.
const RANDOM_CASES: [usize; 2] = [60, 120];
/// States of the static keys that a random ruleset is run in, if there are more.
const RANDOM_STATES: usize = 4;
/// Static keys that are tried in all combinations; of more only some combinations are.
const MAX_FULL_KEYS: usize = 4;
/// Most static keys.
const MAX_KEYS: usize = 16;
/// A plan needs this share of the branch edges taken: what no run has gone through is not known.
pub const MIN_EDGES: Share = Share::new(750);

/// Why there is no plan.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{reason}: {detail}")]
pub struct Unresolved {
    /// The kind.
    pub reason: Reason,
    /// The particulars.
    pub detail: String,
}

impl Unresolved {
    fn new(reason: Reason, detail: impl std::fmt::Display) -> Self {
        Self { reason, detail: detail.to_string() }
    }
}

impl From<LinkError> for Unresolved {
    fn from(error: LinkError) -> Self {
        Self::new(Reason::MalformedImage, error)
    }
}

/// A plan without the identity of a build: the same for all builds with this body and layout.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Findings {
    /// The probes, in the order of event and offset.
    pub probes: Vec<Probe>,
    /// What the client reads through.
    pub layout: Layout,
    /// What it was proven with.
    pub evidence: Evidence,
    /// Bytes of the function.
    pub symbol_size: u32,
    /// Of the function's bytes with relocated fields zeroed.
    pub body_sha256: [u8; 32],
    /// What the function is in.
    pub object: ObjectKind,
}

impl Findings {
    /// The plan of a build.
    pub fn plan(&self, build_id: BuildId) -> Plan {
        Plan {
            schema: SCHEMA,
            build_id,
            object: match self.object {
                ObjectKind::Module => "nf_tables".to_owned(),
                ObjectKind::Vmlinux => "vmlinux".to_owned(),
            },
            arch: Arch::X86_64,
            symbol: plan::SYMBOL.to_owned(),
            symbol_size: self.symbol_size,
            body_sha256: HexBytes(self.body_sha256.to_vec()),
            probes: self.probes.clone(),
            layout: self.layout.clone(),
            evidence: self.evidence.clone(),
        }
    }
}

/// What the resolver is busy with, for those who measure it. All but the first come again where the
/// first try, or the first layout, does not do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Laying the function out in every state of its static keys.
    Link,
    /// Running it on all rulesets: what comes by where.
    Runs,
    /// Running it again where it drops: where the pointers are, and the choice.
    Choice,
    /// Running it on rulesets that had no part in the choice.
    Proof,
}

/// Finds the attach plan of a function.
pub fn resolve(function: &Function) -> Result<Findings, Unresolved> {
    resolve_watched(function, &mut |_| {})
}

/// As [`resolve`], telling `enters` whenever a stage begins.
pub fn resolve_watched(
    function: &Function,
    enters: &mut dyn FnMut(Stage),
) -> Result<Findings, Unresolved> {
    resolve_before(function, enters, &mut Nobody)
}

/// As [`resolve_watched`], before somebody who looks on.
fn resolve_before<S: Spectator>(
    function: &Function,
    enters: &mut dyn FnMut(Stage),
    spectator: &mut S,
) -> Result<Findings, Unresolved> {
    enters(Stage::Link);
    let candidates = Abi::candidates(&function.fields)
        .map_err(|error| Unresolved::new(Reason::UnknownLayout, error))?;
    if let Some(odd) = candidates.iter().find(|abi| !abi.fits()) {
        let detail = format!("{}: offsets are far from every known kernel's", odd.name);
        return Err(Unresolved::new(Reason::UnknownLayout, detail));
    }
    bounded(function)?;
    let (images, again) = (images(function, Placement::Odd)?, images(function, Placement::Round)?);
    if places(&images[0]) != places(&again[0]) {
        let detail = "what code can be reached depends on where other symbols are".to_owned();
        return Err(Unresolved::new(Reason::MalformedImage, detail));
    }
    let budget = Budget::default();
    let warnings = images[0].warnings(function);
    let mut found: Option<(Abi, Findings)> = None;
    let mut failures: Vec<Unresolved> = Vec::new();
    for abi in candidates {
        let detected = detect_layout(&images[0], &warnings, abi, &budget);
        let tried = detected.and_then(|abi| {
            let images = [images.as_slice(), &again];
            let findings = resolve_with(function, images, &abi, &budget, enters, spectator)?;
            Ok((abi, findings))
        });
        match tried {
            Ok((abi, findings)) => {
                if let Some((other, _)) = &found {
                    let detail = format!(
                        "runs agree with two layouts, {} and {}; BTF would tell",
                        other.name, abi.name
                    );
                    return Err(Unresolved::new(Reason::UnknownLayout, detail));
                }
                found = Some((abi, findings));
            }
            // A layout that was not tried to the end may agree as well as one that was found.
            Err(unresolved) if budget.is_exhausted() => return Err(unresolved),
            Err(unresolved) => failures.push(unresolved),
        }
    }
    if let Some((_, findings)) = found {
        return Ok(findings);
    }
    // Among several layouts that fail, the one that got furthest says most.
    let order = |unresolved: &Unresolved| match unresolved.reason {
        Reason::NoSite | Reason::AmbiguousSite => 0,
        Reason::UnsupportedInstruction | Reason::UnknownLayout => 1,
        _ => 2,
    };
    let several = failures.len() > 1;
    let best = failures.into_iter().min_by_key(order);
    let best = best.unwrap_or_else(|| Unresolved::new(Reason::UnknownLayout, "no layout to try"));
    if several && best.reason == Reason::Diverged {
        let detail = format!("no known layout makes the runs agree: {}", best.detail);
        return Err(Unresolved::new(Reason::UnknownLayout, detail));
    }
    Err(best)
}

/// Refuses what is far larger than any `nft_do_chain`: every part is held once per state of the
/// static keys, and every instruction may be a site.
fn bounded(function: &Function) -> Result<(), Unresolved> {
    let parts = &function.parts;
    let labels = function.jump_labels.as_ref().map_or(0, Vec::len);
    let names = |part: &Part| part.relocations.iter().map(|r| r.symbol.len()).sum::<usize>();
    let limits = [
        ("bytes", parts.iter().map(|part| part.bytes.len()).sum(), 256 << 10),
        ("relocations", parts.iter().map(|part| part.relocations.len()).sum(), 8 << 10),
        ("bytes of symbols' names", parts.iter().map(names).sum(), 256 << 10),
        ("jump labels", labels, 1 << 10),
        ("bugs", function.bugs.len(), 1 << 10),
        ("ranges to keep off", function.keep_off.len(), 8 << 10),
    ];
    for (what, found, limit) in limits {
        if found > limit {
            let detail = format!("{found} {what}, expected at most {limit}");
            return Err(Unresolved::new(Reason::MalformedImage, detail));
        }
    }
    Ok(())
}

/// Of all instructions.
fn places(image: &Linked) -> Vec<Place> {
    image.instructions.iter().map(|decoded| decoded.place).collect()
}

/// The function in every state of its static keys, symbols placed in one way.
fn images(function: &Function, placement: Placement) -> Result<Vec<Linked>, Unresolved> {
    let keys = link::keys(function)?;
    if keys.len() > MAX_KEYS {
        let detail = format!("{} static keys, expected at most {MAX_KEYS}", keys.len());
        return Err(Unresolved::new(Reason::MalformedImage, detail));
    }
    let all = (1_u32 << keys.len()) - 1;
    let states: Vec<u32> = if keys.len() <= MAX_FULL_KEYS {
        (0..=all).collect()
    } else {
        // None, each alone, all but each, all.
        let single = (0..keys.len()).map(|bit| 1 << bit);
        let mut states: Vec<u32> = [0, all].into_iter().chain(single).collect();
        states.extend((0..keys.len()).map(|bit| all & !(1 << bit)));
        states
    };
    let mut images = Vec::with_capacity(states.len());
    for state in states {
        let mut linked = Linked::new(function, &keys, KeyState(state), placement)?;
        Vocabulary::introduce(&mut linked);
        images.push(linked);
    }
    // Numbers of instructions stand for places: they have to be the same in all states.
    let expected = places(&images[0]);
    if images.iter().any(|image| places(image) != expected) {
        let detail = "what code can be reached depends on the static keys' state".to_owned();
        return Err(Unresolved::new(Reason::MalformedImage, detail));
    }
    if let Some(odd) = images[0].instructions.iter().find(|d| !d.instruction.is_plausible()) {
        let name = &function.parts[usize::from(odd.place.part)].name;
        let detail = format!(
            "{:?} at {:#x} of {name}, which compiled code does not have",
            odd.instruction.name(),
            odd.place.offset
        );
        return Err(Unresolved::new(Reason::UnsupportedInstruction, detail));
    }
    // A bare listing does not say where its jump labels lead.
    if function.jump_labels.is_some()
        && let Some(place) = images[0].unreached()
    {
        let name = &function.parts[usize::from(place.part)].name;
        let detail = format!("nothing leads to the code at {:#x} of {name}", place.offset);
        return Err(Unresolved::new(Reason::MalformedImage, detail));
    }
    Ok(images)
}

/// By number, the instructions that a kprobe can be put on.
fn eligible(linked: &Linked, rules: &Rules<'_>) -> Vec<bool> {
    let site = |place: Place| place.part == 0 && rules.probe_site(place.offset).is_some();
    linked.instructions.iter().map(|decoded| site(decoded.place)).collect()
}

fn event(outcome: Outcome) -> Option<Event> {
    match outcome {
        Outcome::RuleDrop => Some(Event::RuleDrop),
        Outcome::PolicyDrop => Some(Event::PolicyDrop),
        Outcome::Other => None,
    }
}

fn resolve_with<S: Spectator>(
    function: &Function,
    [images, images_again]: [&[Linked]; 2],
    abi: &Abi,
    budget: &Budget,
    enters: &mut dyn FnMut(Stage),
    spectator: &mut S,
) -> Result<Findings, Unresolved> {
    enters(Stage::Runs);
    let first = &images[0];
    spectator.begin(first, abi);
    let rules = Rules::new(function, first);
    let eligible = eligible(first, &rules);
    let vocabulary = Vocabulary::new(first, abi);
    let frame = Frame::new(first);
    let warnings = first.warnings(function);
    let mut all = FoundOut::new(first);

    let cases = worlds::generate(&vocabulary, SEEDS[0], RANDOM_CASES[0]);
    let runs = Runner { images, abi, cases: &cases, warnings, budget };
    let walk = worlds::walk(&vocabulary, SEEDS[0]);
    let mut visits = Visits::new(first.instructions.len());
    for case in &walk {
        let world = World::new(&case.scene, abi, first);
        spectator.enter();
        runs.one_before(first, (case, &world), &mut all, &mut visits, spectator)?;
    }
    spectator.walked(first);
    // Looking at values is slow, and most builds have sites that only drops come by.
    let mut probes = Err(Unresolved::new(Reason::NoSite, "not looked for"));
    for kind in [Kind::DropOnly, Kind::Conditional, Kind::AtEnd] {
        enters(Stage::Runs);
        let mut coverage = Coverage::new(abi, &frame.numbers, visits.below_entry, &eligible, kind);
        spectator.restart(first);
        for (number, (case, world)) in runs.worlds().enumerate() {
            if kind == Kind::DropOnly && coverage.hopeless() {
                break;
            }
            spectator.enter();
            for image in runs.states(number, case) {
                runs.one_before(image, (case, &world), &mut all, &mut coverage, spectator)?;
                coverage.end_run(case.expected.end.outcome());
            }
            if coverage.too_much() {
                let detail = "more sites and conditions see drops than any compiled function has";
                return Err(Unresolved::new(Reason::AmbiguousSite, detail));
            }
        }
        if kind == Kind::DropOnly && coverage.hopeless() {
            continue;
        }
        enters(Stage::Choice);
        probes = choose_probes(&runs, function, &rules, coverage, &visits, &frame.slots, spectator);
        if probes.is_ok() {
            break;
        }
    }
    let probes = probes?;

    enters(Stage::Proof);
    let confirming = worlds::generate(&vocabulary, SEEDS[1], RANDOM_CASES[1]);
    let warnings = runs.warnings.clone();
    let runs_again = Runner { images: images_again, cases: &confirming, warnings, abi, budget };
    let layout = abi.plan_layout(&function.fields);
    let mut proof = proof::Proof::new(&probes, first);
    let mut counts = [0_u32; 3];
    for (number, (case, world)) in runs_again.worlds().enumerate() {
        let outcome = case.expected.end.outcome();
        spectator.enter();
        for image in runs_again.states(number, case) {
            proof.begin_run(event(outcome), truth(case, &world));
            runs_again.one_before(image, (case, &world), &mut all, &mut proof, spectator)?;
            proof.end_run().map_err(|error| Unresolved::new(Reason::AmbiguousSite, error))?;
            counts[outcome as usize] += 1;
        }
    }
    let (taken, total) = count_edges(function, first, &all.edges);
    let share = Share::of(taken, total);
    if share < MIN_EDGES {
        let detail = format!("only {taken} of {total} branch edges were taken, a plan needs 75 %");
        return Err(Unresolved::new(Reason::NoSite, detail));
    }
    // Both sets of runs count: all of them agreed with the reference.
    for (number, case) in cases.iter().enumerate() {
        counts[case.expected.end.outcome() as usize] += runs.states(number, case).count() as u32;
    }
    let evidence = Evidence {
        method: Method::Executed,
        runs: counts.iter().sum(),
        rule_drops: counts[Outcome::RuleDrop as usize],
        policy_drops: counts[Outcome::PolicyDrop as usize],
        edges: share,
        analyzer: ANALYZER.to_owned(),
    };
    let findings = Findings {
        probes,
        layout,
        evidence,
        symbol_size: function.parts[0].bytes.len() as u32,
        body_sha256: crate::image::body_sha256(function),
        object: function.object,
    };
    // Offsets from BTF that no run has used are in the plan too.
    let any_build = BuildId::from_bytes(&[0; 20]);
    if let Some(Err(error)) = any_build.ok().map(|id| findings.plan(id).validate()) {
        return Err(Unresolved::new(Reason::UnknownLayout, error));
    }
    spectator.proven(&all.edges);
    Ok(findings)
}

/// Chooses the probes after a first pass.
fn choose_probes<S: Spectator>(
    runs: &Runner<'_>,
    function: &Function,
    rules: &Rules<'_>,
    coverage: Coverage<'_>,
    visits: &Visits,
    slots: &[Slot],
    spectator: &mut S,
) -> Result<Vec<Probe>, Unresolved> {
    let first = &runs.images[0];
    let drops = coverage.drops.clone();
    let candidates = coverage.candidates();
    let found = runs.places(&candidates, slots)?;
    let mut probes = Vec::new();
    for (which, event) in [Event::RuleDrop, Event::PolicyDrop].into_iter().enumerate() {
        let of_event = || candidates.iter().zip(&found).filter(|(c, _)| c.event == event);
        let ranked: Vec<Ranked<'_>> = of_event()
            .filter_map(|(candidate, found)| {
                let offset = first.instructions[candidate.instruction].place.offset;
                let visits = visits.counts[candidate.instruction];
                let found = (*found)?;
                Some(Ranked { candidate, found, cost: rules.cost(offset), visits, offset })
            })
            .collect();
        let Some(chosen) = choose::choose(&ranked, &drops[which]) else {
            let sites = of_event().count();
            let detail = format!(
                "no set of instructions sees every {event} once and nothing else; {sites} sites and \
                 conditions see some, {} of them with all pointers",
                ranked.len()
            );
            let reason = match ranked.len() {
                0 if sites > 0 => Reason::AmbiguousSite,
                _ => Reason::NoSite,
            };
            return Err(Unresolved::new(reason, detail));
        };
        for entry in chosen {
            let start = entry.offset as usize;
            let len = first.instructions[entry.candidate.instruction].instruction.len();
            probes.push(Probe {
                event,
                offset: FnOffset(entry.offset),
                bytes: HexBytes(function.parts[0].bytes[start..start + len].to_vec()),
                cost: entry.cost,
                when: entry.candidate.conditions().collect(),
                rule: entry.found.rule,
                pkt: entry.found.pkt,
                base_chain: entry.found.base_chain,
            });
        }
    }
    probes.sort_by_key(|probe| (probe.event, probe.offset));
    spectator.chosen(candidates, found, drops);
    Ok(probes)
}
