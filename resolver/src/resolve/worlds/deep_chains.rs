//! Rulesets that go far with few steps: down and up the whole jump stack, from every depth of it in
//! every way that chains end, and through rules of every length in every way that the next rule is
//! found. What the code keeps for the way back, and how it finds rules, is told by nothing shorter: a
//! depth of four differs from others in a bit, and so does the length of a long rule.

use super::{Maker, UPPER};
use crate::resolve::rules::{Action, Chain, JUMP_STACK, Rule, verdict};

/// How a chain ends.
#[derive(Debug, Clone, Copy)]
enum Way {
    /// The last rule does nothing.
    End,
    /// The last rule does not match.
    Break,
    /// By verdict.
    Return,
    /// In another chain.
    Goto,
}

const WAYS: [Way; 4] = [Way::Return, Way::End, Way::Break, Way::Goto];
/// Rulesets of wide rules.
const WIDE: usize = 6;

impl Maker<'_> {
    /// All of them.
    pub(super) fn deep_chains(&mut self) {
        let drop = Action::Verdict(verdict::DROP);
        for (number, way) in WAYS.into_iter().enumerate() {
            let last = if number.is_multiple_of(2) { drop } else { Action::Nothing };
            self.comb(way, last);
        }
        self.wide = true;
        for number in 0..WIDE {
            let last = [drop, Action::Nothing, Action::Verdict(verdict::BREAK)][number % 3];
            self.every_step(last);
        }
        self.wide = false;
        for action in [drop, Action::Verdict(verdict::RETURN)] {
            let many = self.chain_with(40, action, 1);
            let base = self.chain_with(0, Action::Jump(1), 1);
            self.once(vec![base, many]);
        }
    }

    /// Drops and queues with unusual upper halves.
    pub(super) fn upper_halves(&mut self) {
        for code in [verdict::DROP, verdict::QUEUE] {
            for upper in UPPER {
                let action = Action::Verdict(code | upper << 16);
                let base = self.chain_with(0, Action::Jump(1), 0);
                let with = self.chain_with(1, action, 0);
                self.once(vec![base, with]);
            }
        }
    }

    fn rule_of(&mut self, actions: &[Action]) -> Rule {
        let expressions = actions.iter().map(|&action| self.call(action)).collect();
        Rule { handle: 0, expressions }
    }

    /// Down as far as the jump stack goes. Each chain on the way up again jumps once more, which uses
    /// the place on the stack anew, and ends in this way.
    fn comb(&mut self, way: Way, last: Action) {
        let drop = Action::Verdict(verdict::DROP);
        let (leaf, tail) = (JUMP_STACK + 1, JUMP_STACK + 2);
        let end: &[&[Action]] = match way {
            Way::End => &[&[Action::Nothing]],
            Way::Break => &[&[Action::Verdict(verdict::BREAK), drop]],
            Way::Return => &[&[Action::Verdict(verdict::RETURN)], &[drop]],
            Way::Goto => &[&[Action::Goto(tail)], &[drop]],
        };
        let mut chains = Vec::new();
        for depth in 0..=leaf {
            let mut rules: Vec<Rule> = Vec::new();
            if depth < JUMP_STACK {
                rules.push(self.rule_of(&[Action::Jump(depth + 1)]));
                rules.push(self.rule_of(&[Action::Nothing, Action::Jump(leaf)]));
            }
            if depth == 0 {
                rules.push(self.rule_of(&[last]));
            } else {
                rules.extend(end.iter().map(|actions| self.rule_of(actions)));
            }
            chains.push(Chain { rules });
        }
        chains.push(Chain { rules: vec![self.rule_of(&[Action::Verdict(verdict::RETURN)])] });
        self.once(chains);
    }

    /// Every way from a rule to the next one: its end, a break, back from a jump (behind it, and at
    /// once), the first of a chain that was jumped or gone to.
    fn every_step(&mut self, last: Action) {
        use Action::{Goto, Jump, Nothing};
        let drop = Action::Verdict(verdict::DROP);
        let ends = Action::Verdict(verdict::BREAK);
        let back = Action::Verdict(verdict::RETURN);
        let chains: [&[&[Action]]; 4] = [
            &[
                &[Nothing, ends, drop],
                &[Nothing, Nothing],
                &[Jump(1), drop],
                &[Nothing, Nothing],
                &[ends, drop],
                &[Nothing, Jump(2)],
                &[Jump(3)],
                &[last],
            ],
            &[&[Nothing, Nothing], &[ends, drop], &[Nothing, back], &[drop]],
            &[&[ends, drop], &[Goto(3), drop], &[drop]],
            &[&[Nothing], &[ends, Nothing]],
        ];
        let chains = chains.map(|rules| Chain {
            rules: rules.iter().map(|actions| self.rule_of(actions)).collect(),
        });
        self.once(chains.into());
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Vocabulary, generate};
    use super::*;
    use crate::resolve::rules::{End, Expression, RuleId, reference};
    use crate::resolve::world::Case;
    use std::collections::BTreeSet;

    fn cases() -> Vec<Case> {
        generate(&Vocabulary::default(), 2, 0)
    }

    /// The chains that a run leaves by this verdict.
    fn left_by(case: &Case, way: u32) -> Vec<usize> {
        let Case { scene, expected, .. } = case;
        let expression = |&(rule, index): &(RuleId, usize)| {
            let chain = &scene.ruleset.chains[rule.chain];
            (rule.chain, &chain.rules[rule.rule].expressions[index])
        };
        let ends = |action: &Action| *action == Action::Verdict(way);
        expected
            .calls
            .iter()
            .map(expression)
            .filter(|(_, e)| matches!(e, Expression::Call { action, .. } if ends(action)))
            .map(|(chain, _)| chain)
            .collect()
    }

    #[test]
    fn some_ruleset_returns_from_every_depth() {
        let mut seen = BTreeSet::new();
        for case in cases() {
            let Case { scene, expected, .. } = &case;
            assert_eq!(reference(&scene.ruleset, &scene.packet).as_ref(), Some(expected));
            // Chains of a comb are numbered by their depth, but for two.
            if scene.ruleset.chains.len() == JUMP_STACK + 3 {
                assert_ne!(expected.end, End::Overflow);
                seen.extend(left_by(&case, verdict::RETURN));
            }
        }
        assert!((1..=JUMP_STACK).all(|depth| seen.contains(&depth)), "{seen:?}");
    }
}
