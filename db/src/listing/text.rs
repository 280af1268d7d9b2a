//! The listing for terminals and pipes.

use super::{
    Class, Line, LineKind, Listing, Mark, Span, Tone,
    arrows::{Cell, Gutter, RIGHT},
};
use std::fmt::Write as _;

/// How it is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Style {
    /// With escape sequences.
    pub colors: bool,
    /// Box characters; else ASCII.
    pub unicode: bool,
    /// Columns that notes are broken at.
    pub width: usize,
}

/// Columns of the instruction; longer ones push their comment on.
const CODE: usize = 36;
/// Narrowest column of notes.
const MIN_NOTES: usize = 40;

/// The whole listing, of the build that the title tells.
pub fn render(title: &str, listing: &Listing, style: Style) -> String {
    let most = listing.lines.iter().filter_map(|line| line.counts).flatten().max().unwrap_or(0);
    let digits = most.checked_ilog10().map_or(1, |log| log as usize + 1).max(3);
    let shown = if listing.failed { 4 } else { 3 };
    let gutter = listing.gutter();
    let mut out = Out { text: String::new(), style, shown, count: digits + 1 };
    out.span(Tone::Chosen, title);
    out.end();
    out.end();
    for fact in &listing.facts {
        out.span(Tone::Dim, &format!("{:<13}", fact.name));
        out.spans(&fact.value);
        out.end();
    }
    if !listing.lines.is_empty() {
        out.end();
        legend(&mut out, listing);
    }
    for (number, line) in listing.lines.iter().enumerate() {
        out.line(&gutter, number, line);
    }
    for section in &listing.sections {
        out.end();
        out.span(Tone::Plain, &section.title);
        out.end();
        for entry in &section.entries {
            out.text.push_str("  ");
            out.spans(entry);
            out.end();
        }
    }
    out.text
}

/// What the columns are.
fn legend(out: &mut Out, listing: &Listing) {
    let failed = if listing.failed { " failed" } else { "" };
    out.span(
        Tone::Dim,
        &format!("runs that came by: {}{failed}", "rule drops, policy drops, others"),
    );
    out.end();
}

struct Out {
    text: String,
    style: Style,
    /// Kinds of runs that are counted, and columns of each.
    shown: usize,
    count: usize,
}

impl Out {
    fn end(&mut self) {
        while self.text.ends_with(' ') {
            self.text.pop();
        }
        self.text.push('\n');
    }

    fn span(&mut self, tone: Tone, text: &str) {
        let code = code(tone).filter(|_| self.style.colors);
        match code {
            Some(code) => {
                let _ = write!(self.text, "\x1b[{code}m{text}\x1b[0m");
            }
            None => self.text.push_str(text),
        }
    }

    fn spans(&mut self, spans: &[Span]) {
        for span in spans {
            self.span(span.tone, &span.text);
        }
    }

    fn line(&mut self, gutter: &Gutter, number: usize, line: &Line) {
        let pad = self.prefix();
        match line.kind {
            LineKind::Part => {
                self.end();
                self.text.push_str(&" ".repeat(pad));
                self.cells(gutter.line(number).iter().copied(), false);
                self.text.push_str("  ");
                self.spans(&line.code);
                self.text.push(':');
                return self.end();
            }
            LineKind::Gap => {
                self.text.push_str("  ... ");
                self.spans(&line.code);
                return self.end();
            }
            LineKind::Instruction => {}
        }
        let mark = match (line.mark, self.style.unicode) {
            (Some(Mark::Probe), true) => ('◆', Tone::Chosen),
            (Some(Mark::Probe), false) => ('*', Tone::Chosen),
            (Some(Mark::WouldDo), true) => ('◇', Tone::Turned),
            (Some(Mark::WouldDo), false) => ('o', Tone::Turned),
            (Some(Mark::Wrong), true) => ('✗', Tone::Wrong),
            (Some(Mark::Wrong), false) => ('!', Tone::Wrong),
            (None, _) => (' ', Tone::Plain),
        };
        self.span(mark.1, &mark.0.to_string());
        self.counts(line);
        let dim = line.class == Class::Never;
        let tone = match line.class {
            Class::RuleDrop | Class::PolicyDrop | Class::Drops => Tone::Chosen,
            Class::Any => Tone::Plain,
            Class::Never => Tone::Dim,
        };
        self.span(tone, &format!("{:>8} ", line.offset()));
        let head = gutter.is_target(number);
        self.cells(gutter.line(number).iter().copied(), head);
        self.text.push(' ');
        let mut width = 0;
        for span in &line.code {
            self.span(if dim { Tone::Dim } else { span.tone }, &span.text);
            width += span.text.chars().count();
        }
        if !line.comments.is_empty() {
            self.text.push_str(&" ".repeat(CODE.saturating_sub(width).max(2)));
            for (number, comment) in line.comments.iter().enumerate() {
                if number > 0 {
                    self.span(Tone::Dim, "; ");
                }
                self.spans(std::slice::from_ref(comment));
            }
        }
        self.end();
        for note in &line.notes {
            self.note(gutter, number, note);
        }
    }

