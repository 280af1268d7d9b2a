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

mod disasm;
mod meaning;
mod notes;

#[cfg(test)]
mod tests;

pub use crate::arch::Syntax;
pub use crate::clean::clean;

use crate::image::function::{Function, ObjectKind};
use crate::resolve::report::Report;
use nfdrop_db::listing::{Fact, Listing, Span, Tone, arrows::Gutter};

/// The listing of a function's body and what the resolver saw of it; at most `columns` jumps side by
/// side. All functions with one [`input_key`](crate::kernel::input_key) have the same.
pub fn listing(function: &Function, report: &Report, syntax: Syntax, columns: u8) -> Listing {
    let mut disassembly = disasm::disassemble(function, report, syntax);
    let jumps = std::mem::take(&mut disassembly.jumps);
    let mut listing = Listing {
        resolved: report.outcome.is_ok(),
        failed: report.runs[3] > 0,
        facts: Vec::new(),
        lines: Vec::new(),
        jumps,
        columns,
        sections: Vec::new(),
    };
    let gutter = Gutter::new(disassembly.lines.len(), &listing.jumps, usize::from(columns));
    let notes = notes::Notes::new(function, report);
    listing.lines = notes.lines(&disassembly, &gutter, &listing.jumps);
    listing.sections = notes.sections(&listing.lines);
    listing.facts = notes.facts();
    listing
}

/// What a function is of.
pub fn title(function: &Function) -> String {
    let what = match function.object {
        ObjectKind::Module => "nf_tables.ko",
        ObjectKind::Vmlinux => "vmlinux",
    };
    let release = function.release.as_deref().map_or_else(|| "a kernel".to_owned(), clean);
    let symbol = function.parts.first().map(|part| clean(&part.name)).unwrap_or_default();
    format!("{symbol} of {release}, {what}")
}

/// The build that a function is of.
pub fn build_id(function: &Function) -> Fact {
    let id = function.build_id.as_ref().map_or("none".to_owned(), ToString::to_string);
    Fact { name: "build-id".to_owned(), value: vec![Span::new(Tone::Plain, id)] }
}
