//! The names of files and directories, live and durable, and the open directories that change them.

use std::collections::BTreeMap;
use std::io;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;

use super::content::{Content, Inode, Random};
use super::file::SimFile;
use super::{errno, Op, SimDisk, State};
use crate::sys::{Access, Directory, DiskFile, FileIdentity, InheritableLock, Medium};

/// The directory that contains everything else.
pub(super) const ROOT: u64 = 0;

#[derive(Clone)]
pub(super) enum Node {
    /// The directory's number: names in it stay when it is moved.
    Directory(u64),
    File(Arc<Inode>),
}

/// The number of a directory, and a name in it.
pub(super) type Key = (u64, String);

#[derive(Clone)]
pub(super) struct Names(pub(super) BTreeMap<Key, Node>);

impl Names {
    pub(super) fn new() -> Names {
        Names(BTreeMap::new())
    }

    /// Returns the directory at `path`, relative to the directory `from`.
    fn directory(&self, from: u64, path: &Path) -> io::Result<u64> {
        steps(path).try_fold(from, |directory, name| {
            match self.0.get(&(directory, name.to_owned())) {
                Some(Node::Directory(number)) => Ok(*number),
                Some(Node::File(_)) => errno(libc::ENOTDIR),
                None => errno(libc::ENOENT),
            }
        })
    }

    /// Returns the key of a name whose directory exists.
    pub(super) fn key(&self, from: u64, path: &Path) -> io::Result<Key> {
        let Some(name) = steps(path).next_back() else { return errno(libc::EBUSY) };
        Ok((self.directory(from, path.parent().unwrap_or(Path::new("")))?, name.to_owned()))
    }

    pub(super) fn file(&self, path: &Path) -> Option<&Arc<Inode>> {
        match self.0.get(&self.key(ROOT, path).ok()?)? {
            Node::File(inode) => Some(inode),
            Node::Directory(_) => None,
        }
    }

    fn in_directory(&self, number: u64) -> impl Iterator<Item = (&str, &Node)> {
        let names = self.0.range((number, String::new())..(number + 1, String::new()));
        names.map(|((_, name), node)| (name.as_str(), node))
    }

    fn has_directory(&self, number: u64) -> bool {
        let is_it = |node: &Node| matches!(node, Node::Directory(other) if *other == number);
        number == ROOT || self.0.values().any(is_it)
    }

    pub(super) fn collect_files(&self, directory: u64, path: &Path, found: &mut Vec<PathBuf>) {
        for (name, node) in self.in_directory(directory) {
            let path = path.join(name);
            match node {
                Node::Directory(number) => self.collect_files(*number, &path, found),
                Node::File(_) => found.push(path),
            }
        }
    }
}

/// A change of names that no directory sync has covered yet.
pub(super) enum Change {
    Create(Key, Node),
    Rename(Key, Key),
    /// Includes the number of the directory, if it is one.
    Remove(Key, Option<u64>),
}

impl Change {
    fn keys(&self) -> [&Key; 2] {
        match self {
            Change::Create(key, _) | Change::Remove(key, _) => [key, key],
            Change::Rename(from, to) => [from, to],
        }
    }

    pub(super) fn touches(&self, key: &Key) -> bool {
        self.keys().contains(&key)
    }

    /// Returns the directory whose sync makes the change durable; for a rename, that of the new name.
    fn directory(&self) -> u64 {
        self.keys()[1].0
    }

    /// Returns whether `earlier` comes first on every disk: it changed the same name, created the directory,
    /// or emptied the directory that is removed.
    fn relies_on(&self, earlier: &Change) -> bool {
        let keys = self.keys();
        keys.iter().any(|key| earlier.touches(key))
            || matches!(earlier, Change::Create(_, Node::Directory(made))
                if keys.iter().any(|(directory, _)| directory == made))
            || matches!(self, Change::Remove(_, Some(removed))
                if earlier.keys().iter().any(|(directory, _)| directory == removed))
    }