    /// Below a line, with the arrows going on.
    fn note(&mut self, gutter: &Gutter, number: usize, note: &[Span]) {
        let pad = self.prefix();
        let arrows = gutter.columns + 4;
        let room = self.style.width.saturating_sub(pad + arrows).max(MIN_NOTES);
        for words in wrap(note, room) {
            self.text.push_str(&" ".repeat(pad));
            self.cells(gutter.below(number), false);
            self.span(Tone::Chosen, if self.style.unicode { " ┃ " } else { " | " });
            self.spans(&words);
            self.end();
        }
    }

    /// Columns before the gutter.
    fn prefix(&self) -> usize {
        1 + self.count * self.shown + 9
    }

    fn counts(&mut self, line: &Line) {
        let width = self.count;
        for which in 0..self.shown {
            match line.counts {
                Some(counts) if counts[which] > 0 => {
                    let tone = match which {
                        0 | 1 => Tone::Chosen,
                        2 => Tone::Plain,
                        _ => Tone::Wrong,
                    };
                    self.span(tone, &format!("{:>width$}", counts[which]));
                }
                Some(_) => {
                    let none = if self.style.unicode { '·' } else { '.' };
                    self.span(Tone::Dim, &format!("{none:>width$}"));
                }
                None => self.text.push_str(&" ".repeat(width)),
            }
        }
    }

    fn cells(&mut self, cells: impl Iterator<Item = Cell>, head: bool) {
        let mut last = Cell::default();
        for cell in cells {
            let glyph = cell.glyph(self.style.unicode);
            self.arrow(cell, &glyph.to_string());
            last = cell;
        }
        let end = match (last.arms & RIGHT != 0, head, self.style.unicode) {
            (false, ..) => "  ",
            (true, true, true) => "─▸",
            (true, true, false) => "->",
            (true, false, true) => "──",
            (true, false, false) => "--",
        };
        self.arrow(last, end);
    }

    fn arrow(&mut self, cell: Cell, text: &str) {
        /// Colours that read well on light and dark terminals.
        const COLORS: [u8; 6] = [36, 35, 94, 33, 32, 31];
        if !self.style.colors || text.trim().is_empty() {
            self.text.push_str(text);
            return;
        }
        let color = COLORS[usize::from(cell.arrow) % COLORS.len()];
        let dim = if cell.untaken { "2;" } else { "" };
        let _ = write!(self.text, "\x1b[{dim}{color}m{text}\x1b[0m");
    }
}

/// Breaks a note into lines of at most `room` characters, between words.
fn wrap(note: &[Span], room: usize) -> Vec<Vec<Span>> {
    let mut lines: Vec<Vec<Span>> = vec![Vec::new()];
    let mut used = 0;
    for span in note {
        for word in span.text.split_inclusive(' ') {
            let width = word.trim_end().chars().count();
            if used > 0 && used + width > room {
                lines.push(vec![Span::new(Tone::Plain, "  ")]);
                used = 2;
            }
            let line = lines.last_mut();
            match line.and_then(|line| line.last_mut().map(|last| (last.tone == span.tone, last))) {
                Some((true, last)) => last.text.push_str(word),
                _ => {
                    if let Some(line) = lines.last_mut() {
                        line.push(Span::new(span.tone, word));
                    }
                }
            }
            used += word.chars().count();
        }
    }
    lines
}

/// The parameters of "select graphic rendition" (ECMA-48).
fn code(tone: Tone) -> Option<&'static str> {
    Some(match tone {
        Tone::Plain | Tone::Register => return None,
        Tone::Dim => "2",
        Tone::Mnemonic => "1",
        Tone::Number => "36",
        Tone::Symbol => "94",
        Tone::Meaning => "32",
        Tone::Key => "35",
        Tone::Chosen => "1;32",
        Tone::Turned | Tone::Untaken => "33",
        Tone::Wrong => "1;31",
    })
}
