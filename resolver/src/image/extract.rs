//! A [`Function`] as text: what `nfdrop-indexer extract` writes and `resolve` reads back, so that a
//! test or a bug report needs no kernel package. JSON, one line for each relocation, label and
//! field, in a fixed order; `code` of the function itself at the top, further parts below it.
//!
//! A bare listing, as people publish them, is an extract too: code, relocations and where the
//! function begins in its section are enough.

use super::function::{
    Bug, Field, Fields, Function, JumpLabel, KeepOff, ObjectKind, Part, PartKind, Patched, Place,
    Relocation, RelocationKind,
};
use crate::arch::references::{self, Value};
use nfdrop_db::{Arch, BuildId, HexBytes};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// Longest extract accepted, in bytes.
pub const MAX_BYTES: usize = 16 << 20;

/// Why text is not an extract.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ExtractError {
    /// Longer than [`MAX_BYTES`].
    #[error("an extract has at most {MAX_BYTES} bytes, found {0}")]
    TooLong(usize),
    /// Not JSON of an extract.
    #[error("not an extract: {0}")]
    Syntax(String),
    /// Of another machine.
    #[error("expected an extract for x86_64, found one for {0}")]
    Architecture(String),
    /// Contradicts itself.
    #[error("broken extract: {0}")]
    Inconsistent(String),
}

#[derive(Deserialize)]
struct Listing {
    arch: String,
    kernel: Option<String>,
    preemption: Option<bool>,
    build_id: Option<BuildId>,
    #[serde(default)]
    object: Object,
    symbol: String,
    /// Where the function begins in `.text`. There if branches out of the code are still to be
    /// found by decoding.
    section_offset: Option<u32>,
    size: Option<u64>,
    code: HexBytes,
    relocations: Vec<Entry>,
    #[serde(default)]
    parts: Vec<FurtherPart>,
    jump_labels: Option<Vec<Label>>,
    #[serde(default)]
    keep_off: Vec<Keep>,
    #[serde(default)]
    bugs: Vec<BugEntry>,
    #[serde(default)]
    has_exception_entries: bool,
    #[serde(default)]
    fields: BTreeMap<String, (u32, u32)>,
}

#[derive(Default, Clone, Copy, Serialize, Deserialize)]
enum Object {
    #[default]
    #[serde(rename = "nf_tables")]
    Module,
    #[serde(rename = "vmlinux")]
    Vmlinux,
}

#[derive(Clone, Copy, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Kind {
    Code,
    Data,
}

#[derive(Clone, Copy, Serialize, Deserialize)]
enum Type {
    #[serde(rename = "R_X86_64_64")]
    Abs64,
    #[serde(rename = "R_X86_64_32")]
    Abs32,
    #[serde(rename = "R_X86_64_32S")]
    Abs32Signed,
    #[serde(rename = "R_X86_64_PC32", alias = "R_X86_64_PLT32")]
    Pc32,
    #[serde(rename = "R_X86_64_PC64")]
    Pc64,
}

#[derive(Serialize, Deserialize)]
struct Entry {
    offset: u32,
    r#type: Type,
    symbol: String,
    addend: i64,
}

#[derive(Deserialize)]
struct FurtherPart {
    name: String,
    kind: Kind,
    bytes: HexBytes,
    relocations: Vec<Entry>,
}

/// Part and offset in it.
type At = (u16, u32);

#[derive(Serialize, Deserialize)]
struct Label {
    code: At,
    target: At,
    key: String,
    branch: bool,
}

#[derive(Serialize, Deserialize)]
struct Keep {
    start: u32,
    end: u32,
    why: Why,
}

#[derive(Clone, Copy, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Why {
    JumpLabel,
    StaticCall,
    Alternative,
    SmpLock,
    Ftrace,
    Retpoline,
    ReturnThunk,
    CallThunk,
    EndbrSeal,
    Bug,
}

