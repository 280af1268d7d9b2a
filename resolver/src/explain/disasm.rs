//! Instructions as text, with the names that relocations tell.

use super::{Syntax, clean};
use crate::image::function::{
    Function, MAX_PART, Part, PartKind, Place, Relocation, RelocationKind,
};
use crate::resolve::report::{Report, Seen};
use iced_x86::{
    ConstantOffsets, Decoder, DecoderOptions, FlowControl, Formatter, FormatterOutput,
    FormatterTextKind, GasFormatter, Instruction, IntelFormatter, OpKind, SymbolResolver,
    SymbolResult,
};
use nfdrop_db::listing::{
    LineKind, MAX_LINES, Span, Tone,
    arrows::{Jump, JumpKind},
};
use std::{cell::RefCell, collections::HashMap, rc::Rc};

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
    let mut writer = Writer::new(function, syntax);
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
            let decoded = decode(bytes, number, offset).filter(|(instruction, _)| {
                // Not over the start of an instruction that is known.
                let mut inside = offset + 1..offset + instruction.len();
                seen_here.is_some() || !inside.any(|offset| seen.contains_key(&at(offset)))
            });
            let Some((instruction, constants)) = decoded else {
                let text = vec![
                    Span::new(Tone::Mnemonic, ".byte   "),
                    Span::new(Tone::Number, format!("{:#04x}", bytes[offset])),
                ];
                lines.push(empty(LineKind::Instruction, place, text));
                offset += 1;
                continue;
            };
            let (code, symbol, relocated) = writer.write(number, &instruction, constants);
            lines.push(Raw {
                kind: LineKind::Instruction,
                place,
                instruction: Some(instruction),
                code,
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

fn decode(bytes: &[u8], part: usize, offset: usize) -> Option<(Instruction, ConstantOffsets)> {
    let ip = base(part) + offset as u64;
    let mut decoder = Decoder::with_ip(64, bytes.get(offset..)?, ip, DecoderOptions::NONE);
    let instruction = decoder.decode();
    let constants = decoder.get_constant_offsets(&instruction);
    (!instruction.is_invalid()).then_some((instruction, constants))
}

fn base(part: usize) -> u64 {
    STEP * (part as u64 + 1)
}

/// Where a direct branch goes, if that is in the function.
pub(super) fn branch(function: &Function, line: &Raw<'_>) -> Option<Place> {
    let instruction = line.instruction.as_ref()?;
    if instruction.op0_kind() != OpKind::NearBranch64 {
        return None;
    }
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
    let offset = u32::try_from(instruction.near_branch_target().wrapping_sub(base(number))).ok()?;
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
        let kind = match instruction.flow_control() {
            FlowControl::ConditionalBranch => JumpKind::Condition,
            FlowControl::UnconditionalBranch | FlowControl::IndirectBranch => JumpKind::Always,
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

/// Names for the operands of one instruction.
#[derive(Default)]
struct Operands {
    displacement: Option<String>,
    immediate: Option<String>,
    branch: Option<String>,
}

/// What the formatter asks for names.
struct Names(Rc<RefCell<Operands>>);

impl SymbolResolver for Names {
    fn symbol(
        &mut self,
        instruction: &Instruction,
        _: u32,
        operand: Option<u32>,
        address: u64,
        _: u32,
    ) -> Option<SymbolResult<'_>> {
        let operands = self.0.borrow();
        let name = match instruction.try_op_kind(operand?).ok()? {
            OpKind::NearBranch64 => &operands.branch,
            OpKind::Memory => &operands.displacement,
            _ => &operands.immediate,
        };
        name.clone().map(|name| SymbolResult::with_string(address, name))
    }
}

struct Writer<'a> {
    function: &'a Function,
    formatter: Box<dyn Formatter>,
    operands: Rc<RefCell<Operands>>,
}

impl<'a> Writer<'a> {
    fn new(function: &'a Function, syntax: Syntax) -> Self {
        let operands = Rc::default();
        let names: Option<Box<dyn SymbolResolver>> = Some(Box::new(Names(Rc::clone(&operands))));
        let mut formatter: Box<dyn Formatter> = match syntax {
            Syntax::Intel => Box::new(IntelFormatter::with_options(names, None)),
            Syntax::Att => Box::new(GasFormatter::with_options(names, None)),
        };
        let options = formatter.options_mut();
        options.set_first_operand_char_index(8);
        options.set_hex_prefix("0x");
        options.set_hex_suffix("");
        options.set_uppercase_hex(false);
        options.set_space_after_operand_separator(true);
        options.set_signed_immediate_operands(true);
        options.set_show_branch_size(false);
        Self { function, formatter, operands }
    }

    /// The text, the symbol of a direct branch, and whether a memory operand is relocated.
    fn write(
        &mut self,
        number: usize,
        instruction: &Instruction,
        constants: ConstantOffsets,
    ) -> (Vec<Span>, Option<&'a str>, bool) {
        let part = &self.function.parts[number];
        let start = (instruction.ip() - base(number)) as u32;
        let end = start + instruction.len() as u32;
        let field = |at: usize, has: bool| {
            let offset = start + at as u32;
            let relocation = has.then(|| relocation_at(part, offset))??;
            let relative = matches!(relocation.kind, RelocationKind::Pc32 | RelocationKind::Pc64);
            let end = if relative { i64::from(end - offset) } else { 0 };
            Some((relocation.symbol.as_str(), relocation.addend.saturating_add(end)))
        };
        let displacement = field(constants.displacement_offset(), constants.has_displacement());
        let immediate = field(constants.immediate_offset(), constants.has_immediate());
        let is_branch = instruction.op0_kind() == OpKind::NearBranch64;
        let text = |(symbol, addend): (&str, i64)| match addend {
            0 => clean(symbol),
            _ if addend < 0 => format!("{}-{:#x}", clean(symbol), addend.unsigned_abs()),
            _ => format!("{}+{addend:#x}", clean(symbol)),
        };
        let inside = || {
            let target = instruction.near_branch_target().wrapping_sub(base(number));
            let inside = usize::try_from(target).is_ok_and(|target| target < part.bytes.len());
            inside.then(|| format!("+{target:#x}"))
        };
        let own = immediate.filter(|(symbol, _)| is_branch && *symbol == part.name);
        let branch = match own {
            Some((_, addend)) if addend >= 0 => Some(format!("+{addend:#x}")),
            _ => immediate.map(text).or_else(inside),
        };
        *self.operands.borrow_mut() = Operands {
            displacement: displacement.map(text),
            immediate: immediate.map(text),
            branch: branch.filter(|_| is_branch),
        };
        let mut output = Output(Vec::new());
        self.formatter.format(instruction, &mut output);
        let symbol =
            immediate.filter(|&(_, addend)| is_branch && addend == 0).map(|(name, _)| name);
        (output.0, symbol, displacement.is_some())
    }
}

fn relocation_at(part: &Part, offset: u32) -> Option<&Relocation> {
    let index = part.relocations.binary_search_by_key(&offset, |relocation| relocation.offset);
    part.relocations.get(index.ok()?)
}

struct Output(Vec<Span>);

impl FormatterOutput for Output {
    fn write(&mut self, text: &str, kind: FormatterTextKind) {
        use FormatterTextKind as Kind;
        let tone = match kind {
            Kind::Mnemonic | Kind::Prefix => Tone::Mnemonic,
            Kind::Register => Tone::Register,
            Kind::Number => Tone::Number,
            Kind::Label | Kind::Function | Kind::Data => Tone::Symbol,
            _ => Tone::Plain,
        };
        match self.0.last_mut() {
            Some(last) if last.tone == tone || text.trim().is_empty() => last.text.push_str(text),
            _ => self.0.push(Span::new(tone, text)),
        }
    }
}
