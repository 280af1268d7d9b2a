//! A world: one ruleset and packet laid out in memory as the kernel lays them out, at places that
//! differ from world to world, with junk wherever the kernel promises nothing.

use super::layout::{Abi, CmpMask, Entry, NetSource, RuleStore};
use super::leftovers::{Leftover, Leftovers};
use super::link::Linked;
use super::memory::{Address, Fault, Memory};
use super::origin::Origin;
use super::random::Random;
use super::rules::{Action, Expected, Expression, Fast, Packet, Rule, RuleId, Ruleset, verdict};
use crate::arch::{PER_CPU, PER_CPU_SIZE};
use crate::image::function::{Field, PartKind};
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
/// The heap grows by this.
const HEAP_STEP: usize = 4 << 10;
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

struct Heap {
    base: u64,
    bytes: Vec<u8>,
    used: usize,
}

impl Heap {
    /// Junk with room for `size` bytes, 8-aligned, at an unforeseeable distance from the last piece.
    fn allocate(&mut self, size: usize, random: &mut Random) -> Address {
        let start = self.used + 8 * (1 + random.below(12) as usize);
        self.used = (start + size).next_multiple_of(8);
        if self.bytes.len() < self.used {
            let missing = self.used.next_multiple_of(HEAP_STEP) - self.bytes.len();
            self.bytes.extend(random.junk_bytes(missing));
        }
        Address(self.base + start as u64)
    }

    fn put(&mut self, address: Address, offset: u32, value: u64, size: usize) {
        let start = (address.0 - self.base) as usize + offset as usize;
        self.bytes[start..start + size].copy_from_slice(&value.to_le_bytes()[..size]);
    }

    fn put_bits(&mut self, address: Address, field: BitField, value: u64) {
        let start = (address.0 - self.base) as usize + field.offset as usize;
        let mut word = [0; 8];
        word.copy_from_slice(&self.bytes[start..start + 8]);
        let mask = field.mask() << field.shift;
        let word = u64::from_le_bytes(word) & !mask | value << field.shift & mask;
        self.bytes[start..start + 8].copy_from_slice(&word.to_le_bytes());
    }

    fn put_field(&mut self, address: Address, field: Field, value: u64) {
        self.put(address, field.bit_offset / 8, value, field.bit_size as usize / 8);
    }
}

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

struct Builder<'a> {
    abi: &'a Abi,
    linked: &'a Linked,
    heap: Heap,
    rules: HashMap<RuleId, Address>,
    expressions: HashMap<u64, Evaluation>,
}

