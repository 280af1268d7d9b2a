//! Versions in pacman's order (`vercmp`): `[epoch:]pkgver[-pkgrel]`.
//!
//! pacman compares two texts piece by piece. Here each text becomes a list of pieces that are compared
//! one after the other, so that the order is total whatever the text: sorting relies on that, and
//! pacman's own is not, for versions that end with a separator (which no package has).

use std::cmp::Ordering;

/// A run of digits without leading zeros: the longer is the greater, so no width overflows.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::source) struct Number<'a>(usize, &'a [u8]);

impl<'a> Number<'a> {
    pub(in crate::source) fn of(digits: &'a [u8]) -> Self {
        let zeros = digits.iter().take_while(|c| **c == b'0').count();
        Self(digits.len() - zeros, &digits[zeros..])
    }
}

/// Ascending: letters right behind a number make a version older than the end does, all else newer.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Piece<'a> {
    Letters(&'a [u8]),
    End,
    Number(Number<'a>),
    /// Behind so many separators; more of them are newer.
    Behind(usize, Behind<'a>),
}

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Behind<'a> {
    Letters(&'a [u8]),
    Number(Number<'a>),
}

/// Compares as `vercmp` does.
pub(in crate::source) fn compare(left: &str, right: &str) -> Ordering {
    let ([left_epoch, left, left_release], [right_epoch, right, right_release]) =
        (parts(left), parts(right));
    let part = |left: &str, right: &str| pieces(left).cmp(&pieces(right));
    part(left_epoch, right_epoch)
        .then_with(|| part(left, right))
        .then_with(|| part(left_release, right_release))
}

/// Epoch, version and release.
fn parts(text: &str) -> [&str; 3] {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (epoch, rest) = match text[digits..].strip_prefix(':') {
        Some(rest) => (&text[..digits], rest),
        None => ("", text),
    };
    let (version, release) = rest.rsplit_once('-').unwrap_or((rest, ""));
    [if epoch.is_empty() { "0" } else { epoch }, version, release]
}

fn pieces(text: &str) -> Vec<Piece<'_>> {
    let mut rest = text.as_bytes();
    let mut pieces = Vec::new();
    loop {
        let separators = rest.iter().take_while(|c| !c.is_ascii_alphanumeric()).count();
        rest = &rest[separators..];
        let Some(first) = rest.first() else { break };
        let is_number = first.is_ascii_digit();
        let of_kind =
            |c: &&u8| if is_number { c.is_ascii_digit() } else { c.is_ascii_alphabetic() };
        let (piece, behind) = rest.split_at(rest.iter().take_while(of_kind).count());
        rest = behind;
        pieces.push(match (separators, is_number) {
            (0, false) => Piece::Letters(piece),
            (0, true) => Piece::Number(Number::of(piece)),
            (_, false) => Piece::Behind(separators, Behind::Letters(piece)),
            (_, true) => Piece::Behind(separators, Behind::Number(Number::of(piece))),
        });
    }
    pieces.push(Piece::End);
    pieces
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn orders_as_vercmp_does() {
        // Each is less than the next, by `vercmp` of pacman 6.0.2.
        let ascending = [
            "1.0a-1",
            "1.0alpha-1",
            "1.0b-1",
            "1.0beta-1",
            "1.0rc-1",
            "1.0-1",
            "1.0-2",
            "1.0.a-1",
            "1.0.1-1",
            "1.5-1",
            "5.4.15.arch1-1",
            "6.2.9.arch1-1",
            "6.2.10-1",
            "6.2.10.arch1-1",
            "6.2.10.arch1-2",
            "6.2.10.arch1-10",
            "6.2.10.arch2-1",
            "6.2.10.zen1-1",
            "6.2.10.1-1",
            "6.12.arch1-1",
            "6.12.1.arch1-1",
            "1:0.1-1",
        ];
        for (at, left) in ascending.iter().enumerate() {
            for (other, right) in ascending.iter().enumerate() {
                assert_eq!(compare(left, right), at.cmp(&other), "{left} {right}");
            }
        }
        for (left, right) in [("1.0-1", "0:1.0-1"), ("1.0-1", "1.00-01"), ("1.0", "1_0")] {
            assert_eq!(compare(left, right), Ordering::Equal, "{left} {right}");
        }
    }

    proptest! {
        #[test]
        fn is_a_total_order(a in "[01a-b.:-]{0,7}", b in "[01a-b.:-]{0,7}", c in "[01a-b.:-]{0,7}") {
            prop_assert_eq!(compare(&a, &b), compare(&b, &a).reverse());
            if compare(&a, &b).is_le() && compare(&b, &c).is_le() {
                prop_assert!(compare(&a, &c).is_le());
            }
        }
    }
}
