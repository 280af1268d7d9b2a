//! `can_boost` of arch/x86/kernel/kprobes/core.c: which instructions may be run out of place and be
//! followed by a jump back. The kernel looks at opcodes, so this does too.

/// Whether an instruction is boostable, but for the exception table. `groups`: whether opcode groups
/// 2 to 5 may be, which is so from 6.9 on; before, indirect jumps were of them.
pub(super) fn can_boost(bytes: &[u8], groups: bool) -> bool {
    let mut unboostable_prefix = false;
    let mut rest = bytes;
    while let [first, tail @ ..] = rest {
        match first {
            // CS override and address size. 5.10.13 and before did not look for them.
            0x2e | 0x67 => unboostable_prefix = true,
            0x26 | 0x36 | 0x3e | 0x64..=0x66 | 0xf0 | 0xf2 | 0xf3 | 0x40..=0x4f => {}
            _ => break,
        }
        rest = tail;
    }
    let (opcode, tail) = match rest {
        // Three-byte opcodes.
        [0x0f, 0x38 | 0x3a, ..] => return false,
        // Prefixes do not matter here.
        [0x0f, second, ..] => {
            return TWO_BYTE_BOOSTABLE[usize::from(second >> 4)] >> (second & 15) & 1 != 0;
        }
        // Of VEX and EVEX the decoder tells one opcode byte, whatever map it is in (lib/insn.c).
        [0xc5, _, opcode, tail @ ..]
        | [0xc4, _, _, opcode, tail @ ..]
        | [0x62, _, _, _, opcode, tail @ ..] => (opcode, tail),
        [0x0f | 0xc4 | 0xc5 | 0x62, ..] | [] => return false,
        [opcode, tail @ ..] => (opcode, tail),
    };
    let modrm = tail.first().copied().unwrap_or_default();
    !unboostable_prefix && one_byte(*opcode, modrm >> 3 & 7, groups)
}

/// `reg`: of the `ModRM` byte.
fn one_byte(opcode: u8, reg: u8, groups: bool) -> bool {
    match opcode {
        // Group 2: SHL with /6 is AMD's only.
        0xc0 | 0xc1 | 0xd0..=0xd3 => groups && reg != 6,
        // Group 3: TEST with /1 is AMD's only.
        0xf6 | 0xf7 => groups && reg != 1,
        // Group 4: INC, DEC.
        0xfe => groups && reg < 2,
        // Group 5: INC, DEC, JMP. 5.10.13 and before did not boost JMP.
        0xff => groups && matches!(reg, 0 | 1 | 4),
        // bound, conditional jumps, far call, breakpoints, (UD), x87, loops, call, jumps, prefixes
        // and hlt.
        0x62
        | 0x70..=0x7f
        | 0x9a
        | 0xcc..=0xce
        | 0xd6
        | 0xd8..=0xdf
        | 0xe0..=0xe3
        | 0xe8
        | 0xe9
        | 0xeb
        | 0xf0..=0xf4 => false,
        _ => true,
    }
}

/// `twobyte_is_boostable`, the same in 4.19 and 7.3.4: bit n of row r is opcode `0f rn`.
const TWO_BYTE_BOOSTABLE: [u16; 16] = [
    0x034c, 0x8000, 0x000f, 0x0002, 0xffff, 0x0000, 0xcfff, 0xc0f0, // 00 to 70
    0x0000, 0xffff, 0xbb3b, 0xf8ff, 0xff03, 0xbb2e, 0xbb26, 0x772e, // 80 to f0
];

#[cfg(test)]
mod tests {
    use super::*;
    use iced_x86::{Decoder, DecoderOptions};

