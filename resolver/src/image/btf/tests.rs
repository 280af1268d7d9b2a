use super::*;
use proptest::prelude::*;

/// BTF under construction.
#[derive(Default)]
struct Builder {
    records: Vec<u8>,
    strings: Vec<u8>,
    first_string: u32,
}

impl Builder {
    fn name(&mut self, name: &str) -> u32 {
        if self.strings.is_empty() && self.first_string == 0 {
            self.strings.push(0);
        }
        if name.is_empty() {
            return 0;
        }
        let offset = self.first_string + self.strings.len() as u32;
        self.strings.extend(name.as_bytes());
        self.strings.push(0);
        offset
    }

    fn record(&mut self, name: &str, kind: u8, count: u32, flag: bool, rest: &[u32]) {
        let name = self.name(name);
        let info = u32::from(flag) << 31 | u32::from(kind) << 24 | count;
        for word in [name, info].iter().chain(rest) {
            self.records.extend(word.to_le_bytes());
        }
    }

    /// Members: name, type, offset.
    fn structure(
        &mut self,
        name: &str,
        kind: u8,
        size: u32,
        flag: bool,
        members: &[(&str, u32, u32)],
    ) {
        let mut rest = vec![size];
        for &(name, id, offset) in members {
            rest.extend([self.name(name), id, offset]);
        }
        self.record(name, kind, members.len() as u32, flag, &rest);
    }

    fn finish(&self) -> Vec<u8> {
        let mut out = vec![0x9f, 0xeb, 1, 0];
        let (types, strings) = (self.records.len() as u32, self.strings.len() as u32);
        for word in [24, 0, types, types, strings] {
            out.extend(u32::to_le_bytes(word));
        }
        [&out[..], &self.records, &self.strings].concat()
    }
}

fn base() -> Builder {
    let mut btf = Builder::default();
    btf.record("int", kind::INT, 0, false, &[4, 32]); // 1
    btf.record("", kind::PTR, 0, false, &[0]); // 2
    btf.record("", kind::ARRAY, 0, false, &[0, 1, 1, 5]); // 3: int[5]
    btf.record("count_t", kind::TYPEDEF, 0, false, &[5]); // 4
    btf.record("", kind::CONST, 0, false, &[1]); // 5
    // 6: an anonymous union inside an anonymous structure
    btf.structure("", kind::UNION, 8, false, &[("low", 1, 0), ("wide", 2, 0)]);
    btf.structure("", kind::STRUCT, 16, true, &[("", 6, 64), ("bit", 1, 1 << 24 | 3)]); // 7
    btf.structure(
        "outer",
        kind::STRUCT,
        64,
        false,
        &[("count", 4, 0), ("list", 3, 32), ("", 7, 192), ("inner", 7, 320)],
    ); // 8
    btf
}

fn find(vmlinux: &[u8], module: Option<&[u8]>, path: &str) -> Option<(u32, u32)> {
    let fields = fields(Some(vmlinux), module, &[path]).unwrap();
    fields.get(path).map(|field| (field.bit_offset, field.bit_size))
}

#[test]
fn members_through_everything() {
    let btf = base().finish();
    assert_eq!(find(&btf, None, "outer.count"), Some((0, 32)));
    assert_eq!(find(&btf, None, "outer.list"), Some((32, 160)));
    assert_eq!(find(&btf, None, "outer.wide"), Some((256, 64)));
    assert_eq!(find(&btf, None, "outer.bit"), Some((195, 1)));
    assert_eq!(find(&btf, None, "outer.inner"), Some((320, 128)));
    assert_eq!(find(&btf, None, "outer.inner.low"), Some((384, 32)));
    for absent in ["outer", "outer.none", "other.count", "outer.count.x", "outer.", "", "."] {
        assert_eq!(find(&btf, None, absent), None, "{absent}");
    }
}

#[test]
fn a_module_goes_on_where_vmlinux_ends() {
    let base = base();
    let mut module = Builder { first_string: base.strings.len() as u32, ..Builder::default() };
    module.structure("own", kind::STRUCT, 64, false, &[("first", 8, 0), ("me", 10, 512)]); // 9
    module.record("", kind::PTR, 0, false, &[9]); // 10
    module.structure("outer", kind::STRUCT, 8, false, &[("count", 1, 64)]);
    let (base, module) = (base.finish(), module.finish());
    assert_eq!(find(&base, Some(&module), "own.first.list"), Some((32, 160)));
    assert_eq!(find(&base, Some(&module), "own.me"), Some((512, 64)));
    assert_eq!(find(&base, Some(&module), "outer.count"), Some((64, 32)));
    // Not a member of the module's, so that of vmlinux.
    assert_eq!(find(&base, Some(&module), "outer.list"), Some((32, 160)));
    assert_eq!(fields(None, Some(&module), &["own.me"]), Ok(Fields::new()));
}

