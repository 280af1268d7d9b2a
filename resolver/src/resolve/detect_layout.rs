//! What neither BTF nor the table of known layouts tells of a function: which expressions its compiler has
//! inlined, and for a function without BTF how their operands lie. Both are found by trying. A wrong layout does not
//! make the runs agree with the reference, so nothing has to be guessed.

use super::Unresolved;
use super::infer::Visits;
use super::layout::{Abi, PacketFields};
use super::link::Linked;
use super::link::Warnings;
use super::memory::Memory;
use super::run::{self, Budget, Observer, Surroundings};
use super::runner::{FoundOut, Runner};
use super::world::{Case, World};
use super::worlds::{self, Vocabulary};
use crate::arch::{Access, Cpu};
use crate::image::function::Field;
use nfdrop_db::{LayoutSource, Reason};
use std::collections::BTreeSet;

/// The kinds of inlined expressions, in the order of [`Abi::inlined`]: whose operations the code
/// compares with.
const INLINED: [&str; 4] =
    ["nft_bitwise_fast_ops", "nft_payload_fast_ops", "nft_cmp_fast_ops", "nft_cmp16_fast_ops"];

/// What a layout is tried on.
const SEED: u64 = 0x6c61_796f_7574_733f;

/// A candidate as the function is run with it: what compilers have inlined is found by trying. All that runs
/// functions takes its layout from here.
///
/// # Errors
///
/// The runs do not agree with the reference even without inlined expressions.
pub fn detect_layout(
    image: &Linked,
    warnings: &Warnings,
    candidate: Abi,
    budget: &Budget,
) -> Result<Abi, Unresolved> {
    match candidate.source {
        LayoutSource::Btf => Ok(without_inlined_evals(image, warnings, candidate, budget)),
        LayoutSource::Shape => with_inlined_expressions(image, warnings, candidate, budget),
    }
}

/// The layout with those inlined expressions that agree too.
///
/// # Errors
///
/// The runs do not agree with the reference even without inlined expressions.
fn with_inlined_expressions(
    image: &Linked,
    warnings: &Warnings,
    plain: Abi,
    budget: &Budget,
) -> Result<Abi, Unresolved> {
    let plain = without_inlined_evals(image, warnings, plain, budget);
    let vocabulary = Vocabulary::new(image, &plain);
    try_cases(image, warnings, &plain, budget, &worlds::walk(&vocabulary, SEED))?;
    let seen = packet_fields(image, warnings, &plain, budget);
    let mut abi = plain;
    for (kind, ops) in INLINED.into_iter().enumerate() {
        let candidates = &abi.inlined(&seen)[kind];
        let found = candidates.iter().find(|candidate| {
            let vocabulary = Vocabulary::new(image, candidate);
            let cases = worlds::inlined(&vocabulary, SEED);
            !cases.is_empty() && try_cases(image, warnings, candidate, budget, &cases).is_ok()
        });
        if let Some(found) = found {
            abi = found.clone();
        } else if image.known_symbol(ops).is_some() {
            // Code that nobody understands may do anything.
            let detail = format!(
                "{}: what is inlined for {ops} does not do what it does in any known version; the \
                 kernel's BTF would tell how its operands lie",
                abi.name
            );
            return Err(Unresolved::new(Reason::UnknownLayout, detail));
        }
    }
    Ok(abi)
}

/// Finds the `eval` functions that were inlined at link time (LTO): where the code compares with one
/// that it never calls, those are left out that are not called when a rule calls them.
fn without_inlined_evals(image: &Linked, warnings: &Warnings, abi: Abi, budget: &Budget) -> Abi {
    let vocabulary = Vocabulary::new(image, &abi);
    let called =
        |name: &&String| image.known_symbol(name).is_some_and(|eval| image.branches_to(eval));
    if vocabulary.evals.iter().all(|name| called(&name)) {
        return abi;
    }
    let unlike_called = |name: &&String| {
        let cases = worlds::call(&vocabulary, SEED, name);
        !called(name) || try_cases(image, warnings, &abi, budget, &cases).is_err()
    };
    let inlined_evals = vocabulary.evals.iter().filter(unlike_called).cloned().collect();
    Abi { inlined_evals, ..abi }
}

fn try_cases(
    image: &Linked,
    warnings: &Warnings,
    abi: &Abi,
    budget: &Budget,
    cases: &[Case],
) -> Result<(), Unresolved> {
    let images = std::slice::from_ref(image);
    let runs = Runner { images, abi, cases, warnings: warnings.clone(), budget };
    let mut visits = Visits::new(image.instructions.len());
    let mut all = FoundOut::new(image);
    for (case, world) in runs.worlds() {
        let ran = runs.one(image, case, &world, &mut all, &mut visits);
        ran.map_err(|failed| failed.why(case))?;
    }
    Ok(())
}

