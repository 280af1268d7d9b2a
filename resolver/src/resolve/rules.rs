//! Rulesets as the resolver makes them up, and the reference: what a ruleset does to a packet, in
//! plain Rust, written from the documented behaviour of nftables and not from any build's code.

use std::fmt;

/// `NF_ACCEPT` and the others of include/uapi/linux/netfilter.h; the upper half of a drop may hold
/// an errno, that of a queue its number.
pub mod verdict {
    /// Free the packet.
    pub const DROP: u32 = 0;
    /// Let it pass.
    pub const ACCEPT: u32 = 1;
    /// Somebody else has it now.
    pub const STOLEN: u32 = 2;
    /// To user space.
    pub const QUEUE: u32 = 3;
    /// The bits that are the verdict.
    pub const MASK: u32 = 0xff;
    /// `NFT_CONTINUE` and the others of `include/uapi/linux/netfilter/nf_tables.h`.
    pub const CONTINUE: u32 = -1_i32 as u32;
    /// The rule does not match.
    pub const BREAK: u32 = -2_i32 as u32;
    /// To another chain, and back at its end.
    pub const JUMP: u32 = -3_i32 as u32;
    /// To another chain.
    pub const GOTO: u32 = -4_i32 as u32;
    /// Back to where the jump came from.
    pub const RETURN: u32 = -5_i32 as u32;
    /// What a dropping chain returns since 6.7, and in stable series with the change:
    /// `EPERM << 16 | NF_STOLEN`, the packet is freed already.
    pub const DROPPED_WITH_REASON: u32 = 1 << 16 | STOLEN;
    /// The same for an overflow of the jump stack since 7.2: `ELOOP << 16 | NF_STOLEN`.
    pub const LOOP_WITH_REASON: u32 = 40 << 16 | STOLEN;
}

/// `NFT_JUMP_STACK_SIZE` of `include/net/netfilter/nf_tables.h`.
pub const JUMP_STACK: usize = 16;

/// Chains; the first one is the base chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ruleset {
    /// Referred to by index.
    pub chains: Vec<Chain>,
    /// Whether the base chain's policy is drop, else accept.
    pub policy_drop: bool,
}

/// Rules in order.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Chain {
    /// May be none.
    pub rules: Vec<Rule>,
}

/// Expressions in order.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Rule {
    /// 42 bits.
    pub handle: u64,
    /// May be none: such a rule does nothing.
    pub expressions: Vec<Expression>,
}

/// What an expression does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Expression {
    /// Calls its `eval`, which acts as told. The name picks a known `eval` that compilers compare
    /// with; `None`: one of a module nobody knows.
    Call {
        /// What `eval` does.
        action: Action,
        /// The symbol, `nft_counter_eval`.
        eval: Option<String>,
    },
    /// The kernel's inlined expressions, with real operands.
    Fast(Fast),
}

/// What an `eval` does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Leaves the verdict alone.
    Nothing,
    /// Writes this verdict: accept, drop, queue, stolen, break, continue or return.
    Verdict(u32),
    /// Jumps to this chain.
    Jump(usize),
    /// Goes to this chain.
    Goto(usize),
}

/// Registers are numbered in words of 32 bits, 4 to 19; 0 to 3 are the verdict.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fast {
    /// `nft_bitwise_fast`: `dreg = sreg & mask ^ xor`.
    Bitwise {
        /// Read.
        sreg: u8,
        /// Written.
        dreg: u8,
        /// Bits kept.
        mask: u32,
        /// Bits flipped.
        xor: u32,
    },
    /// `nft_cmp_fast`: breaks unless `(sreg & mask == data) != inv`.
    Cmp {
        /// Read.
        sreg: u8,
        /// Bits compared.
        mask: u32,
        /// With this.
        data: u32,
        /// Breaks if equal instead.
        inv: bool,
    },
    /// `nft_cmp16_fast`: the same over four registers.
    Cmp16 {
        /// First register.
        sreg: u8,
        /// Bits compared.
        mask: [u32; 4],
        /// With this.
        data: [u32; 4],
        /// Breaks if equal instead.
        inv: bool,
    },
    /// `nft_payload_fast`: `len` bytes (1, 2 or 4) of the packet; `eval` is called where they lie
    /// behind the linear part, and breaks.
    Payload {
        /// Of the transport header instead of the network header.
        transport: bool,
        /// From the header.
        offset: u8,
        /// 1, 2 or 4.
        len: u8,
        /// Written, zero-extended.
        dreg: u8,
    },
}

/// The packet, as far as expressions read it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Packet {
    /// The linear part, from the network header.
    pub bytes: Vec<u8>,
    /// Of the transport header in `bytes`; `None`: not known to the kernel.
    pub transport: Option<u8>,
}

