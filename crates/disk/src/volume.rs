//! The disk itself: an image file with a volatile cache over it, and the faults that it was ordered to
//! have. Knows nothing of FUSE.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use rustix::io::Errno;

const BLOCK: usize = 4096;
const SECTOR: usize = 512;

/// The result of a write or a flush.
pub(crate) enum Outcome {
    Done,
    Failed(Errno),
    /// The answer is due when the volume resumes.
    Stalled,
}

pub(crate) struct Volume {
    image: File,
    len_bytes: u64,
    /// Blocks that were written and not flushed since.
    cache: BTreeMap<u64, Box<[u8; BLOCK]>>,
    faults: Vec<Fault>,
    stalled: bool,
    off: bool,
    counts: Counts,
}

#[derive(Default)]
struct Counts {
    writes: u64,
    flushes: u64,
    failed: u64,
    lost: u64,
}

#[derive(PartialEq, Clone, Copy)]
enum Kind {
    Write,
    Flush,
    Read,
}

/// A fault that happens `left` times.
struct Fault {
    kind: Kind,
    left: u64,
    /// Only writes that contain these bytes; empty: all writes.
    text: Vec<u8>,
    /// Reported as done, but not done.
    lies: bool,
}

impl Volume {
    pub(crate) fn new(image: File) -> io::Result<Volume> {
        let len_bytes = image.metadata()?.len();
        Ok(Volume {
            image,
            len_bytes,
            cache: BTreeMap::new(),
            faults: Vec::new(),
            stalled: false,
            off: false,
            counts: Counts::default(),
        })
    }

    pub(crate) fn len_bytes(&self) -> u64 {
        self.len_bytes
    }

    /// Returns the next fault for a call of this kind, and counts it down.
    fn fault(&mut self, kind: Kind, data: &[u8]) -> Option<bool> {
        let at = self.faults.iter().position(|fault| {
            let about = || data.windows(fault.text.len()).any(|found| found == fault.text);
            fault.kind == kind && (fault.text.is_empty() || about())
        })?;
        let fault = &mut self.faults[at];
        fault.left -= 1;
        let lies = fault.lies;
        if fault.left == 0 {
            self.faults.remove(at);
        }
        *(if lies { &mut self.counts.lost } else { &mut self.counts.failed }) += 1;
        Some(lies)
    }

    fn block(&self, number: u64) -> io::Result<Box<[u8; BLOCK]>> {
        if let Some(block) = self.cache.get(&number) {
            return Ok(block.clone());
        }
        let mut block = Box::new([0; BLOCK]);
        let position = number * BLOCK as u64;
        let len = self.len_bytes.saturating_sub(position).min(BLOCK as u64) as usize;
        self.image.read_exact_at(&mut block[..len], position)?;
        Ok(block)
    }

    pub(crate) fn read(&mut self, position: u64, len: usize) -> io::Result<Vec<u8>> {
        if self.off || self.fault(Kind::Read, &[]).is_some() {
            return Err(Errno::IO.into());
        }
        let end = (position + len as u64).min(self.len_bytes);
        let mut data = Vec::with_capacity(len);
        let mut at = position;
        while at < end {
            let block = self.block(at / BLOCK as u64)?;
            let from = (at % BLOCK as u64) as usize;
            let to = BLOCK.min(from + (end - at) as usize);
            data.extend_from_slice(&block[from..to]);
            at += (to - from) as u64;
        }
        Ok(data)
    }