/// Reads of an object: offset and bytes.
type Reads = BTreeSet<(u32, u32)>;

/// Which members of two objects a run reads.
struct Watch<'a> {
    linked: &'a Linked,
    skb: u64,
    pkt: u64,
    of_skb: Reads,
    of_pkt: Reads,
}

/// Most places that may be the transport header's.
const MAX_CANDIDATES: usize = 4;
/// Bytes behind the start of an object that count as the object.
const OBJECT: u64 = 512;

impl Observer for Watch<'_> {
    fn visit(&mut self, instruction: usize, cpu: &Cpu, _: &Memory, _: bool) {
        let i = &self.linked.instructions[instruction].instruction;
        let read = i.memory().filter(|memory| memory.access == Access::Read);
        let (Some(read), Some(address)) = (read, cpu.effective_address(i)) else { return };
        let size = read.size as u32;
        for (object, reads) in [(self.skb, &mut self.of_skb), (self.pkt, &mut self.of_pkt)] {
            let offset = address.0.wrapping_sub(object);
            if offset < OBJECT {
                reads.insert((offset as u32, size));
            }
        }
    }

    fn edge(&mut self, _: usize, _: bool) {}
}

/// The only read of so many bytes.
fn only(reads: &Reads, size: u32) -> Option<u32> {
    let mut of_size = reads.iter().filter(|read| read.1 == size);
    let first = of_size.next()?;
    of_size.next().is_none().then_some(first.0)
}

/// Where the inlined payload expression finds the packet's bytes: `nft_payload_fast_eval` reads
/// `head` (8 bytes), `network_header` (2) and `tail` (4) of the skb; for the transport header a byte
/// and a number of the pktinfo, and in most versions `data` (8) of the skb instead of its network
/// header (`net/netfilter/nf_tables_core.c`).
fn packet_fields(
    image: &Linked,
    warnings: &Warnings,
    plain: &Abi,
    budget: &Budget,
) -> Vec<PacketFields> {
    // Not known yet: what is not found is left at the end of the objects, where it does no harm.
    let far = 120;
    let field = |offset, size: u32| Field { bit_offset: offset * 8, bit_size: size * 8 };
    let mut fields = PacketFields {
        l4: None,
        thoff: field(far, 2),
        head: 496,
        data: None,
        tail: 504,
        network_header: 508,
    };
    let reads = |fields: PacketFields, transport: bool| {
        let mut all: Option<(Reads, Reads)> = None;
        // The operands' layout is not known either; the right one reads most.
        for abi in &plain.inlined(&[fields])[1] {
            let vocabulary = Vocabulary::new(image, abi);
            for case in worlds::load(&vocabulary, SEED, transport) {
                let world = World::new(&case.scene, abi, image);
                let (of_skb, of_pkt) = (Reads::new(), Reads::new());
                let (skb, pkt) = (world.skb.0, world.pkt.0);
                let mut watch = Watch { linked: image, skb, pkt, of_skb, of_pkt };
                let around = Surroundings { linked: image, abi, warnings, budget };
                // Where it ends does not matter.
                let _ = run::run(around, &world, SEED, &mut watch);
                let more = watch.of_skb.len() + watch.of_pkt.len();
                if all.as_ref().is_none_or(|(a, b)| more > a.len() + b.len()) {
                    all = Some((watch.of_skb, watch.of_pkt));
                }
            }
        }
        all
    };
    let Some((of_skb, of_pkt)) = reads(fields, false) else { return Vec::new() };
    let (Some(head), Some(tail), Some(network_header)) =
        (only(&of_skb, 8), only(&of_skb, 4), only(&of_skb, 2))
    else {
        return Vec::new();
    };
    fields = PacketFields { head, tail, network_header, ..fields };
    let fresh = |reads: &Reads| -> Reads { reads.difference(&of_pkt).copied().collect() };
    let Some((_, of_transport)) = reads(fields, true) else { return vec![fields] };
    fields.l4 = only(&fresh(&of_transport), 1);
    let Some((skb_transport, of_transport)) = reads(fields, true) else { return vec![fields] };
    let pointers: Reads = skb_transport.difference(&of_skb).copied().collect();
    fields.data = only(&pointers, 8);
    // The fragment's offset is looked at too in some versions: both are tried.
    let numbers = fresh(&of_transport).into_iter().filter(|read| matches!(read.1, 2 | 4));
    let found = numbers.map(|(offset, size)| PacketFields { thoff: field(offset, size), ..fields });
    let found: Vec<_> = found.take(MAX_CANDIDATES).collect();
    if found.is_empty() { vec![fields] } else { found }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_only_read_of_a_size() {
        let reads = Reads::from([(0, 8), (8, 8), (16, 4)]);
        assert_eq!((only(&reads, 4), only(&reads, 8), only(&reads, 2)), (Some(16), None, None));
    }
}
