//! The physical limits with which the figures are compared.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Duration;

use super::timed;

/// A mapping of a file whose pages are resident and have been written before.
pub(crate) struct Resident {
    map: memmap2::MmapMut,
    position: usize,
}

impl Resident {
    /// Allocates, maps and writes `len` bytes.
    pub(crate) fn new(path: &Path, len: usize) -> Resident {
        let file = File::options().read(true).write(true).create_new(true).open(path).unwrap();
        // SAFETY: an open descriptor and plain integers.
        let allocated = unsafe { libc::posix_fallocate(file.as_raw_fd(), 0, len as libc::off_t) };
        assert_eq!(allocated, 0);
        // SAFETY: a file of this run's own directory, which nothing else opens.
        let mut map = unsafe { memmap2::MmapMut::map_mut(&file).unwrap() };
        map.advise(memmap2::Advice::PopulateWrite).unwrap();
        map.fill(1);
        assert!(map.iter().step_by(64).all(|&byte| byte == 1));
        Resident { map, position: 0 }
    }

    /// The roofline of an append: CRC-32 over a frame's fixed part and payload, which are contiguous and
    /// in the nearest cache, and one copy of them into the mapping.
    pub(crate) fn append(&mut self, count: u64, frame: &[u8]) -> Duration {
        let step = frame.len().next_multiple_of(8);
        let len = self.map.len();
        // Writeback makes pages read-only again: they become writable before the clock runs.
        let ahead = (count as usize * step).min(len);
        for at in (self.position..self.position + ahead).step_by(4096) {
            let byte = &mut self.map[at % len];
            *byte = byte.wrapping_add(1);
        }
        timed(|| {
            for _ in 0..count {
                if self.position + step > len {
                    self.position = 0;
                }
                let mut hasher = crc32fast::Hasher::new_with_initial(self.position as u32);
                hasher.update(std::hint::black_box(frame));
                std::hint::black_box(hasher.finalize());
                self.map[self.position..self.position + frame.len()].copy_from_slice(frame);
                self.position += step;
            }
        })
    }
}

/// Scans frames of `frame_len` bytes in resident memory, CRC-32 of each.
pub(crate) struct Scan {
    bytes: Vec<u8>,
    frame_len: usize,
    position: usize,
}

impl Scan {
    /// This many frames.
    pub(crate) fn new(frame_len: usize, count: u64) -> Scan {
        let bytes: Vec<u8> = super::payload(frame_len * count as usize);
        assert!(bytes.iter().any(|&byte| byte != 0));
        Scan { bytes, frame_len, position: 0 }
    }

    /// Checks `count` frames.
    pub(crate) fn run(&mut self, count: u64) -> Duration {
        timed(|| {
            for _ in 0..count {
                if self.position + self.frame_len > self.bytes.len() {
                    self.position = 0;
                }
                let frame = &self.bytes[self.position..][..self.frame_len];
                let mut hasher = crc32fast::Hasher::new_with_initial(self.position as u32);
                hasher.update(&frame[4..]);
                std::hint::black_box(hasher.finalize());
                self.position += self.frame_len;
            }
        })
    }
}

/// A file whose blocks were written and synced before: a later sync has only bytes to write.
pub(crate) struct Prewritten {
    pub(crate) file: File,
    len: u64,
    position: u64,
}

impl Prewritten {
    /// Writes and syncs `len` bytes.
    pub(crate) fn new(path: &Path, len: u64) -> Prewritten {
        let file = File::options().read(true).write(true).create_new(true).open(path).unwrap();
        let piece = vec![0; 1 << 20];
        for position in (0..len).step_by(piece.len()) {
            file.write_all_at(&piece, position).unwrap();
        }
        file.sync_all().unwrap();
        Prewritten { file, len, position: 0 }
    }

    /// One store of `bytes` and one fdatasync, `count` times.
    pub(crate) fn synced_writes(&mut self, count: u64, bytes: &[u8]) -> Duration {
        timed(|| {
            for _ in 0..count {
                let at = self.advance(bytes.len() as u64);
                self.file.write_all_at(bytes, at).unwrap();
                self.file.sync_data().unwrap();
            }
        })
    }

    /// The position of the next `len` bytes.
    pub(crate) fn advance(&mut self, len: u64) -> u64 {
        if self.position + len > self.len {
            self.position = 0;
        }
        let at = self.position;
        self.position += len;
        at
    }
}
