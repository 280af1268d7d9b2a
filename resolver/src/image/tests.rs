//! Whole objects made by hand: a module with everything a real one has, a vmlinux of the same code,
//! and what may come instead of them.

use super::{
    elf::{Elf, Names},
    function::{Bug, JumpLabel, KeepOff, ObjectKind, PartKind, Patched, Place, RelocationKind},
    kallsyms::tests::{Form, entry as kallsyms_entry, tables as kallsyms_tables},
    *,
};
use nfdrop_db::Reason;
use object::{
    Architecture, BinaryFormat, Endianness, SectionKind, SymbolFlags, SymbolKind, SymbolScope, elf,
    write::{Object, Relocation, RelocationFlags, SectionId, Symbol, SymbolId, SymbolSection},
};
use proptest::prelude::*;

/// The function begins here in `.text`, behind 16 bytes of padding with a symbol of their own.
const START: u64 = 0x10;

/// A module under construction.
struct Module {
    object: Object<'static>,
}

impl Module {
    fn new(architecture: Architecture) -> Self {
        Self { object: Object::new(BinaryFormat::Elf, architecture, Endianness::Little) }
    }

    fn section(&mut self, name: &str, kind: SectionKind, bytes: &[u8]) -> SectionId {
        let id = self.object.add_section(Vec::new(), name.into(), kind);
        self.object.append_section_data(id, bytes, 8);
        id
    }

    fn symbol(
        &mut self,
        name: &str,
        kind: SymbolKind,
        at: Option<(SectionId, u64, u64)>,
    ) -> SymbolId {
        let (section, value, size) = match at {
            Some((section, value, size)) => (SymbolSection::Section(section), value, size),
            None => (SymbolSection::Undefined, 0, 0),
        };
        let scope =
            if name == "nft_do_chain" { SymbolScope::Dynamic } else { SymbolScope::Compilation };
        let scope = if at.is_none() { SymbolScope::Unknown } else { scope };
        self.object.add_symbol(Symbol {
            name: name.into(),
            value,
            size,
            kind,
            scope,
            weak: false,
            section,
            flags: SymbolFlags::None,
        })
    }

    /// Relocations: offset, type, symbol, addend.
    fn relocate(&mut self, section: SectionId, entries: &[(u64, u32, SymbolId, i64)]) {
        for &(offset, r_type, symbol, addend) in entries {
            let flags = RelocationFlags::Elf { r_type: elf::RelocationType(r_type) };
            self.object
                .add_relocation(section, Relocation { offset, symbol, addend, flags })
                .unwrap();
        }
    }
}

const ABS64: u32 = 1;
const PC32: u32 = 2;
const PLT32: u32 = 4;
const ABS32S: u32 = 11;
const PC64: u32 = 24;

/// The code of `.text`: padding, `nft_do_chain`, a fast path and another neighbour.
fn text() -> Vec<u8> {
    [
        &[0x90; 16][..],
        // nft_do_chain
        &[0xf3, 0x0f, 0x1e, 0xfa],       // +0x00 endbr64
        &[0xe8, 0, 0, 0, 0],             // +0x04 call __fentry__
        &[0x0f, 0x1f, 0x44, 0, 0],       // +0x09 a jump label
        &[0xe8, 0x25, 0, 0, 0],          // +0x0e call nft_payload_fast_eval, filled in
        &[0x0f, 0x84, 0, 0, 0, 0],       // +0x13 je .text.unlikely
        &[0xff, 0x24, 0xc5, 0, 0, 0, 0], // +0x19 jmp [rax*8 + .rodata+0x10]
        &[0x48, 0x3d, 0, 0, 0, 0],       // +0x20 cmp rax, nft_cmp_fast_ops
        &[0x83, 0x3d, 0, 0, 0, 0, 7],    // +0x26 cmp dword [rip + .data+8], 7
        &[0x0f, 0x0b],                   // +0x2d ud2
        &[0xf0, 0xff, 0x07],             // +0x2f lock inc dword [rdi]
        &[0xe8, 0x03, 0, 0, 0],          // +0x32 call nft_trace, filled in
        &[0xc3],                         // +0x37 ret
        // nft_payload_fast_eval
        &[0x90, 0xc3],
        // nft_trace
        &[0xc3],
    ]
    .concat()
}

