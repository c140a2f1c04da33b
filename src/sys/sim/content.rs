//! A file's bytes: live, considered clean, and durable; and those of them that a power cut spares.

use std::collections::BTreeSet;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::Arc;

use parking_lot::Mutex;

use super::errno;

/// The unit in which the page cache writes.
const PAGE_LEN: usize = 4096;
/// The unit in which a disk writes.
const SECTOR_LEN: usize = 512;
/// The length to which a mapped file can grow, at least.
const MEMORY_LEN_MIN: usize = 64 << 10;

/// Anonymous memory: it does not move, and starts as zeros.
pub(super) struct Memory(memmap2::MmapRaw);

impl Memory {
    fn new(len: usize) -> io::Result<Memory> {
        let len = len.next_power_of_two().max(MEMORY_LEN_MIN);
        Ok(Memory(memmap2::MmapMut::map_anon(len)?.into()))
    }

    pub(super) fn as_mut_ptr(&self) -> *mut u8 {
        self.0.as_mut_ptr()
    }

    fn words(&self) -> &[AtomicU64] {
        // SAFETY: the mapping starts on a page, so it is aligned; its length is a power of two of at
        // least a page (`new`), so it is whole words; it lives as long as `self`; this module reaches
        // it only here, as atomics, and maps of it keep to the contract of `Map`.
        unsafe { std::slice::from_raw_parts(self.0.as_mut_ptr().cast(), self.0.len() / 8) }
    }

    pub(super) fn read(&self, position: usize, out: &mut [u8]) {
        let skip = position % 8;
        if skip > 0 {
            let mut aligned = vec![0; skip + out.len()];
            self.read(position - skip, &mut aligned);
            return out.copy_from_slice(&aligned[skip..]);
        }
        for (out, word) in out.chunks_mut(8).zip(&self.words()[position / 8..]) {
            out.copy_from_slice(&word.load(Ordering::Relaxed).to_ne_bytes()[..out.len()]);
        }
    }

    pub(super) fn write(&self, position: usize, bytes: &[u8]) {
        let words = self.words();
        let mut written = 0;
        while written < bytes.len() {
            let (word, skip) = ((position + written) / 8, (position + written) % 8);
            let part = &bytes[written..bytes.len().min(written + 8 - skip)];
            // The rest of the word may change at the same time, and that change must not be lost.
            let stored = words[word].fetch_update(Ordering::Relaxed, Ordering::Relaxed, |old| {
                let mut new = old.to_ne_bytes();
                new[skip..skip + part.len()].copy_from_slice(part);
                Some(u64::from_ne_bytes(new))
            });
            stored.expect("the closure always gives a word");
            written += part.len();
        }
    }
}

pub(super) struct Inode {
    pub(super) number: u64,
    pub(super) content: Mutex<Content>,
}

pub(super) struct Content {
    /// The live bytes, and zeros after `len`.
    memory: Arc<Memory>,
    len: usize,
    /// The bytes that the page cache considers to be on the disk; more than `durable` after a failed sync.
    clean: Vec<u8>,
    durable: Vec<u8>,
    /// Pages that the next sync writes even if they look clean.
    forced: BTreeSet<usize>,
    /// How often writing it back has failed, and the errno of the last failure.
    failures: (u64, i32),
    /// The last failure was reported to some open file.
    is_reported: bool,
}

impl Content {
    pub(super) fn of(bytes: Vec<u8>) -> io::Result<Content> {
        let memory = Arc::new(Memory::new(bytes.len())?);
        memory.write(0, &bytes);
        let (len, clean) = (bytes.len(), bytes.clone());
        Ok(Content {
            memory,
            len,
            clean,
            durable: bytes,
            forced: BTreeSet::new(),
            failures: (0, 0),
            is_reported: true,
        })
    }

    /// Makes `bytes` the live and durable ones.
    pub(super) fn replace(&mut self, bytes: &[u8]) {
        let len = self.len.max(bytes.len());
        self.grow(len).expect("the bytes fit into the mapped memory");
        self.memory.write(0, bytes);
        self.memory.write(bytes.len(), &vec![0; len - bytes.len()]);
        self.len = bytes.len();
        self.forced.clear();
        self.clean = bytes.to_vec();
        self.durable = bytes.to_vec();
    }

