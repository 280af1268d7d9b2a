//! Dates as Release files and HTTP headers write them. Both use the fixed form of RFC 1123
//! (`Sat, 21 Nov 2026 02:10:46 UTC`), so 40 lines do and no calendar library is needed.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

const MONTHS: [&str; 12] =
    ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];

/// The moment that `text` names; `None` for another form, a zone other than UTC, a day that does
/// not exist or a year outside 1970..=9999. The day of the week is not looked at.
pub fn parse(text: &str) -> Option<SystemTime> {
    let text = text.trim().split_once(',').map_or(text, |(_, rest)| rest);
    let mut words = text.split_ascii_whitespace();
    let day: u64 = number(words.next()?, 2)?;
    let month = words.next()?;
    let month = MONTHS.iter().position(|name| *name == month)? as u64 + 1;
    let year: u64 = number(words.next()?, 4).filter(|year| *year >= 1970)?;
    let mut clock = words.next()?.split(':');
    let mut part = |below: u64| number(clock.next()?, 2).filter(|value| *value < below);
    let (hour, minute, second) = (part(24)?, part(60)?, part(61)?);
    if clock.next().is_some()
        || !matches!(words.next()?, "UTC" | "GMT" | "Z" | "+0000")
        || words.next().is_some()
        || !(1..=days_in(year, month)).contains(&day)
    {
        return None;
    }
    let days = days_before(year, month) + day - 1;
    UNIX_EPOCH.checked_add(Duration::from_secs(((days * 24 + hour) * 60 + minute) * 60 + second))
}

/// The day of `time` in UTC, `2026-11-06`.
pub fn day(time: SystemTime) -> String {
    let seconds = time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let mut days = seconds / 86_400;
    // A system's clock can say anything; beyond this the count of years would take long.
    if days > 2_932_896 {
        return "after 9999".to_owned();
    }
    let mut year = 1970;
    while days >= days_before(year + 1, 1) - days_before(year, 1) {
        days -= days_before(year + 1, 1) - days_before(year, 1);
        year += 1;
    }
    let mut month = 1;
    while days >= days_in(year, month) {
        days -= days_in(year, month);
        month += 1;
    }
    format!("{year:04}-{month:02}-{:02}", days + 1)
}

fn number(text: &str, digits: usize) -> Option<u64> {
    let plain = !text.is_empty() && text.len() <= digits;
    (plain && text.bytes().all(|c| c.is_ascii_digit())).then(|| text.parse().ok())?
}

fn is_leap(year: u64) -> bool {
    year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400))
}

fn days_in(year: u64, month: u64) -> u64 {
    match month {
        2 => 28 + u64::from(is_leap(year)),
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Days from 1970-01-01 to the first of the month.
fn days_before(year: u64, month: u64) -> u64 {
    let past = year - 1;
    let leaps = |year: u64| year / 4 - year / 100 + year / 400;
    let years = (year - 1970) * 365 + leaps(past) - leaps(1969);
    years + (1..month).map(|month| days_in(year, month)).sum::<u64>()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn seconds(text: &str) -> Option<u64> {
        parse(text).map(|time| time.duration_since(UNIX_EPOCH).unwrap().as_secs())
    }

    #[test]
    fn reads_the_dates_of_release_files_and_headers() {
        assert_eq!(seconds("Thu, 01 Jan 1970 00:00:00 UTC"), Some(0));
        assert_eq!(seconds("Sat, 21 Nov 2026 02:10:46 UTC"), Some(1_795_227_046));
        assert_eq!(seconds("Thu, 29 Feb 2024 23:59:59 GMT"), Some(1_709_251_199));
        assert_eq!(seconds("Sat,  9 Aug 2025 08:55:05 UTC"), Some(1_754_729_705));
        for wrong in [
            "",
            "Thu, 29 Feb 2023 00:00:00 UTC",
            "Thu, 01 Jan 1970 00:00:00 CET",
            "Thu, 01 Jan 1969 00:00:00 UTC",
            "Thu, 01 Jan 1970 24:00:00 UTC",
            "Thu, 01 Jan 1970 00:00:00 UTC x",
            "Thu, 1 1 1970 00:00:00 UTC",
            "99999999999999999999 Jan 1970 00:00:00 UTC",
        ] {
            assert_eq!(seconds(wrong), None, "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn day_and_parse_agree(days in 0u64..2_932_896, second in 0u64..86_400) {
            let time = UNIX_EPOCH + Duration::from_secs(days * 86_400 + second);
            let text = day(time);
            let (year, month, day) = (&text[..4], &text[5..7], &text[8..]);
            let month = MONTHS[month.parse::<usize>().unwrap() - 1];
            let midnight = parse(&format!("{day} {month} {year} 00:00:00 UTC")).unwrap();
            prop_assert_eq!(midnight, UNIX_EPOCH + Duration::from_secs(days * 86_400));
        }

        #[test]
        fn never_panics(text in ".{0,60}") {
            parse(&text);
        }
    }
}
