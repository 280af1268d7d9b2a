//! BTF that has just the given members where they are said to be.

use nfdrop_resolver::image::function::{Field, Fields};
use std::collections::BTreeMap;

/// Members by name; a structure in place of a member that has further ones.
#[derive(Default)]
struct Tree {
    field: Option<Field>,
    members: BTreeMap<String, Tree>,
}

const INT: u32 = 1;
const ARRAY: u32 = 3;
const STRUCT: u32 = 4;
/// The id of `unsigned char`, which everything is an array of.
const BYTE: u32 = 1;

struct Writer {
    types: Vec<u8>,
    count: u32,
    strings: Vec<u8>,
    /// Offset of the first string: where those of the base end.
    first: u32,
}

impl Writer {
    fn string(&mut self, text: &str) -> u32 {
        let at = self.first + self.strings.len() as u32;
        self.strings.extend([text.as_bytes(), b"\0"].concat());
        at
    }

    /// Returns the type's id.
    fn record(&mut self, words: &[u32]) -> u32 {
        self.types.extend(words.iter().flat_map(|word| word.to_le_bytes()));
        self.count += 1;
        self.count
    }

    /// A structure whose innards begin `base` bits into the outermost one.
    fn structure(&mut self, name: &str, tree: &Tree, base: u32) -> u32 {
        let mut members = Vec::new();
        for (name, member) in &tree.members {
            let (id, offset, bits) = match member {
                // Its own place is not known: it may as well begin where its container does.
                Tree { field: None, .. } => (self.structure("", member, base), base, 0),
                Tree { field: Some(field), members } if members.is_empty() => {
                    let whole =
                        field.bit_size.is_multiple_of(8) && field.bit_offset.is_multiple_of(8);
                    let bits = if whole { 0 } else { field.bit_size };
                    let array = [0, ARRAY << 24, 0, BYTE, BYTE, field.bit_size / 8];
                    (self.record(&array), field.bit_offset, bits)
                }
                Tree { field: Some(field), .. } => {
                    (self.structure("", member, field.bit_offset), field.bit_offset, 0)
                }
            };
            let name = self.string(name);
            members.extend([name, id, bits << 24 | (offset - base)]);
        }
        let name = if name.is_empty() { 0 } else { self.string(name) };
        let info = 1 << 31 | STRUCT << 24 | (members.len() / 3) as u32;
        // Nothing asks for its size.
        self.record(&[&[name, info, 0], &members[..]].concat())
    }

    fn structures(&mut self, fields: &Fields) {
        let mut tree = Tree::default();
        for (path, field) in fields {
            let mut place = &mut tree;
            for name in path.split('.') {
                place = place.members.entry(name.to_owned()).or_default();
            }
            place.field = Some(*field);
        }
        for (name, members) in &tree.members {
            self.structure(name, members, 0);
        }
    }

    fn section(self) -> Vec<u8> {
        let (type_len, string_len) = (self.types.len() as u32, self.strings.len() as u32);
        let header = [24, 0, type_len, type_len, string_len];
        let mut out = vec![0x9f, 0xeb, 1, 0];
        out.extend(header.iter().flat_map(|word| word.to_le_bytes()));
        [out, self.types, self.strings].concat()
    }
}

/// The content of a `.BTF` section of a vmlinux.
pub fn btf(fields: &Fields) -> Vec<u8> {
    base(fields).section()
}

/// The same in two: of vmlinux, and of a module, whose types and strings are numbered on from there.
pub fn split(base_fields: &Fields, own: &Fields) -> [Vec<u8>; 2] {
    let base = base(base_fields);
    let (count, first) = (base.count, base.strings.len() as u32);
    let mut module = Writer { types: Vec::new(), count, strings: Vec::new(), first };
    module.structures(own);
    [base.section(), module.section()]
}

fn base(fields: &Fields) -> Writer {
    let mut writer = Writer { types: Vec::new(), count: 0, strings: vec![0], first: 0 };
    let name = writer.string("unsigned char");
    assert_eq!(writer.record(&[name, INT << 24, 1, 8]), BYTE);
    writer.structures(fields);
    writer
}