impl Builder<'_> {
    /// Lays out the rules of one generation of a chain; returns what the chain points to. The other
    /// generation has one rule whose expression must never be called.
    fn chain(
        &mut self,
        scene: &Scene,
        index: usize,
        chains: &[Address],
        active: bool,
        random: &mut Random,
    ) -> Address {
        let decoy = [decoy(random)];
        let rules = if active { &scene.ruleset.chains[index].rules } else { &decoy[..] };
        // An expression is its `ops` pointer and its data.
        let sizes: Vec<Vec<usize>> =
            rules.iter().map(|rule| sizes(rule, scene.wide, random)).collect();
        let header = self.abi.rule_data as usize;
        let rule_sizes: Vec<usize> =
            sizes.iter().map(|sizes| header + sizes.iter().sum::<usize>()).collect();
        let (pointer, places) = match self.abi.rules {
            RuleStore::Blob { size, data } => {
                // Behind the rules `struct nft_rule_dp_last`: header, two pointers, chain.
                let all: usize = rule_sizes.iter().sum();
                let blob = self.heap.allocate(data as usize + all + header + 40, random);
                self.heap.put(blob, size, all as u64, 8);
                let mut at = blob.0 + u64::from(data);
                let mut places = Vec::with_capacity(rules.len());
                for size in &rule_sizes {
                    places.push(Address(at));
                    at += *size as u64;
                }
                if let Some(is_last) = self.abi.rule_is_last {
                    self.heap.put_bits(Address(at), is_last, 1);
                }
                (blob, places)
            }
            RuleStore::Array | RuleStore::List { .. } => {
                let array = self.heap.allocate(8 * rules.len() + 8, random);
                let places: Vec<Address> =
                    rule_sizes.iter().map(|size| self.heap.allocate(*size, random)).collect();
                for (index, place) in places.iter().enumerate() {
                    self.heap.put(array, 8 * index as u32, place.0, 8);
                }
                self.heap.put(array, 8 * rules.len() as u32, 0, 8);
                (array, places)
            }
        };
        for (number, (rule, &place)) in rules.iter().zip(&places).enumerate() {
            let id = RuleId { chain: index, rule: number };
            let dlen = rule_sizes[number] - header;
            self.heap.put_bits(place, self.abi.rule_handle, rule.handle);
            self.heap.put_bits(place, self.abi.rule_dlen, dlen as u64);
            if let Some(is_last) = self.abi.rule_is_last {
                self.heap.put_bits(place, is_last, 0);
            }
            if active {
                self.rules.insert(id, place);
            }
            self.expressions_of(place, rule, &sizes[number], active.then_some(id), chains, random);
        }
        pointer
    }

    fn expressions_of(
        &mut self,
        place: Address,
        rule: &Rule,
        sizes: &[usize],
        id: Option<RuleId>,
        chains: &[Address],
        random: &mut Random,
    ) {
        let mut at = place.0 + u64::from(self.abi.rule_data);
        for (which, (expression, &size)) in rule.expressions.iter().zip(sizes).enumerate() {
            let of = id.map(|id| (id, which));
            self.expression(Address(at), expression, size, of, chains, random);
            at += size as u64;
        }
    }

    /// Lays out a chain as a list: its rules, and among them some that are not in this generation.
    fn list(
        &mut self,
        scene: &Scene,
        index: usize,
        chains: &[Address],
        genmask: BitField,
        random: &mut Random,
    ) {
        let active = 1_u64 << scene.generation;
        let mut nodes = vec![chains[index]];
        let rules = scene.ruleset.chains[index].rules.iter().enumerate().map(Some);
        for entry in rules.chain([None]) {
            let decoys = random.below(5).saturating_sub(2);
            for _ in 0..decoys {
                let rule = decoy(random);
                let other = if random.one_in(2) { 3 } else { 0 };
                let sizes = sizes(&rule, false, random);
                nodes.push(self.node(&rule, &sizes, None, active | other, genmask, chains, random));
            }
            let Some((number, rule)) = entry else { break };
            let id = RuleId { chain: index, rule: number };
            let mask = if random.one_in(2) { 0 } else { 3 & !active };
            let sizes = sizes(rule, scene.wide, random);
            let node = self.node(rule, &sizes, Some(id), mask, genmask, chains, random);
            self.rules.insert(id, node);
            nodes.push(node);
        }
        for (number, &node) in nodes.iter().enumerate() {
            let next = nodes[(number + 1) % nodes.len()];
            self.heap.put(node, 0, next.0, 8);
            self.heap.put(next, 8, node.0, 8);
        }
    }

    #[expect(clippy::too_many_arguments, reason = "all that is known of a rule")]
    fn node(
        &mut self,
        rule: &Rule,
        sizes: &[usize],
        id: Option<RuleId>,
        mask: u64,
        genmask: BitField,
        chains: &[Address],
        random: &mut Random,
    ) -> Address {
        let dlen: usize = sizes.iter().sum();
        let place = self.heap.allocate(self.abi.rule_data as usize + dlen, random);
        self.heap.put_bits(place, self.abi.rule_handle, rule.handle);
        self.heap.put_bits(place, self.abi.rule_dlen, dlen as u64);
        self.heap.put_bits(place, genmask, mask);
        self.expressions_of(place, rule, sizes, id, chains, random);
        place
    }

    fn expression(
        &mut self,
        at: Address,
        expression: &Expression,
        size: usize,
        of: Option<(RuleId, usize)>,
        chains: &[Address],
        random: &mut Random,
    ) {
        let data = Address(at.0 + u64::from(self.abi.expr_data));
        let mut evaluation = Evaluation { of, code: None, chain: None };
        let mut eval = UNKNOWN_EVAL;
        let mut ops_symbol = None;
        match expression {
            Expression::Call { action, eval: known } => {
                let (code, chain) = match *action {
                    Action::Nothing => (None, None),
                    Action::Verdict(code) => (Some(code), None),
                    Action::Jump(chain) => (Some(verdict::JUMP), Some(chains[chain])),
                    Action::Goto(chain) => (Some(verdict::GOTO), Some(chains[chain])),
                };
                evaluation = Evaluation { of, code, chain };
                eval = known.as_deref().unwrap_or(UNKNOWN_EVAL);
            }
            Expression::Fast(fast) => {
                ops_symbol = Some(ops_symbol_of(*fast));
                self.operands(data, *fast);
                if matches!(fast, Fast::Payload { .. }) {
                    // Where the packet is too short `eval` is called; it breaks.
                    evaluation.code = Some(verdict::BREAK);
                    eval = "nft_payload_eval";
                }
            }
        }
        // The kernel compares the pointer to `nft_cmp_fast_ops` and reads the size through it.
        let ops = ops_symbol.and_then(|name| self.linked.known_symbol(name));
        let ops = ops.unwrap_or_else(|| {
            let ops = self.heap.allocate(OPS_SIZE, random);
            let eval = self.linked.known_symbol(eval);
            let eval = eval.or_else(|| self.linked.known_symbol(UNKNOWN_EVAL));
            self.heap.put(ops, self.abi.ops_eval, eval.map_or(0, |address| address.0), 8);
            self.heap.put(ops, self.abi.ops_size, size as u64, 4);
            if self.abi.source == LayoutSource::Shape {
                self.heap.put(ops, OLD_OPS_SIZE, size as u64, 4);
            }
            ops
        });
        self.heap.put(at, 0, ops.0, 8);
        self.expressions.insert(at.0, evaluation);
    }

    /// A register's number in an operand.
    fn register(&self, number: u8) -> u64 {
        u64::from(if self.abi.lacks.words { number / 4 } else { number })
    }

    fn operands(&mut self, data: Address, fast: Fast) {
        match fast {
            Fast::Bitwise { sreg, dreg, mask, xor } => {
                let Some(abi) = self.abi.bitwise else { return };
                self.heap.put(data, abi.mask, u64::from(mask), 4);
                self.heap.put(data, abi.xor, u64::from(xor), 4);
                let register = self.register(sreg);
                self.heap.put(data, abi.sreg, register, 1);
                let register = self.register(dreg);
                self.heap.put(data, abi.dreg, register, 1);
            }
            Fast::Cmp { sreg, mask, data: value, inv } => {
                let Some(abi) = self.abi.cmp else { return };
                self.heap.put(data, abi.data, u64::from(value), 4);
                match abi.mask {
                    CmpMask::Stored(offset) => self.heap.put(data, offset, u64::from(mask), 4),
                    CmpMask::Length(offset) => {
                        self.heap.put(data, offset, u64::from(mask.trailing_ones()), 1);
                    }
                }
                let register = self.register(sreg);
                self.heap.put(data, abi.sreg, register, 1);
                if let Some(offset) = abi.inv {
                    self.heap.put(data, offset, u64::from(inv), 1);
                }
            }
            Fast::Cmp16 { sreg, mask, data: value, inv } => {
                let Some(abi) = self.abi.cmp16 else { return };
                let (CmpMask::Stored(masks), Some(inverted)) = (abi.mask, abi.inv) else { return };
                for word in 0..4 {
                    let offset = 4 * word as u32;
                    self.heap.put(data, abi.data + offset, u64::from(value[word]), 4);
                    self.heap.put(data, masks + offset, u64::from(mask[word]), 4);
                }
                let register = self.register(sreg);
                self.heap.put(data, abi.sreg, register, 1);
                self.heap.put(data, inverted, u64::from(inv), 1);
            }
            Fast::Payload { transport, offset, len, dreg } => {
                let Some(abi) = self.abi.payload else { return };
                // NFT_PAYLOAD_NETWORK_HEADER 1, NFT_PAYLOAD_TRANSPORT_HEADER 2.
                self.heap.put(data, abi.base, 1 + u64::from(transport), 1);
                self.heap.put_field(data, abi.offset, u64::from(offset));
                self.heap.put(data, abi.len, u64::from(len), 1);
                let register = self.register(dreg);
                self.heap.put(data, abi.dreg, register, 1);
            }
        }
    }

    /// The packet's bytes and `struct sk_buff`, and the operations that the kernel's code compares
    /// with by address. Returns the skb and its tail, from the head.
    fn packet(
        &mut self,
        scene: &Scene,
        memory: &mut Memory,
        random: &mut Random,
    ) -> (Address, u64) {
        let skb = self.heap.allocate(SKB_SIZE, random);
        let tail = NETWORK_HEADER + scene.packet.bytes.len() as u64;
        if let Some(abi) = self.abi.payload {
            let head = somewhere(random) | 1 << 41;
            let mut bytes = random.bytes(4096);
            bytes[NETWORK_HEADER as usize..tail as usize].copy_from_slice(&scene.packet.bytes);
            memory.map(Address(head), bytes, false);
            self.heap.put(skb, abi.skb_head, head, 8);
            if let Some(data) = abi.skb_data {
                self.heap.put(skb, data, head + NETWORK_HEADER, 8);
            }
            self.heap.put(skb, abi.skb_network_header, NETWORK_HEADER, 2);
        }
        for fast in [
            Fast::Bitwise { sreg: 0, dreg: 0, mask: 0, xor: 0 },
            Fast::Cmp { sreg: 0, mask: 0, data: 0, inv: false },
            Fast::Cmp16 { sreg: 0, mask: [0; 4], data: [0; 4], inv: false },
            Fast::Payload { transport: false, offset: 0, len: 0, dreg: 0 },
        ] {
            let Some(at) = self.linked.known_symbol(ops_symbol_of(fast)) else { continue };
            let mut ops = random.bytes(OPS_SIZE);
            let eval = match fast {
                Fast::Payload { .. } => self.linked.known_symbol("nft_payload_eval"),
                _ => None,
            };
            let eval = eval.or_else(|| self.linked.known_symbol(UNKNOWN_EVAL));
            let put = |ops: &mut Vec<u8>, offset: u32, value: &[u8]| {
                ops[offset as usize..][..value.len()].copy_from_slice(value);
            };
            put(&mut ops, self.abi.ops_eval, &eval.map_or(0, |a| a.0).to_le_bytes());
            put(&mut ops, self.abi.ops_size, &(FAST_SIZE as u32).to_le_bytes());
            if self.abi.source == LayoutSource::Shape {
                put(&mut ops, OLD_OPS_SIZE, &(FAST_SIZE as u32).to_le_bytes());
            }
            memory.map(at, ops, false);
        }
        (skb, tail)
    }
}

