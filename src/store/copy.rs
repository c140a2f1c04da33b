//! Copying a segment into new blocks after a failed write.
//!
//! Blocks that were allocated and not written yet are marked so on the disk, and the first write changes the
//! mark when it ends. If that write fails, ext4 keeps the mark and forgets that it has to be changed:
//! writing the same bytes to the same blocks again succeeds, and a power cut leaves zeros. Only a new file
//! gets blocks of which that is not true.

use super::Store;
use crate::error::{Error, IoResultExt, Result};
use crate::format::segment as layout;
use crate::segment::Segment;
use crate::sys;
use crate::sys::crash_point::crash_point;

const CHUNK_LEN: usize = 128 << 10;

impl Store {
    /// Puts a durable copy in the place of a segment, under its name: all of its bytes but the latch. The
    /// name is durable with the next sync of the directory. The gate is held and nobody else is a
    /// member.
    pub(super) fn copy_into_new_blocks(&self, segment: &Segment) -> Result<()> {
        let temporary = self.dir.join("copy.tmp");
        self.remove_if_there(&temporary)?;
        let len = segment.len();
        let file =
            self.files.open(&temporary, sys::Access::CreateNew).at("creating", &temporary)?;
        file.allocate(len).map_err(|error| self.allocation_failed(&temporary, len, error))?;
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
            // What was never written stays so: the file was as long from the start.
            if chunk[..read].iter().any(|&byte| byte != 0) {
                file.write_all_at(&chunk[..read], position).at("copying", &segment.path)?;
            }
            position += read as u64;
        }
        if file.sync_data().is_err() {
            return Err(Error::SyncFailed { path: self.dir.clone() });
        }
        crash_point!("recover.copied");
        self.files.replace(&temporary, &segment.path).at("copying", &segment.path)?;
        self.segments.forget(segment.base());
        Ok(())
    }
}
