//! How the kernel's own probes look in code on x86-64.

use nfdrop_db::Arch;

/// What plans call this architecture.
pub(crate) const ARCH: Arch = Arch::X86_64;
/// `int3`, which the kernel puts in place of the first byte of a probed instruction.
pub(super) const BREAKPOINT: u8 = 0xcc;
/// `jmp`, which takes the place of five bytes of an optimized probe.
pub(super) const JUMP: (u8, u32) = (0xe9, 5);
