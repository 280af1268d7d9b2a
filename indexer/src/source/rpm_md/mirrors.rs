//! Lists of mirrors: a URL a line (Amazon's `mirror.list`, what `mirrorlist=` of dnf names), or a
//! metalink, which names each mirror's `repomd.xml`. They are not signed, and need not be: what a mirror
//! says is checked as if it had been named in the catalogue.

use super::xml::{Element, Visitor, XmlError, short, walk};

/// Longest list, in bytes.
pub(super) const MAX_LIST: usize = 1 << 20;
/// Most mirrors that are asked.
const MAX_MIRRORS: usize = 16;
/// Longest URL, in bytes.
const MAX_URL: usize = 1000;
/// What a metalink names at every mirror.
const REPOMD: &str = "/repodata/repomd.xml";

/// Whether a URL is one of a list and not of a repository.
pub(super) fn is_list(url: &str) -> bool {
    let path = url.split(['?', '#']).next().unwrap_or_default();
    let last = path.rsplit('/').next().unwrap_or_default();
    matches!(last, "mirror.list" | "mirrorlist" | "metalink" | "mirrors.txt")
}

/// The repositories' URLs, without a slash at the end, the first ones only.
pub(super) fn read(bytes: &[u8]) -> Result<Vec<String>, XmlError> {
    let text = String::from_utf8_lossy(bytes);
    let mut urls = Vec::new();
    if text.trim_start().starts_with('<') {
        walk(bytes, MAX_LIST as u64, &mut Metalink(&mut urls))?;
    } else {
        for line in text.lines().map(str::trim).filter(|line| !line.starts_with('#')) {
            keep(line, &mut urls);
        }
    }
    Ok(urls)
}

/// Other schemes than HTTP (`rsync`, `file`) are left out.
fn keep(url: &str, urls: &mut Vec<String>) {
    let url = url.trim_end_matches('/');
    let http = url.starts_with("https://") || url.starts_with("http://");
    let plain = url.len() <= MAX_URL && url.bytes().all(|c| c.is_ascii_graphic());
    if http && plain && urls.len() < MAX_MIRRORS && !urls.iter().any(|known| known == url) {
        urls.push(url.to_owned());
    }
}

struct Metalink<'a>(&'a mut Vec<String>);

impl Visitor for Metalink<'_> {
    type Error = XmlError;

    fn open(&mut self, path: &str, _: &Element<'_>) -> Result<bool, XmlError> {
        Ok(path.ends_with("/url"))
    }

    fn close(&mut self, path: &str, text: &str) -> Result<(), XmlError> {
        if path.ends_with("/url")
            && let Some(url) = short(text)?.strip_suffix(REPOMD)
        {
            keep(url, self.0);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn urls_are_kept() {
        for (url, expected) in [
            ("http://mirror.example/core/mirror.list", true),
            ("https://mirror.example/metalink?repo=fedora-41&arch=x86_64", true),
            ("https://mirror.example/mirrorlist?x=/repo", true),
            ("http://mirror.example/fedora/41", false),
        ] {
            assert_eq!(is_list(url), expected, "{url}");
        }
        let list = "# comment\nhttps://one.example/a/\n\nrsync://x.example/\nhttp://two.example/b\n\
                    file:///etc\nhttps://one.example/a\n";
        assert_eq!(
            read(list.as_bytes()).unwrap(),
            ["https://one.example/a", "http://two.example/b"]
        );
        let metalink = "<?xml version=\"1.0\"?><metalink><files><file name=\"repomd.xml\"><resources>\
            <url protocol=\"https\">https://one.example/a/repodata/repomd.xml</url>\
            <url>https://two.example/other.xml</url></resources></file></files></metalink>";
        assert_eq!(read(metalink.as_bytes()).unwrap(), ["https://one.example/a"]);
        let many: String =
            (0..99).map(|n| format!("http://{n}.example\n")).collect::<Vec<_>>().concat();
        assert_eq!(read(many.as_bytes()).unwrap().len(), MAX_MIRRORS);
    }

    proptest! {
        #[test]
        fn never_panics(text in "[<>/a-z:&;\n#]{0,200}") {
            for url in read(text.as_bytes()).unwrap_or_default() {
                prop_assert!(url.starts_with("http"));
            }
        }
    }
}
