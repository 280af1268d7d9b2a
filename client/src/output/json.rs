//! A JSON object a line. The fields and their order are a contract.

use super::{Named, time};
use serde::Serialize;
use std::{
    fmt::Write as _,
    io::{self, Write},
    net::IpAddr,
};

/// Absent values are `null`, not left out: every line has the same fields.
#[derive(Serialize)]
struct Line<'a> {
    ts: String,
    event: String,
    family: Option<&'a str>,
    table: Option<&'a str>,
    chain: Option<&'a str>,
    base_chain: &'a str,
    handle: Option<u64>,
    rule: Option<&'a str>,
    hook: Option<&'a str>,
    iif: Option<&'a str>,
    oif: Option<&'a str>,
    netns: Option<u32>,
    mark: Option<u32>,
    len: Option<u32>,
    src: Option<IpAddr>,
    dst: Option<IpAddr>,
    sport: Option<u16>,
    dport: Option<u16>,
    proto: Option<String>,
    verdict: &'a str,
}

/// One drop.
pub(super) fn print(named: &Named, to: &mut impl Write) -> io::Result<()> {
    let (drop, flow) = (named.drop, &named.flow);
    let line = Line {
        ts: time::rfc3339(drop.time),
        event: drop.event.to_string(),
        family: named.table().map(|(family, _)| family),
        table: named.table().map(|(_, table)| table),
        chain: named.chain(),
        base_chain: &drop.base_chain,
        handle: drop.handle,
        rule: named.rule.map(|rule| &*rule.text),
        hook: drop.hook.and_then(|hook| drop.protocol_family.hook(hook)),
        iif: drop.iif.as_ref().map(|device| &*device.name),
        oif: drop.oif.as_ref().map(|device| &*device.name),
        netns: drop.netns,
        mark: drop.mark,
        len: drop.len,
        src: flow.src,
        dst: flow.dst,
        sport: flow.sport,
        dport: flow.dport,
        proto: flow.protocol_name(),
        verdict: named.verdict().name(),
    };
    writeln!(to, "{}", encode(&line)?)
}

/// JSON in one line in which no control character is left as it is: serde leaves those beyond ASCII,
/// and terminals act on them.
pub(crate) fn encode(value: &impl Serialize) -> io::Result<String> {
    let json = serde_json::to_string(value)?;
    // Nearly all lines, at a fraction of the cost.
    if json.bytes().all(|byte| (b' '..=b'~').contains(&byte)) {
        return Ok(json);
    }
    Ok(json.chars().fold(String::with_capacity(json.len()), |mut line, c| {
        if c.is_control() {
            // Into a String; and all control characters are below U+10000.
            let _ = write!(line, "\\u{:04x}", u32::from(c));
        } else {
            line.push(c);
        }
        line
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::samples;

    #[test]
    fn lines() {
        let mut out = vec![];
        for (drop, rule) in &samples::all() {
            print(&Named::new(drop, rule.as_ref()), &mut out).unwrap();
        }
        insta::assert_snapshot!(String::from_utf8(out).unwrap());
    }

    #[test]
    fn control_characters_come_back() {
        let text = "a\u{9b}2J\u{7f}\u{1b}\n\"\\";
        let line = encode(&text).unwrap();
        assert!(line.chars().all(|c| !c.is_control()), "{line:?}");
        assert_eq!(serde_json::from_str::<String>(&line).unwrap(), text);
    }
}
