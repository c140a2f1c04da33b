//! A disk in memory that distinguishes live bytes from durable ones, cuts the power, and fails on demand.
//!
//! Every process sees the live state: the page cache and the names in it. A power cut cannot take the durable
//! state: the bytes of a file at its last successful sync, and the names that a directory sync (or the
//! creation of the directory) has covered. [`SimDisk::power_cut`] mixes the two.
//!
//! One mutex orders all operations and all snapshots, so an image never has a later sync without an earlier
//! one. Stores into mappings bypass it, as they bypass the kernel.
//!
//! It is harsher than a kernel in two ways: a failed sync writes nothing at all, and storing the same bytes
//! again through a mapping does not make a page dirty. It is milder in one: the maps of a killed process
//! stay, so its destructors can still store into them.

mod content;
mod file;
mod names;

use std::collections::{BTreeSet, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::{fmt, io};

use parking_lot::{Mutex, MutexGuard};

use super::Directory;
use content::{Content, Inode, Random, Survivors};
use file::Lock;
use names::{steps, Change, Names, Node, SimDirectory, ROOT};

const OP_COUNT: usize = Op::Lock as usize + 1;

/// The kinds of operations that are counted and can be made to fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Op {
    /// Opening or creating a file.
    Open,
    /// Renaming a file.
    Rename,
    /// Removing a file or a directory.
    Remove,
    /// Listing a directory.
    List,
    /// Syncing a directory, including the parent of a newly created one.
    SyncDir,
    /// Reading from a file.
    Read,
    /// Writing to a file; a write through a mapping does not count. If it fails, half of the bytes were written.
    Write,
    /// Allocating space for a file.
    Allocate,
    /// Syncing a file. If it fails, the page cache considers the file's pages written. The error is reported
    /// once to each open file, including one that is opened before the first report.
    SyncData,
    /// Mapping a file.
    Map,
    /// Marking pages of a file as changed.
    Redirty,
    /// Taking, releasing or probing a lock.
    Lock,
}

/// One process's view of a disk in memory. A clone is the same process; [`process`](Self::process) returns
/// another one.
#[derive(Clone)]
pub struct SimDisk {
    state: Arc<Mutex<State>>,
    process: u64,
}

impl Default for SimDisk {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for SimDisk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SimDisk").field("process", &self.process).finish_non_exhaustive()
    }
}

impl SimDisk {
    /// Returns an empty disk without a size limit.
    pub fn new() -> Self {
        Self::of(State::new(Names::new(), 1))
    }

    fn of(state: State) -> Self {
        SimDisk { state: Arc::new(Mutex::new(state)), process: 0 }
    }

    /// Returns the view of another process on the same machine.
    pub fn process(&self) -> SimDisk {
        SimDisk { state: self.state.clone(), process: self.state.lock().next_id() }
    }

    /// Opens a directory for the library; if `make` is set, creates it first, with its missing parents.
    pub(crate) fn open_root(&self, path: &Path, make: bool) -> io::Result<Arc<dyn Directory>> {
        let mut dir: Arc<dyn Directory> =
            Arc::new(SimDirectory { disk: self.clone(), number: ROOT, path: "/".into() });
        for name in steps(path) {
            let path = dir.path().join(name);
            dir = if make { dir.make_dir(&path)? } else { dir.open_dir(&path)? };
        }
        Ok(dir)
    }

    /// Gives a file or a directory another name, live and durable, while processes have it open: the effect
    /// of an operator's `mv`.
    ///
    /// # Panics
    ///
    /// If there is no such name, or the new one exists.
    pub fn rename(&self, from: impl AsRef<Path>, to: impl AsRef<Path>) {
        let mut state = self.state.lock();
        let keys = [from.as_ref(), to.as_ref()].map(|path| state.names.key(ROOT, path));
        let [from, to] = keys.map(|key| key.expect("its directory exists"));
        assert!(state.names.0.contains_key(&from) && !state.names.0.contains_key(&to));
        state.change(Change::Rename(from, to));
        state.settle(|_| true);
    }

    /// Kills this process: its locks are released at once, and its further calls fail, even on files that it
    /// has open. Its mappings stay.
    pub fn kill(&self) {
        let mut state = self.state.lock();
        state.killed.insert(self.process);
        state.locks.retain(|lock| lock.process != self.process);
    }

    /// Makes one call of `op`, in any process, fail with `errno`: the next one if `nth` is 0.
    pub fn fail(&self, op: Op, nth: u64, errno: i32) {
        let mut state = self.state.lock();
        let call = state.calls[op as usize] + nth;
        state.faults.push(Fault { op, call, errno, is_half_done: false });
    }

