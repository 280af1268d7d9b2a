//! More rulesets than a plan is made with, and of other kinds: longer and deeper ones, every depth
//! of the jump stack, verdicts with unusual bits, rules of the largest size, and more of those with
//! inlined expressions in the middle of everything. What [`super::super::check`] runs.

use super::{LONGEST_RULE, Maker, UPPER, Vocabulary, generate};
use crate::resolve::rules::{Action, Chain, JUMP_STACK, Packet, Rule, Ruleset, reference, verdict};
use crate::resolve::world::Case;

/// Most calls of `eval` in one run; what takes more is left out, so that all runs stay short.
const MAX_CALLS: usize = 400;

/// All of [`generate`] of this seed, and about as many other ones again.
pub fn check_cases(vocabulary: &Vocabulary, seed: u64, random_cases: usize) -> Vec<Case> {
    let mut cases = generate(vocabulary, seed, random_cases);
    let mut make = Maker::new(vocabulary, !seed);
    make.verdicts();
    make.depths();
    make.ladders();
    make.long();
    make.wide();
    let systematic = make.cases.len();
    for _ in 0..random_cases {
        make.tree();
        make.mixed();
    }
    for case in &mut make.cases[systematic..] {
        case.random = true;
    }
    cases.append(&mut make.cases);
    cases
}

