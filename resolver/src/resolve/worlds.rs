//! Which rulesets are made up: every verdict at every kind of place, systematically, then random
//! ones. The same seed gives the same rulesets.

mod check_cases;
mod deep_chains;
mod mixed;

pub use check_cases::check_cases;

use super::layout::{Abi, CmpMask, Lacks};
use super::leftovers::Leftover;
use super::link::Linked;
use super::random::Random;
use super::rules::{
    Action, Chain, End, Expression, Fast, JUMP_STACK, Packet, Rule, Ruleset, reference, verdict,
};
use super::world::{Case, Scene, UNKNOWN_EVAL, ops_symbol_of};

/// What of a function's surroundings rulesets can use.
#[derive(Debug, Clone, Default)]
#[expect(clippy::struct_excessive_bools, reason = "independent capabilities, named by expression")]
pub struct Vocabulary {
    /// Symbols of `eval` functions that the function refers to, in order.
    pub evals: Vec<String>,
    /// Inlined expressions that the function has and whose operands are known.
    pub cmp: bool,
    /// As above.
    pub cmp16: bool,
    /// As above.
    pub bitwise: bool,
    /// As above.
    pub payload: bool,
    /// Comparisons have a number of bits instead of a mask.
    pub cmp_length: bool,
    /// Comparisons can be inverted.
    pub inverted: bool,
    /// Packets may have a transport header that the kernel does not know.
    pub unknown_transport: bool,
    /// What the version does without.
    pub lacks: Lacks,
}

impl Vocabulary {
    /// Of a linked function.
    pub fn new(linked: &Linked, abi: &Abi) -> Self {
        let is_eval = |name: &&str| name.starts_with("nft_") && name.ends_with("_eval");
        let mut evals: Vec<String> =
            linked.symbol_names().filter(is_eval).map(str::to_owned).collect();
        // The inlined ones may be parts of the function; they are not called through `eval` here.
        evals.retain(|name| super::layout::callee(name) == super::layout::Callee::Expression);
        evals.retain(|name| !abi.inlined_evals.contains(name));
        evals.sort();
        let has = |fast: Fast| linked.known_symbol(ops_symbol_of(fast)).is_some();
        let bitwise = Fast::Bitwise { sreg: 0, dreg: 0, mask: 0, xor: 0 };
        let cmp = Fast::Cmp { sreg: 0, mask: 0, data: 0, inv: false };
        let cmp16 = Fast::Cmp16 { sreg: 0, mask: [0; 4], data: [0; 4], inv: false };
        let payload = Fast::Payload { transport: false, offset: 0, len: 0, dreg: 0 };
        // Everything compared comes from a bitwise expression or the packet.
        let bitwise = abi.bitwise.is_some() && has(bitwise);
        let payload = abi.payload.is_some() && has(payload);
        Self {
            evals,
            cmp: abi.cmp.is_some() && has(cmp) && (bitwise || payload),
            cmp16: abi.cmp16.is_some() && has(cmp16) && bitwise,
            bitwise,
            payload,
            cmp_length: abi.cmp.is_some_and(|cmp| matches!(cmp.mask, CmpMask::Length(_))),
            inverted: abi.cmp.is_none_or(|cmp| cmp.inv.is_some()),
            unknown_transport: abi.payload.is_none_or(|payload| payload.pkt_l4.is_some()),
            lacks: abi.lacks,
        }
    }

    /// Prepares a linked function for the rulesets: gives the foreign `eval` an address.
    pub fn introduce(linked: &mut Linked) {
        linked.symbol(UNKNOWN_EVAL);
    }
}

/// Most expressions of one rule: with 8 to 48 bytes each they are far more than the 2047 that all
/// bits of a rule's length but the highest can say, and fewer than 4096.
const LONGEST_RULE: usize = 100;
/// Of so many random cases one more has inlined expressions.
const RANDOM_PER_MIXED: usize = 3;
/// Of so many random cases one more is a tree of many chains.
const RANDOM_PER_TREE: usize = 12;
/// Errnos, and what else may be in a verdict's upper half.
const UPPER: [u32; 8] = [0, 1, 2, 13, 113, 0x7fff, 0x8000, 0xffff];

