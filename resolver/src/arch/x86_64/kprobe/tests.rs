use super::*;
use crate::image::function::{
    JumpLabel, ObjectKind, Part, PartKind, Patched, Place, Relocation, RelocationKind, SYMBOL,
};
use crate::resolve::link::{KeyState, Placement};
use Cost::{Boosted, Optimized, Trap};

/// A function of 6.12 without preemption.
fn function(code: &[u8]) -> Function {
    Function {
        release: Some("6.12.1".to_owned()),
        preemption: Some(false),
        build_id: None,
        object: ObjectKind::Module,
        parts: vec![part(SYMBOL, code)],
        jump_labels: Some(Vec::new()),
        keep_off: Vec::new(),
        bugs: Vec::new(),
        has_exception_entries: false,
        fields: std::collections::BTreeMap::new(),
    }
}

fn part(name: &str, code: &[u8]) -> Part {
    let (name, kind, bytes) = (name.to_owned(), PartKind::Code, code.to_vec());
    Part { name, kind, bytes, relocations: Vec::new() }
}

fn with<T>(function: &Function, ask: impl FnOnce(&Rules<'_>) -> T) -> T {
    let linked = Linked::new(function, &[], KeyState(0), Placement::Odd).unwrap();
    ask(&Rules::new(function, &linked))
}

fn costs(function: &Function, offsets: &[u32]) -> Vec<Cost> {
    with(function, |rules| offsets.iter().map(|&offset| rules.cost(offset)).collect())
}

fn sites(function: &Function) -> Vec<u32> {
    let end = function.parts[0].bytes.len() as u32;
    with(function, |rules| (0..=end).filter(|&o| rules.probe_site(o).is_some()).collect())
}

/// mov rax, rdi; mov rbx, rsi; xor edx, edx; 8: inc eax; jne 8; ret
const LOOP: [u8; 13] =
    [0x48, 0x89, 0xf8, 0x48, 0x89, 0xf3, 0x31, 0xd2, 0xff, 0xc0, 0x75, 0xfc, 0xc3];

#[test]
fn jumps_into_or_right_behind_the_replaced_bytes_prevent_optimization() {
    // opt.c, insn_jump_into_range: start <= target && target <= start + len.
    assert_eq!(
        costs(&function(&LOOP), &[0, 3, 6, 8, 10]),
        [Optimized, Boosted, Boosted, Boosted, Trap]
    );
}

#[test]
fn versions_and_preemption_decide() {
    // Of mov rax, rdi at 0 and inc eax at 8.
    let cases = [
        // core.c, can_boost: groups 2 to 5.
        (Some("6.12.117"), Some(false), [Optimized, Boosted]),
        (Some("6.8.12"), Some(false), [Optimized, Trap]),
        (Some("5.10.0-46-cloud-amd64"), Some(false), [Optimized, Trap]),
        // core.c, prepare_singlestep: boosted unless CONFIG_PREEMPTION; not so optimized.
        (Some("6.12.117"), Some(true), [Optimized, Trap]),
        (Some("6.12.117"), None, [Optimized, Trap]),
        // arch/Kconfig: OPTPROBES depends on !PREEMPT before 4.15.
        (Some("4.14.1"), Some(true), [Trap, Trap]),
        (Some("4.14.1"), Some(false), [Optimized, Trap]),
        (Some("4.15.1"), Some(true), [Optimized, Trap]),
        // Nothing is promised of what is not known.
        (None, None, [Trap, Trap]),
        (None, Some(true), [Trap, Trap]),
    ];
    for (release, preemption, expected) in cases {
        let release = release.map(str::to_owned);
        let function = Function { release, preemption, ..function(&LOOP) };
        assert_eq!(costs(&function, &[0, 8]), expected, "{:?} {preemption:?}", function.release);
    }
}

#[test]
fn exception_entries_and_missing_tables_prevent_what_they_may() {
    // opt.c, can_optimize and core.c, can_boost: search_exception_tables.
    let entries = Function { has_exception_entries: true, ..function(&LOOP) };
    assert_eq!(costs(&entries, &[0, 8]), [Trap, Trap]);
    let listing = Function { jump_labels: None, ..function(&LOOP) };
    assert_eq!(costs(&listing, &[0, 8]), [Trap, Trap]);
}

/// mov rax, rdi; mov rbx, rsi, and a jump with a relocation.
fn jumping(symbol: &str, jump: &[u8]) -> Function {
    let mut code = vec![0x48, 0x89, 0xf8, 0x48, 0x89, 0xf3];
    code.extend(jump);
    let mut function = function(&code);
    if !symbol.is_empty() {
        let offset = code.len() as u32 - 4;
        let (kind, symbol) = (RelocationKind::Pc32, symbol.to_owned());
        function.parts[0].relocations = vec![Relocation { offset, kind, symbol, addend: -4 }];
        // A conditional jump goes on behind it.
        function.parts[0].bytes.push(0xc3);
    }
    function
}

#[test]
fn indirect_jumps_prevent_optimization_where_tables_may_be() {
    let near = [0xe9, 0, 0, 0, 0];
    let conditional = [0x0f, 0x85, 0, 0, 0, 0];
    let call = [0xe8, 0, 0, 0, 0];
    let register = [0xff, 0xe0];
    for (symbol, jump, before, since) in [
        // opt.c of 6.1.192, insn_is_indirect_jump: any direct jump into the thunks' section.
        ("__x86_indirect_thunk_rax", &near[..], Boosted, Optimized),
        ("__x86_return_thunk", &near, Boosted, Optimized),
        ("__x86_return_thunk", &conditional, Boosted, Optimized),
        // Calls return.
        ("__x86_indirect_thunk_rax", &call, Optimized, Optimized),
        ("nft_trace", &near, Optimized, Optimized),
        // opt.c of 6.12.117: not where retpolines or IBT forbid jump tables, but this has neither.
        ("", &register, Boosted, Boosted),
    ] {
        let mut function = jumping(symbol, jump);
        function.release = Some("6.4.12".to_owned());
        assert_eq!(costs(&function, &[0]), [before], "{symbol} {jump:x?} before 6.5");
        function.release = Some("6.5.1".to_owned());
        assert_eq!(costs(&function, &[0]), [since], "{symbol} {jump:x?} since 6.5");
    }
    // endbr64; mov rax, rdi; mov rbx, rsi; jmp rax
    let ibt = [0xf3, 0x0f, 0x1e, 0xfa, 0x48, 0x89, 0xf8, 0x48, 0x89, 0xf3, 0xff, 0xe0];
    assert_eq!(costs(&function(&ibt), &[4]), [Optimized], "IBT forbids jump tables");
    // The kernel decodes the function and not its other parts.
    let mut parts = function(&LOOP);
    parts.parts.push(part("nft_do_chain.cold", &register));
    assert_eq!(costs(&parts, &[0]), [Optimized]);
}

#[test]
fn no_probe_where_the_kernel_refuses_one_or_patches() {
    let mut patched = function(&LOOP);
    patched.keep_off = vec![KeepOff { range: 5..6, why: Patched::StaticCall }];
    assert_eq!(sites(&patched), [6, 8, 10, 12], "not the entry, not inside instructions");
    assert_eq!(costs(&patched, &[0]), [Boosted], "a patched byte in the replaced ones");
    for (what, instruction) in [
        ("ud2", &[0x0f, 0x0b][..]),
        ("int3", &[0xcc]),
        ("int 0x80", &[0xcd, 0x80]),
        ("endbr64", &[0xf3, 0x0f, 0x1e, 0xfa]),
        ("nop", &[0x0f, 0x1f, 0x00]),
        ("call [rax+8]", &[0xff, 0x50, 0x08]),
        ("jmp [rax+8]", &[0xff, 0x60, 0x08]),
        ("jle", &[0x7e, 0x00]),
        ("jg near", &[0x0f, 0x8f, 0, 0, 0, 0]),
        ("loop", &[0xe2, 0x00]),
        ("iretq", &[0x48, 0xcf]),
        ("mov ss, ax", &[0x8e, 0xd0]),
    ] {
        // mov rax, rdi; the instruction; ret
        let code = [&[0x48, 0x89, 0xf8], instruction, &[0xc3]].concat();
        assert!(!sites(&function(&code)).contains(&3), "{what}");
    }
    for (what, instruction) in [("call rax", &[0xff, 0xd0][..]), ("je", &[0x74, 0x00])] {
        let code = [&[0x48, 0x89, 0xf8], instruction, &[0xc3]].concat();
        assert!(sites(&function(&code)).contains(&3), "{what}");
    }
}

#[test]
fn no_probe_in_a_check_of_kcfi() {
    // mov rax, rdi; mov r10d, imm; add r10d, [r11-4]; je +2; ud2; call r11; ret
    let code = [
        &[0x48, 0x89, 0xf8][..],
        &[0x41, 0xba, 1, 2, 3, 4],
        &[0x45, 0x03, 0x53, 0xfc],
        &[0x74, 0x02],
        &[0x0f, 0x0b],
        &[0x41, 0xff, 0xd3],
        &[0xc3],
    ]
    .concat();
    assert_eq!(sites(&function(&code)), [17, 20]);
    // Without the trap it is other code.
    let mut other = code.clone();
    other[15..17].copy_from_slice(&[0x31, 0xc0]);
    assert_eq!(sites(&function(&other)), [3, 9, 13, 15, 17, 20]);
}

#[test]
fn no_probe_behind_an_int3_the_kernel_stops_at() {
    // mov rax, rdi; je 6; ret; int3; 7: mov rbx, rsi; jmp return thunk
    let mut padded = function(&[
        0x48, 0x89, 0xf8, 0x74, 0x02, 0xc3, 0xcc, 0x48, 0x89, 0xf3, 0x90, 0xe9, 0, 0, 0, 0,
    ]);
    let mut patched = padded.clone();
    patched.parts[0].bytes[5..7].copy_from_slice(&[0x90, 0x90]);
    patched.keep_off = vec![KeepOff { range: 5..7, why: Patched::ReturnThunk }];
    for function in [&mut padded, &mut patched] {
        // core.c of 5.10.13, can_probe: INT3_INSN_OPCODE on the way.
        for (release, expected) in [
            ("5.10.162", false),
            ("5.10.163", true),
            ("5.10.0-21-amd64", false),
            ("5.10.0-46-amd64", true),
            ("6.1.3", false),
            ("6.1.4", true),
        ] {
            function.release = Some(release.to_owned());
            let sites = sites(function);
            assert_eq!(sites.contains(&7), expected, "{release}");
            assert!(sites.contains(&3), "{release}");
        }
    }
}

#[test]
fn no_probe_whose_jump_would_be_entered_unseen() {
    // mov rax, rdi; nop (a jump label); 8: mov rbx, rsi; xor edx, edx; ret
    let code =
        [0x48, 0x89, 0xf8, 0x0f, 0x1f, 0x44, 0, 0, 0x48, 0x89, 0xf3, 0x31, 0xd2, 0x31, 0xc0, 0xc3];
    let mut labelled = function(&code);
    labelled.keep_off = vec![KeepOff { range: 3..8, why: Patched::JumpLabel }];
    assert!(sites(&labelled).contains(&8));
    let at = |offset| Place { part: 0, offset };
    let label = |target| {
        let key = "nft_trace_enabled".to_owned();
        vec![JumpLabel { code: at(3), target: at(target), key, branch: false }]
    };
    // To xor edx, edx: three bytes of the jump would be executed. The nop does not tell.
    labelled.jump_labels = Some(label(11));
    assert_eq!(sites(&labelled), [11, 13, 15]);
    // Right behind the jump is safe; the class is the careful one.
    labelled.jump_labels = Some(label(13));
    assert_eq!(sites(&labelled), [8, 13, 15]);
    assert_eq!(costs(&labelled, &[8]), [Boosted]);
    // The same from the cold part: jmp nft_do_chain+11.
    let mut cold = function(&code);
    cold.parts.push(part("nft_do_chain.cold", &[0xe9, 0, 0, 0, 0]));
    let (kind, symbol) = (RelocationKind::Pc32, SYMBOL.to_owned());
    cold.parts[1].relocations = vec![Relocation { offset: 1, kind, symbol, addend: 11 - 4 }];
    assert!(!sites(&cold).contains(&8));
    // And from a table of addresses, or of distances to itself.
    for (kind, offset, addend) in [(RelocationKind::Abs64, 8, 11), (RelocationKind::Pc32, 8, 19)] {
        let mut table = function(&code);
        let symbol = SYMBOL.to_owned();
        let relocations = vec![Relocation { offset, kind, symbol, addend }];
        let (name, bytes) = (".rodata+0x0".to_owned(), vec![0; 16]);
        table.parts.push(Part { name, kind: PartKind::Data, bytes, relocations });
        assert!(!sites(&table).contains(&8), "{kind:?}");
    }
    // What a file may say as well.
    let symbol = SYMBOL.to_owned();
    let (kind, offset, addend) = (RelocationKind::Pc64, 8, i64::MIN);
    let hostile = Relocation { offset, kind, symbol, addend };
    assert_eq!(
        tables(&[Part { kind: PartKind::Data, relocations: vec![hostile], ..part("x", &[0; 16]) }])
            .count(),
        0
    );
}
