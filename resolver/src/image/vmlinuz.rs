//! From the file a boot loader loads to the ELF object inside it. A bzImage is a setup header, code
//! that unpacks, and the payload: vmlinux, stripped of symbols but with its BTF and notes,
//! compressed with whatever the configuration said.
//!
//! Fields and offsets: Documentation/arch/x86/boot.rst, "The Real-Mode Kernel Header".

use super::{ImageError, compress, elf::is_elf};
use std::borrow::Cow;

/// First version of the boot protocol that says where the payload is.
const PAYLOAD_VERSION: u16 = 0x208;

/// Largest kernel image that is compressed once more, in bytes: three times a distribution's.
const MAX_IMAGE: usize = 48 << 20;

/// Whether these bytes are a bzImage: boot sector signature and header magic.
pub(super) fn is_bzimage(bytes: &[u8]) -> bool {
    bytes.get(0x1fe..0x200) == Some(b"\x55\xaa") && bytes.get(0x202..0x206) == Some(b"HdrS")
}

/// The ELF object in a kernel image: of a bzImage its payload, of an ELF object itself; either of
/// them may be compressed once more. At most `limit` bytes.
pub fn vmlinux(file: &[u8], limit: usize) -> Result<Cow<'_, [u8]>, ImageError> {
    match compress::decompress(file, limit)? {
        Cow::Borrowed(image) => unpack(image, limit),
        Cow::Owned(image) if is_elf(&image) => Ok(Cow::Owned(image)),
        // Both are in memory at once.
        Cow::Owned(image) if image.len() > MAX_IMAGE => Err(ImageError::Malformed(format!(
            "a kernel image has at most {MAX_IMAGE} bytes, found {}",
            image.len()
        ))),
        Cow::Owned(image) => Ok(Cow::Owned(unpack(&image, limit)?.into_owned())),
    }
}

fn unpack(image: &[u8], limit: usize) -> Result<Cow<'_, [u8]>, ImageError> {
    if is_elf(image) {
        return Ok(Cow::Borrowed(image));
    }
    if !is_bzimage(image) {
        return Err(other_image(image));
    }
    let payload = payload(image)?;
    // Behind all but gzip, which has it itself, the build puts the size of what is compressed.
    let (stream, size) = match payload.split_last_chunk::<4>() {
        Some((stream, size))
            if compress::Compression::of(payload) != compress::Compression::Gzip =>
        {
            (stream, u32::from_le_bytes(*size) as usize)
        }
        _ => (payload, 0),
    };
    let object = compress::decompress_sized(stream, limit, size)?;
    if size != 0 && object.len() != size && !matches!(object, Cow::Borrowed(_)) {
        return Err(ImageError::Malformed(format!(
            "the kernel image says its payload has {size} bytes, found {}",
            object.len()
        )));
    }
    if !is_elf(&object) {
        return Err(ImageError::Malformed(format!(
            "the payload of the kernel image should be an ELF object, it begins with {:02x?}",
            object.get(..4).unwrap_or(&object)
        )));
    }
    Ok(object)
}

fn payload(image: &[u8]) -> Result<&[u8], ImageError> {
    let cut = || ImageError::Malformed("the kernel image ends inside its setup header".into());
    let word = |at: usize| image.get(at..)?.first_chunk().map(|b| u32::from_le_bytes(*b) as usize);
    let version = image.get(0x206..).and_then(<[u8]>::first_chunk).ok_or_else(cut)?;
    let version = u16::from_le_bytes(*version);
    if version < PAYLOAD_VERSION {
        return Err(ImageError::Malformed(format!(
            "the kernel image should have boot protocol {PAYLOAD_VERSION:#x} or later, found \
             {version:#x}"
        )));
    }
    let sectors = match image.get(0x1f1).ok_or_else(cut)? {
        0 => 4,
        sectors => usize::from(*sectors),
    };
    let offset = word(0x248).ok_or_else(cut)?;
    let length = word(0x24c).ok_or_else(cut)?;
    let start = (sectors + 1) * 512 + offset;
    image.get(start..).and_then(|rest| rest.get(..length)).ok_or_else(|| {
        ImageError::Malformed(format!(
            "the kernel image has {} bytes, its payload should be {length} from {start:#x} on",
            image.len()
        ))
    })
}

