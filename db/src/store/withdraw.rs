//! Takes withdrawn plans out of a file: their builds become unresolved, with the reason why, until a newer
//! analyzer has looked at them again. Everything that reads the file then agrees: servers, exports, lists,
//! the gate. A reader refuses a file that has not been through all withdrawals.

use super::{Store, StoreError, column::required, proofs::forget_stale};
use crate::{BuildId, Plan, Reason, Record, Withdrawal, body::PlanTemplate, withdrawal::WITHDRAWN};
use rusqlite::{Connection, TransactionBehavior, params};

/// A condition that cannot tell drops from what passes.
const REASON: Reason = Reason::AmbiguousSite;
/// How the detail of such a build begins.
const BEGINS: &str = "withdrawn on ";

/// Whether a file has been through all withdrawals that this program knows.
pub(super) fn is_done(connection: &Connection) -> rusqlite::Result<bool> {
    Ok(applied(connection)? >= WITHDRAWN.len())
}

fn applied(connection: &Connection) -> rusqlite::Result<usize> {
    let applied: i64 =
        connection.query_row("SELECT max(applied) FROM withdrawals", [], |row| row.get(0))?;
    Ok(usize::try_from(applied).unwrap_or(0))
}

/// Applies those that the file has not been through, all or none.
pub(super) fn apply(connection: &mut Connection) -> rusqlite::Result<()> {
    if is_done(connection)? {
        return Ok(());
    }
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let first = applied(&transaction)?;
    withdraw_builds(&transaction, first)?;
    withdraw_bodies(&transaction, first)?;
    transaction.execute("UPDATE withdrawals SET applied = ?1", [WITHDRAWN.len() as i64])?;
    transaction.commit()
}

/// What is broken stays as it is: a check of the database reports it, and nothing hands it out.
fn withdraw_builds(connection: &Connection, first: usize) -> rusqlite::Result<()> {
    let sql = "SELECT build_id, record FROM builds WHERE status = 'resolved'";
    let mut statement = connection.prepare(sql)?;
    let mut rows = statement.query([])?;
    let mut withdrawn = vec![];
    while let Some(row) = rows.next()? {
        let record = serde_json::from_slice::<Record>(row.get_ref(1)?.as_blob()?);
        let plan = record.ok().and_then(|record| record.plan);
        if let Some(entry) = plan.as_ref().and_then(|plan| plan.withdrawn_since(first)) {
            withdrawn.push((required::<BuildId>(row, 0)?, entry));
        }
    }
    for (id, entry) in withdrawn {
        let record = Record::unresolved(id.clone(), REASON, detail(entry));
        connection.execute(
            "UPDATE builds SET status = ?2, reason = ?3, detail = ?4, record = ?5, \
             signature = NULL, changed = (SELECT max(changed) + 1 FROM builds) WHERE build_id = ?1",
            params![
                id.to_string(),
                record.status.to_string(),
                REASON.name(),
                record.detail,
                record.to_bytes()
            ],
        )?;
        forget_stale(connection, &id)?;
    }
    Ok(())
}

fn withdraw_bodies(connection: &Connection, first: usize) -> rusqlite::Result<()> {
    let mut statement =
        connection.prepare("SELECT input_key, plan FROM bodies WHERE plan IS NOT NULL")?;
    let mut rows = statement.query([])?;
    let mut withdrawn = vec![];
    while let Some(row) = rows.next()? {
        let template = serde_json::from_slice::<PlanTemplate>(row.get_ref(1)?.as_blob()?);
        // Any identity will do: withdrawals are not about one build.
        let plan = template.ok().zip(BuildId::from_bytes(&[0; 20]).ok());
        let plan: Option<Plan> = plan.map(|(template, id)| template.plan(&id, "nf_tables"));
        if let Some(entry) = plan.as_ref().and_then(|plan| plan.withdrawn_since(first)) {
            withdrawn.push((row.get::<_, [u8; 32]>(0)?, entry));
        }
    }
    for (key, entry) in withdrawn {
        connection.execute(
            "UPDATE bodies SET plan = NULL, reason = ?2, detail = ?3 WHERE input_key = ?1",
            params![key, REASON.name(), Record::clean_detail(&detail(entry))],
        )?;
    }
    Ok(())
}

fn detail(entry: &Withdrawal) -> String {
    format!("{entry}: crawl again with nfdrop-indexer {} or newer", entry.fixed_in)
}

impl Store {
    /// The builds whose plans were withdrawn and that no newer analyzer has looked at since, with the
    /// sentence that says why.
    pub fn withdrawn(&self) -> Result<Vec<(BuildId, String)>, StoreError> {
        self.read(|connection| {
            let mut statement = connection.prepare(
                "SELECT build_id, detail FROM builds WHERE reason = ?1 AND detail GLOB ?2 \
                 ORDER BY build_id",
            )?;
            let pattern = format!("{BEGINS}*");
            let rows = statement
                .query_map([REASON.name(), &pattern], |row| Ok((required(row, 0)?, row.get(1)?)))?;
            rows.collect()
        })
    }
}
