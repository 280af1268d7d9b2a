//! Times as people and programs write them; UTC, because a drop's place on a machine says nothing
//! about where its readers are.

const DAY: u64 = 86_400;
const SECOND: u64 = 1_000_000_000;

/// RFC 3339 with nanoseconds, of nanoseconds since 1970.
pub fn rfc3339(time: u64) -> String {
    let (year, month, day) = date(time / SECOND / DAY);
    let (hour, minute, second) = clock(time);
    // Each drop has one: `format!` takes ten times as long.
    let mut text = *b"0000-00-00T00:00:00.000000000Z";
    let parts = [
        (year, 0..4),
        (month, 5..7),
        (day, 8..10),
        (hour, 11..13),
        (minute, 14..16),
        (second, 17..19),
        (time % SECOND, 20..29),
    ];
    for (mut number, place) in parts {
        for digit in text[place].iter_mut().rev() {
            *digit = b'0' + (number % 10) as u8;
            number /= 10;
        }
    }
    // Digits, all of it.
    String::from_utf8(text.into()).unwrap_or_default()
}

/// The time of day with microseconds.
pub fn time_of_day(time: u64) -> String {
    let (hour, minute, second) = clock(time);
    format!("{hour:02}:{minute:02}:{second:02}.{:06}Z", time % SECOND / 1000)
}

fn clock(time: u64) -> (u64, u64, u64) {
    let seconds = time / SECOND % DAY;
    (seconds / 3600, seconds / 60 % 60, seconds % 60)
}

/// Year, month and day. Counted from March of the year 0, so that leap days end years: the
/// Gregorian calendar repeats itself every 146,097 days.
fn date(days_since_1970: u64) -> (u64, u64, u64) {
    let days = days_since_1970 + 719_468;
    let (era, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let march = (5 * day + 2) / 153;
    let month = if march < 10 { march + 3 } else { march - 9 };
    let year = era * 400 + year + u64::from(month < 3);
    (year, month, day - (153 * march + 2) / 5 + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_times() {
        let times = [
            (0, "1970-01-01T00:00:00.000000000Z"),
            (951_782_400 * SECOND, "2000-02-29T00:00:00.000000000Z"),
            (1_709_251_199 * SECOND, "2024-02-29T23:59:59.000000000Z"),
            (1_793_000_000 * SECOND + 7, "2026-10-26T07:33:20.000000007Z"),
            (4_107_542_400 * SECOND, "2100-03-01T00:00:00.000000000Z"),
            (u64::MAX, "2554-07-21T23:34:33.709551615Z"),
        ];
        for (time, text) in times {
            assert_eq!(rfc3339(time), text);
        }
        assert_eq!(time_of_day(1_793_000_000 * SECOND + 7_999), "07:33:20.000007Z");
    }

    #[test]
    fn days_follow_each_other() {
        let (mut last, leap) =
            (date(0), |year| year % 4 == 0 && (year % 100 != 0 || year % 400 == 0));
        for days in 1..=213_503 {
            let (year, month, day) = last;
            let length = match month {
                2 => 28 + u64::from(leap(year)),
                4 | 6 | 9 | 11 => 30,
                _ => 31,
            };
            let next = match (day == length, month == 12) {
                (false, _) => (year, month, day + 1),
                (true, false) => (year, month + 1, 1),
                (true, true) => (year + 1, 1, 1),
            };
            last = date(days);
            assert_eq!(last, next);
        }
    }
}