/// What else people give, by name.
pub(super) fn other_image(bytes: &[u8]) -> ImageError {
    if let Some(machine) = machine(bytes) {
        return ImageError::UnsupportedArch(machine.into());
    }
    let what = match bytes {
        [] => "an empty file".to_owned(),
        _ if bytes.starts_with(b"\x89PNG") => "a PNG picture".to_owned(),
        _ if bytes.starts_with(b"!<arch>\n") => "an ar archive".to_owned(),
        _ if pe_machine(bytes).is_some() => {
            "an EFI program; if a kernel is inside it, give that".to_owned()
        }
        _ => format!("{} bytes that begin with {:02x?}", bytes.len(), &bytes[..bytes.len().min(8)]),
    };
    ImageError::Malformed(format!(
        "expected a kernel module, a kernel image or an extract, found {what}"
    ))
}

/// The machine a kernel image of another architecture is for.
fn machine(bytes: &[u8]) -> Option<&'static str> {
    // Documentation/arch/arm64/booting.rst, Documentation/arch/riscv/boot-image-header.rst and
    // arch/arm/boot/compressed/head.S.
    match (bytes.get(0x38..0x3c), bytes.get(0x24..0x28)) {
        (Some(b"ARM\x64"), _) => Some("arm64"),
        (Some(b"RSC\x05"), _) => Some("riscv"),
        (_, Some(b"\x18\x28\x6f\x01")) => Some("arm"),
        // IMAGE_FILE_MACHINE_…; x86 has no such images, so an EFI program for it is something else.
        _ => match pe_machine(bytes)? {
            0xaa64 => Some("arm64"),
            0x01c0 | 0x01c2 | 0x01c4 => Some("arm"),
            0x5064 => Some("riscv"),
            0x6264 => Some("loongarch"),
            _ if bytes.starts_with(b"MZ\0\0zimg") => Some("a machine that boots EFI zboot images"),
            _ => None,
        },
    }
}

/// The machine an EFI program is for, from the header that the first one says the place of.
fn pe_machine(bytes: &[u8]) -> Option<u16> {
    let header = bytes.strip_prefix(b"MZ").and(bytes.get(0x3c..))?.first_chunk()?;
    let header = bytes.get(u32::from_le_bytes(*header) as usize..)?;
    let (machine, _) = header.strip_prefix(b"PE\0\0")?.split_first_chunk()?;
    Some(u16::from_le_bytes(*machine))
}

#[cfg(test)]
pub(super) mod tests {
    use super::{
        super::compress::{CompressError, Compression, tests::compress},
        *,
    };
    use crate::image::ImageError;

    /// A bzImage with this payload.
    pub(in crate::image) fn bzimage(payload: &[u8]) -> Vec<u8> {
        let mut image = vec![0; 5 * 512];
        image[0x1fe..0x206].copy_from_slice(b"\x55\xaa\xeb\x66HdrS");
        image[0x206..0x208].copy_from_slice(&0x20fu16.to_le_bytes());
        image[0x248..0x24c].copy_from_slice(&16u32.to_le_bytes());
        image[0x24c..0x250].copy_from_slice(&(payload.len() as u32).to_le_bytes());
        image.extend([0x90; 16]);
        image.extend(payload);
        image.extend([0xcc; 64]);
        image
    }

    fn sized(stream: &[u8], size: usize) -> Vec<u8> {
        [stream, &(size as u32).to_le_bytes()].concat()
    }

    #[test]
    fn every_compression_of_the_payload() {
        let object = [&b"\x7fELF"[..], &[5; 5000]].concat();
        for with in [
            Compression::Xz,
            Compression::Zstd,
            Compression::Lz4Legacy,
            Compression::Bzip2,
            Compression::Lzma,
            Compression::Lzo,
        ] {
            let image = bzimage(&sized(&compress(&object, with), object.len()));
            assert!(vmlinux(&image, 1 << 20).unwrap() == object, "{with}");
            let error = vmlinux(&image, 5003).unwrap_err();
            assert!(
                matches!(error, ImageError::Compress(CompressError::TooLarge { .. })),
                "{with}"
            );
            let lying = bzimage(&sized(&compress(&object, with), object.len() + 1));
            assert!(matches!(vmlinux(&lying, 1 << 20), Err(ImageError::Malformed(_))), "{with}");
        }
        let image = bzimage(&compress(&object, Compression::Gzip));
        assert!(vmlinux(&image, 1 << 20).unwrap() == object);
        // The whole image compressed once more.
        assert!(vmlinux(&compress(&image, Compression::Gzip), 1 << 20).unwrap() == object);
        let image = bzimage(&sized(b"\x04\x22\x4d\x18", 0));
        let error = vmlinux(&image, 1 << 20).unwrap_err();
        assert_eq!(error, CompressError::Unsupported(Compression::Lz4Frame).into());
    }

