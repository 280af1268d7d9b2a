//! Rulesets with inlined expressions in the middle of everything. A comparison that was inlined ends a
//! rule without any call, so what the expressions left in registers is still there when the next rule
//! begins.

use super::{Maker, Vocabulary};
use crate::resolve::random::Random;
use crate::resolve::rules::{Action, Chain, Expression, Fast, Packet, Rule};

impl Maker<'_> {
    /// A few chains whose rules mix inlined expressions with others.
    pub(super) fn mixed(&mut self) {
        let mut packet = self.packet();
        let options = 4 * self.random.below(6) as u8;
        packet.transport = packet.transport.map(|plain| plain + options);
        let count = 1 + self.random.below(4) as usize;
        let mut chains = Vec::new();
        for chain in 0..count {
            let mut rules = Vec::new();
            for _ in 0..=self.random.below(5) {
                let mut expressions = Vec::new();
                for _ in 0..self.random.below(4) {
                    if self.random.one_in(3) {
                        expressions.push(self.call(Action::Nothing));
                    } else {
                        self.inlined(&mut expressions, &packet);
                    }
                }
                let action = match self.random.below(4) {
                    0 if chain + 1 < count => Action::Jump(chain + 1),
                    1 if chain + 1 < count => Action::Goto(chain + 1),
                    _ => self.unusual_verdict(),
                };
                expressions.push(self.call(action));
                rules.push(Rule { handle: 0, expressions });
            }
            chains.push(Chain { rules });
        }
        self.unusual(chains, packet);
    }

    /// One or several inlined expressions that read only what they have written: real rulesets do
    /// not read registers before writing them either.
    fn inlined(&mut self, out: &mut Vec<Expression>, packet: &Packet) {
        let Vocabulary { cmp, cmp16, bitwise, payload, inverted, lacks, .. } = *self.vocabulary;
        let mut push = |fast| out.push(Expression::Fast(fast));
        let dreg = self.any_register();
        let inv = inverted && self.random.one_in(2);
        // Equal, or different in one bit anywhere.
        let bit = |random: &mut Random| {
            if random.one_in(2) { 0 } else { 1_u32 << random.below(32) }
        };
        match self.random.below(3) {
            0 if bitwise => {
                let (value, mask) = (self.random.bits() as u32, self.random.bits() as u32);
                let xor = self.random.bits() as u32;
                push(Fast::Bitwise { sreg: dreg, dreg, mask: 0, xor: value });
                push(Fast::Bitwise { sreg: dreg, dreg: 16, mask, xor });
                if cmp {
                    let value = value & mask ^ xor;
                    let mask = if self.random.one_in(2) { u32::MAX } else { self.mask() };
                    let data = (value ^ bit(&mut self.random)) & mask;
                    push(Fast::Cmp { sreg: 16, mask, data, inv });
                }
            }
            1 if bitwise && cmp16 => {
                let words: [u32; 4] = std::array::from_fn(|_| self.random.bits() as u32);
                let masks: [u32; 4] = std::array::from_fn(|_| self.random.bits() as u32);
                for (word, dreg) in words.into_iter().zip(dreg..) {
                    push(Fast::Bitwise { sreg: dreg, dreg, mask: 0, xor: word });
                }
                let mut data: [u32; 4] = std::array::from_fn(|i| words[i] & masks[i]);
                let which = self.random.below(4) as usize;
                data[which] ^= bit(&mut self.random) & masks[which];
                push(Fast::Cmp16 { sreg: dreg, mask: masks, data, inv });
            }
            _ if payload => {
                // Before 4.1 the rest of the register keeps what it held.
                let lens: &[u8] = if lacks.words { &[4] } else { &[1, 2, 4] };
                let len = *self.random.pick(lens);
                let transport = self.random.one_in(2);
                let offset = self.random.below(packet.bytes.len() as u64 + 2) as u8;
                let header = if transport { packet.transport } else { Some(0) };
                let start = header.map(|header| usize::from(header) + usize::from(offset));
                // Versions with registers of 128 bits leave the last byte to `eval`.
                let last = start.is_some_and(|at| at + usize::from(len) == packet.bytes.len());
                if lacks.words && last {
                    return;
                }
                push(Fast::Payload { transport, offset, len, dreg });
                let bytes =
                    start.and_then(|start| packet.bytes.get(start..start + usize::from(len)));
                let mut word = [0; 4];
                let bytes = bytes.unwrap_or_default();
                word[..bytes.len()].copy_from_slice(bytes);
                if cmp {
                    let data = u32::from_le_bytes(word) ^ bit(&mut self.random);
                    push(Fast::Cmp { sreg: dreg, mask: u32::MAX, data, inv });
                }
            }
            _ => {}
        }
    }
}