const SIZE: u64 = 0x38;

fn module() -> Vec<u8> {
    let mut module = Module::new(Architecture::X86_64);
    let text = module.section(".text", SectionKind::Text, &text());
    // ud2; jmp back to nft_do_chain+0x37
    let cold = [0x0f, 0x0b, 0xe9, 0, 0, 0, 0];
    let cold = module.section(".text.unlikely", SectionKind::Text, &cold);
    let rodata = module.section(".rodata", SectionKind::ReadOnlyData, &[0; 0x28]);
    let data = module.section(".data", SectionKind::Data, &[0; 0x20]);
    let function = |at, size| (SymbolKind::Text, Some((text, at, size)));
    for (name, (kind, at)) in [
        ("__pfx_nft_do_chain", function(0, 16)),
        ("nft_payload_fast_eval", function(START + SIZE, 2)),
        ("nft_trace", function(START + SIZE + 2, 1)),
        ("nft_do_chain", function(START, SIZE)),
        ("nft_do_chain.cold", (SymbolKind::Text, Some((cold, 0, 7)))),
        ("the_counter", (SymbolKind::Data, Some((data, 0, 0x10)))),
        ("a_key", (SymbolKind::Data, Some((data, 0x10, 0x10)))),
    ] {
        module.symbol(name, kind, at);
    }
    let ops = module.symbol("nft_cmp_fast_ops", SymbolKind::Data, Some((rodata, 0, 0x10)));
    let fentry = module.symbol("__fentry__", SymbolKind::Unknown, None);
    let [text_start, cold_start, rodata_start, data_start] =
        [text, cold, rodata, data].map(|section| module.object.section_symbol(section));
    module.relocate(
        text,
        &[
            (START + 0x05, PLT32, fentry, -4),
            (START + 0x15, PC32, cold_start, -4),
            (START + 0x1c, ABS32S, rodata_start, 0x10),
            (START + 0x22, ABS32S, ops, 0),
            (START + 0x28, PC32, data_start, 8 - 5),
        ],
    );
    module.relocate(cold, &[(3, PC32, text_start, START as i64 + 0x37 - 4)]);
    // Two entries of a switch; what follows is something else.
    let case = START as i64 + 0x2d;
    module
        .relocate(rodata, &[(0x10, ABS64, text_start, case), (0x18, ABS64, text_start, case + 2)]);
    let at = |offset: i64| START as i64 + offset;
    let table = module.section("__jump_table", SectionKind::Data, &[0; 32]);
    module.relocate(
        table,
        &[
            (0, PC32, text_start, at(SIZE as i64 + 2)), // another function's
            (4, PC32, text_start, at(SIZE as i64 + 2)),
            (8, PC64, data_start, 0),
            (16, PC32, text_start, at(0x09)),
            (20, PC32, cold_start, 2),
            (24, PC64, data_start, 0x10 + 3),
        ],
    );
    // 12-byte entries: address, file, line, flags.
    let bugs = [[0; 10].as_slice(), &[1, 9], &[0; 12]].concat();
    let table = module.section("__bug_table", SectionKind::Data, &bugs);
    module.relocate(
        table,
        &[
            (0, PC32, text_start, at(0x2d)),
            (4, PC32, rodata_start, 0x20),
            (12, PC32, cold_start, 0),
            (16, PC32, rodata_start, 0x20),
        ],
    );
    // 14-byte entries: of cmp rax, and of nothing in here.
    let alternatives = [[0; 12].as_slice(), &[6, 0], &[0; 12], &[1, 0]].concat();
    let table = module.section(".altinstructions", SectionKind::ReadOnlyData, &alternatives);
    module.relocate(
        table,
        &[
            (0, PC32, text_start, at(0x20)),
            (4, PC32, cold_start, 0),
            (14, PC32, cold_start, 0),
            (18, PC32, cold_start, 0),
        ],
    );
    let table = module.section(".smp_locks", SectionKind::ReadOnlyData, &[0; 4]);
    module.relocate(table, &[(0, PC32, text_start, at(0x2f))]);
    let table = module.section("__mcount_loc", SectionKind::ReadOnlyData, &[0; 8]);
    module.relocate(table, &[(0, ABS64, text_start, at(0x04))]);
    let table = module.section(".return_sites", SectionKind::ReadOnlyData, &[0; 4]);
    module.relocate(table, &[(0, PC32, text_start, at(0x37))]);
    let table = module.section("__ex_table", SectionKind::ReadOnlyData, &[0; 12]);
    module.relocate(table, &[(0, PC32, text_start, at(0x2f)), (4, PC32, cold_start, 2)]);
    module.section(".modinfo", SectionKind::ReadOnlyData, b"license=GPL\0vermagic=6.1.2-x SMP \0");
    let note = [&[4, 0, 0, 0, 8, 0, 0, 0, 3, 0, 0, 0][..], b"GNU\0", &[0xab; 8]].concat();
    module.section(".note.gnu.build-id", SectionKind::Note, &note);
    module.object.write().unwrap()
}

