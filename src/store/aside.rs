//! Segments that a recovery sets aside under another name, because no promise covers them. They are kept for
//! inspection, but not without limit.

use std::cmp::Reverse;

use super::Store;
use crate::error::{IoResultExt, Result};
use crate::format::segment as layout;
use crate::sys::Access;

/// The most files that are kept from earlier recoveries.
const MOST_FILES: usize = 64;
/// The most bytes that are kept from earlier recoveries.
const MOST_BYTES: u64 = 1 << 30;

impl Store {
    /// Renames segments that were never promised, so that their offsets can be used again.
    pub(super) fn set_aside(&self, bases: &[u64], epoch: u32) -> Result<Vec<String>> {
        let mut names = Vec::new();
        for &base in bases {
            let name = layout::cut_file_name(base, epoch);
            let from = self.dir.join(layout::file_name(base));
            self.files
                .rename_no_replace(&from, &self.dir.join(&name))
                .at("setting aside", &from)?;
            names.push(name);
        }
        if !names.is_empty() {
            self.files.sync_dir(&self.dir).at("syncing", &self.dir)?;
            self.limit_set_aside(epoch)?;
        }
        Ok(names)
    }

    /// Removes the oldest files that earlier recoveries set aside, while all such files together exceed a
    /// limit. Those of this recovery are kept, because its report names them.
    fn limit_set_aside(&self, epoch: u32) -> Result<()> {
        let names = self.files.list(&self.dir).at("listing", &self.dir)?;
        let mut aside: Vec<(u32, String)> = names
            .into_iter()
            .filter_map(|name| Some((layout::epoch_of_cut(&name)?, name)))
            .collect();
        aside.sort_unstable_by_key(|(epoch, name)| (Reverse(*epoch), name.clone()));
        let (mut count, mut bytes) = (0, 0_u64);
        for (of, name) in aside {
            let path = self.dir.join(name);
            let file = self.files.open(&path, Access::Read);
            let len = file.and_then(|file| file.len());
            bytes = bytes.saturating_add(len.at("sizing", &path)?);
            count += 1;
            if of != epoch && (count > MOST_FILES || bytes > MOST_BYTES) {
                self.remove_if_there(&path)?;
            }
        }
        Ok(())
    }
}
