//! Deleting a topic.

use std::path::Path;
use std::sync::Arc;

use super::open::{take_gate, LOCK, SETTINGS};
use super::TopicInner;
use crate::control::member;
use crate::error::{Error, Result};
use crate::log::LogInner;
use crate::sys::Disk;

impl TopicInner {
    /// Deletes a topic that nobody has open for writing.
    pub(crate) fn delete(log: &Arc<LogInner>, name: &str) -> Result<()> {
        let dir = log.topic_dir(name);
        let disk = &*log.disk;
        if !TopicInner::exists(disk, &dir)? {
            return Err(Error::NotFound { what: format!("topic {name} in {}", log.dir.display()) });
        }
        let lock_file = take_gate(log, &dir, name)?;
        let alone = member::is_alone(&*lock_file)
            .map_err(|error| Error::io("locking", &dir.join(LOCK), error))?;
        if !alone {
            return Err(Error::Locked { what: format!("topic {name}"), pid: 0 });
        }
        // The settings first: without them the rest is no topic.
        let order = |name: &String| (name != SETTINGS, name == LOCK);
        remove_tree(disk, &dir, &order)
    }
}

fn remove_tree(disk: &dyn Disk, dir: &Path, order: &dyn Fn(&String) -> (bool, bool)) -> Result<()> {
    let mut names = disk.list(dir).map_err(|error| Error::io("listing", dir, error))?;
    names.sort_by_key(order);
    for name in names {
        let path = dir.join(&name);
        match disk.remove_file(&path) {
            Ok(()) => {}
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => match disk.list(&path) {
                Ok(_) => remove_tree(disk, &path, order)?,
                Err(_) => return Err(Error::io("removing", &path, error)),
            },
        }
    }
    let removed = disk.remove_dir(dir);
    removed.map_err(|error| Error::io("removing", dir, error))?;
    let parent = dir.parent().unwrap_or(Path::new("."));
    disk.sync_dir(parent).map_err(|error| Error::io("syncing", parent, error))
}
