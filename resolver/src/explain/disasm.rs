//! Instructions as text, with the names that relocations tell.

use crate::arch::{
    self, Flow, Instruction, Syntax,
    text::{Text, Writer},
};
use crate::clean::clean;
use crate::image::function::{Function, MAX_PART, PartKind, Place};
use crate::resolve::report::{Report, Seen};
use nfdrop_db::listing::{
    LineKind, MAX_LINES, Span, Tone,
    arrows::{Jump, JumpKind},
};
use std::collections::HashMap;

/// Between the starts of parts, which have no addresses yet.
const STEP: u64 = MAX_PART * 16;

/// A line before anything is said about it.
pub(super) struct Raw<'a> {
    pub(super) kind: LineKind,
    pub(super) place: Place,
    pub(super) instruction: Option<Instruction>,
    pub(super) code: Vec<Span>,
    pub(super) seen: Option<&'a Seen>,
    /// The symbol of a direct call or jump to elsewhere.
    pub(super) symbol: Option<&'a str>,
    /// Whether a memory operand is relocated: then its base register says nothing.
    pub(super) relocated: bool,
}

/// All lines of a function.
pub(super) struct Disassembly<'a> {
    pub(super) lines: Vec<Raw<'a>>,
    pub(super) jumps: Vec<Jump>,
}

/// Takes a function apart. Where the resolver knows what can be reached, instructions begin there;
/// elsewhere behind one another.
pub(super) fn disassemble<'a>(
    function: &'a Function,
    report: &'a Report,
    syntax: Syntax,
) -> Disassembly<'a> {
    let seen: HashMap<Place, &Seen> =
        report.instructions.iter().map(|seen| (seen.place, seen)).collect();
    let mut writer = Writer::new(syntax);
    let mut lines: Vec<Raw<'a>> = Vec::new();
    let code = function.parts.iter().enumerate().filter(|(_, part)| part.kind == PartKind::Code);
    for (number, part) in code {
        let at = |offset: usize| Place { part: number as u16, offset: offset as u32 };
        let empty = |kind, place, code| Raw {
            kind,
            place,
            instruction: None,
            code,
            seen: None,
            symbol: None,
            relocated: false,
        };
        let bytes = &part.bytes[..part.bytes.len().min(MAX_PART as usize)];
        if lines.len() >= MAX_LINES {
            let text = format!("{}, {} bytes, not shown", clean(&part.name), part.bytes.len());
            lines.push(empty(LineKind::Gap, at(0), vec![Span::new(Tone::Dim, text)]));
            if lines.len() > MAX_LINES + 64 {
                break;
            }
            continue;
        }
        let name = Span::new(Tone::Symbol, clean(&part.name));
        lines.push(empty(LineKind::Part, at(0), vec![name]));
        let mut offset = 0;
        while offset < bytes.len() {
            if lines.len() >= MAX_LINES {
                let text = format!("{} more bytes, not shown", part.bytes.len() - offset);
                lines.push(empty(LineKind::Gap, at(offset), vec![Span::new(Tone::Dim, text)]));
                break;
            }
            let place = at(offset);
            let seen_here = seen.get(&place).copied();
            let decoded = arch::decode(bytes, base(number), offset).filter(|instruction| {
                // Not over the start of an instruction that is known.
                let mut inside = offset + 1..offset + instruction.len();
                seen_here.is_some() || !inside.any(|offset| seen.contains_key(&at(offset)))
            });
            let Some(instruction) = decoded else {
                let text = vec![
                    Span::new(Tone::Mnemonic, ".byte   "),
                    Span::new(Tone::Number, format!("{:#04x}", bytes[offset])),
                ];
                lines.push(empty(LineKind::Instruction, place, text));
                offset += 1;
                continue;
            };
            let Text { spans, symbol, relocated } = writer.write(part, base(number), &instruction);
            lines.push(Raw {
                kind: LineKind::Instruction,
                place,
                instruction: Some(instruction),
                code: spans,
                seen: seen_here,
                symbol,
                relocated,
            });
            offset += instruction.len();
        }
    }
    let jumps = jumps(function, &mut lines);
    Disassembly { lines, jumps }
}

fn base(part: usize) -> u64 {
    STEP * (part as u64 + 1)
}

/// Where a direct branch goes, if that is in the function.
pub(super) fn branch(function: &Function, line: &Raw<'_>) -> Option<Place> {
    let instruction = line.instruction.as_ref()?;
    let target = instruction.target()?;
    let number = usize::from(line.place.part);
    let part = function.parts.get(number)?;
    let end = line.place.offset + instruction.len() as u32;
    let first = part.relocations.partition_point(|r| r.offset < line.place.offset);
    if let Some(relocation) = part.relocations.get(first).filter(|r| r.offset < end) {
        let to = function.parts.iter().position(|part| part.name == relocation.symbol)?;
        let offset = relocation.addend + i64::from(end - relocation.offset);
        let offset = u32::try_from(offset).ok()?;
        return Some(Place { part: u16::try_from(to).ok()?, offset });
    }
    let offset = u32::try_from(target.wrapping_sub(base(number))).ok()?;
    ((offset as usize) < part.bytes.len()).then_some(Place { part: number as u16, offset })
}

/// All jumps between lines; jump labels are written as what they are.
fn jumps(function: &Function, lines: &mut [Raw<'_>]) -> Vec<Jump> {
    let known: HashMap<Place, usize> = lines
        .iter()
        .enumerate()
        .filter(|(_, line)| line.kind == LineKind::Instruction)
        .map(|(number, line)| (line.place, number))
        .collect();
    let mut jumps = Vec::new();
    for label in function.jump_labels.iter().flatten() {
        let Some(&from) = known.get(&label.code) else { continue };
        let target = name(function, label.code.part, label.target);
        let mnemonic = if label.branch { "jmp/nop " } else { "nop/jmp " };
        lines[from].code =
            vec![Span::new(Tone::Key, mnemonic), Span::new(Tone::Symbol, target.clone())];
        if let Some(&to) = known.get(&label.target) {
            jumps.push(Jump { from, to, kind: JumpKind::Key, untaken: false });
        }
    }
    let labels: Vec<usize> = jumps.iter().map(|jump| jump.from).collect();
    for (from, line) in lines.iter().enumerate() {
        let Some(instruction) = &line.instruction else { continue };
        if labels.contains(&from) {
            continue;
        }
        let kind = match instruction.flow() {
            Flow::Branch => JumpKind::Condition,
            Flow::Jump | Flow::IndirectJump => JumpKind::Always,
            _ => continue,
        };
        let ran = line.seen.is_some_and(|seen| seen.runs != [0; 4]);
        let indirect = line.seen.iter().flat_map(|seen| seen.targets.iter().copied());
        for place in branch(function, line).into_iter().chain(indirect) {
            if let Some(&to) = known.get(&place) {
                let taken = line.seen.is_some_and(|seen| seen.edges[1] > 0);
                let untaken = !ran || kind == JumpKind::Condition && !taken;
                jumps.push(Jump { from, to, kind, untaken });
            }
        }
    }
    jumps
}

/// A place as it is written on a line of a part: `+0x3fe`, and with its part's name elsewhere.
pub(super) fn name(function: &Function, from: u16, place: Place) -> String {
    let part = function.parts.get(usize::from(place.part)).filter(|_| place.part != from);
    let part = part.map(|part| clean(&part.name)).unwrap_or_default();
    format!("{part}+{:#x}", place.offset)
}
