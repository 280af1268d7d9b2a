//! What operands and calls mean: `[rbp]` is `pkt->skb` where `rbp` held the pktinfo at every visit.

use super::disasm::Raw;
use crate::arch::{
    Access, Flow, Instruction, Registers,
    calls::{self, Thunk},
};
use crate::clean::clean;
use crate::image::function::Function;
use crate::resolve::layout::{Abi, NetSource, RuleStore};
use crate::resolve::report::{Holding, Role, Seen};
use crate::resolve::rules::verdict;
use nfdrop_db::listing::{Span, Tone};
use nfdrop_db::{BitField, Location, Reg};
use std::collections::BTreeMap;

/// Names of members, from what the runs were made with and from BTF.
pub(super) struct Meanings<'a> {
    abi: Option<&'a Abi>,
    /// By structure and offset in bytes.
    members: BTreeMap<(&'a str, u32), &'a str>,
}

impl<'a> Meanings<'a> {
    pub(super) fn new(function: &'a Function, abi: Option<&'a Abi>) -> Self {
        let mut members = BTreeMap::new();
        for (name, field) in &function.fields {
            if let (Some((structure, member)), Some(offset)) =
                (name.split_once('.'), field.byte_offset())
            {
                members.entry((structure, offset)).or_insert(member);
            }
        }
        Self { abi, members }
    }

    /// Of a line's instruction.
    pub(super) fn of(&self, line: &Raw<'_>) -> Vec<Span> {
        let Some(instruction) = &line.instruction else { return Vec::new() };
        let mut words = Vec::new();
        match instruction.flow() {
            Flow::Call | Flow::IndirectCall => Self::call(line, &mut words),
            Flow::Jump if line.symbol.and_then(calls::thunk) == Some(Thunk::Return) => {
                words.push(Span::new(Tone::Meaning, "return"));
            }
            Flow::Next => {
                let seen = line.seen.filter(|seen| seen.runs != [0; 4]);
                let meaning = seen.and_then(|seen| self.operands(instruction, seen, line));
                words.extend(meaning.map(|text| Span::new(Tone::Meaning, text)));
            }
            _ => {}
        }
        words
    }

    fn call(line: &Raw<'_>, words: &mut Vec<Span>) {
        if line.symbol == Some("__fentry__") {
            words.push(Span::new(Tone::Meaning, "where ftrace attaches"));
        }
        let Some(seen) = line.seen else { return };
        if seen.callees.iter().any(|callee| callee.evaluates) {
            let eval = "expr->ops->eval(expr, regs, pkt)";
            words.push(Span::new(Tone::Meaning, eval));
            return;
        }
        let name = seen.callees.first().map(|callee| callee.name.as_str());
        let name = name.filter(|_| seen.callees.len() == 1);
        if let Some(name) = name.filter(|name| line.symbol != Some(name) && !name.is_empty()) {
            words.push(Span::new(Tone::Meaning, clean(name)));
        }
        let arguments: Vec<String> = calls::ARGUMENTS
            .into_iter()
            .filter_map(|reg| Some(format!("{reg} {}", in_register(seen, reg)?.name())))
            .collect();
        if !arguments.is_empty() {
            words.push(Span::new(Tone::Meaning, arguments.join(", ")));
        }
        if seen.callees.iter().any(|callee| callee.frees) {
            words.push(Span::new(Tone::Wrong, "may free the packet"));
        }
    }

    fn operands(&self, i: &Instruction, seen: &Seen, line: &Raw<'_>) -> Option<String> {
        if i.reads_stack_protector() {
            return Some("stack protector".to_owned());
        }
        if i.memory().is_some() && !line.relocated {
            return self.memory(i, seen);
        }
        let role = |reg| in_register(seen, reg);
        match i.registers()? {
            Registers::Compare(reg, number) => {
                let verdict = role(reg) == Some(Role::Verdict);
                verdict.then(|| verdict_name(number as i32)).flatten().map(str::to_owned)
            }
            Registers::Set(number) => returned_name(number).map(str::to_owned),
            Registers::Copy(reg) | Registers::Test(reg) => Some(role(reg)?.name().to_owned()),
        }
    }

    fn memory(&self, i: &Instruction, seen: &Seen) -> Option<String> {
        let memory = i.memory().filter(|memory| memory.is_plain)?;
        let base = memory.base?;
        let offset = i32::try_from(memory.offset as i64).ok()?;
        let address = memory.access == Access::Address;
        // What is stored says more than where.
        let stored = i.stored().and_then(|reg| in_register(seen, reg));
        let frame = |regs: &Holding| {
            regs.role == Role::Regs && regs.place.reg == base && regs.place.deref.is_none()
        };
        if let Some(regs) = seen.holds.iter().find(|holding| frame(holding)) {
            let inside = offset - regs.place.add.unwrap_or(0);
            if let Some(member) = self.regs(inside) {
                return Some(if address { format!("&{member}") } else { member });
            }
        }
        let slot = Location::memory(base, offset);
        let held = seen.holds.iter().find(|holding| holding.place == slot);
        if base == calls::STACK_POINTER || held.is_some() {
            let role = stored.or(held.filter(|_| !address && !memory.is_first).map(|h| h.role))?;
            return Some(role.name().to_owned());
        }
        let role = in_register(seen, base)?;
        let member = self.member(role, offset, i)?;
        Some(if address { format!("&{member}") } else { member })
    }

