use super::*;
use crate::arch::decode;

#[test]
fn general_registers_are_what_iced_says() {
    for register in Register::values() {
        let high = [Register::AH, Register::CH, Register::DH, Register::BH].contains(&register);
        let expected = register.is_gpr().then(|| {
            let full = register.full_register().number();
            match register.size() {
                8 => (full, GprPart::All),
                4 => (full, GprPart::Bits32),
                2 => (full, GprPart::Bits16),
                _ if high => (register as usize - Register::AH as usize, GprPart::High),
                _ => (full, GprPart::Bits8),
            }
        });
        assert_eq!(general(register), expected, "{register:?}");
    }
}

/// `native.rs` compares what is run with the processor; this is what must not be.
#[test]
fn what_is_not_modelled_is_refused() {
    let mut memory = Memory::default();
    memory.map(Address(0x1000), vec![0; 256], true);
    let refused: [(&str, &[u8]); 9] = [
        ("push of two bytes", &[0x66, 0x6a, 0x01]),
        ("leave of two bytes", &[0x66, 0xc9]),
        ("bit string in memory", &[0x0f, 0xa3, 0x08]),
        ("fs", &[0x64, 0x8b, 0x00]),
        ("popf", &[0x9d]),
        ("std", &[0xfd]),
        ("vector", &[0xf2, 0x0f, 0x10, 0xc1]),
        ("mov from cr0", &[0x0f, 0x20, 0xc0]),
        ("far return", &[0x48, 0xcb]),
    ];
    for (name, bytes) in refused {
        let i = decode(bytes, 0x40, 0).unwrap();
        let mut cpu = Cpu::new([0x1080; 16], 0x40);
        let result = cpu.step(&mut memory, &i);
        assert_eq!(result, Err(Trap::Unsupported(i.0.code())), "{name}");
        assert_eq!((cpu.rip, cpu.registers), (0x40, [0x1080; 16]), "{name}");
    }
}

#[test]
fn undefined_flags_are_not_read() {
    let mut memory = Memory::default();
    let mut cpu = Cpu::new([2; 16], 0);
    // shl eax, 3 leaves OF undefined: jo is refused, je is not.
    cpu.step(&mut memory, &decode(&[0xc1, 0xe0, 3], 0, 0).unwrap()).unwrap();
    let jo = decode(&[0x70, 0], 3, 0).unwrap();
    assert_eq!(cpu.step(&mut memory, &jo), Err(Trap::UndefinedFlag(jo.0.code())));
    let je = decode(&[0x74, 0], 3, 0).unwrap();
    assert_eq!(cpu.step(&mut memory, &je), Ok(Step::Branch(false)));
}
