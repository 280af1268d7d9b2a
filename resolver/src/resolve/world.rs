//! A world: one ruleset and packet laid out in memory as the kernel lays them out, at places that
//! differ from world to world, with junk wherever the kernel promises nothing.

mod builder;
mod heap;

use super::layout::{Abi, CmpMask, Entry, NetSource, RuleStore};
use super::leftovers::{Leftover, Leftovers};
use super::link::Linked;
use super::memory::{Address, Fault, Memory};
use super::origin::Origin;
use super::random::Random;
use super::rules::{Action, Expected, Expression, Fast, Packet, Rule, RuleId, Ruleset, verdict};
use crate::arch::{PER_CPU, PER_CPU_SIZE};
use crate::image::function::PartKind;
use builder::Builder;
use heap::Heap;
use nfdrop_db::{BitField, LayoutSource};
use std::collections::HashMap;
use std::sync::{Arc, LazyLock};

/// What a world is made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scene {
    /// The active generation's rules.
    pub ruleset: Ruleset,
    /// The packet.
    pub packet: Packet,
    /// Which of the two generations is active; the other one holds rules that must not be seen.
    pub generation: usize,
    /// Whether rules are as long as their length can say, with expressions that take all that room
    /// (`nft_compat`'s hold a whole match of iptables), else as rules mostly are.
    pub wide: bool,
    /// Of addresses and junk.
    pub seed: u64,
    /// What is left over in registers and on the stack.
    pub leftover: Leftover,
}

/// A scene in memory.
#[derive(Debug, Clone)]
pub struct World {
    /// All there is, without code.
    pub memory: Memory,
    /// `struct nft_pktinfo`.
    pub pkt: Address,
    /// `struct sk_buff`.
    pub skb: Address,
    /// `struct nft_chain` of the base chain.
    pub base_chain: Address,
    /// The function's second argument.
    pub argument: Address,
    /// The stack pointer at entry.
    pub stack: Address,
    /// What registers and stack may hold that nobody has set.
    pub leftovers: Leftovers,
    /// By the rule's place in the ruleset.
    pub rules: HashMap<RuleId, Address>,
    /// By the expression's address: whose it is and what its `eval` does.
    pub expressions: HashMap<u64, Evaluation>,
}

/// What happens when an expression's `eval` is called.
#[derive(Debug, Clone, Copy)]
pub struct Evaluation {
    /// The rule and the expression's index; `None` for one that must never be called.
    pub of: Option<(RuleId, usize)>,
    /// The verdict's code, if it writes one.
    pub code: Option<u32>,
    /// The chain it jumps or goes to.
    pub chain: Option<Address>,
}

/// The `eval` of expressions that no compiler has heard of.
pub const UNKNOWN_EVAL: &str = "eval of another module";

const STACK_SIZE: usize = 4 << 10;
/// `struct nft_regs`: the verdict, then twenty u32 less the first four, which are the verdict's
/// (`include/net/netfilter/nf_tables.h`, all versions).
const REGS_DATA: u32 = 16;
const REGS_SIZE: usize = 80;
/// Larger than `struct net` up to the generation cursor in every version seen (7.3: 0xd88).
const NET_SIZE: usize = 8 << 10;
const SKB_SIZE: usize = 512;
const PKTINFO_SIZE: usize = 128;
const STATE_SIZE: usize = 64;
/// Room for `struct nf_hook_ops`.
const HOOK_OPS_SIZE: usize = 64;
/// Before and after the start of `struct nft_chain` in its `struct nft_base_chain`.
const CHAIN_BEFORE: u64 = 64;
const CHAIN_AFTER: u64 = 192;
/// Of the network header in the packet's linear part.
const NETWORK_HEADER: u64 = 64;

/// Bytes of every inlined expression here; the kernel's are 16 to 48.
const FAST_SIZE: usize = 8 + FAST_DATA;
/// Of them their data.
const FAST_DATA: usize = 56;
/// `size` in `struct nft_expr_ops` where it has no `clone`, which newer kernels have there.
const OLD_OPS_SIZE: u32 = 8;
/// Bytes of `struct nft_expr_ops` that are there.
const OPS_SIZE: usize = 64;

/// Most bytes of a rule's expressions: all bits of its length, of which the lowest three are 0.
const MOST_DLEN: usize = 0xff8;

/// A canonical kernel pointer into the direct mapping, aligned as slab objects are: to cache lines.
fn somewhere(random: &mut Random) -> u64 {
    0xffff_8881_0000_0000 | random.below(1 << 24) << 6
}

/// Per-CPU memory: the same junk in all worlds. Much of it are pointers (`current`).
fn per_cpu() -> Arc<Vec<u8>> {
    static JUNK: LazyLock<Arc<Vec<u8>>> = LazyLock::new(|| {
        let mut random = Random::new(0x0070_6572_6370_7521);
        let words = std::iter::repeat_with(|| somewhere(&mut random).to_le_bytes());
        Arc::new(words.take(PER_CPU_SIZE / 8).flatten().collect())
    });
    Arc::clone(&JUNK)
}

