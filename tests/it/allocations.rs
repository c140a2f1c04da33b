//! Appending borrowed records allocates nothing.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use deaddrop::{BorrowedRecord, Durability, Log, TopicOptions};

/// The system's allocator; counts the allocations of each thread.
struct Counting;

thread_local! {
    static COUNT: Cell<u64> = const { Cell::new(0) };
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

// SAFETY: every call is passed on as it is.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        COUNT.set(COUNT.get() + 1);
        // SAFETY: as above.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        COUNT.set(COUNT.get() + 1);
        // SAFETY: as above.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, len: usize) -> *mut u8 {
        COUNT.set(COUNT.get() + 1);
        // SAFETY: as above.
        unsafe { System.realloc(at, layout, len) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(at, layout) }
    }
}

#[test]
fn borrowed_records_are_appended_without_an_allocation() {
    let dir = crate::dir();
    let log = Log::open_or_create(dir.path()).unwrap();
    let options = TopicOptions::default().with_durability(Durability::ProcessCrash);
    let topic = log.topic_with("t", options).unwrap();
    let headers = [("trace", &b"abc"[..])];
    let round = || {
        let before = COUNT.get();
        for payload in [&b"3 of item 7"[..], &[7; 20_000]] {
            let record = BorrowedRecord::new(payload).with_key("k").with_headers(&headers);
            topic.append(&record).unwrap();
            topic.append_batch(&[record; 3]).unwrap();
        }
        COUNT.get() - before
    };
    // The first one allocates the buffer. Others may check whether the topic's files are in place, and roll.
    assert!((0..100).any(|_| round() == 0), "each of 100 rounds allocated");
}
