//! The tasks of a job that are not handed out yet, and the size of the next chunk.

use std::collections::VecDeque;
use std::sync::Arc;

use proc_core::remote;

use crate::message::Chunk;

/// How long a chunk should take: long compared with the transfer to another machine, but short for
/// people who wait.
const CHUNK_NANOS: f64 = 10e6;

/// Chunks of an explicit chunksize travel together in one message if they are short. This is the
/// longest time that they may take together.
const MAX_TOGETHER_NANOS: f64 = 1e6;

/// The most tasks in chunks of an explicit chunksize that travel together.
const MAX_TOGETHER: usize = 64;

/// The remaining tasks are cut into at least this many chunks for each worker. With smaller chunks,
/// less is lost with a machine, and the wait for the last chunk is shorter. For example, if half of
/// the workers are on one machine and each has two chunks, that machine has 1/24 of the tasks that
/// remained when these chunks were cut. Chunks are larger if smaller ones would take less than
/// [`MIN_CHUNK_NANOS`], or would have fewer tasks than the caller's chunksize.
const MIN_CHUNKS_PER_WORKER: usize = 24;

/// How long the smallest chunk should take, unless the caller has set a chunksize. For less, the
/// transfer to another machine costs more than the chunk.
const MIN_CHUNK_NANOS: f64 = 0.25e6;

/// How many bytes of arguments a chunk has at most, unless a single task has more.
const MAX_CHUNK_BYTES: usize = 256 << 10;

/// Encoded tasks with consecutive numbers.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    pub(crate) first: usize,
    pub(crate) count: usize,
    pub(crate) bytes: Vec<u8>,
}

/// The tasks of a job that are not handed out yet.
#[derive(Debug)]
pub(super) struct TaskQueue {
    chunksize: Option<usize>,
    /// Each batch with the number of bytes that are already cut off; 0 for all but the front batch.
    batches: VecDeque<(Batch, usize)>,
    /// How many tasks are in the queue.
    left: usize,
    /// Nanoseconds that a task takes, if that is known.
    task_nanos: Option<f64>,
}

impl TaskQueue {
    pub(super) fn new(chunksize: Option<usize>) -> TaskQueue {
        TaskQueue { chunksize, batches: VecDeque::new(), left: 0, task_nanos: None }
    }

