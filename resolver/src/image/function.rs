//! What the resolver gets: the code of `nft_do_chain` and its surroundings, taken out of whatever
//! held it. No addresses yet: parts refer to each other and to the rest of the kernel by name.

use nfdrop_db::BuildId;
use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Range,
};

/// The function's name.
pub const SYMBOL: &str = "nft_do_chain";
/// Most parts of a function.
pub const MAX_PARTS: usize = 64;
/// Most bytes of a part.
pub const MAX_PART: u64 = 64 << 10;
/// Longest name accepted, in bytes; the kernel's own limit is 512, a place may be added to it.
pub const MAX_NAME: usize = 1024;

/// `nft_do_chain` with everything that is needed to run it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Function {
    /// First word of the module's vermagic, or of the banner of a vmlinux: what `uname -r` prints.
    pub release: Option<String>,
    /// `CONFIG_PREEMPTION`, by vermagic or banner, which decides how kprobes run; `None`: not told.
    pub preemption: Option<bool>,
    /// Of the ELF object the function is in.
    pub build_id: Option<BuildId>,
    /// The ELF object the function is in.
    pub object: ObjectKind,
    /// `parts[0]` is `nft_do_chain` itself, entered at its first byte; then its `.cold` part and the
    /// local callees the resolver runs, and read-only data they use. Names are unique.
    pub parts: Vec<Part>,
    /// The jump labels in all parts; `None` where the source does not tell (a bare listing).
    pub jump_labels: Option<Vec<JumpLabel>>,
    /// Bytes of `parts[0]` that the kernel patches or refuses probes on, in ascending order.
    pub keep_off: Vec<KeepOff>,
    /// `ud2` of the bug table, in all parts.
    pub bugs: Vec<Bug>,
    /// Whether the exception table has an entry inside `parts[0]`.
    pub has_exception_entries: bool,
    /// Members of kernel structures, from BTF, by the names of `resolve::layout`.
    pub fields: Fields,
}

/// The ELF object a function is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ObjectKind {
    /// `nf_tables.ko`.
    Module,
    /// nf_tables is built in.
    Vmlinux,
}

impl Function {
    /// Whether everything said above and below holds; else a sentence about what does not. All that
    /// [`super::load`] returns was checked.
    pub fn check(&self) -> Result<(), String> {
        let parts = &self.parts;
        if parts.len() > MAX_PARTS {
            return Err(format!("at most {MAX_PARTS} parts are allowed, found {}", parts.len()));
        }
        if parts.first().is_none_or(|part| part.name != SYMBOL) {
            return Err(format!("the symbol must be {SYMBOL}"));
        }
        let mut names = BTreeSet::new();
        for part in parts {
            let name = &part.name;
            if name.is_empty() || name.len() > MAX_NAME || !names.insert(name) {
                let name: String = name.chars().take(80).collect();
                return Err(format!("the part's name {name:?} is empty, long or repeated"));
            }
            if part.bytes.is_empty() || part.bytes.len() as u64 > MAX_PART {
                let found = part.bytes.len();
                return Err(format!("{name} should have 1 to {MAX_PART} bytes, found {found}"));
            }
            let mut end = 0;
            for relocation in &part.relocations {
                let offset = relocation.offset;
                let next = u64::from(offset) + u64::from(relocation.kind.size());
                if u64::from(offset) < end || next > part.bytes.len() as u64 {
                    return Err(format!(
                        "the relocation at {name}+{offset:#x} overlaps another or the end of it"
                    ));
                }
                if relocation.symbol.is_empty() || relocation.symbol.len() > MAX_NAME {
                    return Err(format!("the relocation at {name}+{offset:#x} needs a symbol"));
                }
                end = next;
            }
        }
        let in_code = |place: Place| match parts.get(usize::from(place.part)) {
            Some(part)
                if part.kind == PartKind::Code && (place.offset as usize) < part.bytes.len() =>
            {
                Ok(())
            }
            _ => Err(format!("{place:?} is in no code")),
        };
        for label in self.jump_labels.iter().flatten() {
            in_code(label.code)?;
            in_code(label.target)?;
            if label.key.is_empty() || label.key.len() > MAX_NAME {
                return Err(format!("the jump label at {:?} has no key", label.code));
            }
        }
        self.bugs.iter().try_for_each(|bug| in_code(bug.place))?;
        let mut last = 0;
        for KeepOff { range, .. } in &self.keep_off {
            let inside = range.start < range.end && range.end as usize <= parts[0].bytes.len();
            if !inside || range.start < last {
                return Err(format!("the range {range:?} to keep off is unordered or outside"));
            }
            last = range.start;
        }
        Ok(())
    }
}