/// Where in the ruleset the interesting rule is.
const PLACES: [Place; 8] = [
    Place::Base,
    Place::Jumped(1),
    Place::Jumped(2),
    Place::Deep,
    Place::Gone,
    Place::JumpedThenGone,
    Place::BackFromJump,
    Place::BackFromGoto,
];

#[derive(Debug, Clone, Copy)]
enum Place {
    /// In the base chain.
    Base,
    /// In a chain so many jumps away.
    Jumped(usize),
    /// In a chain three to sixteen jumps away, each time another one.
    Deep,
    /// In a chain reached by goto.
    Gone,
    /// In a chain reached by goto from a chain reached by jump.
    JumpedThenGone,
    /// In the base chain, after a jump came back.
    BackFromJump,
    /// In the base chain, after a jump to a chain that goes on to another came back.
    BackFromGoto,
}

/// All cases of a seed: the systematic ones, then `random_cases` random ones.
pub fn generate(vocabulary: &Vocabulary, seed: u64, random_cases: usize) -> Vec<Case> {
    let mut make = Maker::new(vocabulary, seed);
    let drop = Action::Verdict(verdict::DROP);
    let endings = [
        drop,
        Action::Verdict(verdict::ACCEPT),
        Action::Verdict(verdict::DROP | 113 << 16),
        // With NF_VERDICT_FLAG_QUEUE_BYPASS.
        Action::Verdict(verdict::QUEUE | 0x8000 | 7 << 16),
        Action::Verdict(verdict::STOLEN),
        Action::Verdict(verdict::RETURN),
        Action::Verdict(verdict::BREAK),
        Action::Verdict(verdict::CONTINUE),
        Action::Nothing,
    ];
    for place in PLACES {
        for (number, action) in endings.into_iter().enumerate() {
            // First, in the middle, last; the most interesting one at all of them.
            let positions: &[(usize, usize)] = match number {
                0 => &[(0, 0), (1, 1), (2, 0), (0, 2)],
                1 => &[(0, 0), (1, 1)],
                _ => &[(1, 0)],
            };
            for &(before, after) in positions {
                make.placed(place, action, before, after);
            }
        }
    }
    for name in &vocabulary.evals {
        for action in [drop, Action::Nothing, Action::Verdict(verdict::BREAK)] {
            let expression = Expression::Call { action, eval: Some(name.clone()) };
            make.single(vec![expression, Expression::Call { action: drop, eval: None }]);
        }
    }
    make.fast();
    make.long_rule(LONGEST_RULE, drop);
    make.long_rule(LONGEST_RULE, Action::Jump(1));
    make.nested(JUMP_STACK + 1, drop);
    make.nested(JUMP_STACK, drop);
    make.upper_halves();
    make.deep_chains();
    for _ in 0..2 {
        make.chains(vec![Chain::default()]);
        make.chains(vec![Chain { rules: vec![Rule::default(), Rule::default()] }]);
    }
    let systematic = make.cases.len();
    let has_inlined = vocabulary.bitwise || vocabulary.payload;
    for number in 0..random_cases {
        make.any();
        if has_inlined && number.is_multiple_of(RANDOM_PER_MIXED) {
            make.mixed();
        }
        if number.is_multiple_of(RANDOM_PER_TREE) {
            make.tree();
        }
    }
    for case in &mut make.cases[systematic..] {
        case.random = true;
    }
    make.cases
}

/// Only those with inlined expressions.
pub fn inlined(vocabulary: &Vocabulary, seed: u64) -> Vec<Case> {
    let mut make = Maker::new(vocabulary, seed);
    make.fast();
    make.cases
}