    /// Cancels the faults requested with [`fail`](Self::fail) that have not happened yet.
    pub fn forget_faults(&self) {
        self.state.lock().faults.clear();
    }

    /// Calls `action` in the middle of every listing of a directory. Every second one of the names that it
    /// creates is in the list: a directory is read in steps, and a name that is created between two of them
    /// may be seen or not. Listings by the action itself are not interrupted.
    pub fn during_list(&self, action: impl FnMut() + Send + 'static) {
        self.state.lock().during_list = Some(Box::new(action));
    }

    /// Calls `action` within the next sync of a file: its pages are written, or that failed, and the result
    /// is not reported yet. A second call is for the sync after that. Simulates a disk that stalls.
    pub fn during_sync(&self, action: impl FnOnce() + Send + 'static) {
        self.state.lock().during_syncs.push_back(Box::new(action));
    }

    /// Returns how many calls of `op` there were so far, in all processes, including failed ones.
    pub fn calls(&self, op: Op) -> u64 {
        self.state.lock().calls[op as usize]
    }

    /// Limits the sum of the lengths of all named files. Images of this disk have the same limit.
    pub fn set_capacity(&self, bytes: u64) {
        self.state.lock().capacity_len = bytes;
    }

    /// Returns the disk after the power failed and came back, drawn from `seed`: another boot, no locks, no
    /// faults. A change of a name that was not synced is there or not, and a rename is one change; each
    /// sector that was not synced holds its live or its durable bytes; the length is either one.
    pub fn power_cut(&self, seed: u64) -> SimDisk {
        self.cut(seed, |random, boot| random.next() ^ boot)
    }

    /// Returns the disk after its file system was shut down and mounted again: as after a power cut, but on
    /// the same boot.
    pub fn remount(&self, seed: u64) -> SimDisk {
        self.cut(seed, |_, boot| boot)
    }

    fn cut(&self, seed: u64, boot: impl FnOnce(&mut Random, u64) -> u64) -> SimDisk {
        let state = self.state.lock();
        let mut random = Random(seed);
        let boot = boot(&mut random, state.boot_id[0]);
        let names = state.names_after_power_cut(&mut random);
        let everywhere = (random.below(4) == 0).then(|| Survivors::draw(&mut random));
        Self::of(state.image(names, boot, |inode| {
            let survivors = everywhere.unwrap_or_else(|| Survivors::draw(&mut random));
            (inode.number, inode.content.lock().after_power_cut(survivors, &mut random))
        }))
    }

    /// Returns the disk after an orderly restart of the machine: another boot, nothing lost.
    pub fn reboot(&self) -> SimDisk {
        let state = self.state.lock();
        let boot = Random(state.boot_id[0]).next();
        Self::of(
            state.image(state.names.clone(), boot, |inode| {
                (inode.number, inode.content.lock().live())
            }),
        )
    }

    /// Returns the disk after a `cp -r` of everything: live files, other inode numbers, the same boot.
    pub fn copy(&self) -> SimDisk {
        let state = self.state.lock();
        let mut number = state.last_id;
        Self::of(state.image(state.names.clone(), state.boot_id[0], |inode| {
            number += 1;
            (number, inode.content.lock().live())
        }))
    }

    /// Returns the live bytes of a file.
    pub fn read(&self, path: impl AsRef<Path>) -> Option<Vec<u8>> {
        let state = self.state.lock();
        let bytes = state.names.file(path.as_ref())?.content.lock().live();
        Some(bytes)
    }

    /// Returns the bytes that a power cut cannot take from the file that durably has this name.
    pub fn durable(&self, path: impl AsRef<Path>) -> Option<Vec<u8>> {
        let state = self.state.lock();
        let bytes = state.durable_names.file(path.as_ref())?.content.lock().durable().to_vec();
        Some(bytes)
    }

    /// Makes `bytes` the live and durable content of a file, which is created if it is missing.
    ///
    /// # Panics
    ///
    /// If there is no such directory, or the file is mapped and `bytes` do not fit into its memory.
    pub fn write(&self, path: impl AsRef<Path>, bytes: &[u8]) {
        let mut state = self.state.lock();
        let key = state.names.key(ROOT, path.as_ref()).expect("the directory exists");
        let inode = match state.names.file(path.as_ref()) {
            Some(inode) => inode.clone(),
            None => state.create(key.clone()).expect("the directory exists"),
        };
        state.settle(|change| change.touches(&key));
        inode.content.lock().replace(bytes);
    }

