//! A line a drop, for people.
//!
//! Columns become as wide as what was in them, up to a limit, so that lines stand below each other
//! from soon on without anybody having to wait for them. The rule's text is last: it has any length.

use super::{Named, Verdict, line, time};
use std::io::{self, Write};

/// Columns are not padded beyond this.
const MAX_WIDTH: usize = 48;
const COLUMNS: usize = 6;
/// What short names and IPv4 take, so that the first lines stand below each other too.
const WIDTHS: [usize; COLUMNS] = [16, 6, 16, 10, 38, 12];

const RESET: &str = "\x1b[0m";
const DIM: &str = "\x1b[2m";
const BOLD: &str = "\x1b[1m";

/// Prints lines.
#[derive(Debug)]
pub struct Text {
    colour: bool,
    netns: Option<u32>,
    widths: [usize; COLUMNS],
}

impl Text {
    /// `netns`: the namespace that need not be said.
    pub fn new(colour: bool, netns: Option<u32>) -> Self {
        Self { colour, netns, widths: WIDTHS }
    }

    /// One drop.
    pub fn print(&mut self, named: &Named, to: &mut impl Write) -> io::Result<()> {
        let drop = named.drop;
        let verdict = named.verdict();
        let columns: [String; COLUMNS] = [
            time::time_of_day(drop.time),
            verdict.name().to_owned(),
            named.place(),
            drop.handle.map(|handle| format!("handle {handle}")).unwrap_or_default(),
            flow(named),
            self.particulars(named),
        ];
        let styles = [DIM, style(verdict), "", DIM, "", DIM];
        let mut out = String::new();
        for ((column, width), style) in columns.iter().zip(&mut self.widths).zip(styles) {
            let len = column.chars().count();
            *width = len.clamp(*width, MAX_WIDTH.max(*width));
            let padding = width.saturating_sub(len);
            if !out.is_empty() {
                out.push_str("  ");
            }
            push(&mut out, column, if self.colour { style } else { "" });
            out.extend(std::iter::repeat_n(' ', padding));
        }
        let text = named.text();
        if !text.is_empty() {
            out.push_str("  ");
            push(&mut out, &text, if self.colour { BOLD } else { "" });
        }
        writeln!(to, "{}", out.trim_end())
    }

    /// Devices, length, and what is not as ever.
    fn particulars(&self, named: &Named) -> String {
        let drop = named.drop;
        let device = |what: &str, device: &Option<crate::event::Device>| {
            device.as_ref().map(|device| format!("{what} {}", line(&device.name)))
        };
        let netns = drop.netns.filter(|netns| self.netns != Some(*netns));
        let parts = [
            device("iif", &drop.iif),
            device("oif", &drop.oif),
            drop.len.map(|len| format!("len {len}")),
            drop.mark.filter(|mark| *mark != 0).map(|mark| format!("mark {mark:#x}")),
            netns.map(|netns| format!("netns {netns}")),
        ];
        parts.into_iter().flatten().collect::<Vec<_>>().join(" ")
    }
}

fn push(out: &mut String, text: &str, style: &str) {
    if style.is_empty() || text.is_empty() {
        out.push_str(text);
    } else {
        out.extend([style, text, RESET]);
    }
}

/// Red, yellow, magenta.
fn style(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Drop => "\x1b[31m",
        Verdict::Reject => "\x1b[33m",
        Verdict::Policy => "\x1b[35m",
    }
}

/// `udp 10.0.0.2:40000 > 10.0.0.1:1002`; of what is no IP the `EtherType`.
fn flow(named: &Named) -> String {
    let flow = &named.flow;
    let end = |address: Option<std::net::IpAddr>, port: Option<u16>| match (address, port) {
        (Some(std::net::IpAddr::V6(address)), Some(port)) => format!("[{address}]:{port}"),
        (Some(address), Some(port)) => format!("{address}:{port}"),
        (Some(address), None) => address.to_string(),
        (None, _) => "?".to_owned(),
    };
    let protocol = flow.protocol_name();
    match (flow.src.or(flow.dst), protocol) {
        (None, None) => format!("ethertype {:#06x}", flow.ether_type),
        (_, protocol) => {
            let protocol = protocol.map_or(String::new(), |name| format!("{name} "));
            format!("{protocol}{} > {}", end(flow.src, flow.sport), end(flow.dst, flow.dport))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::samples;

    fn printed(mut text: Text) -> String {
        let mut out = vec![];
        for (drop, rule) in &samples::all() {
            text.print(&Named::new(drop, rule.as_ref()), &mut out).unwrap();
        }
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn lines() {
        insta::assert_snapshot!(printed(Text::new(false, Some(samples::NETNS))));
    }

    #[test]
    fn lines_in_colour() {
        let lines = printed(Text::new(true, None));
        insta::assert_snapshot!(lines.replace('\x1b', "ESC"));
    }

    #[test]
    fn nothing_that_a_terminal_acts_on() {
        let lines = printed(Text::new(false, None));
        assert!(lines.chars().all(|c| c == '\n' || !c.is_control()), "{lines:?}");
        assert_eq!(lines.lines().count(), samples::all().len());
    }
}