/// A rule that calls one of the `eval` functions.
pub fn call(vocabulary: &Vocabulary, seed: u64, eval: &str) -> Vec<Case> {
    let mut make = Maker::new(vocabulary, seed);
    for action in [Action::Nothing, Action::Verdict(verdict::DROP)] {
        let call = |action, eval| Expression::Call { action, eval };
        let drop = Action::Verdict(verdict::DROP);
        make.single(vec![call(action, Some(eval.to_owned())), call(drop, None)]);
    }
    make.cases
}

/// A packet whose rule loads from it with an inlined expression.
pub fn load(vocabulary: &Vocabulary, seed: u64, transport: bool) -> Vec<Case> {
    let mut make = Maker::new(vocabulary, seed);
    let load = Fast::Payload { transport, offset: 4, len: 4, dreg: 8 };
    // Ends there: counters read the packet too.
    let drop = Expression::Call { action: Action::Verdict(verdict::DROP), eval: None };
    let expressions = vec![Expression::Fast(load), drop];
    let packet = Packet { bytes: make.random.bytes(64), transport: Some(20) };
    make.add(vec![Chain { rules: vec![Rule { handle: 1, expressions }] }], packet);
    make.cases
}

/// A packet's long way: many rules that do not match, then one that accepts. How often it comes by an
/// instruction is what a probe there costs packets that are not dropped.
pub fn walk(vocabulary: &Vocabulary, seed: u64) -> Vec<Case> {
    const RULES: usize = 24;
    let mut make = Maker::new(vocabulary, seed);
    let mut rules: Vec<Rule> = (0..RULES)
        .map(|_| {
            let actions = [Action::Nothing, Action::Nothing, Action::Verdict(verdict::BREAK)];
            Rule { handle: 0, expressions: actions.map(|action| make.call(action)).into() }
        })
        .collect();
    rules.push(make.rule(Action::Verdict(verdict::ACCEPT)));
    make.chains(vec![Chain { rules }]);
    make.cases
}

struct Maker<'a> {
    vocabulary: &'a Vocabulary,
    random: Random,
    cases: Vec<Case>,
    /// Of the first ruleset: another seed has the systematic ones in the other generation.
    generation: usize,
    /// Of the next rulesets, [`Scene::wide`].
    wide: bool,
}

impl<'a> Maker<'a> {
    fn new(vocabulary: &'a Vocabulary, seed: u64) -> Self {
        let generation = (seed >> 1 & 1) as usize;
        let random = Random::new(seed);
        Self { vocabulary, random, cases: Vec::new(), generation, wide: false }
    }

    /// Adds a case, with policy, generation and packet varied along the way.
    fn add(&mut self, chains: Vec<Chain>, packet: Packet) {
        let number = self.cases.len();
        let ruleset = Ruleset { chains, policy_drop: number.is_multiple_of(2) };
        let Some(expected) = reference(&ruleset, &packet) else { return };
        let lacks = self.vocabulary.lacks;
        let stolen =
            matches!(expected.end, End::Rule(_, code) if code & verdict::MASK == verdict::STOLEN);
        if stolen && lacks.stolen || expected.end == End::Overflow && lacks.overflow {
            return;
        }
        let generation = (number / 2 + self.generation) % 2;
        let wide = self.wide;
        let seed = self.random.bits();
        let leftover = *self.random.pick(&Leftover::ALL);
        let scene = Scene { ruleset, packet, generation, wide, seed, leftover };
        self.cases.push(Case { scene, expected, random: false });
    }

    fn packet(&mut self) -> Packet {
        let len = 32 + self.random.below(60) as usize;
        let known = !self.random.one_in(4) || !self.vocabulary.unknown_transport;
        let transport = known.then_some(20);
        Packet { bytes: self.random.bytes(len), transport }
    }

    fn chains(&mut self, mut chains: Vec<Chain>) {
        self.name(&mut chains);
        let packet = self.packet();
        // Once with either policy.
        self.add(chains.clone(), packet.clone());
        self.add(chains, packet);
    }

