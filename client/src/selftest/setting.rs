//! Makes the two namespaces, and loads the tables of all parts that can run.

use super::{
    network::{self, Namespace},
    parts,
    scenario::Scenario,
};
use crate::{
    failure::Failure,
    host::Host,
    names::nft::{self, NftError},
};
use nfdrop_db::proof::{LeftOut, Part};
use std::{
    net::{Ipv6Addr, UdpSocket},
    path::Path,
};

/// The two namespaces and what runs in them.
pub(super) struct Setting {
    pub(super) spaces: [Namespace; 2],
    pub(super) scenario: Scenario,
    pub(super) parts: Vec<Part>,
    pub(super) left_out: Vec<LeftOut>,
}

/// `all`: modules may be loaded, and code that everybody runs changed.
pub(super) fn set_up(host: &Host, all: bool) -> Result<Setting, Failure> {
    let mut left_out = parts::left_out(host, all);
    if let Some(base) = left_out.iter().find(|left_out| left_out.part == Part::Base) {
        return Err(Failure::CannotTest(base.why.clone()));
    }
    let space = || {
        Namespace::new().map_err(|error| {
            Failure::CannotTest(format!(
                "no network namespace can be made: {error} -> run it outside of containers and sandboxes"
            ))
        })
    };
    let spaces = [space()?, space()?];
    let leaves = |left_out: &[LeftOut], part| left_out.iter().any(|left| left.part == part);
    if !leaves(&left_out, Part::Veth)
        && let Err(error) = network::add_veth(&spaces[0], &spaces[1])
    {
        let why = format!("no veth device can be made: {error}");
        left_out.push(LeftOut { part: Part::Veth, why });
    }
    let local = || UdpSocket::bind((Ipv6Addr::LOCALHOST, 0)).map(drop);
    if !leaves(&left_out, Part::Ip6)
        && let Err(error) = spaces[0].inside(local).and_then(|bound| bound)
    {
        let why = format!("a new namespace has no address ::1: {error}");
        left_out.push(LeftOut { part: Part::Ip6, why });
    }
    loop {
        let runs = |part: &Part| !leaves(&left_out, *part);
        let parts: Vec<_> = Part::ALL.iter().copied().filter(runs).collect();
        let scenario = Scenario::new(&parts);
        let refused = load(&scenario, &spaces)?;
        if refused.is_empty() {
            left_out.sort_by_key(|left_out| left_out.part);
            return Ok(Setting { spaces, scenario, parts, left_out });
        }
        left_out.extend(refused);
    }
}

/// Loads all tables; the parts whose table the kernel or nft does not take, when it has loaded none.
fn load(scenario: &Scenario, spaces: &[Namespace; 2]) -> Result<Vec<LeftOut>, Failure> {
    let mut refused = vec![];
    for (number, space) in spaces.iter().enumerate() {
        let tables = || scenario.tables.iter().filter(|table| table.space == number);
        let text: String = tables().map(|table| &*table.text).collect();
        if text.is_empty() {
            continue;
        }
        let Err(why) = nft(space, &[&text])? else { continue };
        for table in tables() {
            match nft(space, &["--check", &table.text])? {
                Ok(_) => {}
                Err(why) if table.part == Part::Base => {
                    return Err(Failure::CannotTest(format!(
                        "nft does not load a plain table: {why} -> load nft_counter where it is a module, \
                         or use a kernel that nft knows"
                    )));
                }
                Err(why) => {
                    let why = format!("nft does not load table {}: {why}", table.name);
                    refused.push(LeftOut { part: table.part, why });
                }
            }
        }
        if refused.is_empty() {
            return Err(Failure::BrokenTest(format!("nft does not load the ruleset: {why}")));
        }
        // Those of the other namespace are loaded again, with the same handles.
        let [first, _] = spaces;
        nft(first, &["flush", "ruleset"])?.map_err(Failure::BrokenTest)?;
        return Ok(refused);
    }
    Ok(refused)
}

/// What nft prints there; within: the first line of why it does not do it.
pub(super) fn nft(
    space: &Namespace,
    arguments: &[&str],
) -> Result<Result<String, String>, Failure> {
    let ran = space.inside(|| nft::output(Path::new("nft"), arguments));
    match ran.map_err(|error| Failure::BrokenTest(format!("entering a namespace: {error}")))? {
        Ok(bytes) => Ok(Ok(String::from_utf8_lossy(&bytes).into_owned())),
        Err(NftError::Failed { message, .. }) => {
            let line = message.lines().find(|line| !line.is_empty()).unwrap_or("it says nothing");
            Ok(Err(line.trim_start_matches("Error: ").to_owned()))
        }
        Err(error @ (NftError::Missing | NftError::Start(_))) => {
            Err(Failure::CannotTest(error.to_string()))
        }
        Err(error) => Err(Failure::BrokenTest(error.to_string())),
    }
}
