//! What rules, chains and tables are called, from the rulesets of the network namespaces.
//!
//! A table's handle is never given to another table of its namespace, nor a rule's to another rule of
//! its table. So a name that was found under both handles stays right whatever becomes of the
//! ruleset, and what was listed is kept: a drop can arrive here after its rule is gone. What is not
//! found was added since, so the ruleset is listed again; once for each change, which a [`monitor`]
//! opened before the listing tells of.
//!
//! Kernels whose plan does not tell where a table keeps its handle name the table only, or (5.10 and
//! others without BTF of their modules) not even that: then the base chain's name has to be found in
//! one table only. Either can be another table's by now. There a name is given only while the ruleset
//! is still what was listed, and only to drops that are younger than the listing.

mod anonymous_chains;
pub mod listing;
pub mod monitor;
pub mod namespace;
pub mod nft;
pub mod rules;

pub use listing::RuleName;

use crate::event::{Drop, Family};
use listing::{Chain, Listing, Table};
use monitor::Monitor;
use nfdrop_db::plan::Event;
use nft::NftError;
use std::{
    collections::{HashMap, HashSet, VecDeque},
    fs::File,
    io, iter,
    mem::{self, Discriminant},
    path::{Path, PathBuf},
    sync::mpsc::{self, Receiver, RecvTimeoutError},
    thread,
    time::{Duration, Instant, SystemTime},
};

/// Most rules remembered, of all namespaces and of the past.
const MAX_RULES: usize = 200_000;
/// Most listings of a namespace remembered, besides the last.
const MAX_PAST: usize = 16;
/// Most rules of a namespace whose names are at hand, because they have dropped.
const MAX_FOUND: usize = 4096;
/// Most namespaces remembered.
const MAX_NAMESPACES: usize = 64;
/// What failed is not tried again so soon.
const RETRY: Duration = Duration::from_secs(10);
/// Listing may take this long altogether, and a fifth of the time that passes, so that rulesets that
/// never rest cost no more.
const BUDGET: Duration = Duration::from_secs(5);
/// How long a drop waits for its name. Listings of tens of thousands of rules take longer; drops that
/// arrive meanwhile go without.
const PATIENCE: Duration = Duration::from_secs(2);
/// How much a drop's time may be off.
const SLACK: u64 = 10_000_000;
/// What names in events end with when they were longer.
const CUT: char = '…';
/// Why names are not known.
#[derive(Debug, thiserror::Error)]
pub enum NamesError {
    /// No process and no file leads there.
    #[error(
        "network namespace {0} was not found below /proc and /run/netns: its rules are named by \
         handle only; run nfdrop in the host's pid namespace"
    )]
    NotFound(u32),
    /// It was found and cannot be entered.
    #[error(
        "cannot enter network namespace {netns}: {source}: its rules are named by handle only; that \
         needs CAP_SYS_ADMIN"
    )]
    Enter {
        /// Its inode number.
        netns: u32,
        /// Why.
        source: io::Error,
    },
    /// Its rules cannot be listed.
    #[error("rules are named by handle only: {0}")]
    List(#[from] NftError),
}

/// Where rulesets come from: the kernel, outside tests.
pub trait Source {
    /// An open namespace, which keeps it alive.
    type Space;
    /// The inode number of the namespace nfdrop runs in.
    fn own(&self) -> Option<u32>;
    /// Opens a namespace and begins to listen for changes there.
    fn open(&mut self, netns: u32) -> Result<Self::Space, NamesError>;
    /// Whether anybody else has it.
    fn alive(&self, netns: u32, space: &mut Self::Space) -> bool;
    /// Whether its ruleset may have changed since this was asked last.
    fn changed(&mut self, space: &mut Self::Space) -> bool;
    /// Its ruleset; `None` while that takes longer, to be asked for again.
    fn list(
        &mut self,
        netns: u32,
        space: &mut Self::Space,
        max: usize,
    ) -> Result<Option<Listing>, NamesError>;
    /// Time since an arbitrary point.
    fn elapsed(&self) -> Duration;
    /// Nanoseconds since 1970.
    fn clock(&self) -> u64;
}

/// Names of rules, by namespace.
#[derive(Debug)]
pub struct Names<S: Source = Kernel> {
    source: S,
    spaces: HashMap<u32, Known<S::Space>>,
    /// Namespaces that could not be opened or listed, and when that was tried.
    failed: HashMap<u32, Duration>,
    spent: Duration,
    listings: u64,
    warnings: Vec<String>,
    warned: HashSet<(Discriminant<NamesError>, Option<Discriminant<NftError>>)>,
}

