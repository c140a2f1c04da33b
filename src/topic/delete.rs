//! Deleting a topic.

use std::path::Path;
use std::sync::Arc;

use super::directory::Entered;
use super::open::{LOCK, SETTINGS};
use super::TopicInner;
use crate::control::member;
use crate::error::{Error, Result};
use crate::log::LogInner;
use crate::sys::Directory;

impl TopicInner {
    /// Deletes a topic that nobody has open for writing.
    pub(crate) fn delete(log: &Arc<LogInner>, name: &str) -> Result<()> {
        let topics = log.topics_for_writing()?;
        let open = || TopicInner::directory(log, name);
        let Entered { files, lock_file } = TopicInner::enter(log, name, open)?;
        let dir = files.path();
        let alone = member::is_alone(&*lock_file)
            .map_err(|error| Error::io("locking", &dir.join(LOCK), error))?;
        if !alone {
            return Err(Error::Locked { what: format!("topic {name}"), pid: 0 });
        }
        // The settings first: without them the rest is no topic.
        let order = |name: &String| (name != SETTINGS, name == LOCK);
        remove_tree(&**topics, dir, &order)
    }
}

fn remove_tree(
    files: &dyn Directory,
    dir: &Path,
    order: &dyn Fn(&String) -> (bool, bool),
) -> Result<()> {
    let mut names = files.list(dir).map_err(|error| Error::io("listing", dir, error))?;
    names.sort_by_key(order);
    for name in names {
        let path = dir.join(&name);
        match files.remove_file(&path) {
            Ok(()) => {}
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => match files.list(&path) {
                Ok(_) => remove_tree(files, &path, order)?,
                Err(_) => return Err(Error::io("removing", &path, error)),
            },
        }
    }
    let removed = files.remove_dir(dir);
    removed.map_err(|error| Error::io("removing", dir, error))?;
    let parent = dir.parent().unwrap_or(Path::new("."));
    files.sync_dir(parent).map_err(|error| Error::io("syncing", parent, error))
}
