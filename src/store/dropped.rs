//! Removing the files of dropped segments.

use super::{remove_if_there, Store};
use crate::error::{IoResultExt, Result};
use crate::format::segment as layout;
use crate::housekeeper::Duty;
use crate::sys::crash_point::crash_point;

/// Files that are removed before it is another topic's turn.
const AT_ONCE: usize = 64;

/// Removes files in the background; topics take turns. If the topic is closed first, the next trim removes
/// the rest.
pub(super) fn remove_in_turns(topic: &Store, mut files: Vec<String>) {
    let left = files.split_off(files.len().min(AT_ONCE));
    if remove_files(topic, &files).is_ok() && !left.is_empty() {
        topic.background.submit(Duty::Trim, move |topic| remove_in_turns(topic, left));
    }
}

pub(super) fn remove_files(topic: &Store, names: &[String]) -> Result<()> {
    for name in names {
        remove_if_there(&*topic.files, &topic.dir.join(name))?;
        crash_point!("trim.removed");
    }
    Ok(())
}

/// Returns, among the names in the topic's directory, those of dropped files that were not removed yet. The
/// note that they were dropped is durable on return: the process that wrote it may have died before it was.
pub(super) fn leftovers(topic: &Store, names: Vec<String>) -> Result<Vec<String>> {
    let first = layout::first_among(names.iter().map(String::as_str)).unwrap_or(0);
    let dropped = dropped_among(names, first);
    if !dropped.is_empty() {
        topic.files.sync_dir(&topic.dir).at("syncing", &topic.dir)?;
    }
    Ok(dropped)
}

/// Returns, among the names in a topic's directory, those that belong to segments below `first`.
fn dropped_among(mut names: Vec<String>, first: u64) -> Vec<String> {
    names.retain(|name| layout::base_of(name).is_some_and(|base| base < first));
    // Oldest first, so that readers of the directory see no hole.
    names.sort();
    names
}