/// What is known of a namespace.
#[derive(Debug)]
struct Known<S> {
    space: S,
    /// The ruleset may be another than the one listed, or the one that is being listed.
    stale: bool,
    /// A listing that goes on: when it was begun, by both clocks.
    begun: Option<(Duration, u64)>,
    /// Number of the last listing; they are numbered through over all namespaces.
    listing: u64,
    /// When it was begun, in nanoseconds since 1970.
    listed: u64,
    /// The last listing.
    current: Listing,
    /// Those before, with their numbers, the newest first.
    past: VecDeque<(u64, Listing)>,
    /// Rules that were looked up.
    found: HashMap<(u64, u64), RuleName>,
}

impl Names {
    /// Of the machine whose files are below `root`, as `nft` (a path, or a name to look for) lists
    /// them. Nothing is listed yet.
    pub fn new(root: &Path, nft: &Path) -> Self {
        Self::from(Kernel::new(root, nft))
    }
}

impl<S: Source> Names<S> {
    /// Of another source.
    pub fn from(source: S) -> Self {
        Self {
            source,
            spaces: HashMap::new(),
            failed: HashMap::new(),
            spent: Duration::ZERO,
            listings: 0,
            warnings: vec![],
            warned: HashSet::new(),
        }
    }

    /// Forgets all rulesets. To be called when nf_tables is unloaded: it gives the same handles again.
    pub fn forget(&mut self) {
        self.spaces.clear();
        self.failed.clear();
    }

    /// What could not be done since this was called last: a line each, no two of a kind ever.
    pub fn warnings(&mut self) -> Vec<String> {
        mem::take(&mut self.warnings)
    }

    /// Lists what has changed, and forgets namespaces that nobody else has. To be called before
    /// drops arrive and about once a second, so that a rule that is gone soon was seen.
    pub fn refresh(&mut self) {
        let own = self.source.own();
        self.spaces.retain(|netns, known| {
            Some(*netns) == own || self.source.alive(*netns, &mut known.space)
        });
        let others: Vec<_> =
            self.spaces.keys().copied().filter(|netns| Some(*netns) != own).collect();
        for netns in own.into_iter().chain(others) {
            self.update(netns);
        }
    }

    /// The rule that dropped it; `None` for a policy drop and where the name is not known.
    pub fn look_up(&mut self, drop: &Drop) -> Option<&RuleName> {
        let netns = self.namespace(drop)?;
        let handle = drop.handle?;
        let sure = drop.table_handle != 0;
        let known = self.spaces.get_mut(&netns);
        if !(sure && known.is_some_and(|known| known.rule(drop, handle).is_some())) {
            self.update(netns);
        }
        self.spaces.get_mut(&netns)?.rule(drop, handle)
    }

    /// Writes names out that the event has only the beginning of, or not at all.
    pub fn complete(&mut self, drop: &mut Drop) {
        let whole = |name: &str| !name.is_empty() && !name.ends_with(CUT);
        if whole(&drop.table) && whole(&drop.base_chain) {
            return;
        }
        let Some(netns) = self.namespace(drop) else { return };
        if self.spaces.get(&netns).is_none_or(|known| known.table(drop).is_none()) {
            self.update(netns);
        }
        let table = self.spaces.get(&netns).and_then(|known| known.table(drop));
        let Some((_, table)) = table else { return };
        let mut chains = table.chains.iter().filter(|chain| may_be(chain, drop));
        if let (Some(chain), None) = (chains.next(), chains.next()) {
            drop.base_chain = chain.name.to_string();
        }
        drop.family = table.family;
        drop.table = table.name.to_string();
    }

    fn namespace(&self, drop: &Drop) -> Option<u32> {
        drop.netns.or_else(|| self.source.own())
    }

    /// Sees to it that the namespace's last listing is of the ruleset as it is now.
    fn update(&mut self, netns: u32) {
        let now = self.source.elapsed();
        if self.failed.get(&netns).is_some_and(|tried| now < *tried + RETRY) {
            return;
        }
        if let Err(error) = self.try_update(netns, now) {
            self.failed.retain(|_, tried| now < *tried + RETRY);
            self.failed.insert(netns, now);
            let nft = match &error {
                NamesError::List(nft) => Some(mem::discriminant(nft)),
                _ => None,
            };
            if self.warned.insert((mem::discriminant(&error), nft)) {
                self.warnings.push(error.to_string());
            }
        }
    }

