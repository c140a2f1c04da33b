//! Segments that a recovery sets aside under another name, because no promise covers them. They are kept for
//! inspection, but not without limit.

use std::cmp::Reverse;

use super::{remove_if_there, Recovery};
use crate::error::{IoResultExt, Result};
use crate::format::segment as layout;
use crate::sys::Access;

/// The most files that are kept from earlier recoveries.
const MOST_FILES: usize = 64;
/// The most bytes that are kept from earlier recoveries.
const MOST_BYTES: u64 = 1 << 30;

impl Recovery<'_> {
    /// Renames segments that were never promised, so that their offsets can be used again.
    pub(super) fn set_aside(&self, bases: &[u64], epoch: u32) -> Result<Vec<String>> {
        let topic = self.topic;
        let mut names = Vec::new();
        for &base in bases {
            let name = layout::cut_file_name(base, epoch);
            let from = topic.dir.join(layout::file_name(base));
            topic
                .files
                .rename_no_replace(&from, &topic.dir.join(&name))
                .at("setting aside", &from)?;
            names.push(name);
        }
        if !names.is_empty() {
            topic.files.sync_dir(&topic.dir).at("syncing", &topic.dir)?;
            self.limit_set_aside(epoch)?;
        }
        Ok(names)
    }

    /// Removes the oldest files that earlier recoveries set aside, while all such files together exceed a
    /// limit. Those of this recovery are kept, because its report names them.
    fn limit_set_aside(&self, epoch: u32) -> Result<()> {
        let topic = self.topic;
        let names = topic.files.list(&topic.dir).at("listing", &topic.dir)?;
        let mut aside: Vec<(u32, String)> = names
            .into_iter()
            .filter_map(|name| Some((layout::epoch_of_cut(&name)?, name)))
            .collect();
        aside.sort_unstable_by_key(|(epoch, name)| (Reverse(*epoch), name.clone()));
        let (mut count, mut bytes) = (0, 0_u64);
        for (of, name) in aside {
            let path = topic.dir.join(name);
            let file = topic.files.open(&path, Access::Read);
            let len = file.and_then(|file| file.len());
            bytes = bytes.saturating_add(len.at("sizing", &path)?);
            count += 1;
            if of != epoch && (count > MOST_FILES || bytes > MOST_BYTES) {
                remove_if_there(&*topic.files, &path)?;
            }
        }
        Ok(())
    }
}
