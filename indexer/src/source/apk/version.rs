//! Versions in apk's order: `6.12.13-r0`, `6.13_rc2-r0`, `1.2b_p1-r3`.
//!
//! apk reads a version token by token and lets the first difference decide. Here each text becomes a
//! list of tokens, whose order is that of the variants below; any text has a place in it.

use crate::source::pacman::version::Number;
use std::cmp::{Ordering, Reverse};

/// Ascending. What goes on is newer than what ends, unless it says that it comes before a release.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Token<'a> {
    /// `_alpha`, `_beta`, `_pre`, `_rc`, by rank.
    Before(usize),
    End,
    /// What is in no version.
    Other(u8),
    /// `-r1`.
    Revision(Number<'a>),
    /// The number behind `_rc` or `_p`.
    SuffixNumber(Number<'a>),
    /// `_cvs`, `_svn`, `_git`, `_hg`, `_p`, by rank.
    Behind(usize),
    Letter(u8),
    /// Digits. Behind the first dot those with leading zeros are fractions, less than all others.
    Digits(bool, Reverse<usize>, Number<'a>),
}

const BEFORE: [&str; 4] = ["alpha", "beta", "pre", "rc"];
const BEHIND: [&str; 5] = ["cvs", "svn", "git", "hg", "p"];

/// Compares as `apk version -t` does.
pub(in crate::source) fn compare(left: &str, right: &str) -> Ordering {
    tokens(left).cmp(&tokens(right))
}

fn tokens(text: &str) -> Vec<Token<'_>> {
    let mut rest = text.as_bytes();
    let mut tokens = Vec::new();
    let digits = |rest: &[u8]| rest.iter().take_while(|c| c.is_ascii_digit()).count();
    while let Some(first) = rest.first() {
        let mut length = 1;
        let token = match first {
            b'0'..=b'9' => {
                length = digits(rest);
                let number = &rest[..length];
                match tokens.last() {
                    Some(Token::Before(_) | Token::Behind(_)) => {
                        Token::SuffixNumber(Number::of(number))
                    }
                    None => Token::Digits(true, Reverse(0), Number::of(number)),
                    Some(_) => {
                        let zeros = number.iter().take_while(|c| **c == b'0').count();
                        Token::Digits(zeros == 0, Reverse(zeros), Number::of(number))
                    }
                }
            }
            b'.' if digits(&rest[1..]) > 0 => {
                rest = &rest[1..];
                continue;
            }
            b'-' if rest.get(1) == Some(&b'r') && digits(&rest[2..]) > 0 => {
                length = 2 + digits(&rest[2..]);
                Token::Revision(Number::of(&rest[2..length]))
            }
            b'_' => {
                length += rest[1..].iter().take_while(|c| c.is_ascii_lowercase()).count();
                let is = |name: &&str| name.as_bytes() == &rest[1..length];
                let before = BEFORE.iter().position(is).map(Token::Before);
                let behind = || BEHIND.iter().position(is).map(Token::Behind);
                before.or_else(behind).unwrap_or_else(|| {
                    length = 1;
                    Token::Other(b'_')
                })
            }
            b'a'..=b'z' => Token::Letter(*first),
            other => Token::Other(*other),
        };
        tokens.push(token);
        rest = &rest[length..];
    }
    tokens.push(Token::End);
    tokens
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn orders_as_apk_does() {
        // Each is less than the next, as in apk's own tests.
        let ascending = [
            "0.1.0_alpha_pre2",
            "0.1.0_alpha",
            "0.1.0_beta",
            "0.1.0_pre1",
            "0.1.0_rc1",
            "0.1.0_rc2",
            "0.1.0",
            "0.1.0-r1",
            "0.1.0_p1",
            "0.1.0_p1-r1",
            "0.1.0a",
            "5.10.61-r0",
            "6.1.1-r0",
            "6.6.9-r0",
            "6.6.10-r0",
            "6.6.10-r1",
            "6.6.10-r10",
            "6.12_rc7-r0",
            "6.12-r0",
            "6.12.0-r0",
            "6.12.1-r0",
            "6.12.13-r0",
            "20050718",
        ];
        for (at, left) in ascending.iter().enumerate() {
            for (other, right) in ascending.iter().enumerate() {
                assert_eq!(compare(left, right), at.cmp(&other), "{left} {right}");
            }
        }
        assert_eq!(compare("1.3-r0", "1.3-r00"), Ordering::Equal);
    }

    proptest! {
        #[test]
        fn is_a_total_order(a in "[01a.-]{0,3}(_rc|_p|_x|-r)?[01.]{0,3}", b in "[01a.-]{0,3}(_rc|_p|_x|-r)?[01.]{0,3}", c in "[01a.-]{0,3}(_rc|_p|_x|-r)?[01.]{0,3}") {
            prop_assert_eq!(compare(&a, &b), compare(&b, &a).reverse());
            if compare(&a, &b).is_le() && compare(&b, &c).is_le() {
                prop_assert!(compare(&a, &c).is_le());
            }
        }
    }
}
