//! Jump arrows: which column of the gutter each takes, and what every cell of it shows.
//!
//! All jumps to one place share a column, so a loop with forty ways back is one line with forty
//! joints. The shortest are next to the code, and arrows in one column never touch. What finds no
//! column is not drawn; its target is in the instruction anyway.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// A jump between two lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Jump {
    /// Line of the jump.
    pub from: usize,
    /// Line it goes to.
    pub to: usize,
    /// How.
    pub kind: JumpKind,
    /// No run has made it.
    pub untaken: bool,
}

/// What makes a jump.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum JumpKind {
    /// A `jmp`, or one through a table.
    Always,
    /// A condition.
    Condition,
    /// A static key.
    Key,
}

/// What goes through a cell of the gutter, and where to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Cell {
    /// Bits [`UP`], [`DOWN`], [`LEFT`] and [`RIGHT`].
    pub arms: u8,
    /// No run has made any of these jumps.
    pub untaken: bool,
    /// Number of the arrow that the cell belongs to, for colours.
    pub arrow: u16,
}

impl Cell {
    /// Its character: of those that draw boxes, or ASCII.
    pub fn glyph(self, unicode: bool) -> char {
        const BOX: [char; 16] =
            [' ', '╵', '╷', '│', '╴', '╯', '╮', '┤', '╶', '╰', '╭', '├', '─', '┴', '┬', '┼'];
        let arms = usize::from(self.arms & (UP | DOWN | LEFT | RIGHT));
        if unicode {
            return match BOX[arms] {
                '│' if self.untaken => '┊',
                '─' if self.untaken => '╌',
                glyph => glyph,
            };
        }
        match (self.arms & (UP | DOWN) != 0, self.arms & (LEFT | RIGHT) != 0) {
            (false, false) => ' ',
            (true, false) if self.untaken => ':',
            (true, false) => '|',
            (false, true) if self.untaken => '.',
            (false, true) => '-',
            (true, true) => '+',
        }
    }
}

/// To the line above.
pub const UP: u8 = 1;
/// To the line below.
pub const DOWN: u8 = 2;
/// To the outer columns.
pub const LEFT: u8 = 4;
/// To the code.
pub const RIGHT: u8 = 8;

/// All cells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gutter {
    /// Columns that are used.
    pub columns: usize,
    /// By line, the outermost column first.
    cells: Vec<Cell>,
    /// By line: an arrow ends here.
    heads: Vec<bool>,
    /// Jumps that are not drawn.
    pub hidden: usize,
}

/// All jumps to one line.
struct Track {
    to: usize,
    sources: Vec<(usize, bool)>,
    first: usize,
    last: usize,
}

/// Most cells; beyond that there are no arrows.
const MAX_CELLS: usize = 1 << 19;

impl Gutter {
    /// For so many lines, at most `columns` wide.
    pub fn new(lines: usize, jumps: &[Jump], columns: usize) -> Self {
        let mut by_target: BTreeMap<usize, Vec<(usize, bool)>> = BTreeMap::new();
        for jump in jumps.iter().filter(|jump| jump.from < lines && jump.to < lines) {
            by_target.entry(jump.to).or_default().push((jump.from, jump.untaken));
        }
        let mut tracks: Vec<Track> = by_target
            .into_iter()
            .map(|(to, sources)| {
                let ends = || sources.iter().map(|&(from, _)| from).chain([to]);
                let (first, last) = (ends().min().unwrap_or(to), ends().max().unwrap_or(to));
                Track { to, sources, first, last }
            })
            .collect();
        tracks.sort_by_key(|track| (track.last - track.first, track.first));
        // By column, innermost first, what is taken of it.
        let mut taken: Vec<Vec<(usize, usize)>> = Vec::new();
        let mut placed: Vec<(usize, &Track)> = Vec::new();
        let mut hidden = 0;
        let columns = columns.min(MAX_CELLS / lines.max(1));
        for track in &tracks {
            let free = |column: &Vec<(usize, usize)>| {
                column.iter().all(|&(first, last)| last < track.first || track.last < first)
            };
            let column = taken.iter().position(free).unwrap_or(taken.len());
            if column >= columns {
                hidden += track.sources.len();
                continue;
            }
            if column == taken.len() {
                taken.push(Vec::new());
            }
            taken[column].push((track.first, track.last));
            placed.push((column, track));
        }
        let columns = taken.len();
        let mut gutter = Self {
            columns,
            cells: vec![Cell::default(); columns * lines],
            heads: vec![false; lines],
            hidden,
        };
        for (number, (column, track)) in placed.into_iter().enumerate() {
            gutter.draw(number as u16, column, track);
        }
        gutter
    }

