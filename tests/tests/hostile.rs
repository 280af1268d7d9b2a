//! The resolver on functions that nobody compiled: real ones, mutated at random, and some made to
//! take long. Whatever comes in, there is a valid plan or a reason, soon.

use nfdrop_db::BuildId;
use nfdrop_resolver::image::Function;
use nfdrop_resolver::image::function::{Field, Part, PartKind, Place};
use nfdrop_resolver::resolve::random::Random;
use nfdrop_resolver::resolve::{Unresolved, resolve};
use nfdrop_tests::corpus;
use proptest::prelude::*;
use std::sync::LazyLock;
use std::time::{Duration, Instant};

static CORPUS: LazyLock<Vec<Function>> = LazyLock::new(|| {
    corpus().expect("tests/corpus").into_iter().map(|extract| extract.function).collect()
});

/// Far more than a mutant takes on a busy machine, far less than without any bound.
const PATIENCE: Duration = Duration::from_secs(90);

/// Resolves; a plan has to be one that clients accept.
fn outcome(function: &Function) -> Result<(), Unresolved> {
    let start = Instant::now();
    let result = resolve(function);
    assert!(start.elapsed() < PATIENCE, "took {:?}", start.elapsed());
    let plan = result?.plan(BuildId::from_bytes(&[0; 20]).expect("20 bytes"));
    plan.validate().unwrap_or_else(|error| panic!("{error}"));
    Ok(())
}

/// A place in some part's code, often near the start of an instruction.
fn place(function: &Function, random: &mut Random) -> Place {
    let part = random.below(function.parts.len() as u64) as usize;
    let len = function.parts[part].bytes.len() as u64;
    Place { part: part as u16, offset: random.below(len) as u32 }
}

/// One change of a kind.
fn mutate(function: &mut Function, random: &mut Random) {
    let which = random.below(function.parts.len() as u64) as usize;
    let target = place(function, random);
    let symbols: Vec<String> =
        function.parts.iter().flat_map(|p| &p.relocations).map(|r| r.symbol.clone()).collect();
    let part = &mut function.parts[which];
    let relocations = part.relocations.len() as u64;
    let at = random.below(relocations.max(1)) as usize;
    let labels = function.jump_labels.as_mut();
    let label = labels.and_then(|labels| {
        let at = random.below(labels.len().max(1) as u64) as usize;
        labels.get_mut(at)
    });
    match random.below(16) {
        0 if relocations > 0 => drop(part.relocations.remove(at)),
        1 if relocations > 0 => part.relocations[at].symbol.clone_from(random.pick(&symbols)),
        2 if relocations > 0 => part.relocations[at].addend ^= 1 << random.below(64),
        3 => {
            let len = 1 + random.below(part.bytes.len() as u64) as usize;
            part.bytes.truncate(len);
            let fits = |offset: u32, size: u32| (offset + size) as usize <= len;
            part.relocations.retain(|r| fits(r.offset, r.kind.size()));
        }
        4 if which > 0 => drop(function.parts.remove(which)),
        5 if which > 0 => part.kind = PartKind::Data,
        6 => {
            for _ in 0..=random.below(4) {
                let at = random.below(part.bytes.len() as u64) as usize;
                part.bytes[at] = random.bits() as u8;
            }
        }
        7 => label.into_iter().for_each(|label| label.target = target),
        8 => label.into_iter().for_each(|label| label.code = target),
        9 => label.into_iter().for_each(|label| label.branch ^= true),
        10 => label.into_iter().for_each(|label| label.key = random.below(9).to_string()),
        11 => function.jump_labels = None,
        12 => function.bugs.clear(),
        13 => function.keep_off.clear(),
        14 => {
            let count = function.fields.len().max(1) as u64;
            let chosen = random.below(count) as usize;
            let edge = [0, 7, 8, 64, 512, 1 << 12, u32::MAX];
            if let Some(field) = function.fields.values_mut().nth(chosen) {
                *field = match random.below(3) {
                    0 => Field { bit_offset: *random.pick(&edge), ..*field },
                    1 => Field { bit_size: *random.pick(&edge), ..*field },
                    _ => Field { bit_offset: field.bit_offset + 8, ..*field },
                };
            }
        }
        _ => {
            let chosen = random.below(function.fields.len().max(1) as u64) as usize;
            let name = function.fields.keys().nth(chosen).cloned();
            name.map(|name| function.fields.remove(&name));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        // `PROPTEST_CASES` for more.
        cases: ProptestConfig::default().cases.min(std::env::var("PROPTEST_CASES").map_or(60, |_| u32::MAX)),
        failure_persistence: None,
        max_shrink_iters: 20,
        ..ProptestConfig::default()
    })]

    #[test]
    fn mutants_get_a_plan_or_a_reason(which in any::<prop::sample::Index>(), seed: u64, n in 1..5) {
        let mut function = which.get(&CORPUS).clone();
        let mut random = Random::new(seed);
        (0..n).for_each(|_| mutate(&mut function, &mut random));
        prop_assume!(function.check().is_ok());
        let _ = outcome(&function);
    }
}

fn is_traced(function: &Function) -> bool {
    function.parts[0].relocations.iter().any(|relocation| relocation.symbol == "__fentry__")
}

/// The function, with this code run by its call of `__fentry__`.
fn entering(function: &Function, code: &[u8]) -> Function {
    let mut function = function.clone();
    let calls = function.parts[0].relocations.iter_mut().find(|r| r.symbol == "__fentry__");
    "nft_rule_next".clone_into(&mut calls.expect("a traced function").symbol);
    function.parts.retain(|part| part.name != "nft_rule_next");
    let (kind, bytes) = (PartKind::Code, code.to_vec());
    let name = "nft_rule_next".to_owned();
    function.parts.push(Part { name, kind, bytes, relocations: Vec::new() });
    function.check().expect("a function");
    function
}

