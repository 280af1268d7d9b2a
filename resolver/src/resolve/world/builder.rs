//! Rulesets and packets, laid out in memory as the kernel lays them out.

use super::{
    Abi, Action, Address, BitField, CmpMask, Evaluation, Expression, FAST_SIZE, Fast, HashMap,
    Heap, LayoutSource, Linked, MOST_DLEN, Memory, NETWORK_HEADER, OLD_OPS_SIZE, OPS_SIZE, Random,
    Rule, RuleId, RuleStore, SKB_SIZE, Scene, UNKNOWN_EVAL, ops_symbol_of, somewhere, verdict,
};

/// Rules, expressions and chains, in memory.
pub(super) struct Builder<'a> {
    pub(super) abi: &'a Abi,
    pub(super) linked: &'a Linked,
    pub(super) heap: Heap,
    pub(super) rules: HashMap<RuleId, Address>,
    pub(super) expressions: HashMap<u64, Evaluation>,
}

impl Builder<'_> {
    /// Lays out the rules of one generation of a chain; returns what the chain points to. The other
    /// generation has one rule whose expression must never be called.
    pub(super) fn chain(
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

    pub(super) fn expressions_of(
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
    pub(super) fn list(
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
    pub(super) fn node(
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

    pub(super) fn expression(
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
    pub(super) fn register(&self, number: u8) -> u64 {
        u64::from(if self.abi.lacks.words { number / 4 } else { number })
    }

    pub(super) fn operands(&mut self, data: Address, fast: Fast) {
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
    pub(super) fn packet(
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
