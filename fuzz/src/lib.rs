//! What the fuzz targets share: kernel files made of the functions in `tests/corpus`, and changes to
//! them that a fuzzer can write down in a few bytes. Without these a fuzzer would have to find out
//! how a module's tables hang together before it got to the code behind them.

#![expect(clippy::missing_panics_doc, reason = "a panic is what a fuzzer looks for")]

pub mod seeds;

use nfdrop_db::BuildId;
use nfdrop_resolver::image::{self, Function};
use nfdrop_resolver::resolve::{self, Findings};
use nfdrop_testkit::elf;
use object::read::elf::{ElfFile64, FileHeader as _};
use object::{Endianness, Object as _, ObjectSection as _};
use std::fs;
use std::ops::Range;
use std::path::Path;
use std::sync::{LazyLock, OnceLock};

/// A kernel made of one extract.
pub struct Kernel {
    /// The extract's name.
    pub name: String,
    /// `nf_tables.ko`.
    pub module: Vec<u8>,
    /// vmlinux, with the BTF that the module's is based on.
    pub vmlinux: Vec<u8>,
    /// Where in each of them changes may be made: ELF header, section headers, every section.
    regions: [Vec<Range<usize>>; 2],
    /// Made when an input first asks for it: all of them would take longer than short runs do.
    original: OnceLock<Original>,
}

/// What an unchanged kernel has.
struct Original {
    function: Function,
    /// `None`: no plan.
    findings: Option<Findings>,
}

impl Kernel {
    fn original(&self) -> &Original {
        self.original.get_or_init(|| {
            let function = image::load(&self.module, Some(&self.vmlinux)).expect("a kernel");
            let findings = resolve::resolve(&function).ok();
            Original { function, findings }
        })
    }
}

/// A kernel per extract of the corpus, as far as kernel files can be made of it.
pub static KERNELS: LazyLock<Vec<Kernel>> = LazyLock::new(|| {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/corpus");
    let mut files: Vec<_> = fs::read_dir(folder)
        .expect("tests/corpus")
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.extension().is_some_and(|ending| ending == "json"))
        .collect();
    files.sort();
    let kernel = |path: &Path| {
        let function = image::load(&fs::read(path).expect("an extract"), None).expect("an extract");
        if !elf::can_write(&function) {
            return None;
        }
        let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let id = BuildId::from_bytes(&[7; 20]).expect("20 bytes");
        let [module, vmlinux] = elf::split(&function, &id);
        let regions = [regions(&module), regions(&vmlinux)];
        Some(Kernel { name, module, vmlinux, regions, original: OnceLock::new() })
    };
    files.iter().filter_map(|path| kernel(path)).collect()
});

fn regions(file: &[u8]) -> Vec<Range<usize>> {
    let parsed = ElfFile64::<Endianness>::parse(file).expect("a file that was just written");
    let header = parsed.elf_header();
    let endian = header.endian().expect("a file that was just written");
    let table = header.e_shoff.get(endian) as usize;
    let mut regions = vec![0..64, table..table + 64 * usize::from(header.e_shnum.get(endian))];
    regions.extend(parsed.sections().filter_map(|section| {
        let (offset, size) = section.file_range()?;
        (size > 0).then_some(offset as usize..(offset + size) as usize)
    }));
    regions
}

/// Bytes of a change: region, kind, offset (u16), value (u32).
const CHANGE: usize = 8;
/// Most changes to one kernel.
const MAX_CHANGES: usize = 16;

/// A kernel with changes: the first byte of `data` says which kernel, every eight more are a change.
/// Returns module and vmlinux, and the kernel they are of.
pub fn changed(data: &[u8]) -> Option<([Vec<u8>; 2], &'static Kernel)> {
    let (which, changes) = data.split_first()?;
    let kernel = &KERNELS[usize::from(*which) % KERNELS.len()];
    let mut files = [kernel.module.clone(), kernel.vmlinux.clone()];
    for change in changes.chunks_exact(CHANGE).take(MAX_CHANGES) {
        let &[region, kind, low, high, a, b, c, d] = change else { continue };
        let [module, vmlinux] = &kernel.regions;
        let region = usize::from(region) % (module.len() + vmlinux.len());
        let (file, region) = match module.get(region) {
            Some(region) => (&mut files[0], region),
            None => (&mut files[1], &vmlinux[region - module.len()]),
        };
        let Some(bytes) = file.get_mut(region.clone()) else { continue };
        let offset = usize::from(u16::from_le_bytes([low, high])) % bytes.len();
        let value = u32::from_le_bytes([a, b, c, d]);
        change_field(&mut bytes[offset..], kind, value, &kernel.module);
    }
    Some((files, kernel))
}

/// Changes what `bytes` begins with.
fn change_field(bytes: &mut [u8], kind: u8, value: u32, donor: &[u8]) {
    let most = bytes.len();
    match kind % 8 {
        0 => bytes[0] = value as u8,
        1 => bytes[0] ^= 1 << (value % 8),
        2 => bytes[0] = bytes[0].wrapping_add(value as u8),
        3 => put(bytes, &(value as u16).to_le_bytes()),
        4 => put(bytes, &value.to_le_bytes()),
        5 => {
            // Sizes and offsets of 64 bits, near either end.
            let wide = i64::from(value as i32);
            put(bytes, &wide.to_le_bytes());
        }
        6 => {
            // Somewhere else's bytes: an entry of another table, another instruction.
            let from = value as usize % donor.len();
            let len = (value >> 24) as usize % 32;
            let donor = &donor[from..];
            let len = len.min(most).min(donor.len());
            bytes[..len].copy_from_slice(&donor[..len]);
        }
        _ => {
            if let Some(field) = bytes.first_chunk_mut::<4>() {
                *field = u32::from_le_bytes(*field).wrapping_add(value).to_le_bytes();
            }
        }
    }
}

fn put(bytes: &mut [u8], value: &[u8]) {
    for (byte, value) in bytes.iter_mut().zip(value) {
        *byte = *value;
    }
}

/// Resolves a function; what comes out as a plan has to be one that clients accept, and one that is
/// not the unchanged kernel's has to hold on more rulesets.
pub fn resolve_and_check(mut function: Function, kernel: &Kernel) {
    let original = kernel.original();
    // The resolver does not look at these, and many changes are of nothing that it looks at.
    function.release.clone_from(&original.function.release);
    function.build_id.clone_from(&original.function.build_id);
    if function == original.function {
        return;
    }
    let Ok(findings) = resolve::resolve(&function) else { return };
    let id = BuildId::from_bytes(&[7; 20]).expect("20 bytes");
    findings.plan(id).validate().unwrap_or_else(|error| panic!("{error}"));
    if original.findings.as_ref().is_none_or(|original| original.probes != findings.probes) {
        let checked = resolve::check::check(&function, &findings, 0x6675_7a7a, 20);
        checked.unwrap_or_else(|error| panic!("{}: a plan that is wrong: {error}", kernel.name));
    }
}