fn relocations(part: &function::Part) -> Vec<(u32, RelocationKind, &str, i64)> {
    let relocations = part.relocations.iter();
    relocations.map(|r| (r.offset, r.kind, r.symbol.as_str(), r.addend)).collect()
}

#[test]
fn a_module() {
    let function = load(&module(), None).unwrap();
    assert_eq!(function.release.as_deref(), Some("6.1.2-x"));
    assert_eq!(function.build_id.as_ref().unwrap().to_string(), "abababababababab");
    assert_eq!(function.object, ObjectKind::Module);
    let names: Vec<_> = function.parts.iter().map(|part| (part.name.as_str(), part.kind)).collect();
    assert_eq!(
        names,
        [
            ("nft_do_chain", PartKind::Code),
            ("nft_payload_fast_eval", PartKind::Code),
            ("nft_do_chain.cold", PartKind::Code),
            (".rodata+0x10", PartKind::Data),
        ]
    );
    assert_eq!(function.parts[0].bytes, text()[START as usize..][..SIZE as usize]);
    assert_eq!(
        relocations(&function.parts[0]),
        [
            (0x05, RelocationKind::Pc32, "__fentry__", -4),
            (0x0f, RelocationKind::Pc32, "nft_payload_fast_eval", -4),
            (0x15, RelocationKind::Pc32, "nft_do_chain.cold", -4),
            (0x1c, RelocationKind::Abs32Signed, ".rodata+0x10", 0),
            (0x22, RelocationKind::Abs32Signed, "nft_cmp_fast_ops", 0),
            // An immediate follows the field: five bytes to the end of the instruction.
            (0x28, RelocationKind::Pc32, "the_counter", 8 - 5),
            (0x33, RelocationKind::Pc32, "nft_trace", -4),
        ]
    );
    assert_eq!(
        relocations(&function.parts[2]),
        [(3, RelocationKind::Pc32, "nft_do_chain", 0x37 - 4)]
    );
    assert_eq!(
        relocations(&function.parts[3]),
        [
            (0, RelocationKind::Abs64, "nft_do_chain", 0x2d),
            (8, RelocationKind::Abs64, "nft_do_chain", 0x2f)
        ]
    );
    assert_eq!(function.parts[3].bytes.len(), 16);
    assert_eq!(
        function.jump_labels,
        Some(vec![JumpLabel {
            code: Place { part: 0, offset: 0x09 },
            target: Place { part: 2, offset: 2 },
            key: "a_key".into(),
            branch: true,
        }])
    );
    assert_eq!(
        function.bugs,
        [
            Bug { place: Place { part: 0, offset: 0x2d }, warning: true },
            Bug { place: Place { part: 2, offset: 0 }, warning: false }
        ]
    );
    let keep_off = |range, why| KeepOff { range, why };
    assert_eq!(
        function.keep_off,
        [
            keep_off(0x04..0x09, Patched::Ftrace),
            keep_off(0x09..0x0e, Patched::JumpLabel),
            keep_off(0x20..0x26, Patched::Alternative),
            keep_off(0x2d..0x2f, Patched::Bug),
            keep_off(0x2f..0x32, Patched::SmpLock),
            keep_off(0x37..0x38, Patched::ReturnThunk),
        ]
    );
    assert!(function.has_exception_entries);
    let text = extract::to_json(&function);
    assert_eq!(load(text.as_bytes(), None), Ok(function));
}

