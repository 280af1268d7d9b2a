//! A page per body that cannot be resolved, for issue trackers: which kernels have it, why, and the annotated
//! listing. One body, one page: many builds have the same, and one repair mends all of them.

use crate::report::code;
use nfdrop_db::{
    BuildId, Permanence, Store, StoreError,
    listing::text::{self, Style},
    store::{Held, Inventory},
};
use std::{collections::BTreeMap, fmt::Write as _};

/// Longest page, in bytes: what GitHub takes as an issue's text.
pub const MAX_PAGE: usize = 65_536;
/// Kernels that are named.
const MAX_KERNELS: usize = 50;

/// A page.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    /// Names the body: the first 16 digits of what the resolver read, or the build-id where it never ran.
    pub key: String,
    /// One line.
    pub title: String,
    /// Markdown, at most [`MAX_PAGE`] bytes.
    pub text: String,
}

/// The pages of all bodies without a plan, for reasons that stay.
pub fn pages(store: &Store, inventory: &Inventory) -> Result<Vec<Page>, StoreError> {
    let mut bodies: BTreeMap<String, Vec<(&BuildId, &Held)>> = BTreeMap::new();
    for (id, held) in &inventory.builds {
        let stays = |reason: nfdrop_db::Reason| reason.permanence() == Permanence::Permanent;
        if held.reason.is_some_and(stays) {
            let key = match &held.body {
                Some(body) => body.to_string().chars().take(16).collect(),
                None => id.to_string(),
            };
            bodies.entry(key).or_default().push((id, held));
        }
    }
    bodies.into_iter().map(|(key, builds)| page(store, key, &builds)).collect()
}

fn page(store: &Store, key: String, builds: &[(&BuildId, &Held)]) -> Result<Page, StoreError> {
    let (first, held) = builds[0];
    let reason = held.reason.map_or("", nfdrop_db::Reason::name);
    let kernels: Vec<String> = builds
        .iter()
        .flat_map(|(_, held)| held.packages.iter().map(|p| format!("{} {}", p.distro, p.release)))
        .collect::<std::collections::BTreeSet<_>>()
        .into_iter()
        .collect();
    let name = kernels.last().map_or_else(|| first.to_string(), |name| shown(name));
    let more = match kernels.len().saturating_sub(1) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    let mut text = format!("`nft_do_chain` of these kernels cannot be resolved: `{reason}`\n\n");
    let _ = writeln!(text, "{}\n", code(held.detail.as_deref().unwrap_or_default()));
    let _ = writeln!(text, "Analyzer {}; body `{key}`.\n", code(&held.analyzer));
    text += "| kernel | build-id | package |\n| --- | --- | --- |\n";
    for (id, _) in builds.iter().take(MAX_KERNELS) {
        for package in store.provenance(id)?.iter().take(2) {
            let kernel = code(&format!("{} {}", package.distro, package.release));
            let _ = writeln!(text, "| {kernel} | `{id}` | {} |", code(&package.url));
        }
    }
    let more_builds = builds.len().saturating_sub(MAX_KERNELS);
    if more_builds > 0 {
        let _ = writeln!(text, "\n… and {more_builds} more builds.");
    }
    text += "\nTo see it: fetch the package, then `nfdrop-indexer explain PACKAGE`. Once a newer analyzer \
             resolves it, the next crawl closes this.\n";
    if let Some(packed) = store.listing(first)?
        && let Ok(listing) = packed.unpack()
    {
        let style = Style { colors: false, unicode: true, width: 110 };
        let listing = text::render(&format!("build {first}"), &listing, style);
        let (begin, end) = ("\n<details><summary>The listing</summary>\n\n", "\n</details>\n");
        text += begin;
        let room = MAX_PAGE.saturating_sub(text.len() + end.len() + 64);
        // Indented code: nothing in it can end it.
        let mut used = 0;
        for line in listing.lines() {
            used += line.len() + 5;
            if used > room {
                text += "    … (the rest is cut: `explain` prints all of it)\n";
                break;
            }
            let _ = writeln!(text, "    {line}");
        }
        text += end;
    }
    text.truncate(text.floor_char_boundary(MAX_PAGE));
    Ok(Page { key, title: format!("{reason}: {name}{more}"), text })
}

/// A name from a package, in a title.
fn shown(name: &str) -> String {
    nfdrop_db::Record::clean_detail(name).chars().take(100).collect()
}
