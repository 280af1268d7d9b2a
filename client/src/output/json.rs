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
    word(to, r#"{"ts":"#, Some(&time::rfc3339(drop.time)))?;
    value(to, r#","event":"#, Some(drop.event))?;
    word(to, r#","family":"#, family)?;
    text(to, r#","table":"#, table)?;
    text(to, r#","chain":"#, named.chain())?;
    text(to, r#","base_chain":"#, Some(&drop.base_chain))?;
    value(to, r#","handle":"#, drop.handle)?;
    text(to, r#","rule":"#, named.rule.map(|rule| &*rule.text))?;
    word(to, r#","hook":"#, drop.hook.and_then(|hook| drop.protocol_family.hook(hook)))?;
    text(to, r#","iif":"#, drop.iif.as_ref().map(|device| &*device.name))?;
    text(to, r#","oif":"#, drop.oif.as_ref().map(|device| &*device.name))?;
    value(to, r#","netns":"#, drop.netns)?;
    value(to, r#","mark":"#, drop.mark)?;
    value(to, r#","len":"#, drop.len)?;
    address(to, r#","src":"#, flow.src)?;
    address(to, r#","dst":"#, flow.dst)?;
    value(to, r#","sport":"#, flow.sport)?;
    value(to, r#","dport":"#, flow.dport)?;
    word(to, r#","proto":"#, flow.protocol_name().as_deref())?;
    word(to, r#","verdict":"#, Some(named.verdict().name()))?;
    to.write_all(b"}\n")
}

/// A member, what stands before it included. `value`: of nfdrop's own words, or digits.
fn word(to: &mut impl Write, key: &str, value: Option<&str>) -> io::Result<()> {
    to.write_all(key.as_bytes())?;
    match value {
        None => to.write_all(b"null"),
        Some(value) => {
            to.write_all(b"\"")?;
            to.write_all(value.as_bytes())?;
            to.write_all(b"\"")
        }
    }
}

/// The same of what others have named. Nearly all of it needs no escaping, and serde's way would cost more than
/// all the rest.
fn text(to: &mut impl Write, key: &str, value: Option<&str>) -> io::Result<()> {
    let plain = |byte| matches!(byte, b' '..=b'~') && byte != b'"' && byte != b'\\';
    match value {
        Some(value) if !value.bytes().all(plain) => {
            to.write_all(key.as_bytes())?;
            to.write_all(encode(&value)?.as_bytes())
        }
        plain => word(to, key, plain),
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
    use proptest::prelude::*;

    #[test]
    fn lines() {
        let mut out = vec![];
        for (drop, rule) in &samples::all() {
            print(&Named::new(drop, rule.as_ref()), &mut out).unwrap();
        }
        insta::assert_snapshot!(String::from_utf8(out).unwrap());
    }

    proptest! {
        #[test]
        fn whatever_others_have_named_comes_back(name in any::<String>()) {
            let mut line = vec![];
            text(&mut line, r#"{"name":"#, Some(&name)).unwrap();
            line.push(b'}');
            let line = String::from_utf8(line).unwrap();
            prop_assert!(line.chars().all(|c| !c.is_control()), "{:?}", line);
            let json: serde_json::Value = serde_json::from_str(&line).unwrap();
            prop_assert_eq!(json["name"].as_str(), Some(&*name));
        }
    }

    #[test]
    fn control_characters_come_back() {
        let text = "a\u{9b}2J\u{7f}\u{1b}\n\"\\";
        let line = encode(&text).unwrap();
        assert!(line.chars().all(|c| !c.is_control()), "{line:?}");
        assert_eq!(serde_json::from_str::<String>(&line).unwrap(), text);
    }
}