#[test]
fn a_compressed_module_is_the_same() {
    use compress::{Compression, tests::compress};
    let module = module();
    let plain = load(&module, None).unwrap();
    for with in [Compression::Xz, Compression::Zstd, Compression::Gzip] {
        assert_eq!(load(&compress(&module, with), None).as_ref(), Ok(&plain));
    }
}

/// The sections of a module, linked at `address`: addresses instead of relocations.
fn linked(address: u64) -> Vec<u8> {
    linked_with(address, Names::Table)
}

/// As above, with a symbol table or with kallsyms of all symbols or of those of code.
fn linked_with(address: u64, names: Names) -> Vec<u8> {
    let place = |at: u64| address + at;
    let distance = |from: u64, to: u64| ((to as i64) - (from as i64)) as i32;
    let [text_at, rodata_at, data_at, table_at] = [0x0, 0x1000, 0x2000, 0x3000].map(place);
    // Padding, and another function that has jump labels.
    let mut code = [&text()[..], &[0xcc; 5], &[0x0f, 0x1f, 0x44, 0, 0, 0xc3]].concat();
    let mut put = |at: u64, value: i32| {
        code[(START + at) as usize..][..4].copy_from_slice(&value.to_le_bytes());
    };
    let start = text_at + START;
    let other = start + SIZE + 8;
    put(0x05, distance(start + 0x09, text_at)); // __fentry__ is the padding
    put(0x15, distance(start + 0x19, start + SIZE + 2));
    put(0x1c, (rodata_at + 0x40) as i32);
    put(0x22, rodata_at as i32);
    put(0x28, distance(start + 0x2d, data_at + 8));
    // struct nft_expr_ops: no eval, a size, init.
    let mut rodata = [0, 16, other].map(u64::to_le_bytes).as_flattened().to_vec();
    rodata.resize(0x40, 0);
    rodata.extend([start + 0x2d, start + 0x2f].map(u64::to_le_bytes).as_flattened());
    rodata.extend(b"Linux version %s\0Linux version 6.1.2-x (gcc) # SMP\n\0");
    rodata.extend(b"Linux version 6.1.2-x (gcc) #1 SMP PREEMPT_DYNAMIC\n\0");
    let mut table = Vec::new();
    for n in 0..20 {
        let at = table_at + 16 * n;
        let from = if n == 7 { start + 0x09 } else { other };
        table.extend(distance(at, from).to_le_bytes());
        table.extend(distance(at + 4, start + 0x2d).to_le_bytes());
        table.extend((data_at as i64 + 0x10 + 1 - (at as i64 + 8)).to_le_bytes());
    }
    let table_end = table_at + table.len() as u64;
    // Name, type, address, size, section; kallsyms want them ascending.
    let symbols = [
        ("__fentry__", 2, text_at, 16, 1u16),
        ("nft_do_chain", 2, start, SIZE, 1),
        ("nft_payload_fast_eval", 2, start + SIZE, 2, 1),
        ("nft_trace", 2, start + SIZE + 2, 1, 1),
        ("nft_cmp_fast_init", 2, other, 6, 1),
        ("nft_cmp_fast_ops", 1, rodata_at, 0x10, 2),
        ("the_counter", 1, data_at, 0x10, 3),
        ("a_key", 1, data_at + 0x10, 0x10, 3),
        ("__start___jump_table", 0, table_at, 0, 4),
        ("__stop___jump_table", 0, table_end, 0, 4),
    ];
    let mut strings = vec![0];
    let mut symtab = vec![0; 24];
    let mut entries = Vec::new();
    for (name, kind, at, size, section) in symbols {
        symtab.extend((strings.len() as u32).to_le_bytes());
        symtab.extend([1 << 4 | kind, 0]);
        symtab.extend(section.to_le_bytes());
        symtab.extend([at, size].map(u64::to_le_bytes).as_flattened());
        strings.extend([name.as_bytes(), b"\0"].concat());
        if section == 1 || names == Names::All {
            entries.push(kallsyms_entry(if section == 1 { b'T' } else { b'D' }, at, name));
        }
    }
    let kallsyms_at = place(0x4000);
    let kallsyms = kallsyms_tables(Form::Behind, &entries, kallsyms_at);
    let (alloc, write, code_flag) = (2, 1, 4);
    let mut sections = vec![
        (".text", 1, alloc | code_flag, text_at, &code[..]),
        (".rodata", 1, alloc | write, rodata_at, &rodata),
        // As in Debian's kernels from 6.16 on.
        (".data", 1, alloc | write | code_flag, data_at, &[0; 0x20]),
        (".data..ro_after_init", 1, alloc | write, table_at, &table),
    ];
    if names == Names::Table {
        sections.extend([(".symtab", 2, 0, 0, &symtab[..]), (".strtab", 3, 0, 0, &strings)]);
    } else {
        sections.push((".rodata1", 1, alloc, kallsyms_at, &kallsyms));
    }
    elf_file(&sections)
}