    fn draw(&mut self, arrow: u16, column: usize, track: &Track) {
        let place = self.columns - 1 - column;
        let untaken = track.sources.iter().all(|&(_, untaken)| untaken);
        for line in track.first..=track.last {
            let cell = &mut self.cells[line * self.columns + place];
            let up = if line > track.first { UP } else { 0 };
            let down = if line < track.last { DOWN } else { 0 };
            *cell = Cell { arms: cell.arms | up | down, untaken, arrow };
        }
        let ends = track.sources.iter().copied().chain([(track.to, untaken)]);
        for (line, untaken) in ends {
            let start = line * self.columns + place;
            self.cells[start].arms |= RIGHT;
            for cell in &mut self.cells[start + 1..(line + 1) * self.columns] {
                // Whoever goes down here keeps its colour.
                if cell.arms & (UP | DOWN) == 0 {
                    (cell.untaken, cell.arrow) = (untaken, arrow);
                }
                cell.arms |= LEFT | RIGHT;
            }
        }
        self.heads[track.to] = true;
    }

    /// The cells of a line, the outermost first.
    pub fn line(&self, line: usize) -> &[Cell] {
        self.cells.get(line * self.columns..(line + 1) * self.columns).unwrap_or_default()
    }

    /// Whether an arrow ends at a line.
    pub fn is_target(&self, line: usize) -> bool {
        self.heads.get(line).copied().unwrap_or(false)
    }

    /// Whether a line between two lines, below this one, is crossed: the same cells with nothing but
    /// what goes on downwards.
    pub fn below(&self, line: usize) -> impl Iterator<Item = Cell> {
        self.line(line).iter().map(|cell| {
            let arms = if cell.arms & DOWN == 0 { 0 } else { UP | DOWN };
            Cell { arms, ..*cell }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn jump(from: usize, to: usize) -> Jump {
        Jump { from, to, kind: JumpKind::Always, untaken: false }
    }

    fn drawn(lines: usize, jumps: &[Jump], columns: usize) -> Vec<String> {
        let gutter = Gutter::new(lines, jumps, columns);
        let glyph = |cell: &Cell| cell.glyph(true);
        (0..lines).map(|line| gutter.line(line).iter().map(glyph).collect()).collect()
    }

    #[test]
    fn shorter_arrows_are_nearer_to_the_code() {
        let jumps = [jump(0, 5), jump(1, 3), jump(4, 3), jump(6, 5)];
        assert_eq!(drawn(7, &jumps, 8), ["╭─", "│╭", "││", "│├", "│╰", "├─", "╰─"]);
    }

    #[test]
    fn arrows_of_one_column_never_touch() {
        // The second begins where the first ends.
        assert_eq!(drawn(3, &[jump(0, 1), jump(1, 2)], 8), [" ╭", "╭┴", "╰─"]);
    }

    #[test]
    fn what_does_not_fit_is_counted() {
        let nested: Vec<Jump> = (0..20).map(|n| jump(n, 39 - n)).collect();
        let gutter = Gutter::new(40, &nested, 6);
        assert_eq!((gutter.columns, gutter.hidden), (6, 14));
        assert_eq!(Gutter::new(40, &nested, 0).columns, 0);
        assert_eq!(Gutter::new(4, &[jump(1, 9)], 6).columns, 0, "out of the listing");
    }

    #[test]
    fn a_jump_to_itself_is_one_cell() {
        assert_eq!(drawn(1, &[jump(0, 0)], 4), ["╶"]);
    }
}
