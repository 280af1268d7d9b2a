//! All records of a database, in memory: what most requests ask for is answered from here.
//!
//! A million builds have to fit, so what records share is kept once. The members of a structure are
//! where they are for all builds of a kernel series and its options: `layout`, more than half of a record,
//! is the same text in many of them. The rest is as it was stored.
//!
//! A snapshot never changes. The next one shares with it what both have.

use crate::encoding::Codings;
use nfdrop_db::{Newer, PlanError, Reason, Record, RecordError, Status, store::Changed};
use sha2::{Digest as _, Sha256};
use std::{
    borrow::Borrow,
    collections::{BTreeMap, HashMap, HashSet},
    hash::{Hash, Hasher},
    ops::Range,
    sync::{Arc, OnceLock, Weak},
};

/// How every canonical record begins.
const BEGIN: &[u8] = br#"{"build_id":""#;
/// Where the shared part begins and ends.
const LAYOUT: &[u8] = br#","layout":{"#;
const EVIDENCE: &[u8] = br#","evidence":{"#;
/// Below this many new records the next snapshot is made of the last one and them; above, anew.
const FEW: usize = 1024;

/// A record as it is held.
#[derive(Debug)]
pub struct Held {
    /// The canonical bytes without the shared part. The build-id is in them, behind [`BEGIN`].
    own: Box<[u8]>,
    /// Digits of the build-id.
    digits: u8,
    /// Where the shared part belongs.
    cut: u32,
    shared: Arc<[u8]>,
    /// The first half of the SHA-256 of the canonical bytes.
    pub tag: [u8; 16],
    /// With a plan, without one for a reason, or broken.
    pub state: State,
    /// The canonical bytes in the codings that clients want, once they are made.
    pub codings: OnceLock<Box<Codings>>,
}

/// What a record says in a word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// There is a plan.
    Resolved,
    /// There is none.
    Unresolved(Reason),
    /// The stored bytes are no record, and are not handed out.
    Broken,
}

impl Held {
    /// The canonical bytes.
    pub fn bytes(&self) -> Vec<u8> {
        let (before, after) = self.own.split_at(self.cut as usize);
        let mut bytes = Vec::with_capacity(self.size());
        bytes.extend_from_slice(before);
        bytes.extend_from_slice(&self.shared);
        bytes.extend_from_slice(after);
        bytes
    }

    /// How many bytes these are.
    pub fn size(&self) -> usize {
        self.own.len() + self.shared.len()
    }

    /// The build-id, in hex.
    pub fn id(&self) -> &[u8] {
        &self.own[BEGIN.len()..][..usize::from(self.digits)]
    }
}

/// A [`Held`] in a set, found by its build-id in hex.
#[derive(Debug, Clone)]
struct Entry(Arc<Held>);

impl Borrow<[u8]> for Entry {
    fn borrow(&self) -> &[u8] {
        self.0.id()
    }
}

impl Hash for Entry {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.id().hash(state);
    }
}

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        self.0.id() == other.0.id()
    }
}

impl Eq for Entry {}

/// Records by build-id.
#[derive(Debug, Clone, Default)]
pub struct Snapshot {
    base: Arc<HashSet<Entry>>,
    /// Newer than `base`.
    recent: HashSet<Entry>,
    tally: Tally,
}

/// How many records there are.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tally {
    /// With a plan.
    pub resolved: u64,
    /// Without one.
    pub unresolved: BTreeMap<Reason, u64>,
    /// No records, really.
    pub broken: u64,
}

impl Tally {
    fn count(&mut self, state: State, by: i64) {
        let count = match state {
            State::Resolved => &mut self.resolved,
            State::Unresolved(reason) => self.unresolved.entry(reason).or_default(),
            State::Broken => &mut self.broken,
        };
        *count = count.saturating_add_signed(by);
    }
}

#[expect(clippy::mutable_key_type, reason = "the build-id, which is what is hashed, never changes")]
impl Snapshot {
    /// The record of the build with this id, given in hex.
    pub fn get(&self, hex: &[u8]) -> Option<&Arc<Held>> {
        self.recent.get(hex).or_else(|| self.base.get(hex)).map(|entry| &entry.0)
    }