    /// A member of `struct nft_regs`.
    fn regs(&self, offset: i32) -> Option<String> {
        let abi = self.abi?;
        let offset = u32::try_from(offset).ok().filter(|&offset| offset < 80)?;
        Some(if offset == abi.verdict_code {
            "regs.verdict.code".to_owned()
        } else if offset == abi.verdict_chain {
            "regs.verdict.chain".to_owned()
        } else {
            format!("regs.data[{}]", offset / 4)
        })
    }

    /// A member of `struct nft_rule_dp`, or of `struct nft_rule` before 5.17. Several share a word.
    fn rule(abi: &Abi, offset: u32, i: &Instruction) -> Option<&'static str> {
        let size = i.memory()?.size as u32;
        if offset == abi.rule_data {
            return Some("rule->data");
        }
        let flag = abi.rule_is_last.filter(|last| last.offset == offset && last.shift == 0);
        if flag.is_some() && i.tests_for_one() {
            return Some("rule->is_last");
        }
        let bit = |field: BitField| field.offset * 8 + u32::from(field.shift);
        let (from, to) = (offset * 8, (offset + size) * 8);
        let (dlen, handle) = (bit(abi.rule_dlen), bit(abi.rule_handle));
        match ((from..to).contains(&dlen), (from..to).contains(&handle)) {
            (true, true) => Some("rule->dlen, handle"),
            (true, false) => Some("rule->dlen"),
            (false, true) => Some("rule->handle"),
            (false, false) => None,
        }
    }

    fn member(&self, role: Role, offset: i32, i: &Instruction) -> Option<String> {
        let abi = self.abi?;
        let unsigned = u32::try_from(offset).ok();
        let of = |variable: &str, structure: &str| {
            let member = unsigned.and_then(|offset| self.members.get(&(structure, offset)));
            match member {
                Some(member) => Some(format!("{variable}->{}", clean(member))),
                None if offset == 0 => Some(format!("*{variable}")),
                None => Some(format!("{variable} {offset:+#x}")),
            }
        };
        match role {
            Role::Pkt if unsigned == Some(abi.pkt_skb) => Some("pkt->skb".to_owned()),
            Role::Pkt if matches!(abi.net, NetSource::State { pkt, .. } if unsigned == Some(pkt)) => {
                Some("pkt->state".to_owned())
            }
            Role::Pkt => of("pkt", "nft_pktinfo"),
            Role::BaseChain if offset == abi.policy => Some("base_chain->policy".to_owned()),
            Role::BaseChain | Role::Chain => {
                let kept = !matches!(abi.rules, RuleStore::List { .. });
                let mut generations = abi.chain_generations.iter().filter(|_| kept);
                let generation = generations.position(|&at| unsigned == Some(at));
                match generation {
                    Some(generation) => Some(format!("chain->{}_gen_{generation}", store(abi))),
                    None => of("chain", "nft_chain"),
                }
            }
            Role::Skb => of("skb", "sk_buff"),
            Role::State if matches!(abi.net, NetSource::State { net, .. } if unsigned == Some(net)) => {
                Some("state->net".to_owned())
            }
            Role::State => of("state", "nf_hook_state"),
            Role::Net => of("net", "net"),
            Role::Regs => self.regs(offset),
            Role::Expr | Role::ExprOrEnd => Some(match offset {
                0 => "expr->ops".to_owned(),
                _ => format!("expr->data[{}]", offset.checked_sub(abi.expr_data as i32)?),
            }),
            Role::Ops if unsigned == Some(abi.ops_eval) => Some("ops->eval".to_owned()),
            Role::Ops if unsigned == Some(abi.ops_size) => Some("ops->size".to_owned()),
            Role::Ops => of("ops", "nft_expr_ops"),
            Role::Rule | Role::SomeRule | Role::RuleEnd | Role::RuleOrEnd => {
                Self::rule(abi, u32::try_from(offset).ok()?, i).map(str::to_owned)
            }
            Role::Rules => match abi.rules {
                RuleStore::Blob { size, .. } if unsigned == Some(size) => {
                    Some("blob->size".to_owned())
                }
                RuleStore::Blob { data, .. } if unsigned == Some(data) => {
                    Some("blob->data".to_owned())
                }
                RuleStore::Array if offset == 0 => Some("*rules".to_owned()),
                _ => None,
            },
            Role::Eval | Role::Verdict | Role::VerdictByte => None,
        }
    }
}

/// What `struct nft_chain` calls its rules.
fn store(abi: &Abi) -> &'static str {
    match abi.rules {
        RuleStore::Blob { .. } => "blob",
        RuleStore::Array | RuleStore::List { .. } => "rules",
    }
}

/// What a register holds.
pub(super) fn in_register(seen: &Seen, reg: Reg) -> Option<Role> {
    let place = Location::reg(reg);
    seen.holds.iter().find(|holding| holding.place == place).map(|holding| holding.role)
}

/// `enum nft_verdicts` of `include/uapi/linux/netfilter/nf_tables.h`.
fn verdict_name(code: i32) -> Option<&'static str> {
    Some(match code {
        -1 => "NFT_CONTINUE",
        -2 => "NFT_BREAK",
        -3 => "NFT_JUMP",
        -4 => "NFT_GOTO",
        -5 => "NFT_RETURN",
        _ => return None,
    })
}

/// What a chain that has dropped and freed the packet returns, see [`verdict`].
fn returned_name(code: u64) -> Option<&'static str> {
    match u32::try_from(code) {
        Ok(verdict::DROPPED_WITH_REASON) => Some("EPERM << 16 | NF_STOLEN"),
        Ok(verdict::LOOP_WITH_REASON) => Some("ELOOP << 16 | NF_STOLEN"),
        _ => None,
    }
}