    #[test]
    fn instructions_are_boosted_as_in_can_boost() {
        // Bytes, up to 6.8, and from 6.9 on (6.8's and 6.12.117's core.c).
        for (bytes, before, since) in [
            // mov rsi, [rbp]; mov rdi, [r13]; lea; pop r15; push rbp; xor edx, edx; sub; nop
            (&[0x48, 0x8b, 0x75, 0x00][..], true, true),
            (&[0x49, 0x8b, 0x7d, 0x00], true, true),
            (&[0x48, 0x8d, 0x6c, 0x24, 0x48], true, true),
            (&[0x41, 0x5f], true, true),
            (&[0x55], true, true),
            (&[0x31, 0xd2], true, true),
            (&[0x48, 0x81, 0xec, 0x20, 0x02, 0x00, 0x00], true, true),
            (&[0x90], true, true),
            // ret; leave
            (&[0xc3], true, true),
            (&[0xc9], true, true),
            // je; jmp short and near; call; int3; hlt
            (&[0x74, 0x02], false, false),
            (&[0xeb, 0x02], false, false),
            (&[0xe9, 0, 0, 0, 0], false, false),
            (&[0xe8, 0, 0, 0, 0], false, false),
            (&[0xcc], false, false),
            (&[0xf4], false, false),
            // test dl, 0xfc (group 3); not; shr (group 2); inc dword (group 5); dec al (group 4)
            (&[0xf6, 0xc2, 0xfc], false, true),
            (&[0x48, 0xf7, 0xd0], false, true),
            (&[0xc1, 0xe8, 0x03], false, true),
            (&[0xff, 0xc0], false, true),
            (&[0xfe, 0xc8], false, true),
            // call rax; jmp rax; push [rax]
            (&[0xff, 0xd0], false, false),
            (&[0xff, 0xe0], false, true),
            (&[0xff, 0x30], false, false),
            // movzx; setne; cmovne; nop [rax]; je near; ud2; cpuid; bswap
            (&[0x0f, 0xb6, 0xc0], true, true),
            (&[0x0f, 0x95, 0xc0], true, true),
            (&[0x48, 0x0f, 0x45, 0xc1], true, true),
            (&[0x0f, 0x1f, 0x00], true, true),
            (&[0x0f, 0x84, 0, 0, 0, 0], false, false),
            (&[0x0f, 0x0b], false, false),
            (&[0x0f, 0xa2], false, false),
            (&[0x0f, 0xc8], true, true),
            // movbe (three bytes); nopw cs:[rax+rax]; mov with CS and address-size prefixes
            (&[0x0f, 0x38, 0xf0, 0x00], false, false),
            (&[0x66, 0x2e, 0x0f, 0x1f, 0x84, 0, 0, 0, 0, 0], true, true),
            (&[0x2e, 0x8b, 0x00], false, false),
            (&[0x67, 0x8b, 0x00], false, false),
            // mov with GS; lock inc; rep stosq
            (&[0x65, 0x48, 0x8b, 0x04, 0x25, 0x28, 0, 0, 0], true, true),
            (&[0xf0, 0xff, 0x00], false, true),
            (&[0xf3, 0x48, 0xab], true, true),
            // andn: opcode f2; shlx, bextr: f7; vzeroupper: 77; vmovups: 10, all VEX
            (&[0xc4, 0xe2, 0x78, 0xf2, 0xc1], false, false),
            (&[0xc4, 0xe2, 0x79, 0xf7, 0xc1], false, true),
            (&[0xc4, 0xe2, 0x70, 0xf7, 0xc1], false, true),
            (&[0xc5, 0xf8, 0x77], false, false),
            (&[0xc5, 0xf8, 0x10, 0x00], true, true),
            // vmovups with EVEX
            (&[0x62, 0xf1, 0x7c, 0x48, 0x10, 0x00], true, true),
        ] {
            let mut decoder = Decoder::new(64, bytes, DecoderOptions::NONE);
            let instruction = decoder.decode();
            assert_eq!(instruction.len(), bytes.len(), "{instruction} is not {bytes:02x?}");
            let found = [false, true].map(|groups| can_boost(bytes, groups));
            assert_eq!(found, [before, since], "{instruction}");
        }
    }

    #[test]
    fn what_is_no_instruction_is_not_boosted() {
        for bytes in [&[][..], &[0x66], &[0x0f], &[0x2e, 0x67], &[0x48], &[0xc5, 0xf8], &[0x62]] {
            assert!(!can_boost(bytes, true), "{bytes:02x?}");
        }
    }
}