    fn try_update(&mut self, netns: u32, now: Duration) -> Result<(), NamesError> {
        if !self.spaces.contains_key(&netns) {
            let space = self.source.open(netns)?;
            self.make_room();
            self.spaces.insert(netns, Known::new(space));
        }
        let Some(known) = self.spaces.get_mut(&netns) else { return Ok(()) };
        known.stale |= self.source.changed(&mut known.space);
        let (begun, clock) = match known.begun {
            Some(begun) => begun,
            None if known.stale && self.spent <= BUDGET + now / 5 => (now, self.source.clock()),
            None => return Ok(()),
        };
        // What changes from here on is seen at the next call.
        known.stale &= known.begun.replace((begun, clock)).is_some();
        let listing = self.source.list(netns, &mut known.space, MAX_RULES);
        if let Ok(None) = listing {
            return Ok(());
        }
        self.spent += self.source.elapsed().saturating_sub(begun);
        known.begun = None;
        known.stale |= listing.is_err();
        let Some(listing) = listing? else { return Ok(()) };
        self.listings += 1;
        known.take(listing, self.listings, clock);
        self.trim();
        Ok(())
    }

    /// For one more namespace.
    fn make_room(&mut self) {
        if self.spaces.len() >= MAX_NAMESPACES {
            let own = self.source.own();
            let others = self.spaces.iter().filter(|(netns, _)| Some(**netns) != own);
            let oldest = others.min_by_key(|(_, known)| known.listing).map(|(netns, _)| *netns);
            oldest.map(|netns| self.spaces.remove(&netns));
        }
    }

    /// Forgets the oldest listings when there are too many rules: first past ones, then whole
    /// namespaces.
    fn trim(&mut self) {
        while self.spaces.values().map(Known::rules).sum::<usize>() > MAX_RULES {
            let past = self.spaces.values_mut().filter(|known| !known.past.is_empty());
            let oldest = past.min_by_key(|known| known.past.back().map(|(number, _)| *number));
            if let Some(known) = oldest {
                known.past.pop_back();
            } else {
                let oldest = self.spaces.iter().min_by_key(|(_, known)| known.listing);
                let Some(netns) = oldest.map(|(netns, _)| *netns) else { return };
                self.spaces.remove(&netns);
            }
        }
    }
}

impl<S> Known<S> {
    fn new(space: S) -> Self {
        Self {
            space,
            stale: true,
            begun: None,
            listing: 0,
            listed: u64::MAX,
            current: Listing::default(),
            past: VecDeque::new(),
            found: HashMap::new(),
        }
    }

    fn take(&mut self, listing: Listing, number: u64, clock: u64) {
        let before = mem::replace(&mut self.listing, number);
        let mut past = mem::replace(&mut self.current, listing);
        past.rules.rest();
        // What changed may have been the elements of a set, which are not listed.
        if past != self.current {
            self.past.push_front((before, past));
            self.past.truncate(MAX_PAST);
        }
        self.found.clear();
        self.listed = clock;
    }

    /// All that are remembered.
    fn rules(&self) -> usize {
        let past = self.past.iter().map(|(_, listing)| listing.rules.len());
        self.current.rules.len() + past.sum::<usize>()
    }

    fn rule(&mut self, drop: &Drop, handle: u64) -> Option<&RuleName> {
        let (table, _) = self.table(drop)?;
        if !self.found.contains_key(&(table, handle)) {
            let past = self.past.iter_mut().map(|(_, listing)| listing);
            let mut listings = iter::once(&mut self.current).chain(past);
            let rule = listings.find_map(|listing| listing.rules.get(table, handle))?;
            if self.found.len() >= MAX_FOUND {
                self.found.clear();
            }
            self.found.insert((table, handle), rule);
        }
        self.found.get(&(table, handle))
    }

    /// The drop's table and its handle.
    fn table(&self, drop: &Drop) -> Option<(u64, &Table)> {
        if drop.table_handle != 0 {
            let past = self.past.iter().map(|(_, listing)| listing);
            let mut listings = iter::once(&self.current).chain(past);
            let table = listings.find_map(|listing| listing.tables.get(&drop.table_handle))?;
            return Some((drop.table_handle, table));
        }
        if self.stale || self.begun.is_some() || drop.time < self.listed.saturating_add(SLACK) {
            return None;
        }
        let mut named = self.current.tables.iter().filter(|(handle, table)| {
            if drop.table.is_empty() {
                return self.may_hold(drop, **handle, table);
            }
            table.family == drop.family && cut_from(&table.name, &drop.table)
        });
        match (named.next(), named.next()) {
            (Some((handle, table)), None) => Some((*handle, table)),
            _ => None,
        }
    }

    /// Whether a drop whose table is not known at all may be this one's.
    fn may_hold(&self, drop: &Drop, handle: u64, table: &Table) -> bool {
        let family = drop.protocol_family;
        // Neither where it is known nor unknown may another table hold it.
        (table.family == family || table.family == Family::INET || family == Family(0))
            && table.chains.iter().any(|chain| may_be(chain, drop))
            && drop.handle.is_none_or(|rule| self.current.rules.contains(handle, rule))
    }
}

