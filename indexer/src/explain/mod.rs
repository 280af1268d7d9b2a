//! The annotated listing: the function as a person would want to read it, with what the resolver
//! saw and decided.
//!
//! ```text
//! Function → disasm → lines ↘
//! Report   → notes  → words  → Listing → text, for terminals and pipes
//!            arrows → gutter ↗        → html, for browsers
//! ```
//!
//! [`Listing`] knows neither terminals nor markup. Everything in it may come from a hostile file:
//! names are made harmless where they enter it ([`clean`]), and there are at most [`MAX_LINES`].

pub mod arrows;
mod disasm;
pub mod html;
mod meaning;
mod notes;
pub mod text;

#[cfg(test)]
mod tests;

use crate::image::function::{Function, ObjectKind};
use crate::resolve::report::Report;
use arrows::Gutter;

/// Most instructions that are shown; `nft_do_chain` has about 500.
pub const MAX_LINES: usize = 12_000;
/// Longest name shown, in characters.
const MAX_NAME: usize = 64;

/// How instructions are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Syntax {
    /// `mov rsi, [rbp]`, as in Intel's manuals.
    #[default]
    Intel,
    /// `mov 0x0(%rbp), %rsi`, as in the kernel's sources.
    Att,
}

/// What a piece of text is, for renderers that show it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Tone {
    /// Nothing special.
    Plain,
    /// Less important.
    Dim,
    /// Of an instruction.
    Mnemonic,
    /// Of an instruction.
    Register,
    /// Of an instruction.
    Number,
    /// A name of the kernel's.
    Symbol,
    /// What an operand or call means.
    Meaning,
    /// A static key.
    Key,
    /// A chosen site.
    Chosen,
    /// A site that is turned down.
    Turned,
    /// What no run has done.
    Untaken,
    /// Where runs went wrong.
    Wrong,
}

/// A piece of text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Span {
    /// Without control characters.
    pub text: String,
    /// What it is.
    pub tone: Tone,
}

impl Span {
    fn new(tone: Tone, text: impl Into<String>) -> Self {
        Self { text: text.into(), tone }
    }
}

/// A name and what there is to say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fact {
    /// Short.
    pub name: String,
    /// A sentence or less.
    pub value: Vec<Span>,
}

/// A list at the end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Section {
    /// What of.
    pub title: String,
    /// Its entries.
    pub entries: Vec<Vec<Span>>,
}

/// Who comes by an instruction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Class {
    /// Packets that a rule drops, and no other.
    RuleDrop,
    /// Packets that a policy drops, and no other.
    PolicyDrop,
    /// Dropped packets of both kinds.
    Drops,
    /// Others too.
    Any,
    /// Nobody.
    Never,
}

/// What a reader should not miss.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Mark {
    /// A probe of the plan.
    Probe,
    /// It would do as well.
    WouldDo,
    /// Runs went wrong here.
    Wrong,
}

/// What a line is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LineKind {
    /// The start of a part of the code; `code` is its name.
    Part,
    /// An instruction, or bytes that are none.
    Instruction,
    /// What is left out.
    Gap,
}

/// A line of the listing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// What it is of.
    pub kind: LineKind,
    /// Number of the part.
    pub part: u16,
    /// From the start of the part.
    pub at: u32,
    /// The same as it is shown, `+0x3fe`.
    pub offset: String,
    /// Runs that came by: dropped by a rule, by a policy, others, failed. Said where it changes.
    pub counts: Option<[u32; 4]>,
    /// Who comes by.
    pub class: Class,
    /// What not to miss.
    pub mark: Option<Mark>,
    /// The instruction.
    pub code: Vec<Span>,
    /// What goes with it, each on its own.
    pub comments: Vec<Span>,
    /// Lines below it.
    pub notes: Vec<Vec<Span>>,
}

/// A function, explained.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listing {
    /// What it is.
    pub title: String,
    /// Whether there is a plan.
    pub resolved: bool,
    /// What there is to know first.
    pub facts: Vec<Fact>,
    /// The code; empty where there is none.
    pub lines: Vec<Line>,
    /// Jumps between lines.
    pub gutter: Gutter,
    /// Whether runs failed, so that they are counted.
    pub failed: bool,
    /// What there is to know last.
    pub sections: Vec<Section>,
}

impl Listing {
    /// Of a function and what the resolver saw of it; at most `columns` jumps side by side.
    pub fn new(function: &Function, report: &Report, syntax: Syntax, columns: usize) -> Self {
        let mut disassembly = disasm::disassemble(function, report, syntax);
        let jumps = std::mem::take(&mut disassembly.jumps);
        let gutter = Gutter::new(disassembly.lines.len(), &jumps, columns);
        let notes = notes::Notes::new(function, report);
        let lines = notes.lines(&disassembly, &gutter, &jumps);
        let what = match function.object {
            ObjectKind::Module => "nf_tables.ko",
            ObjectKind::Vmlinux => "vmlinux",
        };
        let release = function.release.as_deref().map_or_else(|| "a kernel".to_owned(), clean);
        let symbol = function.parts.first().map(|part| clean(&part.name)).unwrap_or_default();
        let sections = notes.sections(&lines);
        Self {
            title: format!("{symbol} of {release}, {what}"),
            resolved: report.outcome.is_ok(),
            facts: notes.facts(),
            lines,
            gutter,
            failed: report.runs[3] > 0,
            sections,
        }
    }
}

/// A name as it may be shown: printable ASCII, the rest escaped, and of a bearable length.
pub fn clean(name: &str) -> String {
    let mut clean = String::new();
    for (count, c) in name.chars().enumerate() {
        if count == MAX_NAME {
            clean.push_str("...");
            break;
        }
        if c == ' ' || c.is_ascii_graphic() {
            clean.push(c);
        } else {
            clean.extend(c.escape_unicode());
        }
    }
    clean
}
