//! Package versions, compared as the package manager of their distribution compares them. A few dozen
//! lines that must be exact: which kernel is the newest of its series hangs on them.

use super::{apk::version as apk, pacman::version as pacman};
use std::{cmp::Ordering, fmt};

/// Whose order versions are in. Versions of different orders are never of one distribution; that one
/// order comes before the other only makes it total.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Order {
    /// dpkg's, Debian Policy 5.6.12.
    Dpkg,
    /// rpm's, rpm-version(7).
    Rpm,
    /// pacman's, vercmp(8).
    Pacman,
    /// apk's.
    Apk,
}

/// A package version, `[epoch:]upstream[-revision]`. Equality and order are the package manager's: for
/// dpkg `1.0` and `1.00` are equal. Any text is a version; what is no number where one belongs sorts as
/// text.
#[derive(Debug, Clone)]
pub struct Version {
    order: Order,
    text: String,
}

impl Version {
    /// A version in dpkg's order.
    pub fn dpkg(text: impl Into<String>) -> Self {
        Self { order: Order::Dpkg, text: text.into() }
    }

    /// A version in rpm's order, `[epoch:]version-release`.
    pub fn rpm(text: impl Into<String>) -> Self {
        Self { order: Order::Rpm, text: text.into() }
    }

    /// A version in pacman's order, `[epoch:]pkgver[-pkgrel]`.
    pub fn pacman(text: impl Into<String>) -> Self {
        Self { order: Order::Pacman, text: text.into() }
    }

    /// A version in apk's order, `6.12.13-r0`.
    pub fn apk(text: impl Into<String>) -> Self {
        Self { order: Order::Apk, text: text.into() }
    }