/// An executable with these sections: name, type, flags, address, content. A symbol table is
/// linked to the section behind it.
fn elf_file(sections: &[(&str, u32, u64, u64, &[u8])]) -> Vec<u8> {
    let mut names = b"\0.shstrtab\0".to_vec();
    let mut headers = vec![0; 64];
    let mut contents = Vec::new();
    let mut header = |name: usize, kind: u32, flags: u64, address: u64, bytes: &[u8], link: u32| {
        headers.extend([name as u32, kind].map(u32::to_le_bytes).as_flattened());
        let offset = 64 + contents.len() as u64;
        let wide = [flags, address, offset, bytes.len() as u64];
        headers.extend(wide.map(u64::to_le_bytes).as_flattened());
        headers.extend([link, 1].map(u32::to_le_bytes).as_flattened());
        headers.extend([8, if kind == 2 { 24 } else { 0 }].map(u64::to_le_bytes).as_flattened());
        contents.extend(bytes);
        contents.resize(contents.len().next_multiple_of(8), 0);
    };
    for (index, &(name, kind, flags, address, bytes)) in sections.iter().enumerate() {
        let link = if kind == 2 { index as u32 + 2 } else { 0 };
        header(names.len(), kind, flags, address, bytes, link);
        names.extend([name.as_bytes(), b"\0"].concat());
    }
    header(1, 3, 0, 0, &names, 0);
    let count = sections.len() as u16 + 2;
    let mut out = b"\x7fELF\x02\x01\x01".to_vec();
    out.resize(16, 0);
    out.extend([2, 62].map(u16::to_le_bytes).as_flattened());
    out.extend(1u32.to_le_bytes());
    out.extend([0, 0, 64 + contents.len() as u64].map(u64::to_le_bytes).as_flattened());
    out.extend([0; 4]);
    out.extend([64, 0, 0, 64, count, count - 1].map(u16::to_le_bytes).as_flattened());
    [out, contents, headers].concat()
}

