use super::*;

/// An empty queue that `count` items have gone through.
fn items_after(count: u64) -> Items {
    let items = Items::new().expect("there is memory");
    items.tail().count.store(count, Ordering::Relaxed);
    items.head().count.store(count, Ordering::Relaxed);
    items.chunk(0).first.store(count, Ordering::Relaxed);
    items
}

fn copy(out: &mut Vec<u8>) -> impl FnMut(Record<'_>) -> io::Result<()> {
    |record| {
        assert!(record.region.read(record.at, record.len, out));
        Ok(())
    }
}

fn take(items: &Items) -> Option<Vec<u8>> {
    let mut out = Vec::new();
    let taken = items.take(1, &mut copy(&mut out)).expect("there is memory");
    (taken == 1).then_some(out)
}

fn append(items: &Items, item: &[u8]) {
    assert_eq!(items.append(&[item]).expect("there is memory"), 1);
}

#[test]
fn more_than_four_billion_items_go_through_a_queue() {
    const BEFORE: u64 = (1 << 32) - 50_000;
    let items = items_after(BEFORE);
    append(&items, b"leased");
    let mut leased = Vec::new();
    assert!(items.take_leased(3, 77, &mut copy(&mut leased)).expect("there is memory"));
    assert_eq!(leased, b"leased");
    for number in 0..100_000_u32 {
        append(&items, &number.to_ne_bytes());
        if number >= 10 {
            assert_eq!(take(&items).as_deref(), Some(&(number - 10).to_ne_bytes()[..]));
        }
    }
    assert_eq!(items.len(), 10);
    // A lease whose item was taken more than 2^31 items ago is a lease still.
    items.head().count.fetch_add(1 << 31, Ordering::Relaxed);
    items.tail().count.fetch_add(1 << 31, Ordering::Relaxed);
    let chunk = items.head().chunk.load(Ordering::Relaxed);
    items.chunk(chunk).first.fetch_add(1 << 31, Ordering::Relaxed);
    items.repair_head().expect("the memory is mapped");
    items.repair_tail().expect("the memory is mapped");
    assert_eq!(items.head().leases.load(Ordering::Relaxed), 1);
    for number in 99_990..100_000_u32 {
        assert_eq!(take(&items).as_deref(), Some(&number.to_ne_bytes()[..]));
    }
    let mut out = Vec::new();
    items.copy_leased(3, &mut copy(&mut out)).expect("there is memory");
    assert_eq!(out, b"leased");
    items.end_lease(3);
    assert_eq!(used_chunks(&items), 1, "the chunk of the lease is free");
}

fn used_chunks(items: &Items) -> usize {
    (0..MAX_CHUNKS as u32).filter(|index| items.chunk(*index).is_used()).count()
}

/// A process dies after it has begun a chunk, and the next item needs a larger one.
#[test]
fn chunks_that_nobody_has_written_to_are_used_again() {
    let items = items_after(0);
    for _ in 0..3 * MAX_CHUNKS {
        append(&items, &[1; 1000]);
        // The death, just before the item would have been put.
        let count = items.tail().count.load(Ordering::Relaxed);
        append(&items, &[2; 70_000]);
        items.tail().count.store(count, Ordering::Relaxed);
        items.repair_tail().expect("the memory is mapped");
        append(&items, &[3; 200_000]);
        assert_eq!(take(&items), Some(vec![1; 1000]));
        assert_eq!(take(&items), Some(vec![3; 200_000]));
        assert_eq!(take(&items), None);
    }
    assert_eq!(used_chunks(&items), 1);
}

/// A producer dies after it has begun a chunk, the next item needs a larger one, and a consumer
/// dies before it has come to either.
#[test]
fn empty_chunk_that_consumers_come_to_is_not_used_again() {
    let items = items_after(0);
    append(&items, &[1; 1000]);
    assert_eq!(take(&items), Some(vec![1; 1000]));
    append(&items, &[2; 70_000]);
    items.tail().count.store(1, Ordering::Relaxed);
    items.repair_tail().expect("the memory is mapped");
    append(&items, &[3; 200_000]);
    items.repair_head().expect("the memory is mapped");
    append(&items, &[4; 70_000]);
    assert_eq!(take(&items), Some(vec![3; 200_000]));
    assert_eq!(take(&items), Some(vec![4; 70_000]));
    assert_eq!(take(&items), None);
    assert_eq!(used_chunks(&items), 1);
}

/// A queue is full, so that its last chunks are small; then it becomes empty.
#[test]
fn memory_of_small_chunks_is_given_back_without_that_of_their_neighbors() {
    let items = Items { memory: SparseMemory::with_len(16 << 20).expect("there is memory") };
    items.tail().cut.store(CHUNK_MEMORY, Ordering::Relaxed);
    let first = items.chunk_for(0).expect("there is room");
    items.chunk(first).begin(0);
    let item = |number: usize| vec![number as u8; 2000];
    let mut count = 0;
    while items.append(&[&item(count)]).is_ok() {
        count += 1;
    }
    assert!(count > 7000, "{count} items");
    for number in 0..count {
        assert_eq!(take(&items), Some(item(number)), "item {number}");
    }
    assert_eq!(take(&items), None);
}

/// A process dies after it has cut a chunk, and before it has counted the chunk.
#[test]
fn memory_of_a_chunk_that_was_not_counted_is_cut_again() {
    let items = items_after(0);
    let cut = items.tail().cut.load(Ordering::Relaxed);
    items.tail().cut.store(1 << 30, Ordering::Relaxed);
    items.repair_tail().expect("the memory is mapped");
    assert_eq!(items.tail().cut.load(Ordering::Relaxed), cut);
}
