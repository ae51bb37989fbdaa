//! Reading bytes without ever passing their end.

/// What is left to read. Every method returns `None`, and moves nothing, when there is not enough.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cursor<'a>(&'a [u8]);

impl<'a> Cursor<'a> {
    #[inline]
    pub(super) const fn new(bytes: &'a [u8]) -> Self {
        Cursor(bytes)
    }

    #[inline]
    pub(super) const fn rest(self) -> &'a [u8] {
        self.0
    }

    #[inline]
    pub(super) const fn is_empty(self) -> bool {
        self.0.is_empty()
    }

    #[inline]
    pub(super) fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }

    #[inline]
    pub(super) fn array_ref<const N: usize>(&mut self) -> Option<&'a [u8; N]> {
        let (taken, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(taken)
    }

    #[inline]
    pub(super) fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.array_ref().copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reading_past_the_end_moves_nothing() {
        let mut cursor = Cursor::new(&[1, 2, 3]);
        assert_eq!(cursor.array::<4>(), None);
        assert_eq!(cursor.take(4), None);
        assert_eq!(cursor.array_ref(), Some(&[1, 2]));
        assert_eq!(cursor.array::<2>(), None);
        assert_eq!(cursor.array(), Some([3]));
        assert!(cursor.is_empty());
        assert_eq!(cursor.array::<1>(), None);
        assert_eq!(cursor.take(0), Some(&[][..]));
    }
}
