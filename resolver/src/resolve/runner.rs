//! Running a function on many rulesets: the one way in which all who want runs have them, the resolver, its proof,
//! the second opinion ([`super::check`]) and the report.

use super::edges::{Edges, Watching};
use super::frame::Slot;
use super::infer::Candidate;
use super::layout::Abi;
use super::link::{Linked, Warnings};
use super::pointers::{Found, Places, Truth};
use super::rules::End;
use super::run::{self, Budget, DropConvention, Observer, Ran, Stop, Surroundings};
use super::spectate::{At, Seen, Spectator};
use super::world::{Case, World};
use super::{RANDOM_STATES, Unresolved, event};
use crate::arch::Trap;
use nfdrop_db::Reason;

/// What all runs together have shown.
#[derive(Debug, Clone)]
pub(super) struct FoundOut {
    /// How the build reports drops to its caller.
    pub(super) convention: DropConvention,
    /// Branch edges taken.
    pub(super) edges: Edges,
}

impl FoundOut {
    /// Before the first run.
    pub(super) fn new(linked: &Linked) -> Self {
        Self { convention: DropConvention::ANY, edges: Edges::new(linked) }
    }
}

/// A run that did not end as the reference says.
#[derive(Debug, Clone)]
pub(super) enum Failed {
    /// It did not get to the function's end.
    Stopped(Stop),
    /// It did other things.
    Disagreed(Ran),
}

impl Failed {
    /// Why there is no plan.
    pub(super) fn why(&self, case: &Case) -> Unresolved {
        match self {
            Self::Stopped(stop) => {
                let reason = match stop {
                    Stop::Trap { trap: Trap::Unsupported(_), .. } => Reason::UnsupportedInstruction,
                    _ => Reason::Diverged,
                };
                let detail = format!("expected {}, found: {stop}", case.expected.end);
                Unresolved::new(reason, detail)
            }
            Self::Disagreed(ran) => Unresolved::new(Reason::Diverged, disagreement(case, ran)),
        }
    }
}

/// Runs a function, in every state of its static keys, on a set of cases; whoever wants to know something of a run
/// observes it.
pub(super) struct Runner<'a> {
    pub(super) images: &'a [Linked],
    pub(super) abi: &'a Abi,
    pub(super) cases: &'a [Case],
    pub(super) warnings: Warnings,
    pub(super) budget: &'a Budget,
}

impl Runner<'_> {
    /// Runs one case on one image with an observer, and compares with the reference.
    pub(super) fn one<O: Observer>(
        &self,
        image: &Linked,
        case: &Case,
        world: &World,
        found: &mut FoundOut,
        observer: &mut O,
    ) -> Result<(), Failed> {
        let (abi, warnings, budget) = (self.abi, &self.warnings, self.budget);
        let around = Surroundings { linked: image, abi, warnings, budget };
        let mut watching = Watching { linked: image, inner: observer, edges: &mut found.edges };
        let ran = run::run(around, world, case.scene.seed, &mut watching);
        let ran = ran.map_err(Failed::Stopped)?;
        let agreed = found.convention.agree(&case.expected, &ran);
        if !agreed.possible() {
            return Err(Failed::Disagreed(ran));
        }
        found.convention = agreed;
        Ok(())
    }

    /// As [`Runner::one`], before somebody who looks on.
    pub(super) fn one_before<O: Observer, S: Spectator>(
        &self,
        image: &Linked,
        (case, world): (&Case, &World),
        found: &mut FoundOut,
        observer: &mut O,
        spectator: &mut S,
    ) -> Result<(), Unresolved> {
        spectator.begin_run();
        let at = At { linked: image, world };
        let mut seen = Seen { observer, spectator: &mut *spectator, at };
        self.one(image, case, world, found, &mut seen).map_err(|failed| failed.why(case))?;
        spectator.end_run(case.expected.end.outcome());
        Ok(())
    }

    /// Where the pointers are at each candidate: all cases that drop are run once more, and the others
    /// where a condition has to tell them apart.
    pub(super) fn places(
        &self,
        candidates: &[Candidate],
        slots: &[Slot],
    ) -> Result<Vec<Option<Found>>, Unresolved> {
        let instructions = self.images[0].instructions.len();
        let mut places = Places::new(candidates, slots, instructions);
        let mut all = FoundOut::new(&self.images[0]);
        let mut counted = 0;
        for (number, (case, world)) in self.worlds().enumerate() {
            let event = event(case.expected.end.outcome());
            for image in self.states(number, case) {
                let run = counted;
                counted += 1;
                if event.is_none() && !places.wants_others() {
                    continue;
                }
                places.begin_run(run, event, truth(case, &world));
                let ran = self.one(image, case, &world, &mut all, &mut places);
                ran.map_err(|failed| failed.why(case))?;
            }
        }
        Ok(places.found())
    }

    /// All cases with their worlds: the same for all images, which have the same symbols.
    pub(super) fn worlds(&self) -> impl Iterator<Item = (&Case, World)> {
        let world = |case: &Case| World::new(&case.scene, self.abi, &self.images[0]);
        self.cases.iter().map(move |case| (case, world(case)))
    }

    /// The states of the static keys that the case of this number is run in: the systematic ones in
    /// all, of the random ones each in some, in turn.
    pub(super) fn states(&self, number: usize, case: &Case) -> impl Iterator<Item = &Linked> {
        let step = if case.random { (self.images.len() / RANDOM_STATES).max(1) } else { 1 };
        self.images.iter().skip(number % step).step_by(step)
    }
}

/// The pointers of a case that ends with a drop.
pub(super) fn truth(case: &Case, world: &World) -> Truth {
    let rule = match case.expected.end {
        End::Rule(id, _) => world.rules.get(&id).copied(),
        _ => None,
    };
    Truth { rule, pkt: world.pkt, base_chain: world.base_chain }
}

/// How a run ended that should have ended otherwise.
pub(super) fn disagreement(case: &Case, ran: &Ran) -> String {
    format!(
        "expected {} after {} calls of eval, found {:#x} after {}, packet freed {} times",
        case.expected.end,
        case.expected.calls.len(),
        ran.returned,
        ran.calls.len(),
        ran.freed
    )
}
