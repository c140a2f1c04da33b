//! Copying a segment into new blocks after a failed write.
//!
//! The disk marks blocks that are allocated but not written yet, and the first write clears the mark when it
//! ends. If that write fails, ext4 keeps the mark and forgets that it has to be cleared: writing the same
//! bytes to the same blocks again succeeds, and a power cut leaves zeros. Only a new file gets blocks without
//! that problem.

use super::{remove_if_there, Recovery};
use crate::error::{Error, IoResultExt, Result};
use crate::format::segment as layout;
use crate::segment::Segment;
use crate::sys;
use crate::sys::crash_point::crash_point;

const CHUNK_LEN: usize = 128 << 10;

impl Recovery<'_> {
    /// Replaces a segment, under its name, with a durable copy of all its bytes except the latch. The name is
    /// durable with the next sync of the directory. No other process is a member.
    pub(super) fn copy_into_new_blocks(&self, segment: &Segment) -> Result<()> {
        let topic = self.topic;
        let temporary = topic.dir.join("copy.tmp");
        remove_if_there(&*topic.files, &temporary)?;
        let len = segment.len();
        let file =
            topic.files.open(&temporary, sys::Access::CreateNew).at("creating", &temporary)?;
        file.allocate(len).map_err(|error| Error::allocating(&temporary, len, error))?;
        let mut chunk = vec![0; CHUNK_LEN];
        let mut position = 0;
        while position < len {
            let wanted = chunk.len().min((len - position) as usize);
            let read = segment
                .file()
                .read_at(&mut chunk[..wanted], position)
                .at("copying", &segment.path)?;
            if read == 0 {
                break;
            }
            if position == 0 {
                chunk[layout::LATCH_AT..layout::LATCH_AT + 8].fill(0);
            }
            // Bytes that were never written stay so: the file had its full length from the start.
            if chunk[..read].iter().any(|&byte| byte != 0) {
                file.write_all_at(&chunk[..read], position).at("copying", &segment.path)?;
            }
            position += read as u64;
        }
        if file.sync_data().is_err() {
            return Err(Error::SyncFailed { path: topic.dir.clone() });
        }
        crash_point!("recover.copied");
        topic.files.replace(&temporary, &segment.path).at("copying", &segment.path)?;
        topic.segments.forget(segment.base());
        Ok(())
    }
}