#[test]
fn a_vmlinux() {
    let function = load(&linked(0xffff_ffff_8100_0000), None).unwrap();
    assert_eq!(function.release.as_deref(), Some("6.1.2-x"));
    assert_eq!(function.preemption, Some(true));
    assert_eq!(function.object, ObjectKind::Vmlinux);
    let names: Vec<_> = function.parts.iter().map(|part| part.name.as_str()).collect();
    assert_eq!(names, ["nft_do_chain", "nft_payload_fast_eval", ".rodata+0x40"]);
    assert_eq!(
        relocations(&function.parts[0]),
        [
            (0x05, RelocationKind::Pc32, "__fentry__", -4),
            (0x0f, RelocationKind::Pc32, "nft_payload_fast_eval", -4),
            (0x15, RelocationKind::Pc32, "nft_trace", -4),
            (0x1c, RelocationKind::Abs32Signed, ".rodata+0x40", 0),
            (0x22, RelocationKind::Abs32Signed, "nft_cmp_fast_ops", 0),
            (0x28, RelocationKind::Pc32, "the_counter", 8 - 5),
            (0x33, RelocationKind::Pc32, "nft_trace", -4),
        ]
    );
    assert_eq!(
        relocations(&function.parts[2]),
        [
            (0, RelocationKind::Abs64, "nft_do_chain", 0x2d),
            (8, RelocationKind::Abs64, "nft_do_chain", 0x2f)
        ]
    );
    assert_eq!(
        function.jump_labels,
        Some(vec![JumpLabel {
            code: Place { part: 0, offset: 0x09 },
            target: Place { part: 0, offset: 0x2d },
            key: "a_key".into(),
            branch: true,
        }])
    );
    let elsewhere = load(&linked(0xffff_ffff_9200_0000), None).unwrap();
    assert_eq!(body_sha256(&function), body_sha256(&elsewhere));
    assert_ne!(function.parts[0].bytes, elsewhere.parts[0].bytes);
}

#[test]
fn a_stripped_vmlinux_is_the_same_by_its_kallsyms() {
    let at = 0xffff_ffff_8100_0000;
    let expected = load(&linked(at), None).unwrap();
    assert_eq!(load(&linked_with(at, Names::All), None).as_ref(), Ok(&expected));
    // Without names of data the same but for these, and the table of keys is found all the same.
    let function = load(&linked_with(at, Names::Code), None).unwrap();
    let mut named = function.clone();
    let mut rename = |from: &str, to: &str, by: i64| {
        let relocations = named.parts.iter_mut().flat_map(|part| &mut part.relocations);
        for relocation in relocations.filter(|relocation| relocation.symbol == from) {
            to.clone_into(&mut relocation.symbol);
            relocation.addend += by;
        }
        for label in named.jump_labels.iter_mut().flatten().filter(|label| label.key == from) {
            to.clone_into(&mut label.key);
        }
    };
    rename(".data+0x8", "the_counter", 8);
    rename(".data+0x10", "a_key", 0);
    assert_eq!(named, expected);
    assert_ne!(function, expected);
}

#[test]
fn a_nop_that_could_be_a_jump_label_is_none_to_pass_over() {
    let at = 0xffff_ffff_8100_0000;
    let mut file = linked_with(at, Names::Code);
    assert!(load(&file, None).is_ok());
    // The code of the one entry that is of the function: out of the function.
    let entry = i32::to_le_bytes((START as i32 + 0x09) - (0x3000 + 7 * 16));
    let place = file.windows(4).position(|bytes| bytes == entry).unwrap();
    file[place..place + 4].copy_from_slice(&i32::to_le_bytes(START as i32 + 0x41 - 0x3070));
    let error = load(&file, None).unwrap_err();
    assert_eq!(error.reason(), Reason::MalformedImage);
    assert!(error.to_string().contains("whether the nop at nft_do_chain+0x9 is"), "{error}");
    // An entry of another kind breaks the table into two that are too short.
    file[place..place + 4].fill(0);
    assert!(load(&file, None).is_err());
}