    #[test]
    fn a_filtered_xz_payload() {
        // Kernels are built with `xz --check=crc32 --x86 --lzma2=…`.
        let object = [&b"\x7fELF"[..], &[0xe8, 1, 2, 0, 0].repeat(999)].concat();
        let mut options = liblzma::stream::LzmaOptions::new_preset(6).unwrap();
        options.dict_size(1 << 20);
        let mut filters = liblzma::stream::Filters::new();
        filters.x86().lzma2(&options);
        let check = liblzma::stream::Check::Crc32;
        let stream = liblzma::stream::Stream::new_stream_encoder(&filters, check).unwrap();
        let mut packed = Vec::new();
        let mut encoder = liblzma::read::XzEncoder::new_stream(&object[..], stream);
        std::io::Read::read_to_end(&mut encoder, &mut packed).unwrap();
        let image = bzimage(&sized(&packed, object.len()));
        assert!(vmlinux(&image, 1 << 20).unwrap() == object);
    }

    #[test]
    fn cuts_and_other_files_are_errors() {
        let object = [&b"\x7fELF"[..], &[5; 50]].concat();
        let image = bzimage(&sized(&compress(&object, Compression::Zstd), object.len()));
        let whole = image.len() - 64;
        assert!(vmlinux(&image[..whole], 1 << 20).is_ok());
        for end in 0..whole {
            assert!(vmlinux(&image[..end], 1 << 20).is_err(), "cut at {end}");
        }
        let mut old = image;
        old[0x206] = 7;
        assert!(vmlinux(&old, 1 << 20).unwrap_err().to_string().contains("0x207"));
        let text = |bytes: &[u8]| vmlinux(bytes, 1 << 20).unwrap_err().to_string();
        assert!(text(b"").contains("an empty file"));
        assert!(text(b"\x89PNG\r\n\x1a\n").contains("a PNG picture"));
    }

    #[test]
    fn images_for_other_machines_are_named() {
        // Of an EFI zboot image, with its PE header at 0x40.
        let zboot = |machine: u16| {
            let mut image = b"MZ\0\0zimg".to_vec();
            image.resize(0x3c, 0);
            image.extend(0x40_u32.to_le_bytes());
            [&image[..], b"PE\0\0", &machine.to_le_bytes()].concat()
        };
        let at = |offset: usize, magic: &[u8]| [&vec![0; offset][..], magic, &[0; 64]].concat();
        for (image, name) in [
            (at(0x38, b"ARM\x64"), "arm64"),
            (at(0x38, b"RSC\x05"), "riscv"),
            (at(0x24, b"\x18\x28\x6f\x01"), "arm"),
            (zboot(0xaa64), "arm64"),
            (zboot(0x6264), "loongarch"),
            (zboot(0x5064), "riscv"),
            (zboot(0x1234), "a machine that boots EFI zboot images"),
        ] {
            let expected = ImageError::UnsupportedArch(name.into());
            assert_eq!(vmlinux(&image, 1 << 20).unwrap_err(), expected);
            let packed = compress(&image, Compression::Gzip);
            assert_eq!(vmlinux(&packed, 1 << 20).unwrap_err(), expected);
        }
        let mut stub = zboot(0x8664);
        stub[4..8].fill(0);
        let error = vmlinux(&stub, 1 << 20).unwrap_err();
        assert!(error.to_string().contains("an EFI program"), "{error}");
        stub.truncate(0x44);
        let error = vmlinux(&stub, 1 << 20).unwrap_err();
        assert!(error.to_string().contains("bytes that begin with"), "{error}");
    }
}