    pub(super) fn add(&mut self, batch: Batch) {
        self.left += batch.count;
        match self.batches.back_mut() {
            _ if batch.count == 0 => {}
            // Small batches with consecutive numbers become one, so that their tasks can travel
            // together.
            Some((last, _))
                if last.first + last.count == batch.first && last.bytes.len() < MAX_CHUNK_BYTES =>
            {
                last.bytes.extend_from_slice(&batch.bytes);
                last.count += batch.count;
            }
            _ => self.batches.push_back((batch, 0)),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.batches.is_empty()
    }

    /// Cuts off the next chunk, for a fleet with `workers` workers.
    pub(super) fn cut(&mut self, workers: usize) -> Option<(Chunk, Arc<Vec<u8>>)> {
        let wanted = self.chunk_size(workers);
        let (batch, at) = self.batches.front_mut()?;
        let (start, first) = (*at, batch.first);
        let mut count = 0;
        while count < wanted.min(batch.count)
            && let Some(len) = remote::record_len(&batch.bytes[*at..])
            && (count == 0 || *at + len - start <= MAX_CHUNK_BYTES)
        {
            *at += len;
            count += 1;
        }
        let bytes = batch.bytes[start..*at].to_vec();
        batch.first += count;
        batch.count -= count;
        self.left -= count;
        if batch.count == 0 || count == 0 {
            self.batches.pop_front();
        }
        Some((Chunk { first, count, attempt: 0, returns: 0, losses: 0 }, Arc::new(bytes)))
    }

    /// The size of the next chunk: as many tasks as take the right time, up to a fair share of the
    /// remaining tasks.
    ///
    /// The first chunks are as small as possible, since they show how long a task takes.
    fn chunk_size(&self, workers: usize) -> usize {
        self.tasks_in_time(self.left.div_ceil(MIN_CHUNKS_PER_WORKER * workers))
    }

    /// How many tasks take `CHUNK_NANOS`: up to a `fair` share, but at least as many as take
    /// `MIN_CHUNK_NANOS`. With an explicit chunksize: as many whole chunks as take
    /// `MAX_TOGETHER_NANOS`, with at most `MAX_TOGETHER` tasks and a `fair` share, but at least
    /// one.
    fn tasks_in_time(&self, fair: usize) -> usize {
        let lasting = |nanos: f64| self.task_nanos.map_or(1, |task| (nanos / task) as usize);
        match self.chunksize {
            None => lasting(CHUNK_NANOS).min(fair.max(lasting(MIN_CHUNK_NANOS))).max(1),
            Some(tasks) => {
                tasks * (lasting(MAX_TOGETHER_NANOS).min(fair).min(MAX_TOGETHER) / tasks).max(1)
            }
        }
    }

    /// Learns from a finished chunk how long a task takes.
    pub(super) fn learn(&mut self, nanoseconds: u64, count: usize) {
        let now = (nanoseconds as f64 / count.max(1) as f64).max(1.0);
        // The time includes the transfer to the worker, which on a busy machine is most of the time
        // of a small chunk. So a shorter time replaces the old one at once: chunks then grow, and
        // the transfer counts for less. A longer time changes the old one only gradually.
        self.task_nanos = Some(self.task_nanos.map_or(now, |old| now.min(0.75 * old + 0.25 * now)));
    }

    /// Nanoseconds that a chunk takes, if that is known.
    pub(super) fn chunk_nanos(&self) -> Option<f64> {
        self.task_nanos.map(|task_nanos| task_nanos * self.tasks_in_time(usize::MAX) as f64)
    }
}

/// Takes the first `count` records off `bytes` and returns them; all records, if there are fewer.
pub(super) fn take_records<'a>(bytes: &mut &'a [u8], count: usize) -> &'a [u8] {
    let mut len = 0;
    for _ in 0..count {
        let Some(record) = remote::record_len(&bytes[len..]) else { break };
        len += record;
    }
    let (taken, rest) = bytes.split_at(len);
    *bytes = rest;
    taken
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch(first: usize, tasks: impl IntoIterator<Item = Vec<u8>>) -> Batch {
        let mut batch = Batch { first, ..Batch::default() };
        for task in tasks {
            remote::encode_argument(&task, &mut batch.bytes).expect("bytes");
            batch.count += 1;
        }
        batch
    }

    fn cut_all(queue: &mut TaskQueue, workers: usize) -> Vec<(usize, usize)> {
        let cuts = std::iter::from_fn(|| queue.cut(workers));
        cuts.map(|(chunk, _)| (chunk.first, chunk.count)).collect()
    }

    #[test]
    fn cut_obeys_an_explicit_chunksize_within_a_batch() {
        let mut queue = TaskQueue::new(Some(3));
        queue.add(batch(0, vec![vec![1]; 4]));
        queue.add(batch(5, vec![vec![1]; 3])); // task 4 could not be encoded
        assert_eq!(cut_all(&mut queue, 2), [(0, 3), (3, 1), (5, 3)]);
        assert!(queue.is_empty());
    }

    #[test]
    fn chunks_grow_with_the_learned_time_and_shrink_to_the_end() {
        let mut queue = TaskQueue::new(None);
        queue.add(batch(0, vec![vec![1]; 1000]));
        assert_eq!(queue.cut(2).map(|(chunk, _)| chunk.count), Some(1), "nothing is known");
        queue.learn(1_000, 1);
        let sizes: Vec<usize> = cut_all(&mut queue, 2).iter().map(|(_, count)| *count).collect();
        assert_eq!(sizes.iter().sum::<usize>(), 999);
        assert_eq!((sizes[0], sizes.last()), (250, Some(&249)), "less is not worth the transfer");
        let mut queue = TaskQueue::new(None);
        queue.add(batch(0, vec![vec![1]; 1000]));
        queue.learn(1_000_000, 1);
        let sizes: Vec<usize> = cut_all(&mut queue, 20).iter().map(|(_, count)| *count).collect();
        assert_eq!((sizes[0], sizes.last()), (3, Some(&1)));
        assert!(sizes.is_sorted_by(|a, b| a >= b), "{sizes:?}");
    }

    #[test]
    fn short_chunks_travel_together() {
        let mut queue = TaskQueue::new(Some(3));
        for first in 0..4000 {
            queue.add(batch(first, [vec![1]]));
        }
        assert_eq!(queue.cut(2).map(|(chunk, _)| chunk.count), Some(3), "nothing is known");
        queue.learn(50_000, 1);
        assert_eq!(queue.cut(2).map(|(chunk, _)| chunk.count), Some(18), "a millisecond's work");
        for _ in 0..40 {
            queue.learn(1, 1);
        }
        assert_eq!(
            queue.cut(2).map(|(chunk, _)| chunk.count),
            Some(63),
            "whole chunks, and no more"
        );
        let sizes: Vec<usize> = cut_all(&mut queue, 2).iter().map(|(_, count)| *count).collect();
        assert!(sizes.is_sorted_by(|a, b| a >= b) && sizes[sizes.len() - 1] <= 3, "{sizes:?}");
    }

    #[test]
    fn large_tasks_are_cut_into_chunks_of_their_own() {
        let mut queue = TaskQueue::new(Some(100));
        queue.add(batch(0, [10, 300 << 10, 10, 200 << 10, 100 << 10].map(|len| vec![0; len])));
        assert_eq!(cut_all(&mut queue, 1), [(0, 1), (1, 1), (2, 2), (4, 1)]);
    }
}