impl Abi {
    /// Whether all offsets are inside of what a world has room for.
    pub fn fits(&self) -> bool {
        let inside = |offset: u32, size: u32, room: usize| {
            offset.checked_add(size).is_some_and(|end| end as usize <= room)
        };
        let inline = [self.cmp, self.cmp16].into_iter().flatten().all(|cmp| {
            let (CmpMask::Stored(mask) | CmpMask::Length(mask)) = cmp.mask;
            [cmp.data, mask, cmp.sreg, cmp.inv.unwrap_or(0)]
                .into_iter()
                .all(|at| inside(at, 16, FAST_DATA))
        }) && self.bitwise.is_none_or(|b| {
            [b.mask, b.xor, b.sreg, b.dreg].into_iter().all(|at| inside(at, 4, FAST_DATA))
        });
        let payload = self.payload.is_none_or(|p| {
            let data = [p.base, p.offset.bit_offset / 8, p.len, p.dreg];
            let pkt = [p.pkt_l4.unwrap_or(0), p.pkt_thoff.bit_offset / 8];
            let skb = [p.skb_head, p.skb_data.unwrap_or(0), p.skb_tail, p.skb_network_header];
            data.into_iter().all(|at| inside(at, 4, FAST_DATA))
                && pkt.into_iter().all(|at| inside(at, 4, PKTINFO_SIZE))
                && skb.into_iter().all(|at| inside(at, 8, SKB_SIZE))
        });
        let bits = [Some(self.rule_handle), Some(self.rule_dlen), self.rule_is_last];
        let header = bits.into_iter().flatten().all(|field| {
            inside(field.offset, 8, self.rule_data as usize) && field.shift + field.bits <= 64
        });
        let policy = i64::from(self.policy);
        let blob = match self.rules {
            RuleStore::Blob { size, data } => inside(size, 8, data as usize) && data <= 64,
            RuleStore::Array => true,
            RuleStore::List { genmask } => inside(genmask.offset, 8, self.rule_data as usize),
        };
        let net = match self.net {
            NetSource::State { pkt, net } => {
                inside(pkt, 8, PKTINFO_SIZE) && inside(net, 8, STATE_SIZE)
            }
            NetSource::Pkt(offset) => inside(offset, 8, PKTINFO_SIZE),
            NetSource::Chain(offset) => {
                (-(CHAIN_BEFORE as i32)..CHAIN_AFTER as i32 - 8).contains(&offset)
            }
        };
        let entry = match self.entry {
            Entry::Chain => true,
            Entry::Ops(offset) => inside(offset, 8, HOOK_OPS_SIZE),
        };
        let generations = self.chain_generations.into_iter();
        inline
            && payload
            && header
            && blob
            && (-(CHAIN_BEFORE as i64)..0).contains(&policy)
            && generations.into_iter().all(|at| inside(at, 8, CHAIN_AFTER as usize))
            && inside(self.pkt_skb, 8, PKTINFO_SIZE)
            && net
            && entry
            && inside(self.ops_eval, 8, OPS_SIZE)
            && inside(self.ops_size, 4, OPS_SIZE)
            && self.expr_data == 8
            && inside(self.rule_data, 0, 64)
            && inside(self.verdict_code, 4, 64)
            && inside(self.verdict_chain, 8, 64)
    }
}

