//! The listing as markup: nothing from elsewhere, no script, for any width and for light and dark.
//!
//! Every line is a row with a picture of its piece of the arrows, which grows with the row; so text
//! may wrap on a telephone and arrows still meet.

use super::arrows::{Cell, DOWN, Gutter, RIGHT, UP};
use super::{Class, Fact, Line, LineKind, Listing, Mark, Section, Span, Tone};
use crate::render::escape;
use std::collections::BTreeSet;
use std::fmt::Write as _;

/// Jumps side by side.
pub const COLUMNS: u8 = 14;
/// Where arrows meet the first line of a row, in pixels; `page.css` has lines of twice this.
const MIDDLE: u32 = 10;

/// What [`fragment`] looks like; for a `style` element.
pub const STYLE: &str = include_str!("page.css");

/// A page of its own, of the build that the title tells.
pub fn page(title: &str, listing: &Listing) -> String {
    let title = escape(title);
    format!(
        "<!doctype html>\n\
         <html lang=\"en\">\n\
         <meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; \
         style-src 'unsafe-inline'\">\n\
         <title>{title}</title>\n\
         <style>\n{STYLE}</style>\n\
         <h1 class=\"title\">{title}</h1>\n{}</html>\n",
        fragment(listing)
    )
}

/// The listing as an element to be put into a page that has [`STYLE`].
pub fn fragment(listing: &Listing) -> String {
    let gutter = listing.gutter();
    let mut page = Page { out: String::new(), listing, gutter, ids: BTreeSet::new() };
    for line in listing.lines.iter().filter(|line| line.kind == LineKind::Instruction) {
        page.ids.insert((line.part, line.at));
    }
    page.out.push_str("<article class=\"nfdrop\">\n");
    page.facts(&listing.facts);
    if !listing.lines.is_empty() {
        page.legend();
        page.lines();
    }
    for section in &listing.sections {
        page.section(section);
    }
    page.out.push_str("</article>\n");
    page.out
}

struct Page<'a> {
    out: String,
    listing: &'a Listing,
    gutter: Gutter,
    /// Part and offset of all instructions that are shown.
    ids: BTreeSet<(u16, u32)>,
}

impl Page<'_> {
    fn facts(&mut self, facts: &[Fact]) {
        self.out.push_str("<dl>\n");
        for fact in facts {
            let _ = write!(self.out, "<div><dt>{}<dd>", escape(&fact.name));
            self.spans(&fact.value, 0);
            self.out.push_str("</div>\n");
        }
        self.out.push_str("</dl>\n");
    }

    fn legend(&mut self) {
        let failed = if self.listing.failed { ", <b class=\"f\">failed</b>" } else { "" };
        let _ = writeln!(
            self.out,
            "<p class=\"legend\">Numbers are runs that came by: \
             <b class=\"r\">rule drops</b>, <b class=\"p\">policy drops</b>, \
             <b class=\"o\">others</b>{failed}; they are said where they change. An edge in these \
             colours: only such packets come by. <b class=\"chosen\">◆</b> a probe of the plan, \
             <b class=\"turned\">◇</b> would do too. Dashed arrows: no run has jumped so.</p>"
        );
    }

    fn lines(&mut self) {
        // A class, since styles of elements are forbidden where a policy allows one sheet.
        let _ = writeln!(self.out, "<div class=\"listing w{}\">", self.gutter.columns);
        let lines = &self.listing.lines;
        for (number, line) in lines.iter().enumerate() {
            self.line(number, line);
        }
        self.out.push_str("</div>\n");
    }

    fn line(&mut self, number: usize, line: &Line) {
        let class = match (line.kind, line.class) {
            (LineKind::Part, _) => " part",
            (LineKind::Gap, _) => " gap",
            (_, Class::RuleDrop) => " rule",
            (_, Class::PolicyDrop) => " policy",
            (_, Class::Drops) => " drops",
            (_, Class::Never) => " never",
            (_, Class::Any) => "",
        };
        let (mark, glyph) = match line.mark {
            Some(Mark::Probe) => (" probe", "◆"),
            Some(Mark::WouldDo) => ("", "◇"),
            Some(Mark::Wrong) => (" wrong", "✗"),
            None => ("", ""),
        };
        let _ = write!(self.out, "<div class=\"line{class}{mark}\"");
        if line.kind == LineKind::Instruction {
            let _ = write!(self.out, " id=\"{}\"", id(line.part, line.at));
        }
        let _ = write!(self.out, "><i>{glyph}</i><span class=\"at\">{}</span>", line.offset());
        self.out.push_str("<span class=\"runs\">");
        if let Some(counts) = line.counts {
            let shown = if self.listing.failed { 4 } else { 3 };
            for (name, count) in ["r", "p", "o", "f"].iter().zip(counts).take(shown) {
                match count {
                    0 => self.out.push_str("<b>·</b>"),
                    _ => {
                        let _ = write!(self.out, "<b class=\"{name}\">{count}</b>");
                    }
                }
            }
        }
        self.out.push_str("</span><span class=\"arrows\">");
        picture(&mut self.out, &self.gutter, number);
        self.out.push_str("</span><div class=\"text\"><code>");
        self.spans(&line.code, line.part);
        self.out.push_str("</code>");
        if !line.comments.is_empty() {
            self.out.push_str("<span class=\"comments\">");
            for (number, comment) in line.comments.iter().enumerate() {
                self.out.push_str(if number > 0 { "; " } else { "" });
                self.spans(std::slice::from_ref(comment), line.part);
            }
            self.out.push_str("</span>");
        }
        for note in &line.notes {
            self.out.push_str("<p>");
            self.spans(note, line.part);
            self.out.push_str("</p>");
        }
        self.out.push_str("</div></div>\n");
    }

    fn section(&mut self, section: &Section) {
        let _ = write!(self.out, "<section>\n<h2>{}</h2>\n", escape(&section.title));
        if !section.entries.is_empty() {
            self.out.push_str("<ul>\n");
            for entry in &section.entries {
                self.out.push_str("<li>");
                self.spans(entry, 0);
                self.out.push('\n');
            }
            self.out.push_str("</ul>\n");
        }
        self.out.push_str("</section>\n");
    }

    /// Text; places of `part` are links.
    fn spans(&mut self, spans: &[Span], part: u16) {
        for span in spans {
            let class = class(span.tone);
            if !class.is_empty() {
                let _ = write!(self.out, "<span class=\"{class}\">");
            }
            let offset = span.text.trim().strip_prefix("+0x");
            let offset = offset.and_then(|hex| u32::from_str_radix(hex, 16).ok());
            match offset.filter(|&at| self.ids.contains(&(part, at))) {
                Some(at) => {
                    let text = escape(span.text.trim());
                    let _ = write!(self.out, "<a href=\"#{}\">{text}</a>", id(part, at));
                }
                None => self.out.push_str(&escape(&span.text)),
            }
            if !class.is_empty() {
                self.out.push_str("</span>");
            }
        }
    }
}

