//! A shared mapping of a file, without ever forming a reference to its bytes.
//!
//! Other processes store into the same memory. Words are accessed as atomics; ranges are copied in and out. A
//! copy out consists of relaxed loads, so that a racing store gives wrong bytes (which the frame's checksum
//! detects) and not undefined behaviour.

use super::fork::Generation;
use std::sync::atomic::{AtomicU64, AtomicU8, Ordering};
use std::sync::Arc;
use std::{io, ptr};

/// Bytes copied into a mapping at once. Longer copies use the processor's string instructions, which are a
/// third slower on lines that are not in a cache.
const PIECE_LEN: usize = 512;

/// See the module. Cheap to share: put it in an `Arc`.
pub(crate) struct Map {
    start: *mut u8,
    len: usize,
    writable: bool,
    backing: Backing,
    made_in: Generation,
}

enum Backing {
    File(std::mem::ManuallyDrop<memmap2::MmapRaw>),
    /// Keeps memory alive that belongs to another value.
    #[cfg_attr(not(feature = "sim"), allow(dead_code))]
    Memory {
        _owner: Arc<dyn Send + Sync>,
    },
}

// SAFETY: a Map is an address range that stays mapped until it is dropped; all access to it is by
// atomics, or by copies whose callers hold the lock that excludes other writers of the range.
unsafe impl Send for Map {}
// SAFETY: as above.
unsafe impl Sync for Map {}

impl Map {
    /// Wraps a mapping of a file. Children of a fork do not inherit it.
    pub(crate) fn of_file(raw: memmap2::MmapRaw, writable: bool) -> io::Result<Map> {
        raw.advise(memmap2::Advice::DontFork)?;
        Ok(Map {
            start: raw.as_mut_ptr(),
            len: raw.len(),
            writable,
            backing: Backing::File(std::mem::ManuallyDrop::new(raw)),
            made_in: Generation::default(),
        })
    }

    /// Wraps memory that `owner` keeps valid and in place.
    ///
    /// # Safety
    ///
    /// `start` is valid for reads and writes of `len` bytes, and aligned to 8, while `owner` lives.
    #[cfg(feature = "sim")]
    pub(crate) unsafe fn of_memory(
        start: *mut u8,
        len: usize,
        writable: bool,
        owner: Arc<dyn Send + Sync>,
    ) -> Map {
        Map {
            start,
            len,
            writable,
            backing: Backing::Memory { _owner: owner },
            made_in: Generation::default(),
        }
    }

    /// Returns the number of mapped bytes.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Returns the address of the first byte, for the one module that lays its words over the mapping.
    pub(crate) fn as_ptr(&self) -> *mut u8 {
        self.start
    }

    fn at(&self, position: usize, len: usize) -> *mut u8 {
        assert!(
            position.checked_add(len).is_some_and(|end| end <= self.len),
            "{len} bytes at {position} are outside a mapping of {}",
            self.len
        );
        // SAFETY: the assertion keeps the result inside the mapping.
        unsafe { self.start.add(position) }
    }

    /// Returns the aligned word at `position`.
    pub(crate) fn word(&self, position: usize) -> &AtomicU64 {
        assert!(position % 8 == 0);
        // SAFETY: in bounds (`at`), aligned (mappings start on a page), and the memory is only ever
        // accessed as atomics or under the lock that owns the range.
        unsafe { AtomicU64::from_ptr(self.at(position, 8).cast()) }
    }

    /// Copies `bytes` into the mapping. The caller must be the only writer of the range, and the range must
    /// not be published to readers yet.
    #[inline]
    pub(crate) fn write(&self, position: usize, bytes: &[u8]) {
        assert!(self.writable, "a read-only mapping");
        let mut to = self.at(position, bytes.len());
        for piece in bytes.chunks(PIECE_LEN) {
            // SAFETY: `to` is valid for the length and does not overlap `bytes`, which is not in any
            // mapping; exclusive by the contract above, upheld by the append lock or by the file
            // being unpublished.
            unsafe {
                ptr::copy_nonoverlapping(piece.as_ptr(), to, piece.len());
                to = to.add(piece.len());
            }
        }
    }

    /// Sets a range to zero, under the same contract as [`write`](Self::write).
    pub(crate) fn write_zeros(&self, position: usize, len: usize) {
        assert!(self.writable, "a read-only mapping");
        let to = self.at(position, len);
        // SAFETY: as in `write`.
        unsafe { ptr::write_bytes(to, 0, len) };
    }

    /// Copies a range out, as relaxed words. `position` is a multiple of 8.
    #[inline]
    pub(crate) fn read(&self, position: usize, out: &mut [u8]) {
        assert!(position % 8 == 0);
        let from = self.at(position, out.len()).cast_const();
        let copied = copy_blocks(from, out);
        let words = out.len() / 8;
        let to = out.as_mut_ptr().cast::<u64>();
        let from = from.cast::<u64>();
        for index in copied / 8..words {
            // SAFETY: `from` is aligned and valid for `words` words; `to` is valid for as many and
            // may be unaligned.
            unsafe {
                let word = AtomicU64::from_ptr(from.add(index).cast_mut()).load(Ordering::Relaxed);
                to.add(index).write_unaligned(word);
            }
        }
        for (index, byte) in out.iter_mut().enumerate().skip(words * 8) {
            // SAFETY: in bounds, as `position + out.len()` is.
            *byte = unsafe {
                AtomicU8::from_ptr(from.cast::<u8>().add(index).cast_mut()).load(Ordering::Relaxed)
            };
        }
    }