impl World {
    /// Lays a scene out.
    pub fn new(scene: &Scene, abi: &Abi, linked: &Linked) -> Self {
        let mut random = Random::new(scene.seed);
        let mut builder = Builder {
            abi,
            linked,
            heap: Heap { base: somewhere(&mut random), bytes: Vec::new(), used: 0 },
            rules: HashMap::new(),
            expressions: HashMap::new(),
        };
        let chains: Vec<Address> = scene
            .ruleset
            .chains
            .iter()
            .map(|_| {
                let size = CHAIN_BEFORE + CHAIN_AFTER;
                let start = builder.heap.allocate(size as usize, &mut random);
                Address(start.0 + CHAIN_BEFORE)
            })
            .collect();
        for (index, &chain) in chains.iter().enumerate() {
            let policy = index == 0 && scene.ruleset.policy_drop;
            // Only the base chain has a policy; the others get the opposite.
            let policy = if index == 0 { policy } else { !scene.ruleset.policy_drop };
            let at = Address(chain.0.wrapping_add_signed(i64::from(abi.policy)));
            builder.heap.put(at, 0, u64::from(!policy), 1);
            // Per-CPU counters are small offsets; `stats` is in front of the chain in all versions.
            if abi.policy == -16 {
                let stats = 0x2_0000 + 64 * random.below(64);
                builder.heap.put(Address(chain.0 - 8), 0, stats, 8);
            }
            if let RuleStore::List { genmask } = abi.rules {
                builder.list(scene, index, &chains, genmask, &mut random);
                continue;
            }
            let active = builder.chain(scene, index, &chains, true, &mut random);
            let other = builder.chain(scene, index, &chains, false, &mut random);
            let mut generations = [other; 2];
            generations[scene.generation] = active;
            for (rules, offset) in generations.into_iter().zip(abi.chain_generations) {
                builder.heap.put(chain, offset, rules.0, 8);
            }
        }
        let mut memory = Memory::default();
        memory.surround(scene.seed, linked.placement.exists());
        let (skb, tail) = builder.packet(scene, &mut memory, &mut random);
        // Members that only newer kernels have (`nhoff`) and those that say "first fragment" are 0.
        let pkt = builder.heap.allocate(PKTINFO_SIZE, &mut random);
        for offset in (0..PKTINFO_SIZE as u32).step_by(8) {
            builder.heap.put(pkt, offset, 0, 8);
        }
        let state = builder.heap.allocate(STATE_SIZE, &mut random);
        let net = somewhere(&mut random) | 1 << 40;
        builder.heap.put(pkt, abi.pkt_skb, skb.0, 8);
        match abi.net {
            NetSource::State { pkt: offset, net: of_state } => {
                builder.heap.put(pkt, offset, state.0, 8);
                builder.heap.put(state, of_state, net, 8);
            }
            NetSource::Pkt(offset) => builder.heap.put(pkt, offset, net, 8),
            NetSource::Chain(offset) => {
                for &chain in &chains {
                    let at = Address(chain.0.wrapping_add_signed(i64::from(offset)));
                    builder.heap.put(at, 0, net, 8);
                }
            }
        }
        let argument = match abi.entry {
            Entry::Chain => chains[0],
            Entry::Ops(offset) => {
                let ops = builder.heap.allocate(HOOK_OPS_SIZE, &mut random);
                builder.heap.put(ops, offset, chains[0].0, 8);
                ops
            }
        };
        if let Some(payload) = abi.payload {
            if let Some(l4) = payload.pkt_l4 {
                builder.heap.put(pkt, l4, u64::from(scene.packet.transport.is_some()), 1);
            }
            let thoff = scene.packet.transport.unwrap_or(0);
            builder.heap.put_field(pkt, payload.pkt_thoff, u64::from(thoff));
            builder.heap.put(skb, payload.skb_tail, tail, 4);
        }
        // The generation cursor is somewhere in here: all bytes hold it, so that nobody needs to
        // know where (`struct net` is in vmlinux's BTF only).
        memory.map(Address(net), vec![scene.generation as u8; NET_SIZE], false);
        let Builder { heap, rules, expressions, .. } = builder;
        for (base, kind, bytes) in &linked.parts {
            if *kind == PartKind::Data {
                memory.map_constants(*base, Arc::clone(bytes));
            }
        }
        let stack = 0xffff_c900_0000_0000 | random.below(1 << 16) << 16;
        memory.map(Address(PER_CPU), per_cpu(), true);
        let policy = Address(chains[0].0.wrapping_add_signed(i64::from(abi.policy)));
        memory.set_policy(policy);
        let objects = chains.iter().chain(rules.values()).map(|address| address.0);
        let objects = objects.chain([pkt.0, skb.0, state.0, policy.0]).collect();
        let mut leftovers = Leftovers::new(scene.leftover, random.bits(), objects, &mut memory);
        // The objects: a packet changes neither rules nor chains on its way, and code that does is not
        // understood.
        memory.map_first(Address(heap.base), heap.bytes, false);
        // Where most accesses go.
        memory.map_stack(Address(stack), leftovers.bytes(STACK_SIZE));
        // Aligned as at a function's entry: 8 more than a multiple of 16.
        let stack = Address(stack + STACK_SIZE as u64 - 1032 - 16 * random.below(16));
        memory.set_entry(stack);
        let base_chain = chains[0];
        World { memory, pkt, skb, base_chain, argument, stack, leftovers, rules, expressions }
    }

    /// Applies what an `eval` does to the registers' memory. Of what else is there it may change all,
    /// since registers hold what expressions have loaded.
    pub fn evaluate(
        memory: &mut Memory,
        abi: &Abi,
        evaluation: Evaluation,
        regs: Address,
    ) -> Result<(), Fault> {
        let at = |offset: u32| Address(regs.0.wrapping_add(u64::from(offset)));
        memory.leave(at(REGS_DATA), REGS_SIZE - REGS_DATA as usize);
        memory.set_verdict(at(abi.verdict_code));
        if let Some(code) = evaluation.code {
            memory.write(at(abi.verdict_code), 4, u64::from(code), Origin::COMPUTED)?;
        }
        if let Some(chain) = evaluation.chain {
            memory.write(at(abi.verdict_chain), 8, chain.0, Origin::DATA)?;
        }
        Ok(())
    }
}

/// The operations that the kernel compares with before it takes the inlined way.
pub fn ops_symbol_of(fast: Fast) -> &'static str {
    match fast {
        Fast::Bitwise { .. } => "nft_bitwise_fast_ops",
        Fast::Cmp { .. } => "nft_cmp_fast_ops",
        Fast::Cmp16 { .. } => "nft_cmp16_fast_ops",
        Fast::Payload { .. } => "nft_payload_fast_ops",
    }
}

/// A scene with what the reference says of it.
#[derive(Debug, Clone)]
pub struct Case {
    /// The scene.
    pub scene: Scene,
    /// How it ends.
    pub expected: Expected,
    /// Whether it is one of many random ones.
    pub random: bool,
}