    fn apply(&self, names: &mut Names) {
        match self {
            Change::Create(key, node) => {
                names.0.insert(key.clone(), node.clone());
            }
            Change::Rename(from, to) => {
                let node = names.0.remove(from).expect("what it relies on was applied before");
                names.0.insert(to.clone(), node);
            }
            Change::Remove(key, _) => {
                names.0.remove(key);
            }
        }
    }
}

impl State {
    pub(super) fn create(&mut self, key: Key) -> io::Result<Arc<Inode>> {
        if !self.names.has_directory(key.0) {
            return errno(libc::ENOENT);
        }
        let content = Mutex::new(Content::of(Vec::new())?);
        let inode = Arc::new(Inode { number: self.next_id(), content });
        self.change(Change::Create(key, Node::File(inode.clone())));
        Ok(inode)
    }

    pub(super) fn change(&mut self, change: Change) {
        change.apply(&mut self.names);
        self.pending.push(change);
    }

    /// Makes changes durable, and with them the earlier ones that they rely on.
    pub(super) fn settle(&mut self, is_settled: impl Fn(&Change) -> bool) {
        let mut settled: Vec<bool> = self.pending.iter().map(is_settled).collect();
        self.add_what_they_rely_on(&mut settled);
        for (change, settled) in std::mem::take(&mut self.pending).into_iter().zip(settled) {
            if settled {
                change.apply(&mut self.durable_names);
            } else {
                self.pending.push(change);
            }
        }
    }

    fn add_what_they_rely_on(&self, chosen: &mut [bool]) {
        for (index, later) in self.pending.iter().enumerate().rev() {
            if chosen[index] {
                for (chosen, earlier) in chosen[..index].iter_mut().zip(&self.pending) {
                    *chosen |= later.relies_on(earlier);
                }
            }
        }
    }

    pub(super) fn names_after_power_cut(&self, random: &mut Random) -> Names {
        let style = random.below(4);
        let mut survives: Vec<bool> =
            self.pending.iter().map(|_| style == 1 || style > 1 && random.coin()).collect();
        self.add_what_they_rely_on(&mut survives);
        let mut names = self.durable_names.clone();
        for (change, survives) in self.pending.iter().zip(survives) {
            if survives {
                change.apply(&mut names);
            }
        }
        names
    }
}

/// Returns the names that lead from the root to `path`.
pub(super) fn steps(path: &Path) -> impl DoubleEndedIterator<Item = &str> {
    let names = path.components().filter(|part| matches!(part, Component::Normal(_)));
    names.map(|name| name.as_os_str().to_str().expect("names of these tests are UTF-8"))
}

/// A directory that one process has open.
#[derive(Debug)]
pub(super) struct SimDirectory {
    pub(super) disk: SimDisk,
    pub(super) number: u64,
    pub(super) path: PathBuf,
}

impl SimDirectory {
    fn below<'a>(&self, path: &'a Path) -> &'a Path {
        path.strip_prefix(&self.path).expect("a path in this directory")
    }

    fn key(&self, state: &State, path: &Path) -> io::Result<Key> {
        state.names.key(self.number, self.below(path))
    }

    fn directory(&self, state: &State, path: &Path) -> io::Result<u64> {
        state.names.directory(self.number, self.below(path))
    }

    fn rename(&self, from: &Path, to: &Path, may_replace: bool) -> io::Result<()> {
        let mut state = self.disk.begin(Op::Rename)?;
        let (from, to) = (self.key(&state, from)?, self.key(&state, to)?);
        if !state.names.0.contains_key(&from) {
            return errno(libc::ENOENT);
        }
        if !may_replace && state.names.0.contains_key(&to) {
            return errno(libc::EEXIST);
        }
        state.change(Change::Rename(from, to));
        Ok(())
    }
}

impl Directory for SimDirectory {
    fn path(&self) -> &Path {
        &self.path
    }

    fn identity(&self) -> io::Result<FileIdentity> {
        drop(self.disk.alive()?);
        Ok(FileIdentity { dev: 1, ino: self.number })
    }

    fn open_dir(&self, path: &Path) -> io::Result<Arc<dyn Directory>> {
        let number = self.directory(&*self.disk.alive()?, path)?;
        Ok(Arc::new(SimDirectory { disk: self.disk.clone(), number, path: path.to_owned() }))
    }

