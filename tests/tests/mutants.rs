//! Mutation testing of the resolver as a whole: one byte, relocation, jump label or structure member
//! of a real function is changed, or a register that it sets is left as it was. What comes out is the same plan, another plan or a reason; a plan
//! has to hold on a second, larger set of rulesets of another seed and other kinds as well.
//!
//! `NFDROP_MUTANTS` is how many (a few hundred without), `NFDROP_MUTANT_SEED` which ones.
//! `NFDROP_MUTANT` looks at a single one again, as failures name it. Figures go to stdout.

use nfdrop_resolver::arch::decode;
use nfdrop_resolver::image::Function;
use nfdrop_resolver::image::function::{Place, Relocation};
use nfdrop_resolver::resolve::check::{Contradiction, check};
use nfdrop_resolver::resolve::random::Random;
use nfdrop_resolver::resolve::{Findings, resolve};
use nfdrop_tests::{Extract, corpus};
use rayon::prelude::*;
use std::collections::BTreeMap;
use std::fmt;
use std::time::{Duration, Instant};

/// Mutants without `NFDROP_MUTANTS`.
const MUTANTS: u64 = 300;
/// Of the rulesets that plans are checked on; the resolver's own are others.
const CHECK_SEED: u64 = 0x7365_636f_6e64_2121;
/// `nop`
const NOP: u8 = 0x90;
/// Random rulesets of every kind for the check.
const RANDOM_CASES: usize = 150;

/// What was changed.
#[derive(Debug, Clone)]
enum Change {
    Byte { at: Place, from: u8, to: u8 },
    Symbol { at: Place, from: String, to: String },
    Addend { at: Place, from: i64, to: i64 },
    Unrelocated { at: Place, symbol: String },
    LabelState { at: Place },
    LabelTarget { at: Place, from: Place, to: Place },
    LabelKey { at: Place, from: String, to: String },
    Member { name: String, from: u32, to: u32 },
    Forgotten { at: Place, instruction: String },
}

impl Change {
    /// The kind, for the figures.
    fn kind(&self) -> &'static str {
        match self {
            Self::Byte { .. } => "byte of code or data",
            Self::Symbol { .. } | Self::Addend { .. } | Self::Unrelocated { .. } => "relocation",
            Self::LabelState { .. } | Self::LabelTarget { .. } | Self::LabelKey { .. } => {
                "jump label"
            }
            Self::Member { .. } => "structure member",
            Self::Forgotten { .. } => "leftover",
        }
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let place = |at: &Place| format!("part {} +{:#x}", at.part, at.offset);
        match self {
            Self::Byte { at, from, to } => write!(f, "{}: {from:#04x} to {to:#04x}", place(at)),
            Self::Symbol { at, from, to } => {
                write!(f, "{}: relocated against {to}, not {from}", place(at))
            }
            Self::Addend { at, from, to } => write!(f, "{}: addend {from} to {to}", place(at)),
            Self::Unrelocated { at, symbol } => {
                write!(f, "{}: not relocated against {symbol}", place(at))
            }
            Self::LabelState { at } => write!(f, "{}: jump label inverted", place(at)),
            Self::LabelTarget { at, from, to } => {
                write!(f, "{}: jump label to {}, not {}", place(at), place(to), place(from))
            }
            Self::LabelKey { at, from, to } => {
                write!(f, "{}: jump label of {to}, not {from}", place(at))
            }
            Self::Member { name, from, to } => write!(f, "{name}: bit {from} to {to}"),
            Self::Forgotten { at, instruction } => {
                write!(
                    f,
                    "{}: {instruction} left out, so that its register is left over",
                    place(at)
                )
            }
        }
    }
}

/// Another item of a list.
fn other<'a, T: PartialEq>(random: &mut Random, items: &'a [T], than: &T) -> Option<&'a T> {
    let others: Vec<&T> = items.iter().filter(|item| *item != than).collect();
    (!others.is_empty()).then(|| *random.pick(&others))
}