    /// As it was written.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Epoch, upstream version and revision.
    fn parts(&self) -> (&str, &str, &str) {
        let (epoch, rest) = self.text.split_once(':').unwrap_or(("0", &self.text));
        let (upstream, revision) = rest.rsplit_once('-').unwrap_or((rest, ""));
        (epoch, upstream, revision)
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Ord for Version {
    fn cmp(&self, other: &Self) -> Ordering {
        let (left, right) = (self.parts(), other.parts());
        let compare = match (self.order, other.order) {
            (Order::Dpkg, Order::Dpkg) => dpkg,
            (Order::Rpm, Order::Rpm) => rpm,
            (Order::Pacman, Order::Pacman) => return pacman::compare(&self.text, &other.text),
            (Order::Apk, Order::Apk) => return apk::compare(&self.text, &other.text),
            (own, other) => return own.cmp(&other),
        };
        compare(left.0, right.0)
            .then_with(|| compare(left.1, right.1))
            .then_with(|| compare(left.2, right.2))
    }
}

impl PartialOrd for Version {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Version {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Version {}

/// Where a character sorts in the parts that are not digits: a tilde before the end of the part,
/// letters before everything else.
fn rank(c: Option<u8>) -> i32 {
    match c {
        Some(b'~') => -1,
        None => 0,
        Some(c) if c.is_ascii_digit() => 0,
        Some(c) if c.is_ascii_alphabetic() => i32::from(c),
        Some(c) => i32::from(c) + 256,
    }
}

/// Compares one part as dpkg does: in turns the longest prefix without digits and the number behind it.
fn dpkg(left: &str, right: &str) -> Ordering {
    let (mut left, mut right) = (left.as_bytes(), right.as_bytes());
    while !left.is_empty() || !right.is_empty() {
        loop {
            let text = |rest: &[u8]| rest.first().is_some_and(|c| !c.is_ascii_digit());
            if !text(left) && !text(right) {
                break;
            }
            match rank(left.first().copied()).cmp(&rank(right.first().copied())) {
                Ordering::Equal => {}
                unequal => return unequal,
            }
            left = left.get(1..).unwrap_or_default();
            right = right.get(1..).unwrap_or_default();
        }
        let (left_number, left_rest) = number(left);
        let (right_number, right_rest) = number(right);
        // Without leading zeros the longer number is the greater, so no width overflows.
        match left_number.len().cmp(&right_number.len()).then(left_number.cmp(right_number)) {
            Ordering::Equal => {}
            unequal => return unequal,
        }
        (left, right) = (left_rest, right_rest);
    }
    Ordering::Equal
}

/// Compares one part as rpm does: in turns runs of digits or letters, whatever stands between them.
/// A number comes after letters, `~` before the end of the part and `^` behind it, but before all else.
fn rpm(left: &str, right: &str) -> Ordering {
    let (mut left, mut right) = (left.as_bytes(), right.as_bytes());
    let counts = |c: &u8| c.is_ascii_alphanumeric() || matches!(c, b'~' | b'^');
    let skip = |text: &'_ [u8]| text.iter().position(counts).unwrap_or(text.len());
    loop {
        left = &left[skip(left)..];
        right = &right[skip(right)..];
        match (left.first(), right.first()) {
            (Some(b'~'), Some(b'~')) | (Some(b'^'), Some(b'^')) => {
                (left, right) = (&left[1..], &right[1..]);
                continue;
            }
            (Some(b'~'), _) | (None, Some(b'^')) => return Ordering::Less,
            (_, Some(b'~')) | (Some(b'^'), None) => return Ordering::Greater,
            (None, None) => return Ordering::Equal,
            (Some(b'^') | None, Some(_)) => return Ordering::Less,
            (Some(_), Some(b'^') | None) => return Ordering::Greater,
            (Some(_), Some(_)) => {}
        }
        let order = match (left[0].is_ascii_digit(), right[0].is_ascii_digit()) {
            (true, true) => {
                let ((one, left_rest), (two, right_rest)) = (number(left), number(right));
                (left, right) = (left_rest, right_rest);
                one.len().cmp(&two.len()).then(one.cmp(two))
            }
            (false, false) => {
                let letters = |text: &[u8]| {
                    text.iter().position(|c| !c.is_ascii_alphabetic()).unwrap_or(text.len())
                };
                let (one, left_rest) = left.split_at(letters(left));
                let (two, right_rest) = right.split_at(letters(right));
                (left, right) = (left_rest, right_rest);
                one.cmp(two)
            }
            (digits, _) => return if digits { Ordering::Greater } else { Ordering::Less },
        };
        if order.is_ne() {
            return order;
        }
    }
}

/// The digits that `text` begins with, without leading zeros, and the rest.
fn number(text: &[u8]) -> (&[u8], &[u8]) {
    let end = text.iter().position(|c| !c.is_ascii_digit()).unwrap_or(text.len());
    let (digits, rest) = text.split_at(end);
    let zeros = digits.iter().take_while(|c| **c == b'0').count();
    (&digits[zeros..], rest)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn cmp(left: &str, right: &str) -> Ordering {
        Version::dpkg(left).cmp(&Version::dpkg(right))
    }

    #[test]
    fn orders_as_dpkg_does() {
        // Each is less than the next; the kernels' own versions among them.
        let ascending = [
            "1.0~~",
            "1.0~~a",
            "1.0~",
            "1.0",
            "1.0a",
            "1.0+",
            "5.10.262-1",
            "6.1.192-2~deb11u1",
            "6.1.192-2",
            "6.12.9-1",
            "6.12.117-1~bpo12+1",
            "6.12.117-1",
            "6.12.117-1+b1",
            "6.12.117-10",
            "7.3~rc7-1~exp1",
            "7.3-1",
            "7.3.4-1~bpo13+1",
            "7.3.4-1",
            "1:0.1-1",
        ];
        for (at, left) in ascending.iter().enumerate() {
            for (other, right) in ascending.iter().enumerate() {
                assert_eq!(cmp(left, right), at.cmp(&other), "{left} {right}");
            }
        }
    }

    #[test]
    fn different_spellings_of_one_version_are_equal() {
        for (left, right) in [
            ("0:1.0", "1.0"),
            ("1.0", "1.00"),
            ("1.0-0", "1.0"),
            ("1.0-", "1.0"),
            ("01", "1"),
            ("", "0"),
        ] {
            assert_eq!(Version::dpkg(left), Version::dpkg(right));
        }
        assert_eq!(cmp("1-18446744073709551616", "1-18446744073709551615"), Ordering::Greater);
    }

    fn cmp_rpm(left: &str, right: &str) -> Ordering {
        Version::rpm(left).cmp(&Version::rpm(right))
    }

    #[test]
    fn orders_as_rpm_does() {
        // Each is less than the next.
        let ascending = [
            "1.0~rc1~git1-1",
            "1.0~rc1-1",
            "1.0-1",
            "1.0^",
            "1.0^20160101~pre-1",
            "1.0^20160101-1",
            "1.0^20160102-1",
            "1.0a-1",
            "1.0.1-1",
            "1.5.ff-1",
            "1.5.10-1",
            "4.18.0-553.5.1.el8_10",
            "4.18.0-553.16.1.el8_10",
            "5.14.0-70.el9",
            "5.14.0-427.13.1.el9_4",
            "5.15.0-204.147.6.2.el9uek",
            "6.4.0-150600.21.2",
            "6.8.5-301.fc40",
            "6.8.10-300.fc40",
            "6.12.0~rc1-1.fc42",
            "6.12.0-1.fc42",
            "1:0.1-1",
        ];
        for (at, left) in ascending.iter().enumerate() {
            for (other, right) in ascending.iter().enumerate() {
                assert_eq!(cmp_rpm(left, right), at.cmp(&other), "{left} {right}");
            }
        }
        for (left, right) in [("1.0", "1_0"), ("0:1.0-1", "1.0-1"), ("1.01", "1.1"), ("1.", "1")] {
            assert_eq!(Version::rpm(left), Version::rpm(right), "{left} {right}");
        }
        // Of different orders: never equal, and the same way about for all.
        assert_ne!(Version::rpm("1"), Version::dpkg("1"));
    }

    proptest! {
        #[test]
        fn rpms_is_a_total_order(a in "[0-9a-c.~^:-]{0,8}", b in "[0-9a-c.~^:-]{0,8}", c in "[0-9a-c.~^:-]{0,8}") {
            prop_assert_eq!(cmp_rpm(&a, &b), cmp_rpm(&b, &a).reverse());
            prop_assert_eq!(cmp_rpm(&a, &a), Ordering::Equal);
            if cmp_rpm(&a, &b).is_le() && cmp_rpm(&b, &c).is_le() {
                prop_assert!(cmp_rpm(&a, &c).is_le());
            }
        }

        #[test]
        fn is_a_total_order(a in "[0-9a-c.~+:-]{0,8}", b in "[0-9a-c.~+:-]{0,8}", c in "[0-9a-c.~+:-]{0,8}") {
            prop_assert_eq!(cmp(&a, &b), cmp(&b, &a).reverse());
            prop_assert_eq!(cmp(&a, &a), Ordering::Equal);
            if cmp(&a, &b).is_le() && cmp(&b, &c).is_le() {
                prop_assert!(cmp(&a, &c).is_le());
            }
        }
    }
}