#[test]
fn a_module_with_a_base_of_its_own() {
    let wanted = ["own.first.list", "own.me", "outer.count", "outer.list"];
    let find = |vmlinux: Option<&[u8]>, base: Option<&[u8]>, module: &[u8]| {
        let fields = module_fields(vmlinux, base, Some(module), &wanted).unwrap();
        wanted.map(|path| fields.get(path).map(|field| field.bit_offset))
    };
    // What is distilled of vmlinux: structures without members.
    let mut distilled = Builder::default();
    distilled.record("int", kind::INT, 0, false, &[4, 32]); // 1
    distilled.structure("outer", kind::STRUCT, 64, false, &[]); // 2
    let first_string = distilled.strings.len() as u32;
    let mut split = Builder { first_string, ..Builder::default() };
    split.structure("own", kind::STRUCT, 64, false, &[("first", 2, 0), ("me", 1, 512)]); // 3
    let (distilled, split) = (distilled.finish(), split.finish());
    assert_eq!(find(None, Some(&distilled), &split), [None, Some(512), None, None]);
    let vmlinux = base().finish();
    let both = find(Some(&vmlinux), Some(&distilled), &split);
    assert_eq!(both, [None, Some(512), Some(0), Some(32)]);
    // Without its base a split one means nothing.
    assert_eq!(find(None, None, &split), [None; 4]);
}

#[test]
fn a_module_whose_btf_is_not_split() {
    let mut module = base();
    module.structure("own", kind::STRUCT, 64, false, &[("first", 8, 0), ("me", 2, 512)]); // 9
    let module = module.finish();
    let mut vmlinux = Builder::default();
    vmlinux.record("int", kind::INT, 0, false, &[4, 32]); // 1
    vmlinux.structure("other", kind::STRUCT, 8, false, &[("count", 1, 32)]);
    vmlinux.structure("outer", kind::STRUCT, 8, false, &[("count", 1, 32)]);
    let vmlinux = vmlinux.finish();
    let wanted = ["own.first.list", "outer.count", "other.count"];
    let find = |vmlinux| {
        let fields = module_fields(vmlinux, None, Some(&module), &wanted).unwrap();
        wanted.map(|path| fields.get(path).map(|field| field.bit_offset))
    };
    assert_eq!(find(None), [Some(32), Some(0), None]);
    assert_eq!(find(Some(&vmlinux)), [Some(32), Some(0), Some(32)]);
    assert_eq!(module_fields(None, None, None, &wanted), Ok(Fields::new()));
}

#[test]
fn kinds_to_come_are_passed_over_by_the_layout() {
    let mut btf = Builder::default();
    btf.record("int", kind::INT, 0, false, &[4, 32]); // 1
    // A kind that nobody knows, with one word and three of two words each.
    btf.record("", 0x45, 3, false, &[0, 1, 2, 3, 4, 5, 6, 7]); // 2
    btf.structure("s", kind::STRUCT, 8, false, &[("a", 1, 32)]);
    let mut layout = vec![[0; 4]; 0x46];
    layout[0x45] = [4, 8, 0, 0];
    let (types, strings) = (btf.records.len() as u32, btf.strings.len() as u32);
    let with = |layout: &[[u8; 4]]| {
        let mut out = vec![0x9f, 0xeb, 1, 0];
        let len = layout.as_flattened().len() as u32;
        for word in [32, 0, types, types, strings, types + strings, len] {
            out.extend(u32::to_le_bytes(word));
        }
        [&out[..], &btf.records, &btf.strings, layout.as_flattened()].concat()
    };
    assert_eq!(find(&with(&layout), None, "s.a"), Some((32, 32)));
    let error = fields(Some(&with(&layout[..0x45])), None, &[]).unwrap_err().to_string();
    assert!(error.contains("unknown kind"), "{error}");
    let whole = with(&layout);
    assert!(fields(Some(&whole[..whole.len() - 1]), None, &[]).is_err());
}

#[test]
fn structures_that_disagree_say_nothing() {
    let mut btf = base();
    btf.structure("outer", kind::STRUCT, 64, false, &[("count", 1, 0), ("list", 3, 64)]);
    let btf = btf.finish();
    assert_eq!(find(&btf, None, "outer.count"), Some((0, 32)));
    assert_eq!(find(&btf, None, "outer.list"), None);
}

#[test]
fn types_that_contain_themselves_end() {
    let mut btf = Builder::default();
    btf.record("loop", kind::TYPEDEF, 0, false, &[1]); // 1
    btf.record("", kind::ARRAY, 0, false, &[0, 2, 2, 1]); // 2
    btf.structure("s", kind::STRUCT, 8, false, &[("", 3, 0), ("", 3, 0), ("a", 1, 0), ("b", 2, 0)]);
    let btf = btf.finish();
    for path in ["s.a", "s.b", "s.c", "s.a.b"] {
        assert_eq!(find(&btf, None, path), None, "{path}");
    }
}

#[test]
fn cuts_are_errors_and_say_where() {
    let btf = base().finish();
    for end in 0..btf.len() {
        assert!(fields(Some(&btf[..end]), None, &["outer.count"]).is_err(), "cut at {end}");
    }
    let mut unknown = Builder::default();
    unknown.record("", 31, 0, false, &[0]);
    let error = fields(Some(&unknown.finish()), None, &[]).unwrap_err().to_string();
    assert_eq!(
        error,
        "broken BTF of vmlinux: the type record 1 at 0x0 of 0xc is cut off or of an unknown kind"
    );
}

proptest! {
    #[test]
    fn flipped_bytes_do_not_panic(flips in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8)) {
        let mut btf = base().finish();
        for (at, value) in flips {
            let at = at.index(btf.len());
            btf[at] = value;
        }
        let wanted = ["outer.inner.low", "outer.list", "outer.bit"];
        let _ = fields(Some(&btf), Some(&btf), &wanted);
        let _ = module_fields(None, None, Some(&btf), &wanted);
        let _ = module_fields(Some(&btf), Some(&btf), Some(&btf), &wanted);
    }
}