    fn make_dir(&self, path: &Path) -> io::Result<Arc<dyn Directory>> {
        let mut state = self.disk.alive()?;
        let key = self.key(&state, path)?;
        if !state.names.0.contains_key(&key) {
            if !state.names.has_directory(key.0) {
                return errno(libc::ENOENT);
            }
            let directory = key.0;
            let made = Node::Directory(state.next_id());
            state.change(Change::Create(key, made));
            state.count(Op::SyncDir)?;
            state.settle(|change| change.directory() == directory);
        }
        drop(state);
        self.open_dir(path)
    }

    fn open(&self, path: &Path, access: Access) -> io::Result<Box<dyn DiskFile>> {
        let mut state = self.disk.begin(Op::Open)?;
        let key = self.key(&state, path)?;
        let inode = match (state.names.0.get(&key), access) {
            (Some(_), Access::CreateNew) => return errno(libc::EEXIST),
            (Some(Node::File(inode)), _) => inode.clone(),
            (Some(Node::Directory(_)), Access::Read) => {
                return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
            }
            (Some(Node::Directory(_)), _) => return errno(libc::EISDIR),
            (None, Access::Read | Access::ReadWrite) => return errno(libc::ENOENT),
            (None, Access::CreateNew | Access::OpenOrCreate) => state.create(key)?,
        };
        let (open, writable) = (state.next_id(), access != Access::Read);
        let failures_known = inode.content.lock().failures_before().into();
        Ok(Box::new(SimFile { disk: self.disk.clone(), open, inode, writable, failures_known }))
    }

    fn identity_of(&self, path: &Path) -> io::Result<FileIdentity> {
        let state = self.disk.alive()?;
        let ino = match state.names.0.get(&self.key(&state, path)?) {
            None => return errno(libc::ENOENT),
            Some(Node::Directory(number)) => *number,
            Some(Node::File(inode)) => inode.number,
        };
        Ok(FileIdentity { dev: 1, ino })
    }

    fn rename_no_replace(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.rename(from, to, false)
    }

    fn replace(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.rename(from, to, true)
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        let mut state = self.disk.begin(Op::Remove)?;
        let key = self.key(&state, path)?;
        match state.names.0.get(&key) {
            None => errno(libc::ENOENT),
            Some(Node::Directory(_)) => errno(libc::EISDIR),
            Some(Node::File(_)) => {
                state.change(Change::Remove(key, None));
                Ok(())
            }
        }
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        let mut state = self.disk.begin(Op::Remove)?;
        let key = self.key(&state, path)?;
        let number = self.directory(&state, path)?;
        if state.names.in_directory(number).next().is_some() {
            return errno(libc::ENOTEMPTY);
        }
        state.change(Change::Remove(key, Some(number)));
        Ok(())
    }

    fn list(&self, path: &Path) -> io::Result<Vec<String>> {
        let mut state = self.disk.begin(Op::List)?;
        let number = self.directory(&state, path)?;
        let children = |state: &State| -> Vec<String> {
            state.names.in_directory(number).map(|(name, _)| name.to_owned()).collect()
        };
        let before = children(&state);
        let Some(mut action) = state.during_list.take() else { return Ok(before) };
        drop(state);
        action();
        let mut state = self.disk.alive()?;
        state.during_list.get_or_insert(action);
        let mut is_seen = false;
        let mut names = children(&state);
        names.retain(|name| {
            let is_new = !before.contains(name);
            is_seen ^= is_new;
            !is_new || is_seen
        });
        Ok(names)
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        let mut state = self.disk.begin(Op::SyncDir)?;
        let number = self.directory(&state, path)?;
        state.settle(|change| change.directory() == number);
        Ok(())
    }

    fn sync_own_names(&self) -> io::Result<()> {
        self.sync_dir(&self.path)
    }

    fn inheritable_lock(&self, _path: &Path, _byte: u64) -> io::Result<InheritableLock> {
        // Its files have no descriptors, and its processes have no children.
        errno(libc::EOPNOTSUPP)
    }

