//! Content codings: which one a client wants, and bodies in it, each made once and kept.
//!
//! Plans are encoded before anybody asks ([`crate::ahead`]), and what is made of one is kept beside it, as
//! long as it is. All else, and plans that there was no room for, is encoded when it is first asked for, and
//! kept as long as it is asked for more often than other bodies.

use axum::{
    body::Bytes,
    http::{HeaderMap, HeaderValue, header},
};
use moka::sync::Cache;
use prometheus_client::metrics::counter::Counter;
use std::{
    io::Write as _,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

/// Shorter bodies are sent as they are: a packet holds them.
pub const WORTH_IT: usize = 600;
/// Bytes of bodies that are encoded when they are asked for, and kept.
const KEPT: u64 = 64 << 20;
/// Bytes of bodies that are encoded before.
const AHEAD: u64 = 64 << 20;

/// A content coding (RFC 9110, 8.4.1; RFC 7932; RFC 8878).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Encoding {
    /// `zstd`.
    Zstd,
    /// `br`.
    Brotli,
    /// `gzip`.
    Gzip,
}

impl Encoding {
    /// The smallest first, where a client likes all the same.
    pub const ALL: [Self; 3] = [Self::Brotli, Self::Zstd, Self::Gzip];

    /// As headers name it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Zstd => "zstd",
            Self::Brotli => "br",
            Self::Gzip => "gzip",
        }
    }

    /// As the value of Content-Encoding.
    pub fn value(self) -> HeaderValue {
        HeaderValue::from_static(self.name())
    }

    /// `body` in this coding; `None` where that would not be shorter.
    fn shorter(self, body: &[u8]) -> Option<Vec<u8>> {
        self.encode(body).ok().filter(|encoded| encoded.len() < body.len())
    }

    /// What a client likes best; `None`: the body as it is.
    pub fn wanted(request: &HeaderMap) -> Option<Self> {
        let values = request.get_all(header::ACCEPT_ENCODING).iter();
        let text = values.filter_map(|value| value.to_str().ok());
        let mut best: Option<(u16, Self)> = None;
        let mut refused = vec![];
        let mut any = None;
        for item in text.flat_map(|text| text.split(',')) {
            let (name, parameters) = item.split_once(';').unwrap_or((item, ""));
            let (name, weight) = (name.trim(), weight(parameters));
            if name == "*" {
                any = Some(weight);
            }
            let found = Self::ALL.into_iter().find(|one| one.name().eq_ignore_ascii_case(name));
            let Some(found) = found else { continue };
            if weight == 0 {
                refused.push(found);
            } else if best.is_none_or(|(most, one)| (weight, found.rank()) > (most, one.rank())) {
                best = Some((weight, found));
            }
        }
        let best = best.map(|(_, best)| best);
        best.or_else(|| {
            let all = || Self::ALL.into_iter().find(|one| !refused.contains(one));
            any.filter(|weight| *weight > 0).and_then(|_| all())
        })
    }

    fn rank(self) -> usize {
        Self::ALL.len() - Self::ALL.iter().position(|one| *one == self).unwrap_or_default()
    }

    fn encode(self, body: &[u8]) -> std::io::Result<Vec<u8>> {
        match self {
            Self::Zstd => zstd::bulk::compress(body, 12),
            Self::Brotli => {
                let mut encoded = vec![];
                // At 9 a plan is three bytes shorter, and takes ten times as long and 40 MB.
                let parameters =
                    brotli::enc::BrotliEncoderParams { quality: 5, ..Default::default() };
                brotli::BrotliCompress(&mut &*body, &mut encoded, &parameters)?;
                Ok(encoded)
            }
            Self::Gzip => {
                let mut encoder =
                    flate2::write::GzEncoder::new(vec![], flate2::Compression::new(6));
                encoder.write_all(body)?;
                encoder.finish()
            }
        }
    }
}

/// The weight of a coding in thousandths (RFC 9110, 12.4.2); what is malformed weighs nothing.
fn weight(parameters: &str) -> u16 {
    let mut weight = 1000;
    for parameter in parameters.split(';') {
        if let Some((name, value)) = parameter.split_once('=')
            && name.trim().eq_ignore_ascii_case("q")
        {
            let value: f32 = value.trim().parse().unwrap_or_default();
            weight = (value.clamp(0.0, 1.0) * 1000.0) as u16;
        }
    }
    weight
}

/// A body in every coding.
#[derive(Debug)]
pub struct Codings {
    /// One behind the other, as [`Encoding::ALL`] has them: a million of them are small, too.
    all: Bytes,
    /// Where each ends; there is nothing of one that would not be shorter.
    ends: [u32; Encoding::ALL.len()],
    room: Room,
}

