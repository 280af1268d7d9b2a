//! Names from files, as they may be shown.

/// Longest name shown, in characters.
const MAX_NAME: usize = 64;

/// A name as it may be shown: printable ASCII, the rest escaped, and of a bearable length.
pub fn clean(name: &str) -> String {
    let mut clean = String::new();
    for (count, c) in name.chars().enumerate() {
        if count == MAX_NAME {
            clean.push_str("...");
            break;
        }
        if c == ' ' || c.is_ascii_graphic() {
            clean.push(c);
        } else {
            clean.extend(c.escape_unicode());
        }
    }
    clean
}
