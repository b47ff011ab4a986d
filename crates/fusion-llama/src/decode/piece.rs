//! Images and sounds in a prompt: stretches of cells that hold vectors instead of tokens.
//!
//! A stretch takes one cell of the KV cache for each of its vectors, but not always as many positions: models with M-RoPE lay
//! an image's cells on a grid, and the text after it goes on behind the grid's longer side.

use crate::media::Encoding;

pub(crate) struct Piece {
    /// Its first cell, counted from the prompt's first.
    pub(crate) start: usize,
    pub(crate) cells: usize,
    /// The position of its first cell.
    pub(crate) position: usize,
    /// Positions that it takes.
    pub(crate) span: usize,
    pub(crate) places: Places,
    /// Its cells look at each other in both directions: they are computed at once, and by themselves.
    pub(crate) whole: bool,
    /// None once nobody waits for its vectors any more.
    pub(crate) encoding: Option<Encoding>,
}

/// Where the cells of a piece stand.
pub(crate) enum Places {
    /// One after the other.
    Line,
    /// For each cell its position in time, then down, across, and one more that no model uses yet.
    Grid(Vec<[i32; 4]>),
}

impl Piece {
    pub(crate) fn end(&self) -> usize {
        self.start + self.cells
    }

    /// The positions of a cell, as the model's kind of RoPE has them.
    pub(crate) fn position_of(&self, cell: usize) -> [i32; 4] {
        match &self.places {
            Places::Line => [number(self.position + cell); 4],
            Places::Grid(places) => places.get(cell).copied().unwrap_or_default(),
        }
    }
}

/// The pieces of one prompt, in order. Plain text has none.
#[derive(Default)]
pub(crate) struct Pieces(Vec<Piece>);

impl Pieces {
    pub(crate) fn new(pieces: Vec<Piece>) -> Self {
        Self(pieces)
    }

    /// Whether all is text.
    pub(crate) fn is_plain(&self) -> bool {
        self.0.is_empty()
    }

    /// The piece that a cell belongs to.
    pub(crate) fn at(&self, cell: usize) -> Option<&Piece> {
        self.0
            .iter()
            .find(|piece| (piece.start..piece.end()).contains(&cell))
    }

    /// The position of a cell of text, or of a piece's first.
    pub(crate) fn position(&self, cell: usize) -> usize {
        let before = self.0.iter().take_while(|piece| piece.end() <= cell);
        cell - before
            .map(|piece| piece.cells.saturating_sub(piece.span))
            .sum::<usize>()
    }

    /// The highest position that the first `cells` must reach at least. On a grid it isn't the one before the next.
    pub(crate) fn reached(&self, cells: usize) -> usize {
        match self.at(cells.saturating_sub(1)) {
            Some(piece) => piece.position,
            None => self.position(cells).saturating_sub(1),
        }
    }

    /// Cells of text from here to the next piece; none within a piece.
    pub(crate) fn text_from(&self, cell: usize) -> usize {
        let next = self.0.iter().find(|piece| piece.end() > cell);
        next.map_or(usize::MAX, |piece| piece.start.saturating_sub(cell))
    }

    /// As many of the first `cells` as end with text or a whole piece: a piece can't be cut.
    pub(crate) fn uncut(&self, cells: usize) -> usize {
        match self.at(cells) {
            Some(piece) => piece.start,
            None => cells,
        }
    }

    /// Has the vectors made that the cells from here on need.
    pub(crate) fn ask(&self, from: usize) {
        for piece in self.0.iter().filter(|piece| piece.end() > from) {
            if let Some(encoding) = &piece.encoding {
                encoding.ask();
            }
        }
    }

    /// Nobody waits for vectors any more; where the cells stand is still known.
    pub(crate) fn forget_vectors(&mut self) {
        for piece in &mut self.0 {
            piece.encoding = None;
        }
    }
}

pub(crate) fn number(position: usize) -> i32 {
    i32::try_from(position).unwrap_or(i32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn piece(start: usize, cells: usize, position: usize, span: usize) -> Piece {
        Piece {
            start,
            cells,
            position,
            span,
            places: Places::Line,
            whole: false,
            encoding: None,
        }
    }

    #[test]
    fn text_goes_on_behind_the_grid() {
        // Five of text, an image of 4 × 3 that takes 4 positions, two of text, a sound of 6.
        let pieces = Pieces::new(vec![piece(5, 12, 5, 4), piece(19, 6, 11, 6)]);
        let positions: Vec<_> = [0, 4, 5, 17, 18, 19, 25]
            .map(|cell| pieces.position(cell))
            .into();
        assert_eq!(positions, [0, 4, 5, 9, 10, 11, 17]);
        assert_eq!(
            [0, 5, 7, 17, 19, 25].map(|cell| pieces.text_from(cell)),
            [5, 0, 0, 2, 0, usize::MAX]
        );
        assert_eq!(
            [5, 6, 16, 17, 20, 25].map(|cells| pieces.uncut(cells)),
            [5, 5, 5, 17, 19, 25]
        );
        // Right behind the image the cache has seen no position but its first.
        assert_eq!([5, 17, 18].map(|cells| pieces.reached(cells)), [4, 5, 9]);
    }

    #[test]
    fn plain_text_stands_where_it_is() {
        let none = Pieces::default();
        assert_eq!(
            (none.position(7), none.uncut(7), none.reached(7)),
            (7, 7, 6)
        );
        assert_eq!(none.text_from(7), usize::MAX);
    }
}