#[derive(Serialize, Deserialize)]
struct BugEntry {
    at: At,
    warning: bool,
}

macro_rules! same_variants {
    ($ours:ident, $theirs:ident: $($variant:ident)*) => {
        impl From<$theirs> for $ours {
            fn from(value: $theirs) -> Self {
                match value { $($theirs::$variant => Self::$variant),* }
            }
        }
        impl From<$ours> for $theirs {
            fn from(value: $ours) -> Self {
                match value { $($ours::$variant => Self::$variant),* }
            }
        }
    };
}

same_variants!(Object, ObjectKind: Module Vmlinux);
same_variants!(Kind, PartKind: Code Data);
same_variants!(Type, RelocationKind: Abs64 Abs32 Abs32Signed Pc32 Pc64);
same_variants!(Why, Patched: JumpLabel StaticCall Alternative SmpLock Ftrace Retpoline ReturnThunk
    CallThunk EndbrSeal Bug);

impl From<Entry> for Relocation {
    fn from(Entry { offset, r#type, symbol, addend }: Entry) -> Self {
        Self { offset, kind: r#type.into(), symbol, addend }
    }
}

impl From<&Relocation> for Entry {
    fn from(Relocation { offset, kind, symbol, addend }: &Relocation) -> Self {
        Self { offset: *offset, r#type: (*kind).into(), symbol: symbol.clone(), addend: *addend }
    }
}

fn at((part, offset): At) -> Place {
    Place { part, offset }
}

/// Whether these bytes begin as JSON text of an object does.
pub(super) fn is_json(bytes: &[u8]) -> bool {
    bytes.trim_ascii_start().starts_with(b"{")
}

/// The function as text, with a line feed at its end; the same function is the same text.
pub fn to_json(function: &Function) -> String {
    let mut out = Writer { text: String::new(), depth: 0, first: true };
    out.open('{');
    out.member("arch", Arch::X86_64.name());
    if let Some(release) = &function.release {
        out.member("kernel", release);
    }
    if let Some(preemption) = &function.preemption {
        out.member("preemption", preemption);
    }
    if let Some(build_id) = &function.build_id {
        out.member("build_id", build_id);
    }
    out.member("object", &Object::from(function.object));
    let (main, further) = match function.parts.split_first() {
        Some((main, further)) => (Some(main), further),
        None => (None, &[][..]),
    };
    let bytes = main.map_or(&[][..], |part| &part.bytes);
    let relocations = main.map_or(&[][..], |part| &part.relocations);
    out.member("symbol", main.map_or("", |part| &part.name));
    out.member("size", &bytes.len());
    out.member("code", &nfdrop_db::hex::encode(bytes));
    out.list("relocations", relocations.iter().map(Entry::from));
    if !further.is_empty() {
        out.name("parts");
        out.open('[');
        for part in further {
            out.item();
            out.open('{');
            out.member("name", &part.name);
            out.member("kind", &Kind::from(part.kind));
            out.member("bytes", &nfdrop_db::hex::encode(&part.bytes));
            out.list("relocations", part.relocations.iter().map(Entry::from));
            out.close('}');
        }
        out.close(']');
    }
    let at = |place: Place| (place.part, place.offset);
    if let Some(labels) = &function.jump_labels {
        let labels = labels.iter().map(|JumpLabel { code, target, key, branch }| Label {
            code: at(*code),
            target: at(*target),
            key: key.clone(),
            branch: *branch,
        });
        out.list("jump_labels", labels);
    }
    let keep_off = function.keep_off.iter();
    let keep_off = keep_off.map(|KeepOff { range, why }| Keep {
        start: range.start,
        end: range.end,
        why: (*why).into(),
    });
    out.list("keep_off", keep_off);
    let bugs = function.bugs.iter();
    let bugs = bugs.map(|Bug { place, warning }| BugEntry { at: at(*place), warning: *warning });
    out.list("bugs", bugs);
    out.member("has_exception_entries", &function.has_exception_entries);
    out.name("fields");
    out.open('{');
    for (name, Field { bit_offset, bit_size }) in &function.fields {
        out.member(name, &(bit_offset, bit_size));
    }
    out.close('}');
    out.close('}');
    out.text.push('\n');
    out.text
}

/// Writes JSON with one member or list item per line.
struct Writer {
    text: String,
    depth: usize,
    /// Nothing was written yet in the innermost object or list.
    first: bool,
}

impl Writer {
    fn open(&mut self, bracket: char) {
        self.text.push(bracket);
        self.depth += 1;
        self.first = true;
    }

    fn close(&mut self, bracket: char) {
        self.depth -= 1;
        if !self.first {
            self.line();
        }
        self.text.push(bracket);
        self.first = false;
    }

    fn line(&mut self) {
        self.text.push('\n');
        self.text.extend(std::iter::repeat_n(' ', self.depth));
    }

    fn item(&mut self) {
        if !self.first {
            self.text.push(',');
        }
        self.first = false;
        self.line();
    }

    fn name(&mut self, name: &str) {
        self.item();
        self.value(name);
        self.text.push_str(": ");
    }

    fn member(&mut self, name: &str, value: &(impl Serialize + ?Sized)) {
        self.name(name);
        self.value(value);
    }

    fn value(&mut self, value: &(impl Serialize + ?Sized)) {
        // Plain data with string keys always serialises.
        self.text.push_str(&serde_json::to_string(value).unwrap_or_default());
    }

    fn list(&mut self, name: &str, items: impl Iterator<Item = impl Serialize>) {
        self.name(name);
        self.open('[');
        for item in items {
            self.item();
            self.value(&item);
        }
        self.close(']');
    }
}

/// Reads an extract or a bare listing. Unknown members are ignored.
pub fn from_json(bytes: &[u8]) -> Result<Function, ExtractError> {
    if bytes.len() > MAX_BYTES {
        return Err(ExtractError::TooLong(bytes.len()));
    }
    let listing: Listing =
        serde_json::from_slice(bytes).map_err(|error| ExtractError::Syntax(error.to_string()))?;
    if listing.arch != Arch::X86_64.name() {
        return Err(ExtractError::Architecture(listing.arch));
    }
    let size = listing.code.0.len() as u64;
    if listing.size.is_some_and(|stated| stated != size) {
        let what = format!("code has {size} bytes, not {:?}", listing.size);
        return Err(ExtractError::Inconsistent(what));
    }
    let into_relocations =
        |entries: Vec<Entry>| entries.into_iter().map(Relocation::from).collect();
    let mut main = Part {
        name: listing.symbol,
        kind: PartKind::Code,
        bytes: listing.code.0,
        relocations: into_relocations(listing.relocations),
    };
    if let Some(offset) = listing.section_offset {
        add_branches(&mut main, u64::from(offset));
    }
    let further = listing.parts.into_iter().map(|part| Part {
        name: part.name,
        kind: part.kind.into(),
        bytes: part.bytes.0,
        relocations: into_relocations(part.relocations),
    });
    let labels = |labels: Vec<Label>| {
        let labels = labels.into_iter().map(|Label { code, target, key, branch }| JumpLabel {
            code: at(code),
            target: at(target),
            key,
            branch,
        });
        labels.collect()
    };
    let keep_off = listing.keep_off.into_iter();
    let bugs = listing.bugs.into_iter();
    let fields = listing.fields.into_iter();
    let function = Function {
        release: listing.kernel,
        preemption: listing.preemption,
        build_id: listing.build_id,
        object: listing.object.into(),
        parts: std::iter::once(main).chain(further).collect(),
        jump_labels: listing.jump_labels.map(labels),
        keep_off: keep_off
            .map(|Keep { start, end, why }| KeepOff { range: start..end, why: why.into() })
            .collect(),
        bugs: bugs
            .map(|BugEntry { at: place, warning }| Bug { place: at(place), warning })
            .collect(),
        has_exception_entries: listing.has_exception_entries,
        fields: fields
            .map(|(name, (bit_offset, bit_size))| (name, Field { bit_offset, bit_size }))
            .collect::<Fields>(),
    };
    function.check().map_err(ExtractError::Inconsistent)?;
    Ok(function)
}

/// Branches out of the part that the assembler filled in, as relocations.
fn add_branches(part: &mut Part, address: u64) {
    let size = part.bytes.len() as u64;
    let known: BTreeSet<u32> = part.relocations.iter().map(|known| known.offset).collect();
    for decoded in references::decode(&part.bytes, address) {
        for field in decoded.fields {
            let Value::Branch(target) = field.value else { continue };
            if known.contains(&field.offset) || target.wrapping_sub(address) < size {
                continue;
            }
            let bias = i64::from(decoded.offset + decoded.len - field.offset);
            part.relocations.push(Relocation {
                offset: field.offset,
                kind: RelocationKind::Pc32,
                symbol: format!(".text+{target:#x}"),
                addend: -bias,
            });
        }
    }
    part.relocations.sort_by_key(|relocation| relocation.offset);
}

#[cfg(test)]
mod tests {
    use super::{super::function::SYMBOL, *};
    use proptest::{collection::vec, prelude::*};

    const LISTING: &[u8] = include_bytes!("../../../tests/corpus/arch-6.2.10-arch1-1.json");

    #[test]
    fn a_published_listing() {
        let function = from_json(LISTING).unwrap();
        assert_eq!(function.release.as_deref(), Some("6.2.10-arch1-1"));
        assert_eq!((function.object, &function.build_id), (ObjectKind::Module, &None));
        assert_eq!(function.jump_labels, None);
        let [part] = &function.parts[..] else { panic!("one part") };
        assert_eq!((part.name.as_str(), part.bytes.len()), ("nft_do_chain", 1488));
        // 31 in the listing, and four calls to functions in front of it in the same section.
        assert_eq!(part.relocations.len(), 35);
        let filled: Vec<_> = part
            .relocations
            .iter()
            .filter(|relocation| relocation.symbol.starts_with(".text+"))
            .map(|relocation| (relocation.offset, relocation.symbol.as_str(), relocation.addend))
            .collect();
        assert_eq!(
            filled,
            [
                (995, ".text+0x10", -4),
                (1070, ".text+0xb0", -4),
                (1407, ".text+0x50", -4),
                (1463, ".text+0x10", -4)
            ]
        );
        assert_eq!(from_json(to_json(&function).as_bytes()), Ok(function));
    }

    #[test]
    fn what_contradicts_itself_is_refused() {
        let refuse = |text: &str| from_json(text.as_bytes()).unwrap_err().to_string();
        let with = |members: &str| {
            refuse(&format!(
                r#"{{"arch": "x86_64", "symbol": "nft_do_chain", "code": "9090909090",
                    "relocations": [] {members}}}"#
            ))
        };
        assert_eq!(with(r#", "size": 6"#), "broken extract: code has 5 bytes, not Some(6)");
        assert_eq!(
            with(r#", "bugs": [{"at": [0, 5], "warning": true}]"#),
            "broken extract: Place { part: 0, offset: 5 } is in no code"
        );
        assert!(with(r#", "keep_off": [{"start": 3, "end": 6, "why": "bug"}]"#).contains("3..6"));
        assert!(
            with(
                r#", "parts": [{"name": "nft_do_chain", "kind": "code", "bytes": "90",
            "relocations": []}]"#
            )
            .contains("repeated")
        );
        assert!(
            refuse(
                r#"{"arch": "x86_64", "symbol": "nft_do_chain", "code": "9090909090",
            "relocations": [{"offset": 2, "type": "R_X86_64_32", "symbol": "x", "addend": 0}]}"#
            )
            .contains("nft_do_chain+0x2")
        );
        assert!(
            refuse(r#"{"arch": "x86_64", "symbol": "main", "code": "90", "relocations": []}"#)
                .contains("nft_do_chain")
        );
        let arm = r#"{"arch": "arm64", "symbol": "x", "code": "", "relocations": []}"#;
        assert_eq!(from_json(arm.as_bytes()), Err(ExtractError::Architecture("arm64".into())));
        assert!(matches!(from_json(b"{"), Err(ExtractError::Syntax(_))));
    }

    fn relocations(size: usize) -> impl Strategy<Value = Vec<Relocation>> {
        let kind = prop_oneof![
            Just(RelocationKind::Abs64),
            Just(RelocationKind::Abs32),
            Just(RelocationKind::Abs32Signed),
            Just(RelocationKind::Pc32),
            Just(RelocationKind::Pc64),
        ];
        vec((kind, "[a-z_.+\"\\\\é]{1,20}", any::<i64>()), 0..=size / 8).prop_map(|entries| {
            let relocation = |(index, (kind, symbol, addend))| Relocation {
                offset: index as u32 * 8,
                kind,
                symbol,
                addend,
            };
            entries.into_iter().enumerate().map(relocation).collect()
        })
    }

    fn part(name: String, kind: PartKind) -> impl Strategy<Value = Part> {
        vec(any::<u8>(), 1..100).prop_flat_map(move |bytes| {
            let name = name.clone();
            relocations(bytes.len()).prop_map(move |relocations| Part {
                name: name.clone(),
                kind,
                bytes: bytes.clone(),
                relocations,
            })
        })
    }

    prop_compose! {
        fn functions()(
            main in part(SYMBOL.to_owned(), PartKind::Code),
            cold in part("nft_do_chain.cold".to_owned(), PartKind::Code),
            table in part(".rodata+0x8".to_owned(), PartKind::Data),
            further in 0..3usize,
            release in proptest::option::of("[0-9.a-z+-]{1,20}"),
            preemption in any::<Option<bool>>(),
            id in proptest::option::of(vec(any::<u8>(), 20)),
            labels in proptest::option::of(vec((any::<bool>(), "[a-z]{1,9}"), 0..3)),
            warning in any::<bool>(),
            fields in proptest::collection::btree_map("[a-z_.]{1,20}", any::<(u32, u32)>(), 0..5),
        ) -> Function {
            let place = Place { part: 0, offset: 0 };
            let last = main.bytes.len() as u32 - 1;
            let label = |(branch, key)| {
                JumpLabel { code: place, target: Place { part: 0, offset: last }, key, branch }
            };
            Function {
                release,
                preemption,
                build_id: id.map(|id| BuildId::from_bytes(&id).unwrap()),
                object: if warning { ObjectKind::Vmlinux } else { ObjectKind::Module },
                parts: [main, cold, table].into_iter().take(1 + further).collect(),
                jump_labels: labels.map(|labels| labels.into_iter().map(label).collect()),
                keep_off: vec![KeepOff { range: last..last + 1, why: Patched::Alternative }],
                bugs: vec![Bug { place, warning }],
                has_exception_entries: warning,
                fields: fields
                    .into_iter()
                    .map(|(name, (bit_offset, bit_size))| (name, Field { bit_offset, bit_size }))
                    .collect(),
            }
        }
    }

    proptest! {
        #[test]
        fn comes_back_as_it_was_written(function in functions()) {
            let text = to_json(&function);
            prop_assert_eq!(from_json(text.as_bytes()), Ok(function));
        }

        #[test]
        fn flipped_bytes_do_not_panic(at in any::<prop::sample::Index>(), value in any::<u8>()) {
            let mut text = LISTING.to_vec();
            let at = at.index(text.len());
            text[at] = value;
            let _ = from_json(&text);
        }
    }
}
