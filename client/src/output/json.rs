//! A JSON object a line. The fields and their order are a contract.

use super::{Named, time};
use serde::Serialize;
use std::{
    fmt::Write as _,
    io::{self, Write},
    net::IpAddr,
};

/// One drop. Absent values are `null`, not left out: every line has the same fields.
pub(super) fn print(named: &Named, to: &mut impl Write) -> io::Result<()> {
    let (drop, flow) = (named.drop, &named.flow);
    let (family, table) = named.table().unzip();
    text(to, r#"{"ts":"#, Some(&time::rfc3339(drop.time)))?;
    value(to, r#","event":"#, Some(drop.event))?;
    text(to, r#","family":"#, family)?;
    text(to, r#","table":"#, table)?;
    text(to, r#","chain":"#, named.chain())?;
    text(to, r#","base_chain":"#, Some(&drop.base_chain))?;
    value(to, r#","handle":"#, drop.handle)?;
    text(to, r#","rule":"#, named.rule.map(|rule| &*rule.text))?;
    text(to, r#","hook":"#, drop.hook.and_then(|hook| drop.protocol_family.hook(hook)))?;
    text(to, r#","iif":"#, drop.iif.as_ref().map(|device| &*device.name))?;
    text(to, r#","oif":"#, drop.oif.as_ref().map(|device| &*device.name))?;
    value(to, r#","netns":"#, drop.netns)?;
    value(to, r#","mark":"#, drop.mark)?;
    value(to, r#","len":"#, drop.len)?;
    address(to, r#","src":"#, flow.src)?;
    address(to, r#","dst":"#, flow.dst)?;
    value(to, r#","sport":"#, flow.sport)?;
    value(to, r#","dport":"#, flow.dport)?;
    text(to, r#","proto":"#, flow.protocol_name().as_deref())?;
    text(to, r#","verdict":"#, Some(named.verdict().name()))?;
    to.write_all(b"}\n")
}

/// A member, what stands before it included. Nearly all values need no escaping, and looking for what does
/// would cost more than all the rest.
fn text(to: &mut impl Write, key: &str, value: Option<&str>) -> io::Result<()> {
    to.write_all(key.as_bytes())?;
    let plain = |byte| matches!(byte, b' '..=b'~') && byte != b'"' && byte != b'\\';
    match value {
        None => to.write_all(b"null"),
        Some(value) if value.bytes().all(plain) => {
            to.write_all(b"\"")?;
            to.write_all(value.as_bytes())?;
            to.write_all(b"\"")
        }
        Some(value) => to.write_all(encode(&value)?.as_bytes()),
    }
}

fn value(to: &mut impl Write, key: &str, value: Option<impl Serialize + Copy>) -> io::Result<()> {
    to.write_all(key.as_bytes())?;
    Ok(serde_json::to_writer(to, &value)?)
}

fn address(to: &mut impl Write, key: &str, value: Option<IpAddr>) -> io::Result<()> {
    to.write_all(key.as_bytes())?;
    match value {
        None => to.write_all(b"null"),
        // At a quarter of what formatting takes.
        Some(IpAddr::V4(address)) => {
            for (before, octet) in ["\"", ".", ".", "."].into_iter().zip(address.octets()) {
                to.write_all(before.as_bytes())?;
                serde_json::to_writer(&mut *to, &octet)?;
            }
            to.write_all(b"\"")
        }
        Some(IpAddr::V6(address)) => write!(to, "\"{address}\""),
    }
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