/// Whether the drop may have happened in this base chain.
fn may_be(chain: &Chain, drop: &Drop) -> bool {
    let Some(base) = &chain.base else { return false };
    let hook = drop.hook.and_then(|hook| drop.protocol_family.hook(hook));
    cut_from(&chain.name, &drop.base_chain)
        && hook.is_none_or(|hook| hook == &*base.hook)
        && (base.drops || drop.event == Event::RuleDrop)
}

/// Whether an event that has `name` may mean `whole`.
fn cut_from(whole: &str, name: &str) -> bool {
    // A character that was cut in two has become another one.
    let start = name.strip_suffix(CUT).map(|cut| cut.trim_end_matches(char::REPLACEMENT_CHARACTER));
    whole == name || start.is_some_and(|start| whole.starts_with(start))
}

/// The rulesets of this machine's network namespaces.
#[derive(Debug)]
pub struct Kernel {
    root: PathBuf,
    nft: PathBuf,
    own: Option<u32>,
    start: Instant,
}

/// An open namespace of this machine.
#[derive(Debug)]
pub struct Space {
    /// Where it was found, and open; `None` for the one nfdrop runs in.
    found: Option<(PathBuf, File)>,
    /// `None` without the right to listen.
    monitor: Option<Monitor>,
    /// Where the listing will come from that goes on.
    running: Option<Receiver<Result<Listing, NamesError>>>,
}

impl Kernel {
    fn new(root: &Path, nft: &Path) -> Self {
        let own = namespace::own(root);
        Self { root: root.to_owned(), nft: nft.to_owned(), own, start: Instant::now() }
    }
}

impl Kernel {
    /// Begins a listing in a thread. Nobody waits for that at the end: it ends by itself.
    fn begin(
        &self,
        netns: u32,
        space: &Space,
        max: usize,
    ) -> io::Result<Receiver<Result<Listing, NamesError>>> {
        let nft = self.nft.clone();
        let file = space.found.as_ref().map(|(_, file)| file.try_clone()).transpose()?;
        let work = move || -> Result<Listing, NamesError> {
            let list = || nft::list(&nft, max);
            let listing = match &file {
                None => list(),
                Some(file) => namespace::inside(file, list)
                    .map_err(|source| NamesError::Enter { netns, source })?,
            };
            Ok(listing?)
        };
        let (sender, receiver) = mpsc::sync_channel(1);
        let thread = thread::Builder::new().name("nft".to_owned());
        thread.spawn(move || {
            // The namespace may be of no interest any more.
            let _ = sender.send(work());
        })?;
        Ok(receiver)
    }
}

impl Source for Kernel {
    type Space = Space;

    fn own(&self) -> Option<u32> {
        self.own
    }

    fn open(&mut self, netns: u32) -> Result<Space, NamesError> {
        if Some(netns) == self.own {
            return Ok(Space { found: None, monitor: Monitor::open().ok(), running: None });
        }
        let path = namespace::find(&self.root, netns).ok_or(NamesError::NotFound(netns))?;
        let enter = |source| NamesError::Enter { netns, source };
        let file = namespace::open(&path, netns).map_err(enter)?;
        let monitor = namespace::inside(&file, Monitor::open).map_err(enter)?;
        Ok(Space { found: Some((path, file)), monitor: monitor.ok(), running: None })
    }

    fn alive(&self, netns: u32, space: &mut Space) -> bool {
        let Some((path, _)) = &mut space.found else { return true };
        if namespace::inode(path) == Some(netns) {
            return true;
        }
        // The process is gone; others may be there.
        let found = namespace::find(&self.root, netns);
        found.map(|other| *path = other).is_some()
    }

    fn changed(&mut self, space: &mut Space) -> bool {
        space.monitor.as_mut().is_none_or(Monitor::changed)
    }

    fn list(
        &mut self,
        netns: u32,
        space: &mut Space,
        max: usize,
    ) -> Result<Option<Listing>, NamesError> {
        let enter = |source| NamesError::Enter { netns, source };
        let (patience, running) = match space.running.take() {
            Some(running) => (Duration::ZERO, running),
            None => (PATIENCE, self.begin(netns, space, max).map_err(enter)?),
        };
        match running.recv_timeout(patience) {
            Ok(listing) => listing.map(Some),
            Err(RecvTimeoutError::Timeout) => {
                space.running = Some(running);
                Ok(None)
            }
            Err(RecvTimeoutError::Disconnected) => Err(enter(io::Error::other("it panicked"))),
        }
    }

    fn elapsed(&self) -> Duration {
        self.start.elapsed()
    }

    fn clock(&self) -> u64 {
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        since.as_nanos().try_into().unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests;
