//! Drops on stdout: text for people, JSON lines, a capture file.

mod json;
mod pcapng;
mod text;
pub mod time;
pub mod writer;

pub(crate) use json::encode;

use crate::{
    event::{Drop, DroppedBy},
    names::RuleName,
    packet::Flow,
    terminal::plain,
};
use anstream::{AutoStream, ColorChoice, stream::RawStream};
use clap::ValueEnum;
use nfdrop_db::plan::Event;
use std::io::{self, Write};

/// A drop and what its rule is called.
#[derive(Debug)]
pub struct Named<'a> {
    /// The drop.
    pub drop: &'a Drop,
    /// Its rule, where that is known.
    pub rule: Option<&'a RuleName>,
    /// Of its packet.
    pub flow: Flow,
}

/// What became of the packet, in one word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// A rule dropped it.
    Drop,
    /// A rule dropped it and told the sender.
    Reject,
    /// No rule decided, and the base chain's policy is to drop.
    Policy,
}

impl Verdict {
    /// The word.
    pub fn name(self) -> &'static str {
        match self {
            Self::Drop => "drop",
            Self::Reject => "reject",
            Self::Policy => "policy",
        }
    }
}

impl<'a> Named<'a> {
    /// Reads the packet's flow.
    pub fn new(drop: &'a Drop, rule: Option<&'a RuleName>) -> Self {
        Self { drop, rule, flow: drop.packet.flow() }
    }

    /// Drops by rules without a name count as drops.
    pub fn verdict(&self) -> Verdict {
        match (self.drop.event, self.rule) {
            (Event::PolicyDrop, _) => Verdict::Policy,
            (Event::RuleDrop, Some(rule)) if rule.reject => Verdict::Reject,
            (Event::RuleDrop, _) => Verdict::Drop,
        }
    }

    /// The chain that holds the rule, or whose policy it was; `None` where it is not known.
    pub fn chain(&self) -> Option<&str> {
        match self.drop.event {
            Event::PolicyDrop => Some(&self.drop.base_chain),
            Event::RuleDrop => self.rule.map(|rule| &*rule.chain),
        }
    }

    /// The table; `None` where it is not known, as on kernels whose plan does not tell where a chain
    /// keeps it.
    pub fn table(&self) -> Option<(&'static str, &str)> {
        let Drop { family, table, .. } = self.drop;
        (!table.is_empty()).then(|| (family.name(), &**table))
    }

    /// What dropped it.
    pub fn dropped_by(&self) -> DroppedBy<'_> {
        DroppedBy {
            event: self.drop.event,
            table: self.table(),
            base_chain: &self.drop.base_chain,
            chain: self.chain(),
            handle: self.drop.handle,
        }
    }

    /// Family, table, base chain and, where it is another one, the rule's chain.
    fn place(&self) -> String {
        let table =
            self.table().map_or("?".to_owned(), |(family, name)| format!("{family} {name}"));
        let base_chain = &self.drop.base_chain;
        let chain = self.chain().filter(|chain| chain != base_chain);
        let chain = chain.map_or(String::new(), |chain| format!(" -> {chain}"));
        line(&format!("{table} {base_chain}{chain}"))
    }

    /// The rule's text; empty where there is none.
    fn text(&self) -> String {
        self.rule.map(|rule| line(&rule.text)).unwrap_or_default()
    }
}

/// Without anything that a terminal would act on, line feeds among it.
pub(crate) fn line(text: &str) -> String {
    plain(text).replace('\n', " ")
}

/// How drops are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum DropFormat {
    /// A line a drop, for people
    Text,
    /// A JSON object a line
    Json,
    /// A capture file whose packets have the rule as comment
    Pcapng,
}

/// Writes drops in one format.
#[derive(Debug)]
pub enum Printer {
    /// Text.
    Text(text::Text),
    /// JSON lines.
    Json,
    /// A capture file.
    Pcapng(pcapng::Pcapng),
}

impl Printer {
    /// In this format. `colour`: of text. `netns`: the namespace that need not be said.
    pub fn new(format: DropFormat, colour: bool, netns: Option<u32>) -> Self {
        match format {
            DropFormat::Text => Self::Text(text::Text::new(colour, netns)),
            DropFormat::Json => Self::Json,
            DropFormat::Pcapng => Self::Pcapng(pcapng::Pcapng::default()),
        }
    }

    /// What stands before the first drop: a capture file's header, so that one without drops is one.
    pub fn begin(&self, to: &mut impl Write) -> io::Result<()> {
        match self {
            Self::Text(_) | Self::Json => Ok(()),
            Self::Pcapng(_) => pcapng::Pcapng::begin(to),
        }
    }

    /// One drop.
    pub fn print(&mut self, named: &Named, to: &mut impl Write) -> io::Result<()> {
        match self {
            Self::Text(text) => text.print(named, to),
            Self::Json => json::print(named, to),
            Self::Pcapng(pcapng) => pcapng.print(named, to),
        }
    }
}

/// Whether to colour what goes there: on a terminal, unless `NO_COLOR` and its like say otherwise.
pub fn colour(stream: &impl RawStream) -> bool {
    AutoStream::choice(stream) != ColorChoice::Never
}

#[cfg(test)]
pub(crate) mod samples;
