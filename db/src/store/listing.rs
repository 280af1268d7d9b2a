//! Listings: one per body, compressed. What a page shows of a build is of the body that it has.

use super::{Store, StoreError};
use crate::body::InputKey;
use crate::{BuildId, Listing, ListingError, withdrawal::analyzer_rank};
use rusqlite::{Connection, OptionalExtension, params};
use std::sync::Arc;

/// A listing as it is stored.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct PackedListing(Arc<[u8]>);

/// Of zstd: above this it takes several times as long for a tenth less.
const LEVEL: i32 = 9;

impl PackedListing {
    /// Compresses a listing; an error where it is longer than any that is read.
    pub fn pack(listing: &Listing) -> Result<Self, ListingError> {
        let bytes = listing.to_bytes();
        if bytes.len() > Listing::MAX_BYTES {
            return Err(ListingError::TooLong { max: Listing::MAX_BYTES, found: bytes.len() });
        }
        let packed = zstd::bulk::compress(&bytes, LEVEL)
            .map_err(|error| ListingError::Packed(error.to_string()))?;
        Self::from_bytes(packed)
    }

    /// What somebody compressed; [`PackedListing::unpack`] looks at it.
    pub fn from_bytes(bytes: impl Into<Arc<[u8]>>) -> Result<Self, ListingError> {
        let bytes = bytes.into();
        if bytes.len() > Listing::MAX_PACKED {
            return Err(ListingError::TooLong { max: Listing::MAX_PACKED, found: bytes.len() });
        }
        Ok(Self(bytes))
    }

    /// As it is stored.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The listing.
    pub fn unpack(&self) -> Result<Listing, ListingError> {
        Listing::parse(&self.json()?)
    }

    /// Decompressed, in one piece of bounded size: so a frame cannot ask for a window of its own.
    pub(super) fn json(&self) -> Result<Vec<u8>, ListingError> {
        zstd::bulk::decompress(&self.0, Listing::MAX_BYTES)
            .map_err(|error| ListingError::Packed(error.to_string()))
    }
}

impl Store {
    /// The listing of a build's body. There is none where the resolver never ran, where an older version
    /// of this program ran it, or where it is too long.
    pub fn listing(&self, build_id: &BuildId) -> Result<Option<PackedListing>, StoreError> {
        self.read(|connection| {
            let sql = "SELECT listing FROM builds JOIN listings USING (input_key) \
                       WHERE build_id = ?1 AND length(listing) <= ?2";
            let mut statement = connection.prepare_cached(sql)?;
            let asked = params![build_id.to_string(), Listing::MAX_PACKED as i64];
            let found = statement.query_row(asked, |row| row.get::<_, Vec<u8>>(0)).optional()?;
            Ok(found.map(|bytes| PackedListing(bytes.into())))
        })
    }
}

/// Of two listings of one body that of the newer analyzer stays; the rest only makes the order total.
/// Nothing where there is no such body.
pub(super) fn put_listing(
    connection: &Connection,
    key: &InputKey,
    listing: &PackedListing,
    analyzer: &str,
) -> rusqlite::Result<()> {
    let sql = "SELECT analyzer, listing FROM listings WHERE input_key = ?1";
    let old = connection.prepare_cached(sql)?.query_row([&key.0[..]], |row| {
        let (analyzer, listing): (String, Vec<u8>) = (row.get(0)?, row.get(1)?);
        Ok((analyzer, listing))
    });
    let new = (analyzer_rank(analyzer), listing.as_bytes());
    if let Some((analyzer, listing)) = old.optional()?
        // A damaged one ranks lowest.
        && PackedListing::from_bytes(listing.as_slice()).is_ok_and(|packed| packed.unpack().is_ok())
        && (analyzer_rank(&analyzer), listing.as_slice()) >= new
    {
        return Ok(());
    }
    connection
        .prepare_cached(
            "INSERT INTO listings SELECT ?1, ?2, ?3 \
             WHERE EXISTS (SELECT 1 FROM bodies WHERE input_key = ?1) \
             ON CONFLICT DO UPDATE SET listing = excluded.listing, analyzer = excluded.analyzer",
        )?
        .execute(params![&key.0[..], listing.as_bytes(), analyzer])?;
    Ok(())
}

/// The next page of all listings, as they are stored.
pub(super) fn page(
    connection: &Connection,
    after: Option<&InputKey>,
    limit: usize,
) -> rusqlite::Result<Vec<(InputKey, Vec<u8>, String)>> {
    let sql = "SELECT input_key, listing, analyzer FROM listings WHERE ?1 IS NULL OR input_key > ?1 \
               ORDER BY input_key LIMIT ?2";
    let mut statement = connection.prepare_cached(sql)?;
    let rows = statement.query_map(params![after.map(|key| &key.0[..]), limit as i64], |row| {
        Ok((InputKey(row.get(0)?), row.get(1)?, row.get(2)?))
    })?;
    rows.collect()
}
