//! The annotated listing of one body: the function as a person would want to read it, with what the
//! resolver saw and decided. The indexer makes it, the store keeps it, the server shows it.
//!
//! It is data: neither terminals nor markup are in it, nor the identity of a build, since many builds
//! have one body. What is read may come from anybody's database, so every list in it has a bound, and
//! every text is printable ASCII ([`Listing::parse`]).

pub mod arrows;
mod bounded;
pub mod html;
pub mod text;

use arrows::{Gutter, Jump};
use bounded::at_most;
use serde::{Deserialize, Serialize};

/// Most instructions that are shown; `nft_do_chain` has about 500.
pub const MAX_LINES: usize = 12_000;
/// Most lines: instructions, and a few that say what else there is.
const ALL_LINES: usize = MAX_LINES + 128;
/// Most jumps: a table of a switch has many.
const MAX_JUMPS: usize = 4 * MAX_LINES;
/// Most comments or notes of a line, facts, sections.
const MANY: usize = 128;
/// Most entries of a section.
const MAX_ENTRIES: usize = 512;
/// Most jumps side by side.
const MAX_COLUMNS: usize = 32;

/// What a piece of text is, for renderers that show it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
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
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Span {
    /// What it is.
    pub tone: Tone,
    /// Printable ASCII.
    #[serde(deserialize_with = "bounded::printable")]
    pub text: String,
}

impl Span {
    /// A piece of text; the caller has made it printable.
    pub fn new(tone: Tone, text: impl Into<String>) -> Self {
        Self { text: text.into(), tone }
    }
}

/// A name and what there is to say.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fact {
    /// Short.
    #[serde(deserialize_with = "bounded::printable")]
    pub name: String,
    /// A sentence or less.
    pub value: Vec<Span>,
}

/// A list at the end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Section {
    /// What of.
    #[serde(deserialize_with = "bounded::printable")]
    pub title: String,
    /// Its entries.
    #[serde(deserialize_with = "at_most::<_, _, MAX_ENTRIES>")]
    pub entries: Vec<Vec<Span>>,
}

/// Who comes by an instruction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
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
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mark {
    /// A probe of the plan.
    Probe,
    /// It would do as well.
    WouldDo,
    /// Runs went wrong here.
    Wrong,
}

/// What a line is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LineKind {
    /// The start of a part of the code; `code` is its name.
    Part,
    /// An instruction, or bytes that are none.
    Instruction,
    /// What is left out.
    Gap,
}

/// A line of the listing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Line {
    /// What it is of.
    pub kind: LineKind,
    /// Number of the part.
    pub part: u16,
    /// From the start of the part.
    pub at: u32,
    /// Runs that came by: dropped by a rule, by a policy, others, failed. Said where it changes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub counts: Option<[u32; 4]>,
    /// Who comes by.
    pub class: Class,
    /// What not to miss.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mark: Option<Mark>,
    /// The instruction.
    pub code: Vec<Span>,
    /// What goes with it, each on its own.
    #[serde(
        default,
        skip_serializing_if = "Vec::is_empty",
        deserialize_with = "at_most::<_, _, MANY>"
    )]
    pub comments: Vec<Span>,
    /// Lines below it.
    #[serde(
        default,
        skip_serializing_if = "Vec::is_empty",
        deserialize_with = "at_most::<_, _, MANY>"
    )]
    pub notes: Vec<Vec<Span>>,
}

impl Line {
    /// The place as it is shown: `+0x3fe`; nothing where the line is no instruction.
    pub fn offset(&self) -> String {
        match self.kind {
            LineKind::Instruction => format!("+{:#x}", self.at),
            LineKind::Part | LineKind::Gap => String::new(),
        }
    }
}

/// A function, explained.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Listing {
    /// Whether there is a plan.
    pub resolved: bool,
    /// Whether runs failed, so that they are counted.
    pub failed: bool,
    /// What there is to know first.
    #[serde(deserialize_with = "at_most::<_, _, MANY>")]
    pub facts: Vec<Fact>,
    /// The code; empty where there is none.
    #[serde(deserialize_with = "at_most::<_, _, ALL_LINES>")]
    pub lines: Vec<Line>,
    /// Jumps between lines.
    #[serde(deserialize_with = "at_most::<_, _, MAX_JUMPS>")]
    pub jumps: Vec<Jump>,
    /// Most of them that are drawn side by side; the lines name the others.
    pub columns: u8,
    /// What there is to know last.
    #[serde(deserialize_with = "at_most::<_, _, MANY>")]
    pub sections: Vec<Section>,
}

/// Why bytes are not a listing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ListingError {
    /// Longer than [`Listing::MAX_BYTES`], or than [`Listing::MAX_PACKED`] where it is compressed.
    #[error("a listing has at most {max} bytes, found {found}")]
    TooLong {
        /// The bound.
        max: usize,
        /// Bytes found.
        found: usize,
    },
    /// It does not decompress to a listing of bearable length.
    #[error("not a compressed listing: {0}")]
    Packed(String),
    /// Not JSON of a listing within its bounds.
    #[error("not a listing: {0}")]
    Syntax(String),
}

impl Listing {
    /// Longest listing accepted, in bytes of JSON.
    pub const MAX_BYTES: usize = 8 << 20;
    /// Longest listing accepted, in bytes as they are stored.
    pub const MAX_PACKED: usize = 512 << 10;

    /// Where the jumps are drawn.
    pub fn gutter(&self) -> Gutter {
        let columns = usize::from(self.columns).min(MAX_COLUMNS);
        Gutter::new(self.lines.len(), &self.jumps, columns)
    }

    /// JSON in one line.
    ///
    /// # Panics
    /// Never: a listing is plain data.
    pub fn to_bytes(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("a listing is plain data")
    }

    /// Reads what [`Listing::to_bytes`] wrote, or anybody else.
    pub fn parse(bytes: &[u8]) -> Result<Self, ListingError> {
        if bytes.len() > Self::MAX_BYTES {
            return Err(ListingError::TooLong { max: Self::MAX_BYTES, found: bytes.len() });
        }
        serde_json::from_slice(bytes).map_err(|error| ListingError::Syntax(error.to_string()))
    }
}

#[cfg(test)]
mod tests;