/// Of an instruction in the page.
fn id(part: u16, at: u32) -> String {
    format!("i{part}-{at:x}")
}

fn class(tone: Tone) -> &'static str {
    match tone {
        Tone::Plain => "",
        Tone::Dim => "dim",
        Tone::Mnemonic => "mnemonic",
        Tone::Register => "register",
        Tone::Number => "number",
        Tone::Symbol => "symbol",
        Tone::Meaning => "meaning",
        Tone::Key => "key",
        Tone::Chosen => "chosen",
        Tone::Turned => "turned",
        Tone::Untaken => "untaken",
        Tone::Wrong => "wrong",
    }
}

/// The arrows of one line. Lengths across are shares of the width, which the style decides.
fn picture(out: &mut String, gutter: &Gutter, line: usize) {
    let cells = gutter.line(line);
    if cells.iter().all(|cell| cell.arms == 0) {
        return;
    }
    // Room for the arrow's head behind the last column.
    let steps = cells.len() as u32 + 2;
    let across = |place: usize| (2 * place as u32 + 1) * 1000 / (2 * steps);
    let percent = |x: u32| format!("{}.{}%", x / 10, x % 10);
    let stroke = |cell: &Cell| {
        let untaken = if cell.untaken { " u" } else { "" };
        format!("a{}{untaken}", cell.arrow % 6)
    };
    out.push_str("<svg>");
    for (place, cell) in cells.iter().enumerate() {
        let x = percent(across(place));
        let (from, to) = match (cell.arms & UP != 0, cell.arms & DOWN != 0) {
            (true, true) => ("0".to_owned(), "100%".to_owned()),
            (true, false) => ("0".to_owned(), MIDDLE.to_string()),
            (false, true) => (MIDDLE.to_string(), "100%".to_owned()),
            (false, false) => continue,
        };
        let class = stroke(cell);
        let _ = write!(
            out,
            "<line class=\"{class}\" x1=\"{x}\" x2=\"{x}\" y1=\"{from}\" y2=\"{to}\"/>"
        );
    }
    // Whatever leads to the code goes on to it, so the outermost is all of them.
    let outermost = cells.iter().position(|cell| cell.arms & RIGHT != 0);
    if let Some((place, cell)) = outermost.and_then(|place| Some((place, cells.get(place)?))) {
        let (x, class) = (percent(across(place)), stroke(cell));
        let _ = write!(
            out,
            "<line class=\"{class}\" x1=\"{x}\" x2=\"98%\" y1=\"{MIDDLE}\" y2=\"{MIDDLE}\"/>"
        );
        if gutter.is_target(line) {
            let _ = write!(
                out,
                "<svg x=\"100%\" y=\"{MIDDLE}\"><path class=\"a{}\" d=\"M-7-4 0 0-7 4z\"/></svg>",
                cell.arrow % 6
            );
        }
    }
    out.push_str("</svg>");
}
