//! Deleting a topic, in one step: its directory gets a name that no topic can have. Its contents are removed
//! after that, by this process or by the next one that opens the log for writing.

use std::io::ErrorKind::IsADirectory;
use std::path::Path;
use std::sync::Arc;

use super::directory::{self, Entered, LOCK, SETTINGS};
use super::LogInner;
use crate::control::member;
use crate::error::{Error, IoResultExt, Result};
use crate::sys::crash_point::crash_point;
use crate::sys::{self, Directory};

/// In the name of a deleted topic's directory: after a dot and the topic's name, before a random number.
const DELETED: &str = ".deleted-";

/// Deletes a topic that no process has open for writing.
pub(crate) fn delete_topic(log: &Arc<LogInner>, name: &str) -> Result<()> {
    let topics = &**log.topics_for_writing()?;
    let Entered { files, lock_file } =
        directory::enter(log, name, || directory::to_delete(log, name))?;
    let dir = files.path();
    let alone = member::is_alone(&*lock_file).at("locking", &dir.join(LOCK))?;
    if !alone {
        return Err(Error::Locked { what: format!("topic {name}"), pid: None });
    }
    let aside = topics.path().join(format!(".{name}{DELETED}{:016x}", sys::random()));
    topics.rename_no_replace(dir, &aside).at("deleting", dir)?;
    crash_point!("delete.renamed");
    // Durable before anything is removed: a power loss that reverts the rename must not leave a topic of
    // which a part is gone.
    let synced = topics.sync_dir(topics.path());
    synced.at("syncing", topics.path())?;
    crash_point!("delete.durable");
    remove_tree(topics, &aside)?;
    let synced = topics.sync_dir(topics.path());
    synced.at("syncing", topics.path())
}

/// Removes what interrupted deletes have left.
pub(crate) fn remove_deleted(topics: &dyn Directory) -> Result<()> {
    let path = topics.path();
    let mut names = topics.list(path).at("listing", path)?;
    names.retain(|name| is_deleted(name));
    if !names.is_empty() {
        // The process that renamed them may have died before it synced.
        topics.sync_dir(path).at("syncing", path)?;
    }
    for name in names {
        remove_tree(topics, &path.join(name))?;
    }
    Ok(())
}

fn is_deleted(name: &str) -> bool {
    let number = name.rsplit_once(DELETED).map_or("", |(_, number)| number);
    name.starts_with('.') && number.len() == 16 && number.bytes().all(|b| b.is_ascii_hexdigit())
}

/// Removes a directory and its contents. Another process may be doing the same.
fn remove_tree(files: &dyn Directory, dir: &Path) -> Result<()> {
    let names = files.list(dir).not_found_is_none().at("listing", dir)?;
    let Some(mut names) = names else { return Ok(()) };
    // The settings first: their absence tells a process that still reads the topic that it is gone.
    names.sort_by_key(|name| name != SETTINGS);
    for name in names {
        let path = dir.join(&name);
        match files.remove_file(&path).not_found_is_none() {
            Err(error) if error.kind() == IsADirectory => remove_tree(files, &path)?,
            other => drop(other.at("removing", &path)?),
        }
        crash_point!("delete.removed");
    }
    files.remove_dir(dir).not_found_is_none().at("removing", dir).map(drop)
}