    /// Flips the bits of `mask` in one byte, live and durable.
    pub(super) fn flip(&mut self, position: usize, mask: u8) {
        assert!(position < self.len, "byte {position} of {}", self.len);
        let mut byte = [0];
        self.memory.read(position, &mut byte);
        self.memory.write(position, &[byte[0] ^ mask]);
        for bytes in [&mut self.clean, &mut self.durable] {
            if let Some(byte) = bytes.get_mut(position) {
                *byte ^= mask;
            }
        }
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn durable(&self) -> &[u8] {
        &self.durable
    }

    pub(super) fn memory(&self) -> &Arc<Memory> {
        &self.memory
    }

    pub(super) fn live(&self) -> Vec<u8> {
        let mut bytes = vec![0; self.len];
        self.memory.read(0, &mut bytes);
        bytes
    }

    pub(super) fn grow(&mut self, len: usize) -> io::Result<()> {
        if len > self.memory.0.len() {
            // Each mapping holds the memory, which cannot be replaced while one exists.
            if Arc::strong_count(&self.memory) > 1 {
                return Err(io::Error::new(
                    io::ErrorKind::Unsupported,
                    format!("a mapped file of {} bytes cannot grow to {len}", self.len),
                ));
            }
            let wider = Memory::new(len)?;
            wider.write(0, &self.live());
            self.memory = Arc::new(wider);
        }
        self.len = self.len.max(len);
        Ok(())
    }

    pub(super) fn force(&mut self, start: usize, end: usize) {
        self.forced.extend(start / PAGE_LEN..end.min(self.len).div_ceil(PAGE_LEN));
    }

    /// Marks all dirty pages as written; they are written only if the disk takes them.
    fn write_back(&mut self, disk_takes_them: bool) {
        self.clean.resize(self.len, 0);
        if disk_takes_them {
            self.durable.resize(self.len, 0);
        }
        let mut page = [0; PAGE_LEN];
        for start in (0..self.len).step_by(PAGE_LEN) {
            let end = self.len.min(start + PAGE_LEN);
            let page = &mut page[..end - start];
            self.memory.read(start, page);
            if self.clean[start..end] == *page && !self.forced.contains(&(start / PAGE_LEN)) {
                continue;
            }
            self.clean[start..end].copy_from_slice(page);
            if disk_takes_them {
                self.durable[start..end].copy_from_slice(page);
            }
        }
        self.forced.clear();
    }

    /// Writes all dirty pages back, or fails to.
    pub(super) fn sync(&mut self, written: io::Result<()>) {
        self.write_back(written.is_ok());
        if let Err(error) = written {
            self.failures = (self.failures.0 + 1, error.raw_os_error().unwrap_or(libc::EIO));
            self.is_reported = false;
        }
    }

    /// Returns how many failures are not reported to a file that is opened now.
    pub(super) fn failures_before(&self) -> u64 {
        if self.is_reported {
            self.failures.0
        } else {
            0
        }
    }

    /// Fails if there were more failures than the `known` ones of an open file.
    pub(super) fn report(&mut self, known: &AtomicU64) -> io::Result<()> {
        let (count, last) = self.failures;
        if known.swap(count, Ordering::Relaxed) == count {
            return Ok(());
        }
        self.is_reported = true;
        errno(last)
    }

    pub(super) fn after_power_cut(&self, survivors: Survivors, random: &mut Random) -> Vec<u8> {
        let live = self.live();
        let mut bytes = self.durable.clone();
        bytes.resize(live.len(), 0);
        let sector = |at: usize| at..live.len().min(at + SECTOR_LEN);
        let changed: Vec<usize> = (0..live.len())
            .step_by(SECTOR_LEN)
            .filter(|&at| live[sector(at)] != bytes[sector(at)])
            .collect();
        let pivot = random.below(changed.len().max(1));
        for (index, at) in changed.into_iter().enumerate() {
            let survives = match survivors {
                Survivors::None => false,
                Survivors::All => true,
                Survivors::Some => random.coin(),
                Survivors::First => index < pivot,
                Survivors::Last => index >= pivot,
                Survivors::AllButOne => index != pivot,
            };
            if survives {
                bytes[sector(at)].copy_from_slice(&live[sector(at)]);
            }
        }
        if survivors != Survivors::All && random.coin() {
            bytes.truncate(self.durable.len());
        }
        bytes
    }
}

/// The unsynced sectors of a file that a power cut spares.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Survivors {
    None,
    All,
    Some,
    First,
    Last,
    AllButOne,
}

