//! A kprobe on every instruction of the function, and what the kernel makes of each: whether it takes
//! it, and whether it replaces the breakpoint by a jump. Compared with what [`Rules`] says of it.

use super::{
    machine::Sections,
    verdict::{Placed, placed},
};
use anyhow::{Context, Result};
use nfdrop_db::Cost;
use nfdrop_resolver::{
    arch::Rules,
    image::Function,
    resolve::link::{KeyState, Linked, Placement, keys},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

/// Bytes between probes that are set together: an optimized one takes up to 19.
const APART: u32 = 32;

/// What is predicted of a place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Site {
    /// From the start of the function.
    pub offset: u32,
    /// Whether plans may use it.
    pub allowed: bool,
    /// How cheaply the kernel runs a probe there.
    pub cost: Cost,
}

/// Every instruction that can be reached but the first: a probe there is ftrace's, or is put behind
/// the `endbr64`, and no plan has one.
pub fn predicted(function: &Function) -> Result<Vec<Site>> {
    let linked = Linked::new(function, &keys(function)?, KeyState(0), Placement::Odd)?;
    let rules = Rules::new(function, &linked);
    let own = linked.instructions.iter().filter(|decoded| decoded.place.part == 0);
    let offsets = own.map(|decoded| decoded.place.offset).filter(|offset| *offset > 0);
    let offsets: BTreeSet<u32> = offsets.collect();
    let site = |offset| {
        let (allowed, cost) = (rules.probe_site(offset).is_some(), rules.cost(offset));
        Site { offset, allowed, cost }
    };
    Ok(offsets.into_iter().map(site).collect())
}

/// The sites, dealt out so that those set together do not get into each other's way.
pub fn batches(sites: &[Site]) -> Vec<Vec<Site>> {
    let mut batches: Vec<Vec<Site>> = Vec::new();
    for site in sites {
        let fits = |batch: &&mut Vec<Site>| {
            batch.last().is_none_or(|last| last.offset + APART <= site.offset)
        };
        match batches.iter_mut().find(fits) {
            Some(batch) => batch.push(*site),
            None => batches.push(vec![*site]),
        }
    }
    batches
}

/// What the kernel made of all sites.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Made {
    /// Refused, and why.
    pub refused: BTreeMap<u32, String>,
    /// Accepted: whether optimized.
    pub placed: BTreeMap<u32, bool>,
}

/// Reads what the guest says.
pub fn made(sections: &Sections) -> Result<Made> {
    let mut made = Made::default();
    for (title, text) in &sections.0 {
        match title.as_str() {
            "refused" => {
                for line in text.lines() {
                    let (offset, why) = line.split_once(' ').with_context(|| line.to_owned())?;
                    made.refused.insert(offset.parse()?, why.to_owned());
                }
            }
            "list" => {
                // A probe at the entry is put behind its `endbr64`, where there is another one.
                for Placed { offset, optimized } in placed(text)? {
                    *made.placed.entry(offset).or_default() |= optimized;
                }
            }
            _ => {}
        }
    }
    Ok(made)
}

/// A place of which the kernel thinks otherwise.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Difference {
    /// A plan could use it, and the kernel refuses: such a plan cannot be attached.
    Refused(Site, String),
    /// Called optimized, and is not: a promise of speed that does not hold.
    Slower(Site),
    /// Optimized, and not called so.
    Faster(Site),
    /// The guest said nothing of it.
    Silent(Site),
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused(site, why) => write!(f, "+{:#x} is refused: {why}", site.offset),
            Self::Slower(site) => write!(f, "+{:#x} is not optimized", site.offset),
            Self::Faster(site) => write!(f, "+{:#x} is optimized, not {}", site.offset, site.cost),
            Self::Silent(site) => write!(f, "+{:#x}: nothing is known", site.offset),
        }
    }
}

/// Where prediction and kernel differ. That the kernel takes a probe where no plan would put one is
/// no difference: the rules keep off more than they must.
pub fn differences(sites: &[Site], made: &Made) -> Vec<Difference> {
    let mut differences = Vec::new();
    for site in sites {
        let said = (made.refused.get(&site.offset), made.placed.get(&site.offset));
        differences.extend(match (said, site.cost == Cost::Optimized) {
            ((Some(why), _), _) if site.allowed => Some(Difference::Refused(*site, why.clone())),
            ((None, Some(false)), true) => Some(Difference::Slower(*site)),
            ((None, Some(true)), false) => Some(Difference::Faster(*site)),
            ((None, None), _) => Some(Difference::Silent(*site)),
            _ => None,
        });
    }
    differences
}