    /// Flips the bits of `mask` in one byte of a file, live and durable.
    ///
    /// # Panics
    ///
    /// If there is no such file, or it is shorter.
    pub fn flip(&self, path: impl AsRef<Path>, position: usize, mask: u8) {
        let state = self.state.lock();
        let inode = state.names.file(path.as_ref()).expect("the file exists");
        inode.content.lock().flip(position, mask);
    }

    /// Removes a file, live and durable.
    ///
    /// # Panics
    ///
    /// If there is no such file.
    pub fn remove(&self, path: impl AsRef<Path>) {
        let mut state = self.state.lock();
        let path = path.as_ref();
        assert!(state.names.file(path).is_some(), "there is no file {}", path.display());
        let key = state.names.key(ROOT, path).expect("the file exists");
        state.change(Change::Remove(key.clone(), None));
        state.settle(|change| change.touches(&key));
    }

    /// Returns whether any process holds a lock on a part of this file.
    pub fn is_locked(&self, path: impl AsRef<Path>) -> bool {
        let state = self.state.lock();
        let inode = state.names.file(path.as_ref()).map(|inode| inode.number);
        state.locks.iter().any(|lock| Some(lock.inode) == inode)
    }

    /// Returns the live paths of all files, in order.
    pub fn paths(&self) -> Vec<PathBuf> {
        let mut paths = Vec::new();
        self.state.lock().names.collect_files(ROOT, Path::new("/"), &mut paths);
        paths.sort();
        paths
    }

    fn alive(&self) -> io::Result<MutexGuard<'_, State>> {
        let state = self.state.lock();
        if state.killed.contains(&self.process) {
            return Err(io::Error::other("killed"));
        }
        Ok(state)
    }

    fn begin(&self, op: Op) -> io::Result<MutexGuard<'_, State>> {
        let mut state = self.alive()?;
        state.count(op)?;
        Ok(state)
    }
}

struct Fault {
    op: Op,
    call: u64,
    errno: i32,
    /// Half of the write was done; its rest fails.
    is_half_done: bool,
}

struct State {
    boot_id: [u64; 2],
    names: Names,
    durable_names: Names,
    /// In the order in which they turn `durable_names` into `names`.
    pending: Vec<Change>,
    locks: Vec<Lock>,
    killed: BTreeSet<u64>,
    faults: Vec<Fault>,
    calls: [u64; OP_COUNT],
    capacity_len: u64,
    during_list: Option<Box<dyn FnMut() + Send>>,
    during_syncs: VecDeque<Box<dyn FnOnce() + Send>>,
    /// The last number given to an inode, an open file or a process.
    last_id: u64,
}

impl State {
    fn new(names: Names, boot: u64) -> State {
        State {
            boot_id: [boot, Random(boot).next()],
            durable_names: names.clone(),
            names,
            pending: Vec::new(),
            locks: Vec::new(),
            killed: BTreeSet::new(),
            faults: Vec::new(),
            calls: [0; OP_COUNT],
            capacity_len: u64::MAX,
            during_list: None,
            during_syncs: VecDeque::new(),
            last_id: 0,
        }
    }

    /// Returns a disk with these names, where each file has the number and bytes that `file` returns.
    fn image(
        &self,
        mut names: Names,
        boot: u64,
        mut file: impl FnMut(&Inode) -> (u64, Vec<u8>),
    ) -> State {
        let mut last_id = self.last_id;
        for node in names.0.values_mut() {
            if let Node::File(inode) = node {
                let (number, bytes) = file(inode);
                let content = Content::of(bytes).expect("there is memory for one more file");
                *inode = Arc::new(Inode { number, content: Mutex::new(content) });
                last_id = last_id.max(number);
            }
        }
        State { last_id, capacity_len: self.capacity_len, ..State::new(names, boot) }
    }

    fn next_id(&mut self) -> u64 {
        self.last_id += 1;
        self.last_id
    }

    /// Whether only half of the next write is done: if a kernel has written some of the bytes when it meets an
    /// error, it returns how many, and the error at the next call.
    fn is_cut_short(&mut self) -> bool {
        let call = self.calls[Op::Write as usize];
        let fault =
            self.faults.iter_mut().find(|fault| fault.op == Op::Write && fault.call == call);
        fault.is_some_and(|fault| !std::mem::replace(&mut fault.is_half_done, true))
    }

    fn count(&mut self, op: Op) -> io::Result<()> {
        let call = self.calls[op as usize];
        self.calls[op as usize] += 1;
        match self.faults.iter().position(|fault| fault.op == op && fault.call == call) {
            Some(index) => Err(io::Error::from_raw_os_error(self.faults.remove(index).errno)),
            None => Ok(()),
        }
    }
}