impl Maker<'_> {
    /// As [`Maker::chains`], with handles that are unusual and without what runs for long.
    pub(super) fn unusual(&mut self, mut chains: Vec<Chain>, packet: Packet) {
        for rule in chains.iter_mut().flat_map(|chain| &mut chain.rules) {
            let any = self.random.below(1 << 42);
            rule.handle = *self.random.pick(&[0, 1, (1 << 42) - 1, any, any, any]);
        }
        let ruleset = Ruleset { chains, policy_drop: false };
        let short = |calls: usize| calls <= MAX_CALLS;
        if reference(&ruleset, &packet).is_some_and(|expected| short(expected.calls.len())) {
            self.add(ruleset.chains.clone(), packet.clone());
            self.add(ruleset.chains, packet);
        }
    }

    pub(super) fn unusual_verdict(&mut self) -> Action {
        let upper = *self.random.pick(&UPPER) << 16;
        let any = (self.random.below(1 << 16) as u32) << 16;
        let bypass = if self.random.one_in(2) { 0x8000 } else { 0 };
        Action::Verdict(match self.random.below(12) {
            0 | 1 => verdict::DROP | upper,
            2 | 3 => verdict::DROP | any,
            4 => verdict::QUEUE | upper | bypass,
            5 => verdict::QUEUE | any | bypass,
            6 => verdict::ACCEPT,
            7 => verdict::STOLEN,
            8 => verdict::CONTINUE,
            9 => verdict::BREAK,
            _ => verdict::RETURN,
        })
    }

    /// Every verdict as the first, a middle and the last rule of the base chain and of others, and
    /// behind rules that break, continue and are empty.
    fn verdicts(&mut self) {
        let mut actions: Vec<Action> =
            UPPER.iter().map(|upper| Action::Verdict(verdict::DROP | upper << 16)).collect();
        actions.extend(UPPER.map(|upper| Action::Verdict(verdict::QUEUE | upper << 16)));
        let others =
            [verdict::ACCEPT, verdict::STOLEN, verdict::CONTINUE, verdict::BREAK, verdict::RETURN];
        actions.extend(others.map(Action::Verdict));
        for action in actions {
            let last = self.chain_with(3, action, 0);
            self.finish(vec![last]);
            let mut behind = self.chain_with(0, Action::Jump(1), 2);
            let empty = Rule::default();
            behind.rules.insert(0, empty.clone());
            behind.rules.insert(0, self.rule(Action::Verdict(verdict::BREAK)));
            let mut with = self.chain_with(1, action, 2);
            with.rules.insert(1, empty);
            with.rules.insert(0, self.rule(Action::Verdict(verdict::CONTINUE)));
            self.finish(vec![behind, with]);
        }
    }

    fn finish(&mut self, chains: Vec<Chain>) {
        let packet = self.packet();
        self.unusual(chains, packet);
    }

    /// A verdict at every depth that the jump stack has, and past it; with gotos in between, which
    /// take no room on it.
    fn depths(&mut self) {
        for depth in 1..=JUMP_STACK + 2 {
            for (gotos, action) in [
                (false, Action::Verdict(verdict::DROP)),
                (true, Action::Verdict(verdict::DROP | 1 << 16)),
                (false, Action::Verdict(verdict::RETURN)),
                (true, Action::Verdict(verdict::ACCEPT)),
            ] {
                let mut chains = Vec::new();
                for _ in 0..depth {
                    let (before, after) = (self.random.below(2), self.random.below(2));
                    let next = Action::Jump(chains.len() + 1);
                    chains.push(self.chain_with(before as usize, next, after as usize));
                    if gotos && self.random.one_in(2) {
                        chains.push(self.chain_with(0, Action::Goto(chains.len() + 1), 1));
                    }
                }
                chains.push(self.chain_with(1, action, 1));
                self.finish(chains);
            }
        }
    }

    /// Down to some depth, up again, down once more from where it came back to, and a verdict there:
    /// slots of the jump stack are used anew.
    fn ladders(&mut self) {
        for depth in [1, 2, 5, JUMP_STACK] {
            for back in [1, depth / 2 + 1, depth] {
                let end = self.unusual_verdict();
                let drop = Action::Verdict(verdict::DROP);
                for action in [end, drop] {
                    let back = back.min(depth);
                    let mut chains: Vec<Chain> =
                        (1..=depth).map(|to| self.chain_with(1, Action::Jump(to), 0)).collect();
                    // The deepest chain just ends, or says return.
                    chains.push(Chain { rules: vec![self.harmless()] });
                    // From `back` jumps up, down again along further chains.
                    let from = depth - back;
                    let first = chains.len();
                    let again = self.rule(Action::Jump(first));
                    chains[from].rules.push(again);
                    for to in 1..back {
                        chains.push(self.chain_with(0, Action::Jump(first + to), 1));
                    }
                    chains.push(self.chain_with(2, action, 1));
                    self.finish(chains);
                }
            }
        }
    }

    /// Rules of many expressions and chains of many rules.
    fn long(&mut self) {
        for expressions in [1, 7, 20, 41, LONGEST_RULE] {
            for action in [
                Action::Verdict(verdict::DROP),
                Action::Verdict(verdict::BREAK),
                Action::Nothing,
                Action::Jump(1),
            ] {
                self.long_rule(expressions, action);
            }
        }
        for rules in [10, 30, 60] {
            for action in [Action::Verdict(verdict::DROP), Action::Verdict(verdict::RETURN)] {
                let far = self.chain_with(rules, action, rules);
                self.finish(vec![far.clone()]);
                let base = self.chain_with(rules, Action::Jump(1), 1);
                self.finish(vec![base, far]);
            }
        }
    }

    /// Trees and rulesets with inlined expressions, of the longest rules.
    fn wide(&mut self) {
        self.wide = true;
        for _ in 0..10 {
            self.tree();
            self.mixed();
        }
        self.wide = false;
    }

    /// Up to thirty chains, each reached from one earlier chain, by jump or goto.
    pub(super) fn tree(&mut self) {
        let count = 1 + self.random.below(30) as usize;
        let mut chains = vec![Chain::default(); count];
        for to in 1..count {
            // Near the one before it as a rule, so that the tree gets deep.
            let back =
                if self.random.one_in(3) { self.random.below(to as u64) as usize } else { 0 };
            let from = to - 1 - back;
            let action = if self.random.one_in(4) { Action::Goto(to) } else { Action::Jump(to) };
            let rule = self.rule(action);
            chains[from].rules.push(rule);
        }
        for chain in &mut chains {
            for _ in 0..self.random.below(4) {
                // Few verdicts that end all, or little of the tree is seen.
                let rule = match self.random.below(6) {
                    0 => {
                        let action = self.unusual_verdict();
                        self.rule(action)
                    }
                    1 => Rule::default(),
                    _ => self.harmless(),
                };
                let at = self.random.below(chain.rules.len() as u64 + 1) as usize;
                chain.rules.insert(at, rule);
            }
        }
        self.finish(chains);
    }
}