    /// As [`Maker::chains`], with one policy only.
    fn once(&mut self, mut chains: Vec<Chain>) {
        self.name(&mut chains);
        let packet = self.packet();
        self.add(chains, packet);
    }

    /// Gives all rules handles, some of them unusual.
    fn name(&mut self, chains: &mut [Chain]) {
        for rule in chains.iter_mut().flat_map(|chain| &mut chain.rules) {
            let any = self.random.below(1 << 42);
            rule.handle = *self.random.pick(&[0, 1, (1 << 42) - 1, any, any, any, any, any]);
        }
    }

    fn single(&mut self, expressions: Vec<Expression>) {
        let before = self.harmless();
        self.chains(vec![Chain { rules: vec![before, Rule { handle: 0, expressions }] }]);
    }

    fn call(&mut self, action: Action) -> Expression {
        let named = !self.vocabulary.evals.is_empty() && self.random.one_in(2);
        let eval = named.then(|| self.random.pick(&self.vocabulary.evals).clone());
        Expression::Call { action, eval }
    }

    /// A rule that does not end anything.
    fn harmless(&mut self) -> Rule {
        let mut expressions = Vec::new();
        for _ in 0..self.random.below(3) {
            expressions.push(self.call(Action::Nothing));
        }
        if self.random.one_in(2) {
            expressions.push(self.call(Action::Verdict(verdict::BREAK)));
            if self.random.one_in(2) {
                expressions.push(self.call(Action::Verdict(verdict::DROP)));
            }
        }
        Rule { handle: 0, expressions }
    }

    fn rule(&mut self, action: Action) -> Rule {
        let mut expressions = Vec::new();
        for _ in 0..self.random.below(3) {
            expressions.push(self.call(Action::Nothing));
        }
        expressions.push(self.call(action));
        if self.random.one_in(2) && action != Action::Nothing {
            // Never reached.
            expressions.push(self.call(Action::Verdict(verdict::ACCEPT)));
        }
        Rule { handle: 0, expressions }
    }

    fn chain_with(&mut self, before: usize, action: Action, after: usize) -> Chain {
        let mut rules: Vec<Rule> = (0..before).map(|_| self.harmless()).collect();
        rules.push(self.rule(action));
        rules.extend((0..after).map(|_| self.harmless()));
        Chain { rules }
    }

    fn placed(&mut self, place: Place, action: Action, before: usize, after: usize) {
        use Action::{Goto, Jump};
        let with = self.chain_with(before, action, after);
        let chains = match place {
            Place::Base => vec![with],
            Place::Jumped(depth) => self.jumped(depth, with),
            Place::Deep => {
                const LEAST: usize = 3;
                let depths = JUMP_STACK + 1 - LEAST;
                let turn = self.cases.len() / 2 + self.generation * depths / 2;
                self.jumped(LEAST + turn % depths, with)
            }
            Place::Gone => vec![self.chain_with(1, Goto(1), 1), with],
            Place::JumpedThenGone => {
                vec![self.chain_with(0, Jump(1), 1), self.chain_with(1, Goto(2), 1), with]
            }
            Place::BackFromJump => {
                let end = Action::Verdict(verdict::RETURN);
                let mut base = self.chain_with(0, Jump(1), 0);
                base.rules.extend(with.rules);
                vec![base, self.chain_with(1, end, 1)]
            }
            Place::BackFromGoto => {
                let mut base = self.chain_with(0, Jump(1), 0);
                base.rules.extend(with.rules);
                let empty = Chain { rules: vec![self.harmless()] };
                vec![base, self.chain_with(0, Goto(2), 1), empty]
            }
        };
        self.chains(chains);
    }

    /// A chain that so many jumps lead to.
    fn jumped(&mut self, depth: usize, last: Chain) -> Vec<Chain> {
        let mut chains: Vec<Chain> = (1..=depth)
            .map(|to| {
                let (before, after) = (to % 2, usize::from(to % 3 == 0));
                self.chain_with(before, Action::Jump(to), after)
            })
            .collect();
        chains.push(last);
        chains
    }