fn errno<T>(errno: i32) -> io::Result<T> {
    Err(io::Error::from_raw_os_error(errno))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::{Access, DiskFile};

    pub(super) const FILE: &str = "/log/file";

    pub(super) fn root(disk: &SimDisk) -> Arc<dyn Directory> {
        disk.open_root(Path::new("/"), false).expect("the root is there")
    }

    pub(super) fn disk_with(bytes: &[u8]) -> SimDisk {
        let disk = SimDisk::new();
        disk.open_root(Path::new("/log"), true).expect("creates");
        disk.write(FILE, bytes);
        disk
    }

    pub(super) fn open(disk: &SimDisk, path: &str, access: Access) -> Box<dyn DiskFile> {
        root(disk).open(Path::new(path), access).expect("opens")
    }

    pub(super) fn errno_of<T: fmt::Debug>(result: io::Result<T>) -> Option<i32> {
        result.expect_err("fails").raw_os_error()
    }

    #[test]
    fn a_write_that_fails_has_written_half_of_its_bytes() {
        let disk = disk_with(&[0; 8]);
        let file = open(&disk, FILE, Access::ReadWrite);
        disk.fail(Op::Write, 0, libc::ENOSPC);
        let write = || file.write_pieces_at(&mut [&[1; 2], &[2; 6][..]].map(io::IoSlice::new), 0);
        assert_eq!(errno_of(write()), Some(libc::ENOSPC));
        assert_eq!(disk.read(FILE), Some(vec![1, 1, 2, 2, 0, 0, 0, 0]));
        write().expect("writes");
        assert_eq!(disk.read(FILE), Some(vec![1, 1, 2, 2, 2, 2, 2, 2]));
    }

    #[test]
    fn the_nth_fault_fires_once() {
        let disk = disk_with(&[]);
        let file = open(&disk, FILE, Access::ReadWrite);
        disk.fail(Op::Write, 1, libc::EIO);
        file.write_all_at(b"a", 0).expect("the call before it");
        assert_eq!(errno_of(file.write_all_at(b"b", 0)), Some(libc::EIO));
        file.write_all_at(b"c", 1).expect("the call after it");
        assert_eq!(disk.read(FILE).as_deref(), Some(&b"ac"[..]));
        assert_eq!((disk.calls(Op::Write), disk.calls(Op::Read)), (3, 0));
    }

    #[test]
    fn a_reboot_changes_the_boot_and_a_copy_the_inodes() {
        let disk = disk_with(b"old");
        disk.write("/log/other", b"");
        let file = open(&disk, FILE, Access::ReadWrite);
        file.write_all_at(b"new", 0).expect("writes");
        assert!(file.try_lock(0, 1).expect("locks"));
        let (reboot, copy) = (disk.reboot(), disk.copy());
        for image in [&reboot, &copy] {
            assert_eq!(image.durable(FILE).as_deref(), Some(&b"new"[..]));
            assert!(open(image, FILE, Access::ReadWrite).try_lock(0, 1).expect("locks"));
        }
        let inode = |disk: &SimDisk| open(disk, FILE, Access::Read).identity().expect("alive");
        let boot = |disk: &SimDisk| root(disk).boot_id().expect("alive");
        assert_eq!((inode(&reboot), boot(&copy)), (inode(&disk), boot(&disk)));
        assert_ne!(boot(&reboot), boot(&disk));
        assert_ne!(boot(&disk.power_cut(0)), boot(&disk));
        assert_ne!(inode(&copy), inode(&disk));
        let other = open(&copy, "/log/other", Access::Read).identity().expect("alive");
        assert_ne!(inode(&copy), other);
    }

    #[test]
    fn flipped_written_and_removed_files_are_durably_so() {
        let disk = disk_with(&[0; 10]);
        let file = open(&disk, FILE, Access::ReadWrite);
        disk.flip(FILE, 9, 0x81);
        assert_eq!(disk.durable(FILE).expect("is there")[8..], [0, 0x81]);
        assert_eq!(disk.read(FILE), disk.durable(FILE));
        disk.write(FILE, b"shorter");
        assert_eq!(file.len().expect("alive"), 7);
        assert_eq!(disk.durable(FILE).as_deref(), Some(&b"shorter"[..]));
        file.allocate(10).expect("grows");
        assert_eq!(disk.read(FILE).as_deref(), Some(&b"shorter\0\0\0"[..]));
        disk.remove(FILE);
        assert_eq!((disk.durable(FILE), disk.paths()), (None, vec![]));
    }
}
