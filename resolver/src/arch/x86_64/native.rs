//! The interpreter against the processor. Random instructions are run by both, from the same
//! registers, flags and memory, and have to leave the same behind: registers, memory, and every flag
//! that the interpreter calls defined.
//!
//! Instructions are random bytes around the opcodes that compiled code uses, kept if the interpreter
//! runs them; so what it runs although it should not is found too. They run in a small C program,
//! since this crate has no unsafe code. `NFDROP_NATIVE_SEQUENCES` sets how many, `NFDROP_NATIVE_SEED`
//! with what.

#![cfg(all(target_arch = "x86_64", target_os = "linux"))]

use super::{
    Cpu, Instruction, Step, Trap, decode,
    flags::{CF, OF, PF, SF, ZF},
};
use crate::resolve::{
    memory::{Address, Memory},
    random::Random,
};
use iced_x86::{CpuidFeature, FlowControl, Register};
use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::process::{Command, Stdio};

/// Page that holds registers, flags and memory; below 2 GiB, so that absolute addresses reach it.
const STATE: u64 = 0x1000_0000;
const STATE_SIZE: usize = 4096;
/// In it: 16 registers, then these, then memory.
const FLAGS: usize = 128;
const HOST_RSP: usize = 136;
const MEMORY: usize = 1024;
/// Code lies here.
const CODE: u64 = 0x2000_0000;
/// Instructions of a sequence at most.
const LENGTH: u64 = 8;

const HELPER: &str = r"
#define _GNU_SOURCE
#include <stdint.h>
#include <stdio.h>
#include <sys/mman.h>
int main(void) {
    int prot = PROT_READ | PROT_WRITE, flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE;
    void *state = mmap((void *)0x10000000, 4096, prot, flags, -1, 0);
    void *code = mmap((void *)0x20000000, 4096, prot | PROT_EXEC, flags, -1, 0);
    if (state != (void *)0x10000000 || code != (void *)0x20000000) return 1;
    uint32_t len;
    while (fread(&len, sizeof len, 1, stdin) == 1) {
        if (len > 4096 || fread(code, len, 1, stdin) != 1) return 2;
        if (fread(state, 4096, 1, stdin) != 1) return 3;
        __builtin___clear_cache(code, (char *)code + 4096);
        ((void (*)(void))code)();
        if (fwrite(state, 4096, 1, stdout) != 1) return 4;
        fflush(stdout);
    }
    return 0;
}
";

/// A sequence with what the interpreter makes of it.
struct Case {
    instructions: Vec<Instruction>,
    code: Vec<u8>,
    before: Vec<u8>,
    after: Cpu,
    memory: Memory,
}

const FLAG_BITS: [(u8, u32, &str); 5] =
    [(CF, 0, "CF"), (PF, 2, "PF"), (ZF, 6, "ZF"), (SF, 7, "SF"), (OF, 11, "OF")];

/// `opcode reg, [place in the state page]` or the other way round.
fn absolute(opcode: u8, register: u8, place: usize) -> Vec<u8> {
    let mut bytes = vec![0x48 | register >> 3 << 2, opcode, 0x04 | (register & 7) << 3, 0x25];
    bytes.extend_from_slice(&(STATE as u32 + place as u32).to_le_bytes());
    bytes
}

/// Saves what the C program needs, then loads flags and registers from the state page.
fn prologue() -> Vec<u8> {
    let mut code = vec![0x53, 0x55, 0x41, 0x54, 0x41, 0x55, 0x41, 0x56, 0x41, 0x57];
    code.extend(absolute(0x89, 4, HOST_RSP));
    code.extend(&absolute(0xff, 6, FLAGS)[1..]);
    code.push(0x9d);
    for register in 0..16 {
        code.extend(absolute(0x8b, register, 8 * usize::from(register)));
    }
    code
}

/// The way back; no instruction before `pushfq` touches the flags.
fn epilogue() -> Vec<u8> {
    let mut code = Vec::new();
    for register in 0..16 {
        code.extend(absolute(0x89, register, 8 * usize::from(register)));
    }
    code.extend(absolute(0x8b, 4, HOST_RSP));
    code.push(0x9c);
    code.extend(&absolute(0x8f, 0, FLAGS)[1..]);
    code.extend([0x41, 0x5f, 0x41, 0x5e, 0x41, 0x5d, 0x41, 0x5c, 0x5d, 0x5b, 0xc3]);
    code
}

/// An immediate or register of the kind that finds mistakes: small, at a sign's edge, or anything.
fn value(random: &mut Random) -> u64 {
    match random.below(8) {
        0 => random.below(70),
        1 => 0_u64.wrapping_sub(random.below(70)),
        2 => 1 << random.below(64),
        3 => (1_u64 << random.below(64)).wrapping_sub(1),
        4..=5 => STATE + 2048 + random.below(64),
        _ => random.bits(),
    }
}