    /// A rule of so many expressions that a first one has skipped, and the same without that. A jump
    /// comes back at once.
    fn long_rule(&mut self, expressions: usize, action: Action) {
        let mut rule = Rule::default();
        for _ in 1..expressions {
            rule.expressions.push(self.call(Action::Nothing));
        }
        rule.expressions.push(self.call(action));
        let mut skipped = rule.clone();
        skipped.expressions.insert(0, self.call(Action::Verdict(verdict::BREAK)));
        let last = self.rule(Action::Verdict(verdict::DROP));
        let mut chains = vec![Chain { rules: vec![skipped, rule, last] }];
        if matches!(action, Action::Jump(_)) {
            chains.push(Chain { rules: vec![self.harmless()] });
        }
        self.chains(chains);
    }

    /// So many jumps, one chain after the other, then an action; the ends come back all the way.
    fn nested(&mut self, depth: usize, action: Action) {
        let mut chains: Vec<Chain> =
            (1..=depth).map(|to| self.chain_with(0, Action::Jump(to), 1)).collect();
        chains.push(self.chain_with(0, action, 0));
        self.chains(chains);
    }

    /// A register with room for 128 bits.
    fn any_register(&mut self) -> u8 {
        let words = if self.vocabulary.lacks.words { 4 } else { 1 };
        4 + words * self.random.below(12 / u64::from(words)) as u8
    }

    /// Which bits a comparison compares.
    fn mask(&mut self) -> u32 {
        let bits = self.random.bits() as u32;
        if self.vocabulary.cmp_length { u32::MAX >> (bits % 32) } else { bits | 1 }
    }

