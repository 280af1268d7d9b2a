//! Releases of kernels, as `uname -r` prints them, and what can be read from one.
//!
//! Distributions number their kernels as they like: `6.1.0-56-amd64` is Linux 6.1.192. What is read here holds
//! for all of them; what only one distribution means by a release stays with that distribution.

use std::{fmt, str::FromStr};

/// The release of a kernel: `6.12.117+deb13-cloud-amd64`. Any text is one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct KernelRelease<'a>(pub &'a str);

/// The first two numbers of a release. 6.9 is before 6.12.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Series(pub u16, pub u16);

impl fmt::Display for Series {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.0, self.1)
    }
}

/// Not two numbers with a dot between them.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no kernel series, expected one such as `6.12`")]
pub struct SeriesError(String);

impl FromStr for Series {
    type Err = SeriesError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parse = || {
            let (major, minor) = text.split_once('.')?;
            Some(Self(major.parse().ok()?, minor.parse().ok()?))
        };
        parse().ok_or_else(|| SeriesError(text.to_owned()))
    }
}

impl Series {
    /// Of kernels whose version tells none: they are listed and fetched like all others, and what the
    /// package holds says what they are.
    pub const UNKNOWN: Self = Self(0, 0);
}

impl<'a> KernelRelease<'a> {
    /// The series; `None` where the release does not begin with one.
    pub fn series(self) -> Option<Series> {
        let (series, _) = self.split()?;
        Some(series)
    }

    /// The series as text: `6.12` of `6.12.117+deb13-cloud-amd64`. The whole release where it begins with none.
    pub fn series_name(self) -> &'a str {
        let mut dots = self.0.match_indices(|c: char| !c.is_ascii_digit());
        match (dots.next(), dots.next()) {
            (Some((_, ".")), Some((end, _))) => &self.0[..end],
            _ => self.0,
        }
    }

    /// What follows the version: `cloud-amd64` of `6.1.0-56-cloud-amd64`.
    pub fn flavour(self) -> &'a str {
        let mut rest = self.0;
        while rest.starts_with(|c: char| c.is_ascii_digit()) {
            rest = rest.split_once('-').map_or("", |(_, rest)| rest);
        }
        rest
    }

    /// The third number, which is that of the stable release: 117 of `6.12.117+deb13-amd64`. `None` where
    /// the distribution has put [`KernelRelease::abi`] in its place.
    pub fn stable(self) -> Option<u32> {
        let (patch, _) = self.patch()?;
        self.abi().is_none().then_some(patch)
    }

    /// The number that Debian and its derivatives put in place of the stable release: 56 of
    /// `6.1.0-56-amd64`, 21 of `5.10.0-0.deb10.21-amd64`.
    pub fn abi(self) -> Option<u32> {
        let (patch, rest) = self.patch()?;
        let abi = rest.strip_prefix('-').filter(|_| patch == 0)?;
        // Of a backport `0.deb10.21-amd64`.
        let backported = abi.strip_prefix("0.deb").and_then(|abi| abi.split_once('.'));
        let (abi, _) = number(backported.map_or(abi, |(_, abi)| abi))?;
        Some(abi)
    }

    /// Text whose order is that of versions: every number, without leading zeros, has its length before it.
    /// `6.9` is before `6.12`.
    pub fn sort_key(self) -> String {
        let mut key = String::with_capacity(self.0.len() + 8);
        let mut rest = self.0;
        while let Some(c) = rest.chars().next() {
            let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
            if digits == 0 {
                key.push(c);
                rest = &rest[c.len_utf8()..];
                continue;
            }
            let number = rest[..digits].trim_start_matches('0');
            // Longer than any version's number: those are in no order.
            let length = b'a' + number.len().min(25) as u8;
            key.push(char::from(length));
            key.push_str(number);
            rest = &rest[digits..];
        }
        key
    }

    /// The series, and what follows it.
    fn split(self) -> Option<(Series, &'a str)> {
        let (major, rest) = number(self.0)?;
        let (minor, rest) = number(rest.strip_prefix('.')?)?;
        Some((Series(major, minor), rest))
    }

    /// The third number, and what follows it.
    fn patch(self) -> Option<(u32, &'a str)> {
        let (_, rest) = self.split()?;
        number(rest.strip_prefix('.')?)
    }
}

/// The decimal number that a text begins with, and the rest.
fn number<N: FromStr>(text: &str) -> Option<(N, &str)> {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    Some((text[..end].parse().ok()?, &text[end..]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn splits_releases_of_every_style() {
        for (release, series, flavour, stable, abi) in [
            ("6.12.117+deb13-cloud-amd64", "6.12", "cloud-amd64", Some(117), None),
            ("5.10.0-46-rt-amd64", "5.10", "rt-amd64", None, Some(46)),
            ("5.10.0-0.deb10.21-amd64", "5.10", "amd64", None, Some(21)),
            ("5.4.0-84-generic", "5.4", "generic", None, Some(84)),
            ("7.3-amd64", "7.3", "amd64", None, None),
            ("5.14.0-503.el9.x86_64", "5.14", "", None, Some(503)),
            ("odd", "odd", "odd", None, None),
            ("", "", "", None, None),
        ] {
            let read = KernelRelease(release);
            assert_eq!((read.series_name(), read.flavour()), (series, flavour), "{release}");
            assert_eq!((read.stable(), read.abi()), (stable, abi), "{release}");
        }
    }

    #[test]
    fn reads_series_only_from_two_numbers_with_a_dot() {
        let of = |release| KernelRelease(release).series().map(|series| series.to_string());
        assert_eq!(of("6.1.0-56-cloud-amd64").as_deref(), Some("6.1"));
        assert_eq!(of("7.3-rc7-amd64").as_deref(), Some("7.3"));
        for wrong in ["", "7", "7-3", "7.x", "99999.1", "x6.1"] {
            assert_eq!(of(wrong), None, "{wrong}");
        }
        assert_eq!("6.12".parse(), Ok(Series(6, 12)));
        assert!("6".parse::<Series>().is_err());
    }

    #[test]
    fn sort_keys_have_the_order_of_versions() {
        let mut releases = ["6.1.0-9", "6.12.3", "6.1.0-56", "5.10.0", "7.0", "6.9", "6.12.0"];
        releases.sort_by_key(|release| KernelRelease(release).sort_key());
        assert_eq!(releases, ["5.10.0", "6.1.0-9", "6.1.0-56", "6.9", "6.12.0", "6.12.3", "7.0"]);
    }

    proptest! {
        #[test]
        fn reads_any_text_without_panic(text in "[0-9.+~a-z-]{0,20}|\\PC{0,20}") {
            let release = KernelRelease(&text);
            let _ = (release.series(), release.stable(), release.abi(), release.sort_key());
            prop_assert!(text.starts_with(release.series_name()) && text.ends_with(release.flavour()));
        }
    }
}