/// Changes a function in one place; `None` where it has no such place.
fn mutate(function: &mut Function, random: &mut Random) -> Option<Change> {
    let kind = random.below(25);
    match kind {
        0..=12 => byte(function, random, kind),
        13..=16 => relocation(function, random, kind),
        17 | 18 => label(function, random),
        19 => member(function, random),
        _ => forgotten(function, random),
    }
}

/// An instruction that sets a register, and does nothing else, becomes nops: where the value was used there is
/// what a callee or the caller has left. As in a function whose other paths never set the register.
fn forgotten(function: &mut Function, random: &mut Random) -> Option<Change> {
    let part = &function.parts[0];
    let relocated = |start: u32, end: u32| {
        part.relocations.iter().any(|r| r.offset < end && start < r.offset + r.kind.size())
    };
    let mut places = Vec::new();
    let mut offset = 0;
    while let Some(i) = decode(&part.bytes, 0, offset) {
        let end = offset + i.len();
        if i.writes_register() && !relocated(offset as u32, end as u32) {
            places.push((offset, end, i));
        }
        offset = end;
    }
    if places.is_empty() {
        return None;
    }
    let (start, end, i) = *random.pick(&places);
    function.parts[0].bytes[start..end].fill(NOP);
    let at = Place { part: 0, offset: start as u32 };
    Some(Change::Forgotten { at, instruction: i.to_string() })
}

fn byte(function: &mut Function, random: &mut Random, kind: u64) -> Option<Change> {
    let total: usize = function.parts.iter().map(|part| part.bytes.len()).sum();
    let mut index = random.below(total as u64) as usize;
    let (number, part) = function.parts.iter_mut().enumerate().find(|(_, part)| {
        let here = index < part.bytes.len();
        index -= if here { 0 } else { part.bytes.len() };
        here
    })?;
    let byte = &mut part.bytes[index];
    let from = *byte;
    *byte = match kind {
        // Opcodes and displacements next to the real ones are the subtle changes.
        0..=6 => from ^ 1 << random.below(8),
        7 | 8 => from.wrapping_add(1),
        9 => from.wrapping_sub(8),
        _ => from ^ (1 + random.below(255) as u8),
    };
    let at = Place { part: number as u16, offset: index as u32 };
    Some(Change::Byte { at, from, to: part.bytes[index] })
}

fn relocation(function: &mut Function, random: &mut Random, kind: u64) -> Option<Change> {
    let all = || function.parts.iter().flat_map(|part| &part.relocations);
    let symbols: Vec<String> = all().map(|relocation| relocation.symbol.clone()).collect();
    let index = random.below(symbols.len() as u64) as usize;
    let places: Vec<(usize, usize)> = (function.parts.iter().enumerate())
        .flat_map(|(part, p)| (0..p.relocations.len()).map(move |index| (part, index)))
        .collect();
    let &(part, index) = places.get(index)?;
    let relocations = &mut function.parts[part].relocations;
    let Relocation { offset, symbol, addend, .. } = &mut relocations[index];
    let at = Place { part: part as u16, offset: *offset };
    match kind {
        13 | 14 => {
            let to = other(random, &symbols, symbol)?.clone();
            let from = std::mem::replace(symbol, to.clone());
            Some(Change::Symbol { at, from, to })
        }
        15 => {
            let from = *addend;
            let by = *random.pick(&[-64, -16, -8, -4, -1, 1, 4, 8, 16, 64]);
            *addend = from.wrapping_add(by);
            Some(Change::Addend { at, from, to: *addend })
        }
        _ => {
            let symbol = relocations.remove(index).symbol;
            Some(Change::Unrelocated { at, symbol })
        }
    }
}