    /// All of them, the newest first.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Held>> {
        let base = self.base.iter().filter(|entry| !self.recent.contains(*entry));
        self.recent.iter().chain(base).map(|entry| &entry.0)
    }

    /// The build-ids, in hex, ascending.
    pub fn ids(&self) -> Vec<String> {
        let all = self.base.iter().chain(&self.recent);
        let ids: std::collections::BTreeSet<_> =
            all.map(|entry| String::from_utf8_lossy(entry.0.id()).into_owned()).collect();
        ids.into_iter().collect()
    }

    /// How many there are.
    pub fn tally(&self) -> &Tally {
        &self.tally
    }

    /// This one and what was written since, which replaces what is there of the same builds.
    #[must_use]
    pub fn with(&self, new: Vec<Arc<Held>>) -> Self {
        let mut next = self.clone();
        if self.recent.len() + new.len() > FEW.max(self.base.len() / 8) {
            let mut base = HashSet::with_capacity(self.base.len() + new.len());
            // Of two that are equal the first stays.
            base.extend(self.recent.iter().cloned());
            base.extend(self.base.iter().cloned());
            (next.base, next.recent) = (Arc::default(), HashSet::new());
            for held in new {
                Self::replace(&mut base, &mut next.tally, held);
            }
            next.base = Arc::new(base);
        } else {
            for held in new {
                let old = self.base.get(held.id()).filter(|_| !next.recent.contains(held.id()));
                if let Some(old) = old {
                    next.tally.count(old.0.state, -1);
                }
                Self::replace(&mut next.recent, &mut next.tally, held);
            }
        }
        next
    }

    fn replace(set: &mut HashSet<Entry>, tally: &mut Tally, held: Arc<Held>) {
        tally.count(held.state, 1);
        if let Some(old) = set.replace(Entry(held)) {
            tally.count(old.0.state, -1);
        }
    }
}

/// Makes [`Held`] of what is stored, and finds what they share.
#[derive(Debug, Default)]
pub struct Holder {
    shared: HashMap<Box<[u8]>, Weak<[u8]>>,
    /// What of [`Holder::shared`] is dropped is looked for when there are so many.
    sweep: usize,
}

/// A record that was checked, and is not yet held.
#[derive(Debug)]
pub struct Checked {
    bytes: Vec<u8>,
    digits: u8,
    /// Where the shared part begins and ends.
    shared: Range<usize>,
    tag: [u8; 16],
    state: State,
    error: Option<RecordError>,
}

impl Checked {
    /// Checks a record. That is nearly all of the work, and can be done for many of them at once.
    pub fn new(stored: &Changed) -> Self {
        let id = stored.build_id.to_string();
        let checked = Record::parse_canonical(&stored.record);
        let (bytes, state, error) = match checked {
            Ok(record) if record.build_id != stored.build_id => {
                (None, State::Broken, Some(RecordError::Contradiction))
            }
            Ok(Record { status: Status::Resolved, .. }) => {
                (Some(&stored.record[..]), State::Resolved, None)
            }
            Ok(Record { reason: Some(reason), .. }) => {
                (Some(&stored.record[..]), State::Unresolved(reason), None)
            }
            Ok(_) => (None, State::Broken, Some(RecordError::Contradiction)),
            // A newer program has stored it, and newer clients read it: it is theirs to judge.
            Err(error @ RecordError::Plan(PlanError::NewerSchema(_)))
                if Newer::of(&stored.record).is_some_and(|of| of.build_id == stored.build_id) =>
            {
                (Some(&stored.record[..]), State::Resolved, Some(error))
            }
            Err(error) => (None, State::Broken, Some(error)),
        };
        let nothing = || [BEGIN, id.as_bytes()].concat();
        let bytes = bytes.map_or_else(nothing, <[u8]>::to_vec);
        let digest = Sha256::digest(&bytes);
        let mut tag = [0; 16];
        tag.copy_from_slice(&digest[..16]);
        let find = |what: &[u8]| memchr::memmem::rfind(&bytes, what);
        let shared = match (find(LAYOUT), find(EVIDENCE)) {
            (Some(begin), Some(end)) if begin < end => begin..end,
            _ => bytes.len()..bytes.len(),
        };
        Self { bytes, digits: id.len() as u8, shared, tag, state, error }
    }
}

impl Holder {
    /// Holds a record. What is wrong with a broken one is told, and that one is newer than this program.
    pub fn hold(&mut self, checked: Checked) -> (Arc<Held>, Option<RecordError>) {
        let Checked { bytes, digits, shared, tag, state, error } = checked;
        let held = Held {
            own: [&bytes[..shared.start], &bytes[shared.end..]].concat().into(),
            digits,
            cut: shared.start as u32,
            shared: self.share(&bytes[shared]),
            tag,
            state,
            codings: OnceLock::new(),
        };
        (Arc::new(held), error)
    }