    pub(crate) fn write(&mut self, position: u64, data: &[u8]) -> Outcome {
        self.counts.writes += 1;
        if self.off || position + data.len() as u64 > self.len_bytes {
            return Outcome::Failed(Errno::IO);
        }
        match self.fault(Kind::Write, data) {
            Some(true) => return Outcome::Done,
            Some(false) => return Outcome::Failed(Errno::IO),
            None => {}
        }
        let (mut at, mut rest) = (position, data);
        while !rest.is_empty() {
            let from = (at % BLOCK as u64) as usize;
            let (now, later) = rest.split_at(rest.len().min(BLOCK - from));
            let Ok(mut block) = self.block(at / BLOCK as u64) else {
                return Outcome::Failed(Errno::IO);
            };
            block[from..from + now.len()].copy_from_slice(now);
            self.cache.insert(at / BLOCK as u64, block);
            at += now.len() as u64;
            rest = later;
        }
        Outcome::Done
    }

    pub(crate) fn flush(&mut self) -> Outcome {
        self.counts.flushes += 1;
        if self.off {
            return Outcome::Failed(Errno::IO);
        }
        if self.stalled {
            return Outcome::Stalled;
        }
        match self.fault(Kind::Flush, &[]) {
            Some(true) => return Outcome::Done,
            Some(false) => return Outcome::Failed(Errno::IO),
            None => {}
        }
        while let Some((number, block)) = self.cache.pop_first() {
            let position = number * BLOCK as u64;
            let len = (self.len_bytes - position).min(BLOCK as u64) as usize;
            if self.image.write_all_at(&block[..len], position).is_err() {
                return Outcome::Failed(Errno::IO);
            }
        }
        Outcome::Done
    }

    /// Cuts the power: every sector that was not flushed keeps its old or its new state, as the seed
    /// draws it; without a seed, always the old one. Nothing works from here on.
    fn cut(&mut self, seed: Option<u64>) -> io::Result<()> {
        self.off = true;
        let mut random = seed;
        for (number, block) in std::mem::take(&mut self.cache) {
            for (index, sector) in block.chunks(SECTOR).enumerate() {
                let Some(state) = &mut random else { continue };
                *state ^= *state << 13;
                *state ^= *state >> 7;
                *state ^= *state << 17;
                if *state & 64 != 0 {
                    let position = number * BLOCK as u64 + (index * SECTOR) as u64;
                    self.image.write_all_at(sector, position)?;
                }
            }
        }
        Ok(())
    }

    /// Obeys one line of the control file; the error says why the line is wrong.
    pub(crate) fn obey(&mut self, line: &str) -> Result<(), Errno> {
        let words: Vec<&str> = line.split_whitespace().collect();
        let count =
            |word: Option<&&str>| word.map_or(Ok(1), |n| n.parse().map_err(|_| Errno::INVAL));
        let (what, kind) = (words.first(), words.get(1));
        match (what.copied(), kind.copied()) {
            (Some("cut"), seed) => {
                let seed = seed.map(|seed| seed.parse::<u64>().map_err(|_| Errno::INVAL));
                self.cut(
                    seed.transpose()?.map(|seed| seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1),
                )
                .map_err(|_| Errno::IO)?;
            }
            (Some("stall"), None) => self.stalled = true,
            (Some("resume"), None) => {
                self.stalled = false;
                self.faults.clear();
            }
            (Some(what @ ("fail" | "lose")), Some(kind)) => {
                let kind = match kind {
                    "writes" => Kind::Write,
                    "flushes" => Kind::Flush,
                    "reads" => Kind::Read,
                    _ => return Err(Errno::INVAL),
                };
                let left = count(words.get(2))?;
                let text = words[3.min(words.len())..].join(" ").into_bytes();
                if left > 0 {
                    self.faults.push(Fault { kind, left, text, lies: what == "lose" });
                }
            }
            _ => return Err(Errno::INVAL),
        }
        Ok(())
    }

    pub(crate) fn is_stalled(&self) -> bool {
        self.stalled && !self.off
    }

    /// The contents of the control file.
    pub(crate) fn state(&self) -> String {
        let Counts { writes, flushes, failed, lost } = self.counts;
        let unflushed = self.cache.len() * BLOCK;
        format!("writes {writes}\nflushes {flushes}\nfailed {failed}\nlost {lost}\nunflushed {unflushed}\n")
    }
}
