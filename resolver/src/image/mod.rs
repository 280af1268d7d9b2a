//! Kernel images and modules: from bytes to the [`Function`] the resolver runs.
//!
//! ```text
//! vmlinuz, .ko.xz, …  → compress, vmlinuz → ELF object → elf → parts, tables, identity → Function
//!                                            .BTF       → btf → fields                ↗
//! extract (JSON)      → extract                                                      → Function
//! ```
//!
//! Pure: bytes in, value out. Everything in here is read from files that anybody may have made.

pub mod btf;
pub mod compress;
mod elf;
mod error;
pub mod extract;
pub mod function;
mod identity;
mod kallsyms;
mod parts;
mod tables;
#[cfg(test)]
mod tests;
pub mod vmlinuz;

pub use error::ImageError;
pub use function::Function;

use crate::resolve::layout;
use elf::Elf;
use function::{Fields, ObjectKind};
use nfdrop_db::BuildId;
use parts::Parts;
use sha2::{Digest, Sha256};

/// Largest module and BTF of vmlinux, in bytes: several times what kernels with debugging have. A
/// module, vmlinux and its BTF may all be in memory at once.
const MAX_MODULE: usize = 64 << 20;
const MAX_BTF: usize = 64 << 20;

fn at_most(what: &str, found: usize, limit: usize) -> Result<(), ImageError> {
    if found > limit {
        let text = format!("{what} has at most {limit} bytes, found {found}");
        return Err(ImageError::Malformed(text));
    }
    Ok(())
}

/// What a module needs to know of the vmlinux it belongs to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VmlinuxInfo {
    /// Content of its `.BTF` section.
    pub btf: Vec<u8>,
    /// Of vmlinux.
    pub build_id: Option<BuildId>,
    /// What `uname -r` prints.
    pub release: Option<String>,
}

/// The function in a file: `nf_tables.ko`, vmlinux or vmlinuz of a kernel that has nf_tables built in,
/// each plain or compressed, or an extract.
///
/// `vmlinux` is where a module's fields come from: vmlinux or vmlinuz, plain or compressed, or the
/// BTF of [`vmlinux_btf`]. Without it a module has the fields that it tells by itself, mostly none.
/// It must be of the module's release where both tell theirs.
pub fn load(file: &[u8], vmlinux: Option<&[u8]>) -> Result<Function, ImageError> {
    if extract::is_json(file) {
        return Ok(extract::from_json(file)?);
    }
    let object = vmlinuz::vmlinux(file, compress::MAX_BYTES)?;
    let mut elf = Elf::parse(&object)?;
    if elf.kind == ObjectKind::Module {
        at_most("a module", object.len(), MAX_MODULE)?;
    }
    if elf.kind == ObjectKind::Vmlinux && !elf.has_symbols() {
        elf.read_kallsyms().map_err(|missing| {
            ImageError::NoSymbol(format!("{missing}; give the vmlinux it was stripped from"))
        })?;
    }
    let mut function = from_elf(&elf)?;
    let section = |name| elf.section(name).map(|(_, s)| s.bytes).filter(|bytes| !bytes.is_empty());
    let own = section(".BTF");
    let fields = |vmlinux| btf::module_fields(vmlinux, section(".BTF.base"), own, layout::WANTED);
    function.fields = match (elf.kind, vmlinux) {
        (ObjectKind::Vmlinux, _) => btf::fields(own, None, layout::WANTED)?,
        (ObjectKind::Module, None) => fields(None)?,
        (ObjectKind::Module, Some(btf)) if btf::is_btf(btf) => fields(Some(btf))?,
        (ObjectKind::Module, Some(vmlinux)) => {
            let vmlinux = vmlinux_btf(vmlinux)?;
            if let (Some(module), Some(vmlinux)) = (&function.release, vmlinux.release)
                && *module != vmlinux
            {
                return Err(ImageError::OtherRelease { module: module.clone(), vmlinux });
            }
            fields(Some(vmlinux.btf.as_slice()).filter(|btf| !btf.is_empty()))?
        }
    };
    function.check().map_err(ImageError::Malformed)?;
    Ok(function)
}

/// The function in an ELF object, without fields of structures.
fn from_elf(elf: &Elf<'_>) -> Result<Function, ImageError> {
    let mut parts = Parts::collect(elf)?;
    let patches = tables::read(elf, &mut parts)?;
    Ok(Function {
        release: identity::release(elf),
        preemption: identity::preemption(elf),
        build_id: identity::build_id(elf),
        object: elf.kind,
        parts: parts.finish()?,
        jump_labels: Some(patches.jump_labels),
        keep_off: patches.keep_off,
        bugs: patches.bugs,
        has_exception_entries: patches.has_exception_entries,
        fields: Fields::new(),
    })
}

/// BTF (empty if there is none) and identity of a vmlinux or vmlinuz, plain or compressed: once per
/// kernel, for [`load`]ing its modules.
pub fn vmlinux_btf(file: &[u8]) -> Result<VmlinuxInfo, ImageError> {
    let object = vmlinuz::vmlinux(file, compress::MAX_BYTES)?;
    let elf = Elf::parse(&object)?;
    if elf.kind != ObjectKind::Vmlinux {
        return Err(ImageError::Malformed("expected a vmlinux, found a module".into()));
    }
    let btf = elf.section(".BTF").map_or(&[][..], |(_, section)| section.bytes);
    at_most("the BTF of vmlinux", btf.len(), MAX_BTF)?;
    Ok(VmlinuxInfo {
        btf: btf.to_vec(),
        build_id: identity::build_id(&elf),
        release: identity::release(&elf),
    })
}

/// The build-id of an object, also of one that has no function: plain or compressed, a vmlinuz too.
/// `None` where it has none or cannot be read.
pub fn build_id(file: &[u8]) -> Option<BuildId> {
    if extract::is_json(file) {
        return extract::from_json(file).ok()?.build_id;
    }
    let object = vmlinuz::vmlinux(file, compress::MAX_BYTES).ok()?;
    identity::build_id(&Elf::parse(&object).ok()?)
}

/// SHA-256 of the function's bytes with relocated fields zeroed: the same for builds that differ
/// in nothing but where things are.
pub fn body_sha256(function: &Function) -> [u8; 32] {
    let Some(part) = function.parts.first() else { return Sha256::digest([]).into() };
    let mut bytes = part.bytes.clone();
    for relocation in &part.relocations {
        let start = relocation.offset as usize;
        if let Some(field) = bytes.get_mut(start..start + relocation.kind.size() as usize) {
            field.fill(0);
        }
    }
    Sha256::digest(&bytes).into()
}