#[test]
fn a_stripped_vmlinux_has_no_symbol_and_still_its_btf() {
    let text = b"Linux version 6.1.2-x (gcc)\0";
    let file = elf_file(&[(".rodata", 1, 2, 0, text), (".BTF", 1, 0, 0, b"types")]);
    let error = load(&file, None).unwrap_err();
    assert_eq!(error.reason(), Reason::NoSymbol);
    assert!(error.to_string().contains("neither a symbol table nor kallsyms"), "{error}");
    let info = vmlinux_btf(&file).unwrap();
    assert_eq!((&info.btf[..], info.release.as_deref()), (&b"types"[..], Some("6.1.2-x")));
}

#[test]
fn a_module_of_another_release_is_refused() {
    let vmlinux = elf_file(&[(".rodata", 1, 2, 0, b"Linux version 6.1.3-x (gcc)\0")]);
    let error = load(&module(), Some(&vmlinux)).unwrap_err();
    assert_eq!(
        error.to_string(),
        "the module is of release 6.1.2-x, the vmlinux of 6.1.3-x: give the matching one"
    );
    let vmlinux = elf_file(&[(".rodata", 1, 2, 0, b"Linux version 6.1.2-x (gcc)\0")]);
    assert_eq!(load(&module(), Some(&vmlinux)), load(&module(), None));
    // And as the pure BTF of one structure { int a; }.
    let words = [24u32, 0, 40, 40, 4, /* int */ 0, 1 << 24, 4, 32, /* struct */ 1];
    let words = [&words[..], &[4 << 24 | 1, 4, 0, 1, 0]].concat();
    let btf: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
    let btf = [b"\x9f\xeb\x01\0", &btf[..], b"\0s\0\0"].concat();
    assert_eq!(load(&module(), Some(&btf)), load(&module(), None));
}

#[test]
fn other_objects_have_typed_reasons() {
    let reason = |file: &[u8]| load(file, None).unwrap_err().reason();
    for (architecture, name) in [(Architecture::Aarch64, "arm64"), (Architecture::I386, "i386")] {
        let file = Module::new(architecture).object.write().unwrap();
        let error = load(&file, None).unwrap_err();
        assert_eq!(error, ImageError::UnsupportedArch(name.into()));
        assert_eq!(error.reason(), Reason::UnsupportedArch);
    }
    // ELF class, byte order and machine, also of what a bzImage unpacks to.
    for (class, data, machine, name) in [
        (1, 1, [3, 0], "i386"),
        (1, 1, [62, 0], "x32"),
        (2, 2, [0, 21], "powerpc"),
        (1, 2, [0, 8], "mips"),
        (2, 2, [0, 22], "s390"),
        (2, 1, [183, 0], "arm64"),
        (2, 2, [0, 183], "arm64"),
    ] {
        let mut object = b"\x7fELF".to_vec();
        object.extend([class, data, 1]);
        object.resize(16, 0);
        object.extend([1, 0, machine[0], machine[1]]);
        let expected = Err(ImageError::UnsupportedArch(name.into()));
        assert_eq!(load(&object, None), expected, "{name}");
        let packed = compress::tests::compress(&object, compress::Compression::Gzip);
        assert_eq!(load(&vmlinuz::tests::bzimage(&packed), None), expected, "{name}");
    }
    let mut other = Module::new(Architecture::X86_64);
    let text = other.section(".text", SectionKind::Text, &[0xc3; 8]);
    other.symbol("nft_do_chain_arp", SymbolKind::Text, Some((text, 0, 8)));
    other.symbol("nft_do_chain", SymbolKind::Unknown, None);
    assert_eq!(reason(&other.object.write().unwrap()), Reason::NoSymbol);
    assert_eq!(reason(b""), Reason::MalformedImage);
    assert_eq!(reason(b"\x89PNG\r\n\x1a\n"), Reason::MalformedImage);
    assert_eq!(reason(b"{}"), Reason::MalformedImage);
    assert_eq!(reason(b"\x7fELF"), Reason::MalformedImage);
    assert_eq!(
        load(b"\x89PNG\r\n\x1a\n", None).unwrap_err().to_string(),
        "expected a kernel module, a kernel image or an extract, found a PNG picture"
    );
}