/// A contiguous piece of code or data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// The symbol's name, or `section+0xoffset` for data without one.
    pub name: String,
    /// Whether it is run or read.
    pub kind: PartKind,
    /// As in the file, before relocation.
    pub bytes: Vec<u8>,
    /// Ascending by offset, not overlapping, all inside `bytes`.
    pub relocations: Vec<Relocation>,
}

/// Whether a part is run or read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PartKind {
    /// Machine code.
    Code,
    /// Read-only data, such as a jump table.
    Data,
}

/// A field of a part that depends on where something else is. Fields that the assembler or linker
/// already filled for a target outside the part (a call to a neighbour in the same section) are
/// listed too, as if they had a relocation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Relocation {
    /// Of the field, from the start of the part.
    pub offset: u32,
    /// How the field is computed.
    pub kind: RelocationKind,
    /// A part's name, or a symbol elsewhere; `section+0xoffset` where no symbol covers the target.
    pub symbol: String,
    /// Added to the symbol's address.
    pub addend: i64,
}

/// The x86-64 psABI's relocations that kernels use. S symbol, A addend, P place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RelocationKind {
    /// `R_X86_64_64`: S + A, 8 bytes.
    Abs64,
    /// `R_X86_64_32`: S + A, 4 bytes, zero-extended.
    Abs32,
    /// `R_X86_64_32S`: S + A, 4 bytes, sign-extended.
    Abs32Signed,
    /// `R_X86_64_PC32` and `R_X86_64_PLT32`: S + A - P, 4 bytes.
    Pc32,
    /// `R_X86_64_PC64`: S + A - P, 8 bytes.
    Pc64,
}

impl RelocationKind {
    /// Bytes of the field.
    pub fn size(self) -> u32 {
        match self {
            Self::Abs64 | Self::Pc64 => 8,
            Self::Abs32 | Self::Abs32Signed | Self::Pc32 => 4,
        }
    }
}

/// A byte of a part.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Place {
    /// Index into [`Function::parts`].
    pub part: u16,
    /// From the start of the part.
    pub offset: u32,
}

/// An entry of `__jump_table` (`include/linux/jump_label.h`): a nop or jump that a static key
/// flips.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JumpLabel {
    /// The nop or jump: `0f 1f 44 00 00`, `66 90`, `e9 …` or `eb …`.
    pub code: Place,
    /// Where the jump goes.
    pub target: Place,
    /// The static key, `nft_trace_enabled`.
    pub key: String,
    /// Bit 0 of the entry's key: the instruction is a jump iff the key is enabled XOR this.
    pub branch: bool,
}

/// Bytes of the function that no probe may touch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeepOff {
    /// From the start of the function.
    pub range: Range<u32>,
    /// Why.
    pub why: Patched,
}

/// What patches code, or makes the kernel refuse a kprobe.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Patched {
    /// `__jump_table`.
    JumpLabel,
    /// `.static_call_sites`.
    StaticCall,
    /// `.altinstructions`.
    Alternative,
    /// `.smp_locks`.
    SmpLock,
    /// `__mcount_loc`, and the call to `__fentry__`.
    Ftrace,
    /// `.retpoline_sites`.
    Retpoline,
    /// `.return_sites`.
    ReturnThunk,
    /// `.call_sites`.
    CallThunk,
    /// `.ibt_endbr_seal`.
    EndbrSeal,
    /// `__bug_table`.
    Bug,
}

/// An entry of `__bug_table`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bug {
    /// The `ud2`.
    pub place: Place,
    /// `BUGFLAG_WARNING`: execution goes on behind the `ud2`.
    pub warning: bool,
}

/// Members of structures by `struct.member`, nested members by `struct.member.member`.
pub type Fields = BTreeMap<String, Field>;

/// Where a member is in its structure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Field {
    /// From the start of the structure, in bits.
    pub bit_offset: u32,
    /// In bits; 0 for a flexible array.
    pub bit_size: u32,
}

impl Field {
    /// From the start of the structure, in whole bytes; `None` for a bit field inside a byte.
    pub fn byte_offset(self) -> Option<u32> {
        self.bit_offset.is_multiple_of(8).then_some(self.bit_offset / 8)
    }
}