fn label(function: &mut Function, random: &mut Random) -> Option<Change> {
    let starts = starts(function);
    let labels = function.jump_labels.as_mut().filter(|labels| !labels.is_empty())?;
    let keys: Vec<String> = labels.iter().map(|label| label.key.clone()).collect();
    let index = random.below(labels.len() as u64) as usize;
    let label = &mut labels[index];
    let at = label.code;
    match random.below(4) {
        0 => {
            label.branch ^= true;
            Some(Change::LabelState { at })
        }
        1 => {
            let any = "a key of its own".to_owned();
            let to = other(random, &keys, &label.key).cloned().unwrap_or(any);
            let from = std::mem::replace(&mut label.key, to.clone());
            Some(Change::LabelKey { at, from, to })
        }
        _ => {
            let to = *other(random, &starts, &label.target)?;
            let from = std::mem::replace(&mut label.target, to);
            Some(Change::LabelTarget { at, from, to })
        }
    }
}

/// Where instructions begin, going by the jump labels' targets and what is near them: a label that
/// leads into the middle of an instruction is refused at once and tells little.
fn starts(function: &Function) -> Vec<Place> {
    let labels = function.jump_labels.iter().flatten();
    let mut places: Vec<Place> = labels.flat_map(|label| [label.code, label.target]).collect();
    let near: Vec<Place> = (places.iter())
        .flat_map(|&at| (1..12).map(move |more| Place { offset: at.offset + more, ..at }))
        .filter(|at| (at.offset as usize) < function.parts[usize::from(at.part)].bytes.len())
        .collect();
    places.extend(near);
    places
}

fn member(function: &mut Function, random: &mut Random) -> Option<Change> {
    let index = random.below(function.fields.len() as u64) as usize;
    let (name, field) = function.fields.iter_mut().nth(index)?;
    let from = field.bit_offset;
    let by = *random.pick(&[-64, -32, -8, -1, 1, 8, 16, 64]);
    field.bit_offset = from.checked_add_signed(by)?;
    Some(Change::Member { name: name.clone(), from, to: field.bit_offset })
}

/// What became of a mutant.
enum Outcome {
    /// The plan of the unchanged function, but for the bytes expected at the sites.
    Same,
    /// The same probes; another layout for the client to read through.
    OtherLayout,
    /// Another plan, that holds.
    Other,
    /// No plan.
    Reason(String),
    /// A plan that is wrong.
    Contradicted(Contradiction),
}

/// The probes, without what only describes the code at them.
fn sites(findings: &Findings) -> String {
    let text = |probe: &nfdrop_db::Probe| {
        let nfdrop_db::Probe { event, offset, when, rule, pkt, base_chain, .. } = probe;
        format!("{event} {offset} {when:?} {rule:?} {pkt:?} {base_chain:?}\n")
    };
    findings.probes.iter().map(text).collect()
}

fn outcome(function: &Function, original: &Findings) -> Outcome {
    let findings = match resolve(function) {
        Ok(findings) => findings,
        Err(unresolved) => return Outcome::Reason(unresolved.reason.to_string()),
    };
    if let Err(contradiction) = check(function, &findings, CHECK_SEED, RANDOM_CASES) {
        return Outcome::Contradicted(contradiction);
    }
    if sites(&findings) != sites(original) {
        Outcome::Other
    } else if findings.layout != original.layout {
        Outcome::OtherLayout
    } else {
        Outcome::Same
    }
}

fn variable(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|error| panic!("{name}={text}: {error}")))
}

struct Mutant {
    number: u64,
    extract: String,
    change: Change,
    outcome: Outcome,
    took: Duration,
}

impl fmt::Display for Mutant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NFDROP_MUTANT={} {}, {}", self.number, self.extract, self.change)
    }
}

/// The original plans, of those that have one.
fn originals() -> Vec<(Extract, Findings)> {
    let extracts = corpus().expect("tests/corpus").into_par_iter();
    extracts
        .filter_map(|extract| {
            let findings = resolve(&extract.function).ok()?;
            Some((extract, findings))
        })
        .collect()
}