impl Survivors {
    pub(super) fn draw(random: &mut Random) -> Survivors {
        use Survivors::{All, AllButOne, First, Last, None, Some};
        let all = [None, All, Some, First, Last, AllButOne];
        all[random.below(all.len())]
    }
}

/// SplitMix64, so that an image depends only on its seed.
pub(super) struct Random(pub(super) u64);

impl Random {
    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    pub(super) fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }

    pub(super) fn coin(&mut self) -> bool {
        self.next() >> 63 == 1
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{disk_with, errno_of, open, root, FILE};
    use super::super::Op;
    use super::*;
    use crate::sys::Access;

    #[test]
    fn unsynced_bytes_may_vanish_sector_by_sector() {
        let disk = disk_with(&[1; 16 * SECTOR_LEN]);
        let file = open(&disk, FILE, Access::ReadWrite);
        file.write_all_at(&[2; 16 * SECTOR_LEN], 0).expect("writes");
        let mut patterns = BTreeSet::new();
        for seed in 0..1000 {
            let bytes = disk.power_cut(seed).read(FILE).expect("its name is durable");
            assert_eq!(bytes.len(), 16 * SECTOR_LEN, "seed {seed}");
            let mut pattern = 0;
            for (index, sector) in bytes.chunks(SECTOR_LEN).enumerate() {
                assert!(sector.iter().all(|byte| *byte == sector[0]), "seed {seed}: a torn sector");
                pattern |= usize::from(sector[0] == 2) << index;
            }
            patterns.insert(pattern);
        }
        let (none, all, first, last, all_but_one) = (0, 0xffff, 0x007f, 0xfe00, 0xfff7);
        let expected = BTreeSet::from([none, all, first, last, all_but_one]);
        assert!(patterns.is_superset(&expected), "{patterns:x?}");
        assert!(patterns.len() > 100, "{} patterns", patterns.len());
    }

    #[test]
    fn stores_through_a_map_are_unsynced_bytes_too() {
        let disk = disk_with(&[0; PAGE_LEN]);
        let file = open(&disk, FILE, Access::ReadWrite);
        let map = file.map(PAGE_LEN, true).expect("maps");
        map.write(100, b"stored");
        let mut bytes = [0; 6];
        assert_eq!(file.read_at(&mut bytes, 100).expect("reads"), 6);
        assert_eq!(&bytes, b"stored");
        assert_eq!(disk.durable(FILE), Some(vec![0; PAGE_LEN]));
        file.sync_data().expect("syncs");
        assert_eq!(disk.durable(FILE), disk.read(FILE));
    }

    #[test]
    fn synced_bytes_survive_every_power_cut() {
        let disk = disk_with(&[]);
        let file = open(&disk, FILE, Access::ReadWrite);
        file.allocate(3 * PAGE_LEN as u64).expect("allocates");
        file.write_all_at(&[7; 5000], 3).expect("writes");
        file.sync_data().expect("syncs");
        let synced = disk.read(FILE);
        file.write_all_at(&[8; 100], 3 * PAGE_LEN as u64).expect("writes");
        for seed in 0..200 {
            let bytes = disk.power_cut(seed).read(FILE).expect("its name is durable");
            assert_eq!(Some(&bytes[..3 * PAGE_LEN]), synced.as_deref(), "seed {seed}");
        }
    }

    #[test]
    fn a_file_that_was_never_synced_may_vanish_or_be_empty_or_zeros_or_whole() {
        let disk = disk_with(&[]);
        let file = open(&disk, "/log/new", Access::CreateNew);
        file.write_all_at(&[5; SECTOR_LEN], 0).expect("writes");
        let images: BTreeSet<_> =
            (0..200).map(|seed| disk.power_cut(seed).read("/log/new")).collect();
        let whole = Some(vec![5; SECTOR_LEN]);
        assert_eq!(images, BTreeSet::from([None, Some(vec![]), Some(vec![0; SECTOR_LEN]), whole]));
    }

    #[test]
    fn a_failed_sync_leaves_its_pages_believed_clean_until_they_are_redirtied() {
        let disk = disk_with(&[1; 2 * PAGE_LEN]);
        let file = open(&disk, FILE, Access::ReadWrite);
        let map = file.map(2 * PAGE_LEN, true).expect("maps");
        map.write(0, &[2; 2 * PAGE_LEN]);
        disk.fail(Op::SyncData, 0, libc::EIO);
        assert_eq!(errno_of(file.sync_data()), Some(libc::EIO));
        file.sync_data().expect("the error is reported once");
        assert_eq!(disk.durable(FILE), Some(vec![1; 2 * PAGE_LEN]));
        assert_eq!(disk.read(FILE), Some(vec![2; 2 * PAGE_LEN]));

        file.redirty(PAGE_LEN as u64, 2 * PAGE_LEN as u64).expect("marks");
        file.sync_data().expect("syncs");
        let durable = disk.durable(FILE).expect("is there");
        assert_eq!(durable, [[1; PAGE_LEN], [2; PAGE_LEN]].concat());
        file.write_all_at(&[2], 0).expect("writes");
        file.sync_data().expect("syncs");
        assert_eq!(disk.durable(FILE), Some(vec![2; 2 * PAGE_LEN]));

        map.write(0, &[3; 2 * PAGE_LEN]);
        disk.fail(Op::SyncData, 0, libc::EIO);
        assert_eq!(errno_of(file.sync_data()), Some(libc::EIO));
        file.sync_data().expect("syncs");
        assert_eq!(disk.durable(FILE), Some(vec![2; 2 * PAGE_LEN]), "redirtied for one sync only");
    }

    #[test]
    fn a_mapped_file_does_not_move() {
        let disk = disk_with(b"bytes");
        let file = open(&disk, FILE, Access::ReadWrite);
        let map = file.map(5, true).expect("maps");
        file.allocate(MEMORY_LEN_MIN as u64).expect("grows within its memory");
        let error = file.allocate(MEMORY_LEN_MIN as u64 + 1).expect_err("does not grow beyond it");
        assert_eq!(error.kind(), io::ErrorKind::Unsupported);
        drop(map);
        file.allocate(MEMORY_LEN_MIN as u64 + 1).expect("grows when it is not mapped");
        assert_eq!(disk.read(FILE).expect("is there")[..6], *b"bytes\0");
        assert_eq!(
            file.map(1 << 20, false).expect_err("short").kind(),
            io::ErrorKind::UnexpectedEof
        );
    }

    #[test]
    fn the_same_seed_gives_the_same_image() {
        let disk = disk_with(&[1; 20 * SECTOR_LEN]);
        for index in 0..5u8 {
            let file = open(&disk, &format!("/log/{index}"), Access::CreateNew);
            file.write_all_at(&[index + 1; 20 * SECTOR_LEN], 0).expect("writes");
        }
        let image = |seed| {
            let image = disk.power_cut(seed);
            let files: Vec<_> =
                image.paths().into_iter().map(|path| (image.read(&path), path)).collect();
            (root(&image).boot_id().expect("alive"), files)
        };
        let images: BTreeSet<_> = (0..50).map(image).collect();
        assert!(images.len() > 40, "{} different images", images.len());
        assert!((0..50).map(image).all(|again| images.contains(&again)));
    }
}
