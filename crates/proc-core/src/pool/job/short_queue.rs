//! Defines [`ShortQueue`].

use std::collections::VecDeque;

/// First in, first out. The first item lies in the queue itself, so a queue of one item, as a call
/// of one task has it, allocates no memory.
#[derive(Debug)]
pub(crate) struct ShortQueue<T> {
    /// `None` only if the queue is empty.
    first: Option<T>,
    later: VecDeque<T>,
}

impl<T> ShortQueue<T> {
    pub(crate) fn push_back(&mut self, item: T) {
        match self.first {
            None => self.first = Some(item),
            Some(_) => self.later.push_back(item),
        }
    }

    pub(crate) fn pop_front(&mut self) -> Option<T> {
        let first = self.first.take()?;
        self.first = self.later.pop_front();
        Some(first)
    }

    pub(crate) fn clear(&mut self) {
        *self = ShortQueue::default();
    }
}

impl<T> Default for ShortQueue<T> {
    fn default() -> Self {
        ShortQueue { first: None, later: VecDeque::new() }
    }
}

impl<T> Extend<T> for ShortQueue<T> {
    fn extend<I: IntoIterator<Item = T>>(&mut self, items: I) {
        items.into_iter().for_each(|item| self.push_back(item));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn items_come_out_in_their_order() {
        let mut queue = ShortQueue::default();
        assert_eq!(queue.pop_front(), None);
        queue.extend([1, 2, 3]);
        assert_eq!(queue.pop_front(), Some(1));
        queue.push_back(4);
        assert_eq!(std::iter::from_fn(|| queue.pop_front()).collect::<Vec<_>>(), [2, 3, 4]);
        queue.extend([5, 6]);
        queue.clear();
        assert_eq!(queue.pop_front(), None);
        queue.push_back(7);
        assert_eq!(queue.pop_front(), Some(7));
    }
}