    fn boot_id(&self) -> io::Result<[u64; 2]> {
        Ok(self.disk.alive()?.boot_id)
    }

    fn mount(&self) -> Option<u64> {
        // The callers have to do without it.
        None
    }

    fn medium(&self) -> io::Result<Medium> {
        drop(self.disk.alive()?);
        Ok(Medium::Disk)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::super::tests::{disk_with, root, FILE};
    use super::*;

    fn name_exists(disk: &SimDisk, path: &str) -> bool {
        disk.read(path).is_some()
    }

    #[test]
    fn a_rename_without_sync_dir_may_come_back_as_the_old_name() {
        let disk = disk_with(b"bytes");
        root(&disk).rename_no_replace(Path::new(FILE), Path::new("/log/new")).expect("renames");
        let mut came_back = [false; 2];
        for seed in 0..100 {
            let image = disk.power_cut(seed);
            let is_old = name_exists(&image, FILE);
            assert_ne!(is_old, name_exists(&image, "/log/new"), "seed {seed}: one name, not both");
            came_back[usize::from(is_old)] = true;
        }
        assert_eq!(came_back, [true; 2]);
        root(&disk).sync_dir(Path::new("/log")).expect("syncs");
        for seed in 0..100 {
            assert_eq!(disk.power_cut(seed).paths(), [Path::new("/log/new")], "seed {seed}");
        }
    }

    #[test]
    fn a_removed_file_may_come_back_until_its_directory_is_synced() {
        let disk = disk_with(b"bytes");
        root(&disk).remove_file(Path::new(FILE)).expect("removes");
        assert!((0..100).any(|seed| name_exists(&disk.power_cut(seed), FILE)));
        assert!((0..100).any(|seed| !name_exists(&disk.power_cut(seed), FILE)));
        root(&disk).sync_dir(Path::new("/log")).expect("syncs");
        assert!(!(0..100).any(|seed| name_exists(&disk.power_cut(seed), FILE)));
    }

    #[test]
    fn a_file_that_comes_back_brings_its_removed_directory_back() {
        let disk = SimDisk::new();
        let (dir, path) = (Path::new("/log/topic"), Path::new("/log/topic/file"));
        disk.open_root(dir, true).expect("creates");
        disk.write(path, b"bytes");
        root(&disk).remove_file(path).expect("removes");
        root(&disk).remove_dir(dir).expect("removes");
        let mut seen = BTreeSet::new();
        for seed in 0..100 {
            let image = disk.power_cut(seed);
            seen.insert((root(&image).list(dir).is_ok(), image.read(path).is_some()));
        }
        assert_eq!(seen, BTreeSet::from([(false, false), (true, false), (true, true)]));
    }

    /// Files move between names and directories, with syncs in between, and each of them was durable under
    /// some name once: every power cut finds all of them, whichever changes it undid.
    #[test]
    fn no_mixture_of_renames_and_directory_syncs_loses_a_file() {
        let disk = SimDisk::new();
        let path = |slot: usize| PathBuf::from(format!("/{}/{}", slot % 2, slot / 2));
        for dir in ["/0", "/1"] {
            disk.open_root(Path::new(dir), true).expect("creates");
        }
        for slot in 0..6 {
            disk.write(path(slot), &[slot as u8]);
        }
        let mut random = Random(1);
        for step in 0..2000 {
            let (from, to) = (path(random.below(12)), path(random.below(12)));
            if disk.read(&from).is_some() && disk.read(&to).is_none() {
                root(&disk).rename_no_replace(&from, &to).expect("renames");
            }
            if random.below(8) == 0 {
                root(&disk).sync_dir(to.parent().expect("in a directory")).expect("syncs");
            }
            let image = disk.power_cut(step);
            let files: BTreeSet<_> = image.paths().iter().map(|path| image.read(path)).collect();
            assert_eq!(files.len(), 6, "step {step}");
        }
        for dir in ["/0", "/1"] {
            root(&disk).sync_dir(Path::new(dir)).expect("syncs");
        }
        assert_eq!(disk.power_cut(0).paths(), disk.paths());
    }
}