    /// The inlined expressions, true and false.
    fn fast(&mut self) {
        let drop = || Expression::Call { action: Action::Verdict(verdict::DROP), eval: None };
        for round in 0..16_u32 {
            let value = self.random.bits() as u32;
            let inv = self.vocabulary.inverted && round & 1 != 0;
            // Equal, or different in one bit, of every byte in turn: comparisons are of all bits.
            let byte = round / 4;
            let differ = if round & 2 != 0 { 1 << (8 * byte + value % 8) } else { 0 };
            let mask = Some(self.mask()).filter(|mask| mask & differ == differ).unwrap_or(u32::MAX);
            let sreg = self.any_register();
            let load = Fast::Bitwise { sreg, dreg: sreg, mask: 0, xor: value };
            if self.vocabulary.bitwise && !self.vocabulary.cmp {
                self.single(vec![Expression::Fast(load), drop()]);
            }
            let data = (value ^ differ) & mask;
            if self.vocabulary.cmp && self.vocabulary.bitwise {
                let cmp = Fast::Cmp { sreg, mask, data, inv };
                // Bits that are kept, flipped and both.
                let xor = value.rotate_left(13);
                let and = Fast::Bitwise { sreg, dreg: 16, mask, xor };
                let again = Fast::Cmp { sreg: 16, mask: u32::MAX, data: data ^ xor, inv };
                let list = [load, cmp, and, again].map(Expression::Fast);
                self.single(list.into_iter().chain([drop()]).collect());
            }
            if self.vocabulary.cmp16 && self.vocabulary.bitwise {
                let words: [u32; 4] = std::array::from_fn(|_| self.random.bits() as u32);
                let mut masks: [u32; 4] = std::array::from_fn(|_| self.random.bits() as u32 | 1);
                let mut list: Vec<Expression> = (0..4)
                    .map(|i| {
                        let dreg = 8 + i as u8;
                        Expression::Fast(Fast::Bitwise { sreg, dreg, mask: 0, xor: words[i] })
                    })
                    .collect();
                let mut data: [u32; 4] = std::array::from_fn(|i| words[i] & masks[i]);
                // Differs in every word in turn, in its second or in its last byte.
                if differ != 0 {
                    let word = (round / 4) as usize;
                    let bit = 1 << (8 * (1 + 2 * (round & 1)) + value % 8);
                    masks[word] |= bit;
                    data[word] = words[word] & masks[word] ^ bit;
                }
                list.push(Expression::Fast(Fast::Cmp16 { sreg: 8, mask: masks, data, inv }));
                list.push(drop());
                self.single(list);
            }
        }
        if !self.vocabulary.payload {
            return;
        }
        for transport in [false, true] {
            for len in [1_u8, 2, 4] {
                for (case, differ) in (0..4).flat_map(|case| [(case, false), (case, true)]) {
                    let words = self.vocabulary.lacks.words;
                    // Before 4.1 the rest of the register keeps what it held.
                    if words && differ != (len == 2) {
                        continue;
                    }
                    let mut packet = self.packet();
                    let known = case != 3 || !self.vocabulary.unknown_transport;
                    packet.transport = known.then_some(20);
                    let header = if transport { 20 } else { 0 };
                    // In the middle, up to the last byte, one byte too far.
                    let room = packet.bytes.len() as u8 - header - len;
                    let offset = match case {
                        0 | 3 => self.random.below(u64::from(room)) as u8,
                        // Versions with registers of 128 bits leave the last byte to `eval`.
                        1 => room - u8::from(words),
                        _ => room + 1,
                    };
                    let load = Fast::Payload { transport, offset, len, dreg: 8 };
                    let start = usize::from(header + offset);
                    let mut word = [0; 4];
                    if let Some(bytes) = packet.bytes.get(start..start + usize::from(len)) {
                        word[..bytes.len()].copy_from_slice(bytes);
                    }
                    let mask = self.mask();
                    let data = (u32::from_le_bytes(word) ^ u32::from(differ)) & mask;
                    let mut expressions = vec![Expression::Fast(load)];
                    if !words {
                        // What the register held before is gone.
                        let full = Fast::Payload { transport: false, offset: 0, len: 4, dreg: 8 };
                        expressions.insert(0, Expression::Fast(full));
                    }
                    if self.vocabulary.cmp {
                        let cmp = Fast::Cmp { sreg: 8, mask, data, inv: false };
                        expressions.push(Expression::Fast(cmp));
                    }
                    expressions.push(drop());
                    let rule = Rule { handle: self.random.below(1 << 42), expressions };
                    let before = self.harmless();
                    let chains = vec![Chain { rules: vec![before, rule] }];
                    self.add(chains, packet);
                }
            }
        }
    }

    /// Anything: up to six chains that jump and go to later ones only.
    fn any(&mut self) {
        let count = 1 + self.random.below(6) as usize;
        let chains = (0..count)
            .map(|index| {
                let rules = (0..self.random.below(5))
                    .map(|_| {
                        let action = self.any_action(index, count);
                        if self.random.one_in(3) { self.harmless() } else { self.rule(action) }
                    })
                    .collect();
                Chain { rules }
            })
            .collect();
        self.chains(chains);
    }

    fn any_action(&mut self, chain: usize, chains: usize) -> Action {
        let later = (chains - chain - 1) as u64;
        match self.random.below(10) {
            0..=3 if later > 0 => {
                let to = chain + 1 + self.random.below(later) as usize;
                if self.random.one_in(3) { Action::Goto(to) } else { Action::Jump(to) }
            }
            4 => Action::Verdict(verdict::RETURN),
            5 => Action::Verdict(verdict::DROP),
            6 => Action::Verdict(verdict::DROP | (self.random.below(133) as u32) << 16),
            7 => Action::Verdict(verdict::ACCEPT),
            8 => Action::Verdict(verdict::QUEUE | (self.random.below(1 << 16) as u32) << 16),
            9 => Action::Verdict(verdict::STOLEN),
            _ => Action::Nothing,
        }
    }
}