    /// Returns the bytes of a range, as a slice into the mapping.
    ///
    /// # Safety
    ///
    /// While the slice lives, no process or thread stores into the range, and none shortens the file.
    pub(crate) unsafe fn slice(&self, position: usize, len: usize) -> &[u8] {
        // SAFETY: in bounds (`at`); unchanging by the caller's promise.
        unsafe { std::slice::from_raw_parts(self.at(position, len), len) }
    }

    /// Makes the pages of a range resident and writable now, so that a later store does not fault.
    /// An error (no memory, a bad sector) is returned instead of a signal later.
    pub(crate) fn populate(&self, start: usize, end: usize) -> io::Result<()> {
        let Backing::File(raw) = &self.backing else { return Ok(()) };
        raw.advise_range(memmap2::Advice::PopulateWrite, start, end.min(self.len) - start)
    }

    /// Removes the pages of a range from the page table, which the next access enters again. No byte changes.
    pub(crate) fn release(&self, start: usize, end: usize) {
        let Backing::File(raw) = &self.backing else { return };
        // SAFETY: the pages of a shared mapping belong to the file, so no store is lost, and later accesses
        // see the same bytes.
        let released = unsafe {
            raw.unchecked_advise_range(memmap2::UncheckedAdvice::DontNeed, start, end - start)
        };
        debug_assert!(released.is_ok(), "{released:?}");
    }

    /// Reads and maps the pages of a range now: a bad sector is an error here instead of a signal later, and
    /// no page faults on its own.
    pub(crate) fn populate_to_read(&self, start: usize, end: usize) -> io::Result<()> {
        let Backing::File(raw) = &self.backing else { return Ok(()) };
        let start = start & !4095;
        raw.advise_range(memmap2::Advice::PopulateRead, start, end.min(self.len) - start)
    }
}

/// Copies as many whole blocks of 64 bytes as `out` has room for, and returns their length.
///
/// The only racing reads that the language allows are loads of single words, and they are half as fast as the
/// memory. The loads below are 16 bytes wide and not part of the language: for the compiler, the block is a
/// call that stores arbitrary bytes into `out`.
#[inline]
#[cfg(all(target_arch = "x86_64", not(miri)))]
fn copy_blocks(from: *const u8, out: &mut [u8]) -> usize {
    let blocks = out.len() / 64;
    if blocks > 0 {
        // SAFETY: both sides are valid for `blocks * 64` bytes: `from` for all of `out.len()` by the
        // bounds check of the only caller, `out` as a slice. Only `out`, the named registers and the
        // flags are changed. A racing store by another processor gives old or new bytes, each of
        // which is a valid u8. SSE2 is part of x86-64.
        unsafe {
            std::arch::asm!(
                "2:",
                "movups {a}, [{from}]",
                "movups {b}, [{from} + 16]",
                "movups {c}, [{from} + 32]",
                "movups {d}, [{from} + 48]",
                "movups [{to}], {a}",
                "movups [{to} + 16], {b}",
                "movups [{to} + 32], {c}",
                "movups [{to} + 48], {d}",
                "add {from}, 64",
                "add {to}, 64",
                "dec {left}",
                "jnz 2b",
                from = inout(reg) from => _,
                to = inout(reg) out.as_mut_ptr() => _,
                left = inout(reg) blocks => _,
                a = out(xmm_reg) _,
                b = out(xmm_reg) _,
                c = out(xmm_reg) _,
                d = out(xmm_reg) _,
                options(nostack),
            );
        }
    }
    blocks * 64
}

/// On other processors, everything is copied as words.
#[inline]
#[cfg(not(all(target_arch = "x86_64", not(miri))))]
fn copy_blocks(_: *const u8, _: &mut [u8]) -> usize {
    0
}

impl std::fmt::Debug for Map {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Map").field("len", &self.len).field("writable", &self.writable).finish()
    }
}

impl Drop for Map {
    fn drop(&mut self) {
        if let Backing::File(raw) = &mut self.backing {
            // A forked child did not inherit the mapping: its address may be in use for something else.
            if !self.made_in.is_parents() {
                // SAFETY: dropped once, here.
                unsafe { std::mem::ManuallyDrop::drop(raw) };
            }
        }
    }
}

#[cfg(all(test, feature = "sim"))]
mod tests {
    use super::*;

    #[test]
    fn a_range_of_any_length_is_copied_out_whole_and_nothing_else() {
        let mut words: Box<[u64]> = (0..64).map(|word| word * 0x0123_4567_89ab_cdef).collect();
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        let start = words.as_mut_ptr().cast();
        // SAFETY: the box's memory stays where it is while the owner holds it, 512 bytes, aligned.
        let map = unsafe { Map::of_memory(start, 512, true, Arc::new(words)) };
        for position in (0..512).step_by(8) {
            for len in 0..=512 - position {
                let mut out = vec![0x5a; len + 64];
                map.read(position, &mut out[..len]);
                assert_eq!(out[..len], bytes[position..position + len]);
                assert!(out[len..].iter().all(|&byte| byte == 0x5a));
            }
        }
    }
}
