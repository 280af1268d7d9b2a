//! Instructions as text, with the names that relocations tell.

use super::Instruction;
use crate::{
    clean::clean,
    image::function::{Part, Relocation, RelocationKind},
};
use iced_x86::{
    Decoder, DecoderOptions, Formatter, FormatterOutput, FormatterTextKind, GasFormatter,
    IntelFormatter, OpKind, SymbolResolver, SymbolResult,
};
use nfdrop_db::listing::{Span, Tone};
use std::{cell::RefCell, rc::Rc};

/// How instructions are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Syntax {
    /// `mov rsi, [rbp]`, as in Intel's manuals.
    #[default]
    Intel,
    /// `mov 0x0(%rbp), %rsi`, as in the kernel's sources.
    Att,
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
        instruction: &iced_x86::Instruction,
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

/// Writes instructions.
pub(crate) struct Writer {
    formatter: Box<dyn Formatter>,
    operands: Rc<RefCell<Operands>>,
}

/// An instruction as text.
pub(crate) struct Text<'a> {
    /// The text.
    pub(crate) spans: Vec<Span>,
    /// The symbol of a direct branch.
    pub(crate) symbol: Option<&'a str>,
    /// Whether a memory operand is relocated.
    pub(crate) relocated: bool,
}

impl Writer {
    pub(crate) fn new(syntax: Syntax) -> Self {
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
        Self { formatter, operands }
    }

    /// An instruction of a part that lies at `base`.
    pub(crate) fn write<'a>(
        &mut self,
        part: &'a Part,
        base: u64,
        instruction: &Instruction,
    ) -> Text<'a> {
        let instruction = &instruction.0;
        let start = (instruction.ip() - base) as u32;
        let bytes = part.bytes.get(start as usize..).unwrap_or_default();
        let mut decoder = Decoder::with_ip(64, bytes, instruction.ip(), DecoderOptions::NONE);
        let constants = decoder.decode();
        let constants = decoder.get_constant_offsets(&constants);
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
            let target = instruction.near_branch_target().wrapping_sub(base);
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
        Text { spans: output.0, symbol, relocated: displacement.is_some() }
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