/// Bytes that are often an instruction.
fn bytes(random: &mut Random) -> Vec<u8> {
    let one: [&[u8]; 15] = [
        &[0x00, 0x01, 0x02, 0x03, 0x04, 0x05, 0x08, 0x0b, 0x10, 0x11, 0x12, 0x13, 0x14, 0x15],
        &[0x18, 0x19, 0x1a, 0x1b, 0x1c, 0x1d, 0x20, 0x21, 0x22, 0x23, 0x28, 0x29, 0x2a, 0x2b],
        &[0x30, 0x31, 0x32, 0x33, 0x38, 0x39, 0x3a, 0x3b, 0x3c, 0x3d, 0xa8, 0xa9],
        &[0x50, 0x51, 0x54, 0x57, 0x58, 0x59, 0x5c, 0x5f, 0x68, 0x6a, 0x8f, 0xc9],
        &[0x63, 0x69, 0x6b, 0x88, 0x89, 0x8a, 0x8b, 0x8d, 0x98, 0x99],
        &[0x80, 0x81, 0x83],
        &[0x84, 0x85, 0x86, 0x87, 0x90, 0x91, 0x93, 0x97],
        &[0xa4, 0xa5, 0xaa, 0xab],
        &[0xb0, 0xb4, 0xb7, 0xb8, 0xbf, 0xc6, 0xc7],
        &[0xc0, 0xc1],
        &[0xd0, 0xd1, 0xd2, 0xd3],
        &[0xf6, 0xf7],
        &[0xfe, 0xff],
        &[0xc0, 0xc1, 0xd1, 0xd3],
        &[0xf5, 0xf8, 0xf9],
    ];
    let two = [
        0x1f, 0x18, 0x40, 0x42, 0x43, 0x44, 0x46, 0x48, 0x4a, 0x4c, 0x4f, 0x90, 0x92, 0x95, 0x97,
        0x98, 0x9b, 0x9d, 0x9e, 0xa3, 0xab, 0xb3, 0xbb, 0xba, 0xba, 0xaf, 0xaf, 0xb6, 0xb7, 0xbe,
        0xbf, 0xbc, 0xbd, 0xb8, 0xb1, 0xb0, 0xc1, 0xc0, 0xc3, 0xc8, 0xca, 0xcf, 0xa4, 0xa5, 0xac,
        0xad,
    ];
    let mut code = Vec::new();
    let vex = random.one_in(12);
    if !vex {
        for (prefix, n) in [(0x66, 5), (0xf3, 20), (0xf2, 60), (0x67, 20), (0x3e, 40), (0xf0, 60)] {
            if random.one_in(n) {
                code.push(prefix);
            }
        }
        if random.one_in(2) {
            code.push(0x40 | random.below(16) as u8);
        }
    }
    if vex {
        let opcodes = [(2, 0xf2), (2, 0xf3), (2, 0xf7), (2, 0xf7), (3, 0xf0), (2, 0xf5), (2, 0xf6)];
        let (map, opcode) = *random.pick(&opcodes);
        let r_x_b = random.below(8) as u8;
        let w_vvvv_pp = random.bits() as u8 & !4;
        code.extend([0xc4, r_x_b << 5 | map, w_vvvv_pp, opcode]);
    } else if random.one_in(60) {
        code.extend([0x0f, 0x38, *random.pick(&[0xf0, 0xf1])]);
    } else if random.one_in(20) {
        // The prefix belongs to the opcode: popcnt, tzcnt, lzcnt.
        code = vec![0xf3, 0x48, 0x0f, *random.pick(&[0xb8, 0xbc, 0xbd])];
    } else if random.one_in(3) {
        code.extend([0x0f, *random.pick(&two)]);
    } else {
        let row = *random.pick(&one);
        code.push(*random.pick(row));
    }
    // ModRM: registers, or a base with 8 bits of displacement, with and without an index.
    let modrm = random.bits() as u8 & 0x3f;
    code.push(modrm | if random.one_in(3) { 0x40 } else { 0xc0 });
    code.extend(value(random).to_le_bytes());
    code
}

fn cpu_has(feature: &str) -> bool {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let flags = info.lines().find(|line| line.starts_with("flags")).unwrap_or_default();
    flags.split_whitespace().any(|flag| flag == feature)
}