impl Codings {
    /// Of this body; they take room until they are dropped.
    pub fn of(body: &[u8], room: &Room) -> Self {
        let mut all = vec![];
        let ends = Encoding::ALL.map(|encoding| {
            all.extend(encoding.shorter(body).unwrap_or_default());
            all.len() as u32
        });
        let codings = Self { all: all.into_boxed_slice().into(), ends, room: room.clone() };
        room.taken.fetch_add(codings.size(), Ordering::Relaxed);
        codings
    }

    /// The body in this coding; `None` where that would not be shorter.
    pub fn get(&self, encoding: Encoding) -> Option<Bytes> {
        let mut begin = 0;
        for (one, end) in Encoding::ALL.into_iter().zip(self.ends) {
            if one == encoding {
                return (begin < end).then(|| self.all.slice(begin as usize..end as usize));
            }
            begin = end;
        }
        None
    }

    fn size(&self) -> u64 {
        (size_of::<Self>() + self.all.len()) as u64
    }
}

impl Drop for Codings {
    fn drop(&mut self) {
        self.room.taken.fetch_sub(self.size(), Ordering::Relaxed);
    }
}

/// How much room there is for bodies that nobody has asked for yet.
#[derive(Debug, Clone)]
pub struct Room {
    bytes: u64,
    taken: Arc<AtomicU64>,
}

impl Default for Room {
    fn default() -> Self {
        Self::new(AHEAD)
    }
}

impl Room {
    /// For so many bytes, and the last body that begins below.
    pub fn new(bytes: u64) -> Self {
        Self { bytes, taken: Arc::default() }
    }

    /// Whether there is none.
    pub fn is_full(&self) -> bool {
        self.taken.load(Ordering::Relaxed) >= self.bytes
    }
}

/// Bodies that were encoded when they were asked for, by what they are of.
#[derive(Debug, Clone)]
pub struct Encoded {
    kept: Cache<([u8; 16], Encoding), Option<Bytes>>,
    made: Counter,
}

impl Encoded {
    /// Counts in `made` what it encodes.
    pub fn new(made: Counter) -> Self {
        let weigh = |_: &_, body: &Option<Bytes>| {
            body.as_ref().map_or(64, |body| u32::try_from(body.len() + 64).unwrap_or(u32::MAX))
        };
        Self { kept: Cache::builder().max_capacity(KEPT).weigher(weigh).build(), made }
    }

    /// `body` in this coding; `None` where that would not be shorter. `tag` is of the body.
    pub fn get(&self, tag: [u8; 16], encoding: Encoding, body: &[u8]) -> Option<Bytes> {
        if body.len() < WORTH_IT {
            return None;
        }
        self.kept.get_with((tag, encoding), || {
            self.made.inc();
            encoding.shorter(body).map(|encoded| encoded.into_boxed_slice().into())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sha2::Digest as _;
    use std::io::Read as _;

    fn wanted(text: &str) -> Option<&'static str> {
        let mut headers = HeaderMap::new();
        headers.insert(header::ACCEPT_ENCODING, text.parse().unwrap());
        Encoding::wanted(&headers).map(Encoding::name)
    }

    #[test]
    fn clients_get_what_they_like_best() {
        for (text, expected) in [
            ("", None),
            ("identity", None),
            ("gzip", Some("gzip")),
            ("GZIP", Some("gzip")),
            ("gzip, deflate, br, zstd", Some("br")),
            ("gzip;q=1.0, br;q=0.5", Some("gzip")),
            ("gzip;q=0, br;q=0", None),
            ("zstd;q=x", None),
            ("*", Some("br")),
            ("br;q=0, *", Some("zstd")),
            ("*;q=0", None),
            ("deflate", None),
            ("gzip;q=NaN", None),
        ] {
            assert_eq!(wanted(text), expected, "{text}");
        }
        assert_eq!(Encoding::wanted(&HeaderMap::new()), None);
    }

    #[test]
    fn encoded_bodies_are_the_body_again() {
        let body = b"nft_do_chain ".repeat(1000);
        let encoded = Encoded::new(Counter::default());
        let codings = Codings::of(&body, &Room::default());
        let get = |encoding| {
            let made = encoded.get([1; 16], encoding, &body).unwrap();
            assert_eq!(codings.get(encoding).unwrap(), made, "ahead, and when asked for");
            made
        };
        let mut plain = vec![];
        flate2::read::GzDecoder::new(&*get(Encoding::Gzip)).read_to_end(&mut plain).unwrap();
        assert_eq!(plain, body);
        assert_eq!(zstd::bulk::decompress(&get(Encoding::Zstd), body.len()).unwrap(), body);
        let mut plain = vec![];
        brotli::BrotliDecompress(&mut &*get(Encoding::Brotli), &mut plain).unwrap();
        assert_eq!(plain, body);
        assert_eq!(encoded.get([2; 16], Encoding::Gzip, b"short"), None);
        assert_eq!(encoded.made.get(), 3);
        let codings = Codings::of(&sha2::Sha256::digest(b"random"), &Room::default());
        assert!(Encoding::ALL.iter().all(|encoding| codings.get(*encoding).is_none()));
    }
}