/// Which rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RuleId {
    /// Index of the chain.
    pub chain: usize,
    /// Index of the rule in it.
    pub rule: usize,
}

/// How a packet's way ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum End {
    /// A rule's verdict, with all its bits.
    Rule(RuleId, u32),
    /// The base chain's policy: drop?
    Policy(bool),
    /// More jumps than the stack holds: a drop that is neither a rule's nor a policy's.
    Overflow,
}

/// The kinds of ends that plans tell apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Outcome {
    /// To be seen by the rule-drop probes, once.
    RuleDrop,
    /// To be seen by the policy-drop probes, once.
    PolicyDrop,
    /// Not to be seen.
    Other,
}

impl End {
    /// What plans make of it.
    pub fn outcome(self) -> Outcome {
        match self {
            Self::Rule(_, code) if code & verdict::MASK == verdict::DROP => Outcome::RuleDrop,
            Self::Policy(true) => Outcome::PolicyDrop,
            _ => Outcome::Other,
        }
    }
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rule(id, code) => {
                write!(f, "verdict {code:#x} of rule {} in chain {}", id.rule, id.chain)
            }
            Self::Policy(true) => f.write_str("policy drop"),
            Self::Policy(false) => f.write_str("policy accept"),
            Self::Overflow => f.write_str("overflow of the jump stack"),
        }
    }
}

/// What the reference says of a ruleset and packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Expected {
    /// How it ends.
    pub end: End,
    /// Every `eval` that is called, as (rule, index of the expression), in order.
    pub calls: Vec<(RuleId, usize)>,
}

/// A step limit: rulesets have no loops, but a `goto` may be generated wrongly.
const MAX_RULES: usize = 4096;

/// Runs a ruleset on a packet; `None` if it never ends.
pub fn reference(ruleset: &Ruleset, packet: &Packet) -> Option<Expected> {
    let mut calls = Vec::new();
    let mut registers = [0_u32; 20];
    let mut stack: Vec<RuleId> = Vec::new();
    let mut at = RuleId { chain: 0, rule: 0 };
    for _ in 0..MAX_RULES {
        let Some(rule) = ruleset.chains[at.chain].rules.get(at.rule) else {
            // The end of a chain is a return.
            match stack.pop() {
                Some(back) => at = back,
                None => return Some(Expected { end: End::Policy(ruleset.policy_drop), calls }),
            }
            continue;
        };
        let mut action = Action::Nothing;
        for (index, expression) in rule.expressions.iter().enumerate() {
            action = match expression {
                Expression::Call { action, .. } => {
                    calls.push((at, index));
                    *action
                }
                Expression::Fast(fast) => match evaluate(*fast, &mut registers, packet) {
                    FastEnd::Continue => Action::Nothing,
                    FastEnd::Break => Action::Verdict(verdict::BREAK),
                    FastEnd::Call => {
                        calls.push((at, index));
                        Action::Verdict(verdict::BREAK)
                    }
                },
            };
            if !matches!(action, Action::Nothing | Action::Verdict(verdict::CONTINUE)) {
                break;
            }
        }
        let next = RuleId { rule: at.rule + 1, ..at };
        at = match action {
            Action::Nothing | Action::Verdict(verdict::CONTINUE | verdict::BREAK) => next,
            Action::Verdict(verdict::RETURN) => {
                RuleId { rule: ruleset.chains[at.chain].rules.len(), ..at }
            }
            Action::Verdict(code) => return Some(Expected { end: End::Rule(at, code), calls }),
            Action::Jump(_) if stack.len() == JUMP_STACK => {
                return Some(Expected { end: End::Overflow, calls });
            }
            Action::Jump(chain) => {
                stack.push(next);
                RuleId { chain, rule: 0 }
            }
            Action::Goto(chain) => RuleId { chain, rule: 0 },
        };
    }
    None
}

enum FastEnd {
    Continue,
    Break,
    Call,
}

