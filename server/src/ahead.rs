//! Plans in every coding before anybody asks for one, as far as there is room.
//!
//! This is done on a thread of its own that gets what others leave of the processors: neither the start nor
//! an answer nor the end of the server waits for it.

use crate::{
    Database,
    encoding::{Codings, Encoding, Room, WORTH_IT},
    metrics::Metrics,
    snapshot::{Snapshot, State},
};
use prometheus_client::metrics::counter::Counter;
use std::{io, thread, time::Duration};
use tokio::runtime::Handle;

/// How often it is looked whether there is room again.
const LOOK: Duration = Duration::from_secs(1);

/// Keeps up with the database until nobody has it any more.
pub fn start(database: &Database, metrics: &Metrics) -> io::Result<()> {
    let (mut snapshots, made) = (database.snapshots(), metrics.encoded_ahead.clone());
    let runtime = Handle::current();
    let follow = move || {
        // Of this thread alone, on Linux; where it is not allowed, it is as important as others.
        let _ = rustix::process::setpriority_process(None, 19);
        let room = Room::default();
        loop {
            let snapshot = snapshots.borrow_and_update().clone();
            encode(&snapshot, &room, &made, || snapshots.has_changed().unwrap_or(true));
            drop(snapshot);
            if room.is_full() {
                // Much of it may be taken by records that are let go of just now; nobody tells when they are gone.
                while room.is_full() && snapshots.has_changed().is_ok_and(|changed| !changed) {
                    thread::sleep(LOOK);
                }
                if snapshots.has_changed().is_err() {
                    return;
                }
                continue;
            }
            if runtime.block_on(snapshots.changed()).is_err() {
                return;
            }
        }
    };
    thread::Builder::new().name("encoder".to_owned()).spawn(follow).map(drop)
}

/// Encodes what is not yet encoded, until there is no more room or all of it is out of date.
fn encode(snapshot: &Snapshot, room: &Room, made: &Counter, is_old: impl Fn() -> bool) {
    for held in snapshot.iter() {
        if room.is_full() || is_old() {
            return;
        }
        let worth_it = held.state != State::Broken && held.size() >= WORTH_IT;
        if worth_it && held.codings.get().is_none() {
            let _ = held.codings.set(Box::new(Codings::of(&held.bytes(), room)));
            made.inc_by(Encoding::ALL.len() as u64);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snapshot::{Checked, Held, Holder};
    use nfdrop_db::{BuildId, sample, store::Changed};
    use std::{cell::Cell, sync::Arc};

    fn held(numbers: std::ops::Range<u8>) -> Vec<Arc<Held>> {
        let mut holder = Holder::default();
        let mut hold = |number| {
            let build_id = BuildId::from_bytes(&[number; 20]).unwrap();
            let record = sample::resolved(build_id.clone()).to_bytes();
            holder.hold(Checked::new(&Changed { build_id, changed: 0, record })).0
        };
        numbers.map(&mut hold).collect()
    }

    fn encoded(snapshot: &Snapshot) -> usize {
        snapshot.iter().filter(|held| held.codings.get().is_some()).count()
    }

    #[test]
    fn all_is_encoded_once_and_what_is_new() {
        let (room, made) = (Room::default(), Counter::default());
        let first = Snapshot::default().with(held(0..50));
        encode(&first, &room, &made, || false);
        assert_eq!((encoded(&first), made.get()), (50, 150));
        let second = first.with(held(40..60));
        encode(&second, &room, &made, || false);
        assert_eq!((encoded(&second), made.get()), (60, 210));
        encode(&second, &room, &made, || false);
        assert_eq!(made.get(), 210);
    }

    #[test]
    fn what_is_short_or_broken_is_not_encoded() {
        let id = |number| BuildId::from_bytes(&[number; 20]).unwrap();
        let short =
            Changed { build_id: id(1), changed: 0, record: sample::unresolved(id(1)).to_bytes() };
        let broken = Changed { build_id: id(2), changed: 0, record: vec![b' '; 5000] };
        let hold = |stored| Holder::default().hold(Checked::new(stored)).0;
        let snapshot = Snapshot::default().with([&short, &broken].map(hold).into());
        encode(&snapshot, &Room::default(), &Counter::default(), || false);
        assert_eq!(encoded(&snapshot), 0);
    }

    #[test]
    fn no_more_is_encoded_than_there_is_room_for_and_replaced_records_make_some() {
        let (room, made) = (Room::new(20_000), Counter::default());
        let first = Snapshot::default().with(held(0..100));
        encode(&first, &room, &made, || false);
        let some = encoded(&first);
        assert!((5..50).contains(&some), "{some}");
        let more = first.with(held(100..200));
        encode(&more, &room, &made, || false);
        assert_eq!(encoded(&more), some, "what is there stays");
        drop((first, more));
        assert!(!room.is_full());
        let other = Snapshot::default().with(held(0..100));
        encode(&other, &room, &made, || false);
        assert_eq!(encoded(&other), some);
    }

    #[test]
    fn what_is_out_of_date_is_left() {
        let snapshot = Snapshot::default().with(held(0..100));
        let asked = Cell::new(0);
        let is_old = || {
            asked.set(asked.get() + 1);
            asked.get() > 3
        };
        encode(&snapshot, &Room::default(), &Counter::default(), is_old);
        assert_eq!(encoded(&snapshot), 3);
    }
}
