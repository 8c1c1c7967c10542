//! Cuts a byte stream into lines. Whole lines are lent out of the caller's own buffer; only an incomplete line costs
//! memory here. Knows nothing of what the lines say.

/// What [`LineSplitter::push`] found.
#[derive(Debug, PartialEq, Eq)]
pub enum Split<'a> {
    /// One line without its line feed.
    Line(&'a [u8]),
    /// A line passed the limit. It is dropped up to its line feed; what follows it is read as ever.
    TooLong,
}

/// Splits a stream at line feeds, with a bound on one line.
#[derive(Debug)]
pub struct LineSplitter {
    rest: Vec<u8>,
    line_max: usize,
    skipping: bool,
}

impl LineSplitter {
    /// The longest line of the CLI that is taken, in bytes: the whole text of an answer comes in one line.
    pub const LINE_MAX: usize = 64 << 20;
    /// Memory above this many bytes is given back once its line is done.
    const KEEP_MAX: usize = 64 << 10;

    /// A splitter that drops lines of more than `line_max` bytes.
    pub fn new(line_max: usize) -> Self {
        Self { rest: Vec::new(), line_max, skipping: false }
    }

    /// Takes the next bytes of the stream.
    pub fn push(&mut self, mut bytes: &[u8], on: &mut dyn FnMut(Split<'_>)) {
        while let Some(end) = memchr::memchr(b'\n', bytes) {
            let (head, tail) = (&bytes[..end], &bytes[end + 1..]);
            bytes = tail;
            if std::mem::take(&mut self.skipping) {
                continue;
            }
            if self.rest.len() + head.len() > self.line_max {
                on(Split::TooLong);
            } else if self.rest.is_empty() {
                on(Split::Line(head));
            } else {
                self.rest.extend_from_slice(head);
                on(Split::Line(&self.rest));
            }
            self.forget();
        }
        if self.skipping {
            return;
        }
        if self.rest.len() + bytes.len() > self.line_max {
            self.skipping = true;
            self.forget();
            on(Split::TooLong);
        } else {
            self.rest.extend_from_slice(bytes);
        }
    }

    /// The stream has ended: what is left is its last line, if anything is.
    pub fn finish(&mut self, on: &mut dyn FnMut(Split<'_>)) {
        self.skipping = false;
        if !self.rest.is_empty() {
            on(Split::Line(&self.rest));
            self.forget();
        }
    }

    /// Bytes of the incomplete line.
    pub fn pending(&self) -> usize {
        self.rest.len()
    }

    fn forget(&mut self) {
        self.rest.clear();
        self.rest.shrink_to(Self::KEEP_MAX);
    }
}

impl Default for LineSplitter {
    fn default() -> Self {
        Self::new(Self::LINE_MAX)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn split(splitter: &mut LineSplitter, chunks: &[&[u8]]) -> Vec<Option<Vec<u8>>> {
        let mut found = Vec::new();
        let mut on = |split: Split<'_>| match split {
            Split::Line(line) => found.push(Some(line.to_vec())),
            Split::TooLong => found.push(None),
        };
        for chunk in chunks {
            splitter.push(chunk, &mut on);
        }
        splitter.finish(&mut on);
        found
    }

    #[test]
    fn a_line_over_the_limit_is_dropped_once_and_the_next_one_is_read() {
        for chunks in
            [vec![&b"abcdef\nok\n"[..]], vec![b"abc", b"def", b"gh", b"\n", b"ok\n"], vec![b"abcd", b"e\nok\n"]]
        {
            let found = split(&mut LineSplitter::new(4), &chunks);
            assert_eq!(found, [None, Some(b"ok".to_vec())], "{chunks:?}");
        }
    }

    #[test]
    fn memory_of_a_long_line_is_given_back() {
        let mut splitter = LineSplitter::default();
        splitter.push(&vec![b'x'; 4 << 20], &mut |_| {});
        assert_eq!(splitter.pending(), 4 << 20);
        splitter.push(b"\n", &mut |_| {});
        assert_eq!(splitter.pending(), 0);
        assert!(splitter.rest.capacity() <= LineSplitter::KEEP_MAX);
    }

    proptest! {
        #[test]
        fn any_chunking_gives_the_lines_of_the_whole(
            bytes in prop::collection::vec(prop_oneof![4 => any::<u8>(), 1 => Just(b'\n')], 0..400),
            cuts in prop::collection::vec(0usize..400, 0..8),
            line_max in 1usize..40,
        ) {
            let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(bytes.len())).collect();
            cuts.extend([0, bytes.len()]);
            cuts.sort_unstable();
            let chunks: Vec<&[u8]> = cuts.windows(2).map(|pair| &bytes[pair[0]..pair[1]]).collect();
            let mut want: Vec<Option<Vec<u8>>> = bytes
                .split(|&byte| byte == b'\n')
                .map(|line| (line.len() <= line_max).then(|| line.to_vec()))
                .collect();
            if want.last().is_some_and(|last| last.as_ref().is_some_and(Vec::is_empty)) {
                want.pop();
            }
            prop_assert_eq!(split(&mut LineSplitter::new(line_max), &chunks), want);
        }
    }
}