#[test]
fn real_plans_hold_on_larger_sets_of_rulesets() {
    let originals = originals();
    assert!(!originals.is_empty());
    originals.par_iter().for_each(|(Extract { name, function }, findings)| {
        for seed in [CHECK_SEED, u64::MAX] {
            let checked = check(function, findings, seed, RANDOM_CASES);
            let checked = checked.unwrap_or_else(|error| panic!("{name}, seed {seed}: {error}"));
            assert!(checked.runs > 3 * findings.evidence.runs / 2, "{name}: {checked:?}");
            assert!(checked.rule_drops > findings.evidence.rule_drops, "{name}: {checked:?}");
            assert!(checked.policy_drops > findings.evidence.policy_drops, "{name}: {checked:?}");
        }
    });
}

#[test]
fn wrong_plans_are_contradicted() {
    for (Extract { name, function }, findings) in originals() {
        let altered = |alter: &dyn Fn(&mut Findings)| {
            let mut findings = findings.clone();
            alter(&mut findings);
            check(&function, &findings, CHECK_SEED, 10).expect_err(&name)
        };
        let missing = altered(&|findings| drop(findings.probes.pop()));
        assert!(matches!(missing, Contradiction::Probes { .. }), "{name}: {missing}");
        let entry = altered(&|findings| findings.probes[0].offset.0 = 0);
        assert!(matches!(entry, Contradiction::Probes { .. }), "{name}: {entry}");
        let elsewhere = altered(&|findings| {
            let probe = &mut findings.probes[0];
            probe.pkt.add = Some(8);
        });
        assert!(elsewhere.to_string().contains("pkt is not at"), "{name}: {elsewhere}");
        let layout = altered(&|findings| findings.layout.rule_handle.shift ^= 1);
        assert_eq!(layout, Contradiction::Layout, "{name}");
    }
}

#[test]
fn mutants_get_a_plan_that_holds_or_a_reason() {
    let originals = originals();
    let seed = variable("NFDROP_MUTANT_SEED").unwrap_or(1);
    let numbers = match variable("NFDROP_MUTANT") {
        Some(number) => number..number + 1,
        None => 0..variable("NFDROP_MUTANTS").unwrap_or(MUTANTS),
    };
    let mutant = |number: u64| {
        let mut random = Random::new(seed ^ number.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let (Extract { name, function }, findings) =
            &originals[(number % originals.len() as u64) as usize];
        let (function, change) = loop {
            let mut function = function.clone();
            let change = mutate(&mut function, &mut random);
            if let Some(change) = change.filter(|_| function.check().is_ok()) {
                break (function, change);
            }
        };
        let start = Instant::now();
        let outcome = outcome(&function, findings);
        let took = start.elapsed();
        let mutant = Mutant { number, extract: name.clone(), change, outcome, took };
        if let Outcome::Contradicted(contradiction) = &mutant.outcome {
            // At once: a long run may be ended before its figures are there.
            println!("a plan that is wrong: {mutant}: {contradiction}");
        }
        mutant
    };
    let mutants: Vec<Mutant> = numbers.into_par_iter().map(mutant).collect();

    let mut figures: BTreeMap<(&str, String), usize> = BTreeMap::new();
    let mut wrong = Vec::new();
    for mutant in &mutants {
        let outcome = match &mutant.outcome {
            Outcome::Same => "the same plan".to_owned(),
            Outcome::OtherLayout => "the same probes, another layout".to_owned(),
            Outcome::Other => "another plan that holds".to_owned(),
            Outcome::Reason(reason) => reason.clone(),
            Outcome::Contradicted(contradiction) => {
                wrong.push(format!("{mutant}: {contradiction}"));
                "a plan that is wrong".to_owned()
            }
        };
        *figures.entry((mutant.change.kind(), outcome)).or_default() += 1;
    }
    for ((kind, outcome), count) in &figures {
        println!("{kind:24} {outcome:34} {count:6}");
    }
    let slowest = mutants.iter().max_by_key(|mutant| mutant.took).expect("at least one mutant");
    println!("{} mutants, seed {seed}; slowest {:?}: {slowest}", mutants.len(), slowest.took);
    let count = wrong.len();
    assert!(wrong.is_empty(), "{count} wrong plans, seed {seed}:\n{}", wrong.join("\n"));
}