#[test]
fn time_is_bounded_though_the_function_behaves() {
    let traced = CORPUS.iter().find(|function| is_traced(function)).unwrap();
    // ret
    outcome(&entering(traced, &[0xc3])).unwrap();
    // push rcx; mov ecx, 40000; 1: dec ecx; jne 1b; pop rcx; ret
    let spin = [0x51, 0xb9, 0x40, 0x9c, 0, 0, 0xff, 0xc9, 0x75, 0xfc, 0x59, 0xc3];
    let error = outcome(&entering(traced, &spin)).unwrap_err();
    assert!(error.detail.contains("all runs together"), "{error}");
    // jmp .
    let error = outcome(&entering(traced, &[0xeb, 0xfe])).unwrap_err();
    assert!(error.detail.contains("no end after"), "{error}");
}

/// The function, returning by way of this code behind its end, which has to end with a return. Only
/// where compilers had it return by `ret` or the return thunk.
fn leaving(function: &Function, code: &[u8]) -> Function {
    let mut function = function.clone();
    let part = &mut function.parts[0];
    let start = part.bytes.len() as u32;
    // jmp __x86_return_thunk
    let thunks = part.relocations.iter_mut().filter(|r| r.symbol == "__x86_return_thunk");
    for relocation in thunks {
        part.name.clone_into(&mut relocation.symbol);
        relocation.addend += i64::from(start);
    }
    part.bytes.extend(code);
    function.check().expect("a function");
    function
}

#[test]
fn time_is_bounded_though_every_value_may_tell_drops_apart() {
    // sub rsp, 640; mov ecx, 80; 1: mov [rsp+rcx*8-8], rax; dec ecx; jne 1b
    let fill = [
        &[0x48, 0x81, 0xec, 0x80, 2, 0, 0, 0xb9, 80, 0, 0, 0][..],
        &[0x48, 0x89, 0x44, 0xcc, 0xf8, 0xff, 0xc9, 0x75, 0xf7],
    ]
    .concat();
    // add rsp, 640; ret
    let end = [0x48, 0x81, 0xc4, 0x80, 2, 0, 0, 0xc3];
    for function in CORPUS.iter() {
        // Places where every slot holds the verdict: as many as candidates are kept for, and more.
        for nops in [300, 4000] {
            let code = [&fill[..], &vec![0x90; nops], &end].concat();
            let _ = outcome(&leaving(function, &code));
        }
    }
}

#[test]
fn time_is_bounded_though_no_value_ever_tells_drops_apart() {
    // A loop in which no slot and no register is ever 0, so that all have to be looked at each time:
    // push rcx; push rax; sub rsp, 640; mov ecx, 80; 1: mov dword [rsp+rcx*8-8], 1; dec ecx; jne 1b
    // mov ecx, 20001; 2: lea ecx, [rcx-2]; cmp ecx, 1; jne 2b
    // add rsp, 640; pop rax; pop rcx; ret
    let code = [
        &[0x51, 0x50, 0x48, 0x81, 0xec, 0x80, 2, 0, 0, 0xb9, 80, 0, 0, 0][..],
        &[0xc7, 0x44, 0xcc, 0xf8, 1, 0, 0, 0, 0xff, 0xc9, 0x75, 0xf4],
        &[0xb9, 0x21, 0x4e, 0, 0, 0x8d, 0x49, 0xfe, 0x83, 0xf9, 1, 0x75, 0xf8],
        &[0x48, 0x81, 0xc4, 0x80, 2, 0, 0, 0x58, 0x59, 0xc3],
    ]
    .concat();
    for function in CORPUS.iter().filter(|function| is_traced(function)) {
        let _ = outcome(&entering(function, &code));
    }
}

#[test]
fn addresses_that_are_run_as_code_are_refused() {
    let mut refused = 0;
    for function in CORPUS.iter() {
        for relocation in &function.parts[0].relocations {
            let before = relocation.offset as usize - 1;
            // Instead of `call`: what follows is code then, of another length in another place.
            for opcode in [0x90, 0x50, 0xc9, 0x66, 0x48] {
                let mut function = function.clone();
                function.parts[0].bytes[before] = opcode;
                if let Err(error) = outcome(&function) {
                    let why = "depends on where other symbols are";
                    refused += u32::from(error.detail.contains(why));
                }
            }
        }
    }
    assert!(refused > 0);
}

#[test]
fn sizes_are_bounded_before_work_begins() {
    let mut function = CORPUS[0].clone();
    for number in 0..60 {
        let (name, kind) = (format!("part{number}"), PartKind::Code);
        function.parts.push(Part { name, kind, bytes: vec![0x90; 1 << 16], relocations: vec![] });
    }
    function.check().unwrap();
    let error = outcome(&function).unwrap_err();
    assert!(error.detail.contains("bytes, expected at most"), "{error}");

    let mut function = CORPUS[0].clone();
    let label = nfdrop_resolver::image::function::JumpLabel {
        code: Place { part: 0, offset: 0 },
        target: Place { part: 0, offset: 0 },
        key: "key".to_owned(),
        branch: false,
    };
    function.jump_labels = Some(vec![label; 5000]);
    let error = outcome(&function).unwrap_err();
    assert!(error.detail.contains("jump labels, expected at most"), "{error}");
}