fn evaluate(fast: Fast, registers: &mut [u32; 20], packet: &Packet) -> FastEnd {
    let keep = |keep: bool| if keep { FastEnd::Continue } else { FastEnd::Break };
    match fast {
        Fast::Bitwise { sreg, dreg, mask, xor } => {
            registers[usize::from(dreg)] = registers[usize::from(sreg)] & mask ^ xor;
            FastEnd::Continue
        }
        Fast::Cmp { sreg, mask, data, inv } => {
            keep((registers[usize::from(sreg)] & mask == data) != inv)
        }
        Fast::Cmp16 { sreg, mask, data, inv } => {
            let words = &registers[usize::from(sreg)..][..4];
            keep((0..4).all(|i| words[i] & mask[i] == data[i]) != inv)
        }
        Fast::Payload { transport, offset, len, dreg } => {
            let header = if transport { packet.transport } else { Some(0) };
            let bytes = header.and_then(|header| {
                let start = usize::from(header) + usize::from(offset);
                packet.bytes.get(start..start + usize::from(len))
            });
            let Some(bytes) = bytes else { return FastEnd::Call };
            let mut word = [0; 4];
            word[..bytes.len()].copy_from_slice(bytes);
            registers[usize::from(dreg)] = u32::from_le_bytes(word);
            FastEnd::Continue
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(action: Action) -> Expression {
        Expression::Call { action, eval: None }
    }

    fn rule(actions: &[Action]) -> Rule {
        Rule { handle: 1, expressions: actions.iter().copied().map(call).collect() }
    }

    fn end(chains: &[&[&[Action]]]) -> End {
        let chains = chains
            .iter()
            .map(|rules| Chain { rules: rules.iter().map(|actions| rule(actions)).collect() })
            .collect();
        let packet = Packet { bytes: vec![0x45, 0, 1, 2], transport: None };
        reference(&Ruleset { chains, policy_drop: true }, &packet).unwrap().end
    }

    const DROP: Action = Action::Verdict(verdict::DROP);
    const BREAK: Action = Action::Verdict(verdict::BREAK);
    const RETURN: Action = Action::Verdict(verdict::RETURN);

    fn by(chain: usize, rule: usize) -> End {
        End::Rule(RuleId { chain, rule }, verdict::DROP)
    }

    #[test]
    fn verdicts_end_where_nftables_says() {
        use Action::{Goto, Jump, Nothing};
        assert_eq!(end(&[&[]]), End::Policy(true), "empty chain");
        assert_eq!(end(&[&[&[]], &[]]), End::Policy(true), "empty rule");
        assert_eq!(end(&[&[&[BREAK, DROP]]]), End::Policy(true), "no match, the rest is skipped");
        assert_eq!(end(&[&[&[BREAK], &[Nothing, DROP]]]), by(0, 1));
        assert_eq!(end(&[&[&[Jump(1)], &[DROP]], &[&[RETURN], &[DROP]]]), by(0, 1), "return");
        assert_eq!(end(&[&[&[Jump(1)], &[DROP]], &[&[BREAK]]]), by(0, 1), "end of a chain");
        assert_eq!(end(&[&[&[Goto(1)], &[DROP]], &[&[BREAK]]]), End::Policy(true), "no way back");
        assert_eq!(end(&[&[&[Jump(1)]], &[&[Goto(2)], &[DROP]], &[&[DROP]]]), by(2, 0));
        assert_eq!(end(&[&[&[RETURN], &[DROP]]]), End::Policy(true), "return from the base chain");
    }

    #[test]
    fn the_seventeenth_jump_overflows() {
        let nested = |depth: usize| {
            let mut chains: Vec<Chain> =
                (1..=depth).map(|to| Chain { rules: vec![rule(&[Action::Jump(to)])] }).collect();
            chains.push(Chain { rules: vec![rule(&[DROP])] });
            let packet = Packet { bytes: vec![], transport: None };
            reference(&Ruleset { chains, policy_drop: false }, &packet).unwrap().end
        };
        assert_eq!(nested(JUMP_STACK), by(JUMP_STACK, 0));
        assert_eq!(nested(JUMP_STACK + 1), End::Overflow);
    }

    #[test]
    fn fast_expressions_compute() {
        let packet = Packet { bytes: vec![0x45, 0, 1, 2], transport: Some(2) };
        let run = |fast: &[Fast]| {
            let mut expressions: Vec<_> = fast.iter().copied().map(Expression::Fast).collect();
            expressions.push(call(DROP));
            let chains = vec![Chain { rules: vec![Rule { handle: 1, expressions }] }];
            let ruleset = Ruleset { chains, policy_drop: false };
            let expected = reference(&ruleset, &packet).unwrap();
            (expected.end == by(0, 0), expected.calls.len())
        };
        let load = Fast::Payload { transport: false, offset: 2, len: 2, dreg: 4 };
        let cmp = |data, inv| Fast::Cmp { sreg: 4, mask: 0xffff, data, inv };
        assert_eq!(run(&[load, cmp(0x0201, false)]), (true, 1));
        assert_eq!(run(&[load, cmp(0x0201, true)]), (false, 0));
        assert_eq!(run(&[load, cmp(0x0202, true)]), (true, 1));
        let beyond = Fast::Payload { transport: true, offset: 1, len: 2, dreg: 4 };
        assert_eq!(run(&[beyond]), (false, 1), "behind the packet: eval is asked, and breaks");
        let set = Fast::Bitwise { sreg: 5, dreg: 6, mask: 0, xor: 7 };
        let cmp16 = Fast::Cmp16 { sreg: 4, mask: [0, 0, 0xff, 0], data: [0, 0, 7, 0], inv: false };
        assert_eq!(run(&[set, cmp16]), (true, 1));
    }
}
