//! The same bytes with a checksum, and nothing that makes a log of them.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use memmap2::{Advice, Mmap, MmapMut};

use crate::subject::{Each, Promise, Subject, Work, Writer};

/// Length and CRC-32, before each record.
const HEADER_LEN: usize = 8;

/// A frame of the record, in `frame`.
fn encode(frame: &mut Vec<u8>, record: &[u8]) {
    frame.extend_from_slice(&(record.len() as u32).to_le_bytes());
    frame.extend_from_slice(&crc32fast::hash(record).to_le_bytes());
    frame.extend_from_slice(record);
}

/// Calls `each` with the checked records of whole frames, and returns the bytes that these take.
fn decode(bytes: &[u8], each: Each<'_>) -> usize {
    let mut rest = bytes;
    while let Some((header, after)) = rest.split_at_checked(HEADER_LEN) {
        let number = |at: usize| u32::from_le_bytes(header[at..at + 4].try_into().unwrap());
        let Some((record, after)) = after.split_at_checked(number(0) as usize) else { break };
        assert_eq!(crc32fast::hash(record), number(4));
        each(record);
        rest = after;
    }
    bytes.len() - rest.len()
}

/// A file, `pwrite` and `pread`.
pub(super) struct Pwrite;

impl Subject for Pwrite {
    fn name(&self) -> &'static str {
        "bare pwrite"
    }

    fn usage(&self) -> &'static str {
        "length, CRC-32 and record by one `pwrite` to the end of a file; in durable rows over zeros that were \
         synced, with `fdatasync`, a file for each thread; `pread` in pieces of 256 KiB and CRC-32"
    }

    fn promise(&self, work: Work) -> Result<Promise, &'static str> {
        match work {
            Work::Reopen => Err("it has no recovery"),
            Work::Durable => Ok(Promise::POWER),
            _ => Ok(Promise::KILL),
        }
    }

    fn open(&self, dir: &Path, syncs: bool, threads: usize) -> Vec<Box<dyn Writer>> {
        let writer = |number| {
            let file = File::create(dir.join(format!("{number}"))).unwrap();
            if syncs {
                file.write_all_at(&vec![0; ZEROS_LEN as usize], 0).unwrap();
                file.sync_all().unwrap();
            }
            Box::new(Pwrites { file, position: 0, frame: Vec::new(), syncs }) as _
        };
        (0..threads).map(writer).collect()
    }

    fn reader(&self, dir: &Path) -> Box<dyn FnMut(Each<'_>)> {
        let file = File::open(dir.join("0")).unwrap();
        Box::new(move |each| {
            let mut bytes = vec![0; 256 << 10];
            let mut position = 0;
            loop {
                let count = file.read_at(&mut bytes, position).unwrap();
                let used = decode(&bytes[..count], each);
                if used == 0 {
                    break;
                }
                position += used as u64;
            }
        })
    }
}

struct Pwrites {
    file: File,
    position: u64,
    frame: Vec<u8>,
    syncs: bool,
}

/// Bytes of each file that durable rows write over again and again.
const ZEROS_LEN: u64 = 1 << 20;

impl Writer for Pwrites {
    fn append(&mut self, record: &[u8]) {
        self.append_batch(&[record]);
    }

    fn append_batch(&mut self, records: &[&[u8]]) {
        self.frame.clear();
        records.iter().for_each(|record| encode(&mut self.frame, record));
        let len = self.frame.len() as u64;
        if self.syncs && self.position + len > ZEROS_LEN {
            self.position = 0;
        }
        self.file.write_all_at(&self.frame, self.position).unwrap();
        self.position += len;
        if self.syncs {
            self.file.sync_data().unwrap();
        }
    }
}

/// Reads what [`Pwrite`] writes.
pub(super) struct Mapping;

impl Subject for Mapping {
    fn name(&self) -> &'static str {
        "bare mapping"
    }

    fn usage(&self) -> &'static str {
        "a new mapping of the file that `bare pwrite` writes, and CRC-32"
    }

    fn promise(&self, work: Work) -> Result<Promise, &'static str> {
        match work {
            Work::Read => Ok(Promise::KILL),
            _ => Err("it reads only"),
        }
    }

    fn open(&self, dir: &Path, syncs: bool, threads: usize) -> Vec<Box<dyn Writer>> {
        Pwrite.open(dir, syncs, threads)
    }

    fn reader(&self, dir: &Path) -> Box<dyn FnMut(Each<'_>)> {
        let file = File::open(dir.join("0")).unwrap();
        Box::new(move |each| {
            // SAFETY: the process that wrote the file has ended.
            let map = unsafe { Mmap::map(&file).unwrap() };
            map.advise(Advice::Sequential).unwrap();
            decode(&map, each);
        })
    }
}

/// Memory that is resident.
pub(super) struct Memory;

const RESIDENT_LEN: usize = 64 << 20;

impl Subject for Memory {
    fn name(&self) -> &'static str {
        "bare memory"
    }

    fn usage(&self) -> &'static str {
        "CRC-32 and one copy into 64 MiB of anonymous memory that was written before"
    }

    fn promise(&self, work: Work) -> Result<Promise, &'static str> {
        match work {
            Work::Append => Ok(Promise::NOTHING),
            _ => Err("memory survives nothing"),
        }
    }

    fn open(&self, _dir: &Path, _syncs: bool, _threads: usize) -> Vec<Box<dyn Writer>> {
        let mut map = MmapMut::map_anon(RESIDENT_LEN).unwrap();
        map.fill(1);
        vec![Box::new(Copies { map, position: 0 })]
    }
}

struct Copies {
    map: MmapMut,
    position: usize,
}

impl Writer for Copies {
    fn append(&mut self, record: &[u8]) {
        let len = HEADER_LEN + record.len();
        if self.position + len > self.map.len() {
            self.position = 0;
        }
        let frame = &mut self.map[self.position..self.position + len];
        frame[..4].copy_from_slice(&(record.len() as u32).to_le_bytes());
        frame[4..HEADER_LEN].copy_from_slice(&crc32fast::hash(record).to_le_bytes());
        frame[HEADER_LEN..].copy_from_slice(record);
        self.position += len;
    }
}
