//! A second opinion on a plan: the function is run again, on a set of rulesets several times larger
//! than what the plan was made and proven with, of other kinds and another seed, and the probes are
//! read as a client reads them. Nothing is chosen here, so nothing can be fitted to the rulesets.
//!
//! No plan needs this to be issued; tests ask for it, of changed functions above all, where a plan
//! that holds only on the rulesets it was made with shows.

use super::detect_layout::detect_layout;
use super::layout::Abi;
use super::link::Placement;
use super::proof::{self, Proof};
use super::rules::{Action, Chain, Expression, Outcome, Rule, Ruleset, verdict};
use super::run::{Budget, DropConvention};
use super::runner::{FoundOut, Runner, truth};
use super::world::Case;
use super::worlds::{self, Vocabulary};
use super::{Findings, Unresolved, event, images};
use crate::image::Function;
use std::fmt;

/// What a plan was checked with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Checked {
    /// Runs of the function, all as the reference says.
    pub runs: u32,
    /// Of them those that ended with a rule's drop, each seen once.
    pub rule_drops: u32,
    /// Of them those that ended with a policy's drop, each seen once.
    pub policy_drops: u32,
}

/// Why a plan is not one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Contradiction {
    /// The function cannot be laid out: no plan was to be expected.
    #[error(transparent)]
    Function(Unresolved),
    /// None of the layouts the resolver would try is the plan's.
    #[error("the plan's layout is none of this function's")]
    Layout,
    /// A run does not end as the reference says.
    #[error("{ruleset}: {found}")]
    Run {
        /// On which ruleset.
        ruleset: String,
        /// What was expected and what happened.
        found: Unresolved,
    },
    /// The probes see something else than the drop, or not where the plan says.
    #[error("{ruleset}: {found}")]
    Probes {
        /// On which ruleset.
        ruleset: String,
        /// What was expected and what happened.
        found: proof::Contradiction,
    },
}

/// Checks the findings of [`super::resolve`] on rulesets of this seed, so many of them random.
pub fn check(
    function: &Function,
    findings: &Findings,
    seed: u64,
    random_cases: usize,
) -> Result<Checked, Contradiction> {
    let candidates = Abi::candidates(&function.fields).unwrap_or_default();
    let mut contradiction = Contradiction::Layout;
    // Several shapes may read through the same offsets. The plan does not say which one it is of,
    // and holds if it does so with one.
    for abi in candidates.iter().filter(|abi| abi.fits()) {
        if abi.plan_layout(&function.fields) != findings.layout {
            continue;
        }
        let detected = detected(function, abi).map_err(Contradiction::Function);
        match detected.and_then(|abi| check_with(function, findings, &abi, seed, random_cases)) {
            Ok(checked) => return Ok(checked),
            Err(error) => contradiction = error,
        }
    }
    Err(contradiction)
}

/// A candidate as the resolver runs it.
fn detected(function: &Function, abi: &Abi) -> Result<Abi, Unresolved> {
    let images = images(function, Placement::Odd)?;
    let warnings = images[0].warnings(function);
    detect_layout(&images[0], &warnings, abi.clone(), &Budget::default())
}

fn check_with(
    function: &Function,
    findings: &Findings,
    abi: &Abi,
    seed: u64,
    random_cases: usize,
) -> Result<Checked, Contradiction> {
    let mut checked = Checked::default();
    let (mut convention, budget) = (DropConvention::ANY, Budget::default());
    for (number, placement) in [Placement::Odd, Placement::Round].into_iter().enumerate() {
        let images = images(function, placement).map_err(Contradiction::Function)?;
        let vocabulary = Vocabulary::new(&images[0], abi);
        let cases =
            worlds::check_cases(&vocabulary, seed.wrapping_add(number as u64), random_cases);
        let mut all = FoundOut { convention, ..FoundOut::new(&images[0]) };
        let mut proof = Proof::new(&findings.probes, &images[0]);
        let warnings = images[0].warnings(function);
        let runs = Runner { images: &images, abi, cases: &cases, warnings, budget: &budget };
        for (number, (case, world)) in runs.worlds().enumerate() {
            let outcome = case.expected.end.outcome();
            for image in runs.states(number, case) {
                proof.begin_run(event(outcome), truth(case, &world));
                runs.one(image, case, &world, &mut all, &mut proof).map_err(|failed| {
                    Contradiction::Run { ruleset: described(case), found: failed.why(case) }
                })?;
                proof
                    .end_run()
                    .map_err(|found| Contradiction::Probes { ruleset: described(case), found })?;
                checked.runs += 1;
                match outcome {
                    Outcome::RuleDrop => checked.rule_drops += 1,
                    Outcome::PolicyDrop => checked.policy_drops += 1,
                    Outcome::Other => {}
                }
            }
        }
        convention = all.convention;
    }
    Ok(checked)
}

/// A case in one line, short enough for a message: what is behind it may be left off.
fn described(case: &Case) -> String {
    const MOST: usize = 1000;
    let Ruleset { chains, policy_drop } = &case.scene.ruleset;
    let policy = if *policy_drop { "drop" } else { "accept" };
    let rule = |rule: &Rule| {
        let words: Vec<String> =
            rule.expressions.iter().map(|expression| Word(expression).to_string()).collect();
        format!(" {{{}}}", words.join(" "))
    };
    let chain = |(number, chain): (usize, &Chain)| {
        let rules: String = chain.rules.iter().map(rule).collect();
        format!(" chain {number}:{rules}")
    };
    let chains: String = chains.iter().enumerate().map(chain).collect();
    let mut text = format!("expecting {}; policy {policy};{chains}", case.expected.end);
    if let Some((end, _)) = text.char_indices().nth(MOST) {
        text.truncate(end);
        text += " …";
    }
    text
}

/// An expression in a word.
struct Word<'a>(&'a Expression);

impl fmt::Display for Word<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Expression::Fast(fast) => write!(f, "{fast:?}"),
            Expression::Call { action, .. } => match *action {
                Action::Nothing => f.write_str("-"),
                Action::Jump(chain) => write!(f, "jump {chain}"),
                Action::Goto(chain) => write!(f, "goto {chain}"),
                Action::Verdict(verdict::CONTINUE) => f.write_str("continue"),
                Action::Verdict(verdict::BREAK) => f.write_str("break"),
                Action::Verdict(verdict::RETURN) => f.write_str("return"),
                Action::Verdict(code) => write!(f, "{code:#x}"),
            },
        }
    }
}