/// A random sequence that the interpreter runs.
fn case(random: &mut Random, missing: &[CpuidFeature]) -> Case {
    let mut before = random.bytes(STATE_SIZE);
    let mut cpu = Cpu::new(std::array::from_fn(|_| value(random)), 0);
    cpu.registers[4] = STATE + 3072 + 8 * random.below(32);
    let mut native_flags = 2_u64 | random.below(2) << 4;
    for (flag, bit, _) in FLAG_BITS {
        let set = random.one_in(2);
        cpu.flags.set(flag, set);
        native_flags |= u64::from(set) << bit;
    }
    for (number, register) in cpu.registers.iter().enumerate() {
        before[8 * number..][..8].copy_from_slice(&register.to_le_bytes());
    }
    before[FLAGS..FLAGS + 8].copy_from_slice(&native_flags.to_le_bytes());
    let mut memory = Memory::default();
    memory.map(Address(STATE + MEMORY as u64), before[MEMORY..].to_vec(), true);

    let mut code = prologue();
    let mut instructions = Vec::new();
    let wanted = 1 + random.below(LENGTH);
    while (instructions.len() as u64) < wanted {
        let start = code.len();
        let mut bytes = code.clone();
        bytes.extend(self::bytes(random));
        let Some(i) = decode(&bytes, CODE, start) else { continue };
        let missing = i.0.cpuid_features().iter().any(|feature| missing.contains(feature));
        // Control flow would leave the sequence, and the address of the code is not the kernel's.
        let leaves = i.0.flow_control() != FlowControl::Next
            || i.0.is_ip_rel_memory_operand()
            || matches!(i.0.segment_prefix(), Register::FS | Register::GS);
        if missing || leaves {
            continue;
        }
        let (mut next, mut next_memory) = (cpu.clone(), memory.clone());
        next.rip = i.address();
        match next.step(&mut next_memory, &i) {
            Ok(Step::Next) => {
                assert_eq!(next.rip, i.next_address(), "{i}");
                (cpu, memory) = (next, next_memory);
                bytes.truncate(start + i.len());
                code = bytes;
                instructions.push(i);
            }
            Ok(step) => panic!("{i}: {step:?}"),
            Err(Trap::Unsupported(_) | Trap::UndefinedFlag(_) | Trap::Memory(_)) => {}
        }
    }
    code.extend(epilogue());
    Case { instructions, code, before, after: cpu, memory }
}

fn word(page: &[u8], place: usize) -> u64 {
    u64::from_le_bytes(page[place..place + 8].try_into().expect("8 bytes"))
}

/// What the processor left behind differs from what the interpreter did.
fn difference(case: &Case, page: &[u8]) -> Option<String> {
    let registers = case.after.registers.iter().enumerate();
    for (number, &register) in registers {
        let native = word(page, 8 * number);
        if native != register {
            return Some(format!(
                "register {number}: {register:#x}, the processor has {native:#x}"
            ));
        }
    }
    for (flag, bit, name) in FLAG_BITS {
        let native = word(page, FLAGS) >> bit & 1 != 0;
        if case.after.flags.get(flag).is_some_and(|value| value != native) {
            return Some(format!("{name}: {}, the processor has {native}", !native));
        }
    }
    (MEMORY..STATE_SIZE).find_map(|place| {
        let byte = case.memory.read(Address(STATE + place as u64), 1).ok()? as u8;
        let differs = byte != page[place];
        differs.then(|| format!("byte {place}: {byte:#x}, the processor has {:#x}", page[place]))
    })
}

#[test]
fn random_instructions_do_what_the_processor_does() {
    let folder = tempfile::tempdir().unwrap();
    let (source, program) = (folder.path().join("native.c"), folder.path().join("native"));
    std::fs::write(&source, HELPER).unwrap();
    let compiled = Command::new("cc").arg("-O1").arg("-o").args([&program, &source]).status();
    assert!(compiled.expect("a C compiler, cc, is needed").success());

    let number = |name, default| std::env::var(name).map_or(default, |n| n.parse().unwrap());
    let sequences: u64 = number("NFDROP_NATIVE_SEQUENCES", 20_000);
    let mut random = Random::new(number("NFDROP_NATIVE_SEED", 1));
    let mut missing = vec![
        (CpuidFeature::BMI1, "bmi1"),
        (CpuidFeature::BMI2, "bmi2"),
        (CpuidFeature::LZCNT, "abm"),
        (CpuidFeature::POPCNT, "popcnt"),
        (CpuidFeature::MOVBE, "movbe"),
    ];
    missing.retain(|(_, name)| !cpu_has(name));
    let missing: Vec<CpuidFeature> = missing.into_iter().map(|(feature, _)| feature).collect();
    let mut child =
        Command::new(&program).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let (mut input, mut output) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
    let mut ran = BTreeMap::<String, u64>::new();
    for sequence in 0..sequences {
        let case = case(&mut random, &missing);
        let listing =
            || case.instructions.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n  ");
        input.write_all(&(case.code.len() as u32).to_le_bytes()).unwrap();
        input.write_all(&case.code).unwrap();
        input.write_all(&case.before).unwrap();
        let mut page = vec![0; STATE_SIZE];
        let read = output.read_exact(&mut page);
        assert!(read.is_ok(), "sequence {sequence}: the processor refused one of\n  {}", listing());
        if let Some(difference) = difference(&case, &page) {
            let registers: Vec<_> = (0..16).map(|n| word(&case.before, 8 * n)).collect();
            panic!("sequence {sequence}: {difference}\n  {}\nfrom {registers:#x?}", listing());
        }
        for i in &case.instructions {
            *ran.entry(format!("{:?}", i.0.mnemonic())).or_default() += 1;
        }
    }
    drop(input);
    assert!(child.wait().unwrap().success());
    println!("ran {ran:?}");
    // What all builds seen are made of was among them.
    for name in [
        "Add", "Adc", "Bsr", "Bt", "Cmove", "Cmpxchg", "Imul", "Lea", "Movsx", "Mul", "Push",
        "Ror", "Sar", "Setb", "Shld", "Xadd",
    ] {
        assert!(ran.contains_key(name), "{name} was not tried");
    }
}
