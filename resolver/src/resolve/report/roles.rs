//! What values are. In a made-up world every address of interest is known, so a register's content
//! can be named: the rule, the packet, an expression. What a place holds at an instruction is what
//! all visits agree on.

use crate::resolve::layout::{Abi, NetSource, RuleStore};
use crate::resolve::memory::{Address, Memory};
use crate::resolve::world::World;
use std::{
    collections::HashMap,
    hash::{BuildHasherDefault, Hasher},
};

/// What a value may be to a reader of the listing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Role {
    /// The rule whose expression was evaluated last.
    Rule,
    /// `struct nft_pktinfo`.
    Pkt,
    /// `struct nft_chain` of the base chain.
    BaseChain,
    /// Of some chain.
    Chain,
    /// `struct sk_buff`.
    Skb,
    /// `struct nf_hook_state`.
    State,
    /// `struct net`.
    Net,
    /// `struct nft_regs`.
    Regs,
    /// An expression of a rule.
    Expr,
    /// `struct nft_expr_ops`.
    Ops,
    /// The function that an expression's operations name.
    Eval,
    /// Some rule of an active chain.
    SomeRule,
    /// The end of a rule: in a blob the next rule, or the end of the chain.
    RuleEnd,
    /// An expression, or the end of a rule.
    ExprOrEnd,
    /// A rule, or the end of a chain's rules.
    RuleOrEnd,
    /// `struct nft_rule_blob`, or a place in an array of rules.
    Rules,
    /// `regs.verdict.code`, as it is in memory at that moment.
    Verdict,
    /// Its low byte.
    VerdictByte,
}

impl Role {
    /// What says most comes first.
    pub const ALL: [Self; 18] = [
        Self::Rule,
        Self::Pkt,
        Self::BaseChain,
        Self::Chain,
        Self::Skb,
        Self::State,
        Self::Net,
        Self::Regs,
        Self::Expr,
        Self::Ops,
        Self::Eval,
        Self::SomeRule,
        Self::RuleEnd,
        Self::RuleOrEnd,
        Self::ExprOrEnd,
        Self::Rules,
        Self::Verdict,
        Self::VerdictByte,
    ];

    /// As the kernel's sources would put it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Rule => "rule",
            Self::Pkt => "pkt",
            Self::BaseChain => "base chain",
            Self::Chain => "chain",
            Self::Skb => "skb",
            Self::State => "state",
            Self::Net => "net",
            Self::Regs => "&regs",
            Self::Expr => "expr",
            Self::Ops => "expr->ops",
            Self::Eval => "ops->eval",
            Self::SomeRule => "a rule",
            Self::RuleEnd => "end of rule",
            Self::ExprOrEnd => "expr or end of rule",
            Self::RuleOrEnd => "rule or end of chain",
            Self::Rules => "rules",
            Self::Verdict => "verdict",
            Self::VerdictByte => "verdict & 0xff",
        }
    }
}

/// A set of roles: the end of one rule is the start of the next one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Roles(u32);

impl Roles {
    pub(super) const ALL: Self = Self(u32::MAX);

    pub(super) fn add(&mut self, role: Role) {
        self.0 |= 1 << role as u32;
    }

    pub(super) fn keep(&mut self, others: Self) {
        self.0 &= others.0;
    }

    pub(super) fn remove(&mut self, role: Role) {
        self.0 &= !(1 << role as u32);
    }

    pub(super) fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The one that says most.
    pub(super) fn best(self) -> Option<Role> {
        Role::ALL.into_iter().find(|&role| self.0 >> role as u32 & 1 != 0)
    }
}

/// What all addresses of a world are.
#[derive(Debug, Clone, Default)]
pub(super) struct Known(HashMap<u64, Roles, BuildHasherDefault<Spread>>);

/// Hashes addresses of made-up worlds, that nobody can choose: a look-up for every place of every
/// instruction has to be quick.
#[derive(Debug, Clone, Default)]
struct Spread(u64);

impl Hasher for Spread {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u64(u64::from(*byte));
        }
    }

    fn write_u64(&mut self, value: u64) {
        let spread = (self.0 ^ value).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        self.0 = spread ^ spread >> 32;
    }
}

impl Known {
    pub(super) fn new(world: &World, abi: &Abi) -> Self {
        let mut known = Self::default();
        let memory = &world.memory;
        let at = |base: Address, offset: u32| base.0.wrapping_add(u64::from(offset));
        let pointer = |address: u64| memory.read(Address(address), 8).unwrap_or(0);
        known.add(world.pkt.0, Role::Pkt);
        known.add(world.skb.0, Role::Skb);
        let net = match abi.net {
            NetSource::State { pkt, net } => {
                let state = pointer(at(world.pkt, pkt));
                known.add(state, Role::State);
                pointer(at(Address(state), net))
            }
            NetSource::Pkt(pkt) => pointer(at(world.pkt, pkt)),
            NetSource::Chain(chain) => {
                pointer(world.base_chain.0.wrapping_add_signed(i64::from(chain)))
            }
        };
        known.add(net, Role::Net);
        known.add(world.base_chain.0, Role::BaseChain);
        let jumped = world.expressions.values().filter_map(|evaluation| evaluation.chain);
        for chain in jumped.chain([world.base_chain]) {
            known.add(chain.0, Role::Chain);
            // Where rules are a list, the chain is its head.
            let kept = !matches!(abi.rules, RuleStore::List { .. });
            for generation in abi.chain_generations.into_iter().filter(|_| kept) {
                known.rules(pointer(at(chain, generation)), abi, memory);
            }
        }
        for &rule in world.rules.values() {
            known.add(rule.0, Role::SomeRule);
            known.add(rule.0, Role::RuleOrEnd);
            let field = abi.rule_dlen;
            let bits = pointer(at(rule, field.offset));
            let dlen = bits >> field.shift & field.mask();
            let end = at(rule, abi.rule_data).wrapping_add(dlen);
            known.add(end, Role::RuleEnd);
            known.add(end, Role::ExprOrEnd);
            known.add(end, Role::RuleOrEnd);
        }
        for (&expression, evaluation) in &world.expressions {
            if evaluation.of.is_none() {
                continue;
            }
            known.add(expression, Role::Expr);
            known.add(expression, Role::ExprOrEnd);
            let ops = pointer(expression);
            known.add(ops, Role::Ops);
            known.add(pointer(at(Address(ops), abi.ops_eval)), Role::Eval);
        }
        known.0.remove(&0);
        known
    }

    /// What a chain points to.
    fn rules(&mut self, start: u64, abi: &Abi, memory: &Memory) {
        /// More than any chain here has.
        const MAX_RULES: u64 = 256;
        self.add(start, Role::Rules);
        if let RuleStore::Blob { data, .. } = abi.rules {
            // The first rule, or the end of a chain that has none.
            self.add(start.wrapping_add(u64::from(data)), Role::RuleOrEnd);
        }
        if abi.rules == RuleStore::Array {
            for number in 0..MAX_RULES {
                let slot = start.wrapping_add(8 * number);
                self.add(slot, Role::Rules);
                if memory.read(Address(slot), 8).unwrap_or(0) == 0 {
                    break;
                }
            }
        }
    }

    fn add(&mut self, address: u64, role: Role) {
        self.0.entry(address).or_default().add(role);
    }

    pub(super) fn of(&self, value: u64) -> Roles {
        self.0.get(&value).copied().unwrap_or_default()
    }
}
