//! Text for a terminal. Messages quote servers, packages, rulesets and file names, which anybody may have written.

/// `text` without what a terminal would act on: messages quote servers, packages and file names.
pub fn plain(text: &str) -> String {
    let harmless =
        |c: char| if c.is_control() && c != '\n' { char::REPLACEMENT_CHARACTER } else { c };
    text.chars().map(harmless).collect()
}
