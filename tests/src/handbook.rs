//! The handbook and the pages beside it, as the tests read them: the blocks of code, with what they are.

use anyhow::{Context, Result};
use std::{
    fs,
    path::{Path, PathBuf},
};

/// The repository.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().map(Path::to_owned).unwrap_or_default()
}

/// A block between fences.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Block {
    /// What is behind the opening fence: `sh`, `console`, `sh,guest`.
    pub kind: String,
    /// Number of the opening fence's line.
    pub line: usize,
    /// The lines between.
    pub text: String,
}

/// A page in Markdown.
#[derive(Debug, Clone)]
pub struct Page {
    /// Where it is, below the repository.
    pub path: String,
    /// All of it.
    pub text: String,
}

impl Page {
    /// Reads a page of the repository.
    pub fn read(path: &str) -> Result<Self> {
        let text = fs::read_to_string(root().join(path)).with_context(|| path.to_owned())?;
        Ok(Self { path: path.to_owned(), text })
    }

    /// The blocks of code behind a heading, to the end of the page.
    pub fn blocks_behind(&self, heading: &str) -> Vec<Block> {
        let at = self.text.lines().position(|line| line == heading).unwrap_or(usize::MAX);
        self.blocks().into_iter().filter(|block| block.line > at).collect()
    }

    /// All blocks of code.
    pub fn blocks(&self) -> Vec<Block> {
        let mut blocks: Vec<Block> = Vec::new();
        let mut open = false;
        for (number, line) in self.text.lines().enumerate() {
            match (line.trim_start().strip_prefix("```"), open) {
                (Some(kind), false) => {
                    let kind = kind.trim().to_owned();
                    blocks.push(Block { kind, line: number + 1, text: String::new() });
                    open = true;
                }
                (Some(_), true) => open = false,
                (None, true) => {
                    if let Some(block) = blocks.last_mut() {
                        block.text.extend([line, "\n"]);
                    }
                }
                (None, false) => {}
            }
        }
        blocks
    }

    /// The page without its blocks of code, line by line: these are empty.
    pub fn prose(&self) -> Vec<&str> {
        let mut open = false;
        let mut lines = Vec::new();
        for line in self.text.lines() {
            let fence = line.trim_start().starts_with("```");
            lines.push(if fence || open { "" } else { line });
            open ^= fence;
        }
        lines
    }
}

/// All pages in Markdown that people are sent to: of the handbook and of the repository's root.
pub fn pages() -> Result<Vec<Page>> {
    let mut paths = Vec::new();
    for directory in ["", "docs/src"] {
        for entry in fs::read_dir(root().join(directory)).context(directory)? {
            let name = entry?.file_name().to_string_lossy().into_owned();
            if Path::new(&name).extension().is_some_and(|ending| ending == "md") {
                paths.push(if directory.is_empty() { name } else { format!("{directory}/{name}") });
            }
        }
    }
    paths.sort();
    paths.iter().map(|path| Page::read(path)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_told_from_prose() {
        let text = "# A\n```sh\nls\n```\n## B\ntext `x`\n```sh,guest\npwd\nexit\n```\n".to_owned();
        let page = Page { path: String::new(), text };
        let block = |kind: &str, line, text: &str| {
            let (kind, text) = (kind.to_owned(), text.to_owned());
            Block { kind, line, text }
        };
        let guest = block("sh,guest", 7, "pwd\nexit\n");
        assert_eq!(page.blocks(), [block("sh", 2, "ls\n"), guest.clone()]);
        assert_eq!(page.blocks_behind("## B"), [guest]);
        assert_eq!(page.blocks_behind("## C"), []);
        assert_eq!(page.prose()[4..7], ["## B", "text `x`", ""]);
    }
}