#[test]
fn a_symbol_larger_than_its_section_is_malformed() {
    let mut module = Module::new(Architecture::X86_64);
    let text = module.section(".text", SectionKind::Text, &[0xc3; 8]);
    module.symbol("nft_do_chain", SymbolKind::Text, Some((text, 4, 8)));
    let error = load(&module.object.write().unwrap(), None).unwrap_err();
    assert_eq!(
        error,
        ImageError::Malformed(
            "nft_do_chain should be 8 bytes at .text+0x4, which the file does not have".into()
        )
    );
}

#[test]
fn code_that_calls_in_circles_ends() {
    // nft_do_chain and its cold part call each other, and the neighbour with the same name twice.
    let mut module = Module::new(Architecture::X86_64);
    let code = [0xe8, 0, 0, 0, 0, 0xe8, 0xf6, 0xff, 0xff, 0xff];
    let text = module.section(".text", SectionKind::Text, &code.repeat(200));
    for index in 1..200 {
        module.symbol("nft_rule_next", SymbolKind::Text, Some((text, index * 10, 10)));
    }
    module.symbol("nft_do_chain", SymbolKind::Text, Some((text, 0, 10)));
    let start = module.object.section_symbol(text);
    for index in 0..199 {
        module.relocate(text, &[(index * 10 + 1, PLT32, start, (index as i64 + 1) * 10 - 4)]);
    }
    let error = load(&module.object.write().unwrap(), None).unwrap_err().to_string();
    assert!(error.contains("more than 64 parts"), "{error}");
}

#[test]
fn every_cut_is_an_error() {
    let stripped = linked_with(0xffff_ffff_8100_0000, Names::All);
    for file in [module(), linked(0xffff_ffff_8100_0000), stripped] {
        assert!(load(&file, None).is_ok());
        for end in 0..file.len() {
            // The end of a section's padding says nothing; everything else is missed.
            if let Ok(function) = load(&file[..end], None) {
                assert_eq!(Ok(function), load(&file, None), "cut at {end} of {}", file.len());
            }
        }
    }
}

#[test]
fn the_symbol_that_covers_a_place() {
    let module = module();
    let elf = Elf::parse(&module).unwrap();
    let (section, _) = elf.section(".text").unwrap();
    let name = |offset| {
        let symbol = elf.covering(super::elf::Place { section, offset });
        symbol.map(|symbol| &*symbol.name)
    };
    assert_eq!(name(0), None); // __pfx_
    assert_eq!(name(START), Some("nft_do_chain"));
    assert_eq!(name(START + SIZE - 1), Some("nft_do_chain"));
    assert_eq!(name(START + SIZE), Some("nft_payload_fast_eval"));
    assert_eq!(name(START + SIZE + 3), None);
}

proptest! {
    #[test]
    fn flipped_bytes_do_not_panic(
        flips in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        kind in 0..4,
    ) {
        let linked = |names| linked_with(0xffff_ffff_8100_0000, names);
        let mut file = match kind {
            0 => module(),
            1 => linked(Names::Table),
            2 => linked(Names::All),
            _ => linked(Names::Code),
        };
        for (at, value) in flips {
            let at = at.index(file.len());
            file[at] = value;
        }
        if let Ok(function) = load(&file, None) {
            // Whatever comes out keeps the promises of the type.
            let text = extract::to_json(&function);
            prop_assert_eq!(extract::from_json(text.as_bytes()), Ok(function));
        }
    }

    #[test]
    fn garbage_does_not_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _ = load(&bytes, Some(&bytes));
        let _ = load(&[b"\x7fELF\x02\x01\x01", &bytes[..]].concat(), None);
    }
}
