//! What machine code says about places outside itself. Assemblers and linkers fill in fields whose
//! target they know (a call to a neighbour in the same section, everything in vmlinux) and leave no
//! relocation; decoding the code brings those back.

use iced_x86::{Decoder, DecoderOptions, FlowControl, Instruction, Mnemonic, OpKind, Register};

/// An instruction, as far as references go.
pub(crate) struct Decoded {
    /// From the start of the code.
    pub(crate) offset: u32,
    /// In bytes.
    pub(crate) len: u32,
    /// At most a branch target or memory operand, and an immediate.
    pub(crate) fields: Vec<Field>,
}

/// A field of an instruction that holds a place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Field {
    /// From the start of the code.
    pub(crate) offset: u32,
    /// What it means.
    pub(crate) value: Value,
}

/// What a field holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Value {
    /// A 4-byte branch distance; the target.
    Branch(u64),
    /// A 4-byte distance of a RIP-relative operand; the address.
    Relative(u64),
    /// 4 sign-extended bytes, a displacement or an immediate.
    Signed(u64),
    /// 8 bytes.
    Wide(u64),
}

/// Decodes code from its first byte to its last, as if it were at `address`. Bytes that are no
/// instruction are passed over one by one.
pub(crate) fn decode(code: &[u8], address: u64) -> impl Iterator<Item = Decoded> {
    let mut decoder = Decoder::with_ip(64, code, address, DecoderOptions::NONE);
    std::iter::from_fn(move || {
        if !decoder.can_decode() {
            return None;
        }
        let start = decoder.position();
        let instruction = decoder.decode();
        let len = instruction.len().max(1);
        if instruction.is_invalid() {
            let _ = decoder.set_position(start + 1);
            decoder.set_ip(address.wrapping_add(start as u64 + 1));
            return Some(Decoded { offset: start as u32, len: 1, fields: Vec::new() });
        }
        let encoded = &code[start..start + len];
        let mut fields = Vec::new();
        if let Some(field) = branch(&instruction, encoded, start as u32) {
            fields.push(field);
        } else {
            operands(&decoder, &instruction, start as u32, &mut fields);
        }
        Some(Decoded { offset: start as u32, len: len as u32, fields })
    })
}

/// Bytes of the instruction that begins `code`; 1 where it is none.
pub(crate) fn instruction_len(code: &[u8]) -> u32 {
    let instruction = Decoder::new(64, code, DecoderOptions::NONE).decode();
    if instruction.is_invalid() { 1 } else { instruction.len().max(1) as u32 }
}

/// Bytes of a function without the padding that may follow it: `nop`s and `int3`s. Where the
/// compiler puts an `int3` behind every return (`CONFIG_SLS`), the last one's is not padding.
pub(crate) fn unpadded_len(code: &[u8]) -> usize {
    let mut decoder = Decoder::new(64, code, DecoderOptions::NONE);
    let mut end = 0;
    let mut last_returns = false;
    // Whether returns in front of the last are followed by an `int3`.
    let mut trapped = false;
    while decoder.can_decode() {
        let start = decoder.position();
        let instruction = decoder.decode();
        if matches!(instruction.mnemonic(), Mnemonic::Nop | Mnemonic::Int3) {
            continue;
        }
        trapped |= last_returns && code.get(end) == Some(&INT3);
        if instruction.is_invalid() {
            let _ = decoder.set_position(start + 1);
        }
        end = decoder.position();
        let flow = instruction.flow_control();
        last_returns = matches!(flow, FlowControl::Return | FlowControl::UnconditionalBranch);
    }
    if trapped && last_returns && code.get(end) == Some(&INT3) { end + 1 } else { end }
}

const INT3: u8 = 0xcc;

fn branch(instruction: &Instruction, encoded: &[u8], start: u32) -> Option<Field> {
    if instruction.op_count() != 1 || instruction.op0_kind() != OpKind::NearBranch64 {
        return None;
    }
    let target = instruction.near_branch64();
    // Near branches end with their distance; those of one byte cannot be relocated to another part.
    let (_, distance) = encoded.split_last_chunk::<4>()?;
    let near = instruction.next_ip().wrapping_add_signed(i64::from(i32::from_le_bytes(*distance)));
    (encoded.len() >= 5 && near == target)
        .then(|| Field { offset: start + encoded.len() as u32 - 4, value: Value::Branch(target) })
}