    fn share(&mut self, bytes: &[u8]) -> Arc<[u8]> {
        if let Some(shared) = self.shared.get(bytes).and_then(Weak::upgrade) {
            return shared;
        }
        if self.shared.len() > self.sweep {
            self.shared.retain(|_, shared| shared.strong_count() > 0);
            self.sweep = 2 * self.shared.len().max(FEW);
        }
        let shared: Arc<[u8]> = bytes.into();
        self.shared.insert(bytes.into(), Arc::downgrade(&shared));
        shared
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nfdrop_db::{BuildId, sample};

    fn id(number: u32) -> BuildId {
        BuildId::from_bytes(&[&[7; 16][..], &number.to_be_bytes()].concat()).unwrap()
    }

    fn stored(record: &Record) -> Changed {
        Changed { build_id: record.build_id.clone(), changed: 0, record: record.to_bytes() }
    }

    fn hold(holder: &mut Holder, record: &Record) -> Arc<Held> {
        let (held, error) = holder.hold(Checked::new(&stored(record)));
        assert_eq!(error, None);
        held
    }

    #[test]
    fn what_is_held_is_what_was_stored() {
        let mut holder = Holder::default();
        let mut hostile = sample::unresolved(id(3));
        hostile.detail = Some(r#","layout":{ ,"evidence":{ {"build_id":" "#.to_owned());
        for record in [sample::resolved(id(1)), sample::unresolved(id(2)), hostile] {
            let held = hold(&mut holder, &record);
            assert_eq!(held.bytes(), record.to_bytes());
            assert_eq!(held.id(), record.build_id.to_string().as_bytes());
        }
    }

    #[test]
    fn what_a_newer_program_stored_is_held_as_it_is() {
        let record = String::from_utf8(sample::resolved(id(1)).to_bytes()).unwrap();
        let record = record.replace(r#""plan":{"schema":1,"#, r#""plan":{"schema":2,"new":{},"#);
        let mut newer = Changed { build_id: id(1), changed: 0, record: record.into_bytes() };
        let (held, error) = Holder::default().hold(Checked::new(&newer));
        assert_eq!(error, Some(PlanError::NewerSchema(2).into()));
        assert_eq!((held.state, held.bytes()), (State::Resolved, newer.record.clone()));
        newer.build_id = id(2);
        let (held, _) = Holder::default().hold(Checked::new(&newer));
        assert_eq!(held.state, State::Broken, "of another build");
    }

    #[test]
    fn layouts_are_shared_and_let_go() {
        let mut holder = Holder::default();
        let [a, b] = [1, 2].map(|number| hold(&mut holder, &sample::resolved(id(number))));
        assert!(Arc::ptr_eq(&a.shared, &b.shared));
        assert!(a.shared.len() > 100, "{}", a.shared.len());
        drop((a, b));
        assert!(holder.shared.values().all(|shared| shared.upgrade().is_none()));
    }

    #[test]
    fn what_is_no_record_is_broken_and_holds_nothing() {
        let mut holder = Holder::default();
        let mut other = stored(&sample::resolved(id(1)));
        other.build_id = id(2);
        let garbage = Changed { build_id: id(3), changed: 0, record: b"{}".to_vec() };
        for wrong in [other, garbage] {
            let (held, error) = holder.hold(Checked::new(&wrong));
            assert!(error.is_some());
            assert_eq!(held.state, State::Broken);
            assert_eq!(held.id(), wrong.build_id.to_string().as_bytes());
        }
    }

    /// Whatever the sizes of what is added: the newest of each build, and counts that fit.
    #[test]
    fn the_newest_is_found_and_counted_once() {
        for steps in [vec![5000], vec![10, 2000, 10, 10], vec![1; 30], vec![0, 1024, 1025, 1]] {
            let mut holder = Holder::default();
            let mut snapshot = Snapshot::default();
            let mut expected = HashMap::new();
            let mut number = 0;
            for step in steps {
                let new = (0..step).map(|_| {
                    number += 7;
                    // Some come again, with or without a plan.
                    let id = id(number % 997);
                    let resolved = number % 3 == 0;
                    expected.insert(id.clone(), resolved);
                    let record =
                        if resolved { sample::resolved(id) } else { sample::unresolved(id) };
                    hold(&mut holder, &record)
                });
                let new = new.collect();
                snapshot = snapshot.with(new);
            }
            let resolved = expected.values().filter(|resolved| **resolved).count() as u64;
            let tally = snapshot.tally();
            assert_eq!(tally.resolved, resolved);
            let unresolved: u64 = tally.unresolved.values().sum();
            assert_eq!(unresolved, expected.len() as u64 - resolved);
            for (id, resolved) in expected {
                let held = snapshot.get(id.to_string().as_bytes()).unwrap();
                assert_eq!(held.state == State::Resolved, resolved);
            }
            assert!(snapshot.get(b"00000000").is_none());
        }
    }
}