/// A rule that must not be seen, with a verdict that would tell.
fn decoy(random: &mut Random) -> Rule {
    let code = if random.one_in(2) { verdict::DROP } else { verdict::ACCEPT };
    let expression = Expression::Call { action: Action::Verdict(code), eval: None };
    Rule { handle: random.below(1 << 42), expressions: vec![expression] }
}

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

/// Bytes of each of a rule's expressions.
fn sizes(rule: &Rule, wide: bool, random: &mut Random) -> Vec<usize> {
    let size = |expression: &Expression, random: &mut Random| match expression {
        Expression::Call { .. } => 8 + 8 * random.below(6) as usize,
        Expression::Fast(_) => FAST_SIZE,
    };
    let mut sizes: Vec<usize> = rule.expressions.iter().map(|e| size(e, random)).collect();
    if !wide {
        return sizes;
    }
    // Every second one has all bits, the others any.
    let most = MOST_DLEN.saturating_sub(sizes.iter().sum()) / 8;
    let mut left = if random.one_in(2) { most } else { random.below(most as u64 + 1) as usize };
    let last = rule.expressions.iter().rposition(|e| matches!(e, Expression::Call { .. }));
    for (index, expression) in rule.expressions.iter().enumerate() {
        if matches!(expression, Expression::Call { .. }) {
            let more =
                if Some(index) == last { left } else { random.below(left as u64 + 1) as usize };
            sizes[index] += 8 * more;
            left -= more;
        }
    }
    sizes
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