fn operands(decoder: &Decoder<'_>, instruction: &Instruction, start: u32, out: &mut Vec<Field>) {
    let constants = decoder.get_constant_offsets(instruction);
    if constants.has_displacement() && constants.displacement_size() == 4 {
        let offset = start + constants.displacement_offset() as u32;
        let address = instruction.memory_displacement64();
        let value = match instruction.memory_base() {
            Register::RIP => Value::Relative(address),
            _ => Value::Signed(i64::from(address as i32) as u64),
        };
        out.push(Field { offset, value });
    }
    if constants.has_immediate() {
        let offset = start + constants.immediate_offset() as u32;
        let signed = (0..instruction.op_count())
            .find(|&operand| instruction.op_kind(operand) == OpKind::Immediate32to64);
        let wide = (0..instruction.op_count())
            .find(|&operand| instruction.op_kind(operand) == OpKind::Immediate64);
        match (signed, wide, constants.immediate_size()) {
            (Some(operand), _, 4) => {
                out.push(Field { offset, value: Value::Signed(instruction.immediate(operand)) });
            }
            (_, Some(operand), 8) => {
                out.push(Field { offset, value: Value::Wide(instruction.immediate(operand)) });
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(code: &[u8], address: u64) -> Vec<(u32, Value)> {
        decode(code, address)
            .flat_map(|decoded| decoded.fields)
            .map(|field| (field.offset, field.value))
            .collect()
    }

    #[test]
    fn finds_branches_and_operands() {
        // call +0x10; je -0x20; jmp short; mov rax,[rip+0x100]; cmp rax,-0x10; movabs rax,…
        let code = [
            &[0xe8, 0x10, 0, 0, 0][..],
            &[0x0f, 0x84, 0xe0, 0xff, 0xff, 0xff],
            &[0xeb, 0x00],
            &[0x48, 0x8b, 0x05, 0x00, 0x01, 0, 0],
            &[0x48, 0x3d, 0xf0, 0xff, 0xff, 0xff],
            &[0x48, 0xb8, 1, 2, 3, 4, 5, 6, 7, 8],
        ]
        .concat();
        assert_eq!(
            fields(&code, 0x1000),
            [
                (1, Value::Branch(0x1015)),
                (7, Value::Branch(0x0feb)),
                (16, Value::Relative(0x1114)),
                (22, Value::Signed(0xffff_ffff_ffff_fff0)),
                (28, Value::Wide(0x0807_0605_0403_0201)),
            ]
        );
    }

    #[test]
    fn padding_is_not_code() {
        // ret; then a nop, int3
        let padded = |code: &[u8], len| assert_eq!(unpadded_len(code), len, "{code:02x?}");
        padded(&[0xc3, 0x0f, 0x1f, 0x40, 0, 0xcc], 1);
        padded(&[0xc3, 0xcc, 0xcc], 1);
        // Where one return is followed by an int3, the last one is as well.
        padded(&[0xc3, 0xcc, 0x90, 0xc3, 0xcc, 0xcc], 5);
        padded(&[0xc3, 0xcc, 0x90, 0xc3, 0x90, 0xcc], 4);
        // ud2 does not return; 06 is no instruction.
        padded(&[0xc3, 0xcc, 0x0f, 0x0b, 0xcc], 4);
        padded(&[0xc3, 0x06, 0xcc], 2);
        padded(&[0x90, 0xcc], 0);
        padded(&[], 0);
    }

    #[test]
    fn goes_on_behind_bytes_that_are_no_instruction() {
        // 06 is none in 64-bit mode.
        assert_eq!(fields(&[0x06, 0x06, 0xe8, 0, 0, 0, 0], 0), [(3, Value::Branch(7))]);
        assert_eq!(fields(&[0xe8, 0, 0], 0), []);
        assert_eq!(instruction_len(&[0x0f, 0x1f, 0x44, 0, 0]), 5);
        assert_eq!(instruction_len(&[0x06]), 1);
    }
}
