//! Package versions, compared as the package manager of their distribution compares them. A few dozen
//! lines that must be exact: which kernel is the newest of its series hangs on them.

use std::{cmp::Ordering, fmt};

/// Whose order versions are in. Versions of different orders are never of one distribution; that one
/// order comes before the other only makes it total.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Order {
    /// dpkg's, Debian Policy 5.6.12.
    Dpkg,
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

    proptest! {
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
