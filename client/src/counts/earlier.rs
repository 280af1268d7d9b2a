//! Counts that went with an nf_tables that was unloaded.
//!
//! It begins its handles anew when it is loaded again, so a handle alone does not tell whether it is the
//! rule of before. What does is all that a person knows a rule by: table, chain, handle and text. A
//! policy is known by its base chain. Such rows go on where they were; others stay as they are, and what
//! has the same handle now is counted from zero beside them.

use super::Row;
use std::collections::HashMap;

/// Most rows that are kept.
const MAX_ROWS: usize = 8192;

/// What a row is surely known again by: namespace, table, base chain, chain; a rule's handle and text.
type Identity = (u32, (&'static str, String), String, String, Option<(u64, String)>);

/// Rows of rules that may come back.
#[derive(Debug, Default)]
pub struct Earlier {
    rows: Vec<Row>,
    /// Where those are that can be known again.
    places: HashMap<Identity, usize>,
    loading: u32,
    forgotten: u64,
}

impl Earlier {
    /// Keeps all rows, as [`Earlier::with`] returned them: nf_tables is gone.
    pub fn keep(&mut self, rows: Vec<Row>) {
        self.rows = rows;
        self.rows.retain(|row| row.packets > 0);
        // The largest, if there are too many.
        self.rows.sort_by_key(|row| std::cmp::Reverse(row.packets));
        let forgotten = self.rows.drain(self.rows.len().min(MAX_ROWS)..).map(|row| row.packets);
        self.forgotten += forgotten.sum::<u64>();
        let places = self.rows.iter().enumerate();
        self.places = places.filter_map(|(at, row)| Some((identity(row)?, at))).collect();
        self.loading += 1;
    }

    /// Packets of rows that are not kept.
    pub fn forgotten(&self) -> u64 {
        self.forgotten
    }

    /// What the kernel counts now, on top of what it counted before.
    pub fn with(&self, now: Vec<Row>) -> Vec<Row> {
        let mut rows = self.rows.clone();
        for mut row in now {
            row.key.loading = self.loading;
            let place = if self.places.is_empty() { None } else { identity(&row) };
            match place.and_then(|known| rows.get_mut(*self.places.get(&known)?)) {
                Some(before) => {
                    before.packets += row.packets;
                    before.bytes += row.bytes;
                }
                None => rows.push(row),
            }
        }
        rows
    }
}

fn identity(row: &Row) -> Option<Identity> {
    let rule = if row.key.policy { None } else { Some((row.key.handle, row.rule.clone()?)) };
    Some((row.key.netns, row.table.clone()?, row.base_chain.clone(), row.chain.clone()?, rule))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::counts::tests::{policy, row, unknown};

    fn told(rows: &[Row]) -> Vec<(u32, u64, u64)> {
        rows.iter().map(|row| (row.key.loading, row.key.handle, row.packets)).collect()
    }

    #[test]
    fn only_what_is_the_same_rule_goes_on() {
        let mut earlier = Earlier::default();
        let first = earlier.with(vec![row(4, 10, "drop"), row(5, 7, "reject"), policy(1, 3)]);
        assert_eq!(told(&first), [(0, 4, 10), (0, 5, 7), (0, 1, 3)]);
        earlier.keep(first);
        assert_eq!(told(&earlier.with(vec![])), [(0, 4, 10), (0, 5, 7), (0, 1, 3)]);
        // The second rule has another text, the chain another handle.
        let second = vec![row(4, 1, "drop"), row(5, 2, "drop"), policy(2, 4), unknown(9)];
        let second = earlier.with(second);
        assert_eq!(told(&second), [(0, 4, 11), (0, 5, 7), (0, 1, 7), (1, 5, 2), (1, 9, 9)]);
        earlier.keep(second);
        let third = earlier.with(vec![row(5, 1, "drop"), unknown(1)]);
        let expected = [(0, 4, 11), (1, 9, 9), (0, 5, 7), (0, 1, 7), (1, 5, 3), (2, 9, 1)];
        assert_eq!(told(&third), expected);
    }

    #[test]
    fn no_more_than_that() {
        let mut earlier = Earlier::default();
        let rows = (1..=MAX_ROWS as u64 + 2).map(|number| row(number, number, "drop"));
        earlier.keep(rows.collect());
        assert_eq!((earlier.with(vec![]).len(), earlier.forgotten()), (MAX_ROWS, 1 + 2));
    }
}
