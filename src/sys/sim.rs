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

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::{Component, Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::Arc;
use std::{fmt, io};

use parking_lot::{Mutex, MutexGuard};

use super::{Access, Directory, DiskFile, FileIdentity, Map, Medium};

/// The unit in which the page cache writes.
const PAGE_LEN: usize = 4096;
/// The unit in which a disk writes.
const SECTOR_LEN: usize = 512;
/// The length to which a mapped file can grow, at least.
const MEMORY_LEN_MIN: usize = 64 << 10;
const FILE_LEN_MAX: u64 = 4 << 30;
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
    /// Writing to a file; a write through a mapping does not count.
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
        state.faults.push(Fault { op, call, errno });
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
        let bytes = state.durable_names.file(path.as_ref())?.content.lock().durable.clone();
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
        let mut content = inode.content.lock();
        let len = content.len.max(bytes.len());
        content.grow(len).expect("the bytes fit into the mapped memory");
        content.memory.write(0, bytes);
        content.memory.write(bytes.len(), &vec![0; len - bytes.len()]);
        content.len = bytes.len();
        content.forced.clear();
        content.clean = bytes.to_vec();
        content.durable = bytes.to_vec();
    }

    /// Flips the bits of `mask` in one byte of a file, live and durable.
    ///
    /// # Panics
    ///
    /// If there is no such file, or it is shorter.
    pub fn flip(&self, path: impl AsRef<Path>, position: usize, mask: u8) {
        let state = self.state.lock();
        let inode = state.names.file(path.as_ref()).expect("the file exists");
        let mut content = inode.content.lock();
        assert!(position < content.len, "byte {position} of {}", content.len);
        let mut byte = [0];
        content.memory.read(position, &mut byte);
        content.memory.write(position, &[byte[0] ^ mask]);
        let Content { clean, durable, .. } = &mut *content;
        for bytes in [clean, durable] {
            if let Some(byte) = bytes.get_mut(position) {
                *byte ^= mask;
            }
        }
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

/// Anonymous memory: it does not move, and starts as zeros.
struct Memory(memmap2::MmapRaw);

impl Memory {
    fn new(len: usize) -> io::Result<Memory> {
        let len = len.next_power_of_two().max(MEMORY_LEN_MIN);
        Ok(Memory(memmap2::MmapMut::map_anon(len)?.into()))
    }

    fn words(&self) -> &[AtomicU64] {
        // SAFETY: the mapping starts on a page, so it is aligned; its length is a power of two of at
        // least a page (`new`), so it is whole words; it lives as long as `self`; this module reaches
        // it only here, as atomics, and maps of it keep to the contract of `Map`.
        unsafe { std::slice::from_raw_parts(self.0.as_mut_ptr().cast(), self.0.len() / 8) }
    }

    fn read(&self, position: usize, out: &mut [u8]) {
        let skip = position % 8;
        if skip > 0 {
            let mut aligned = vec![0; skip + out.len()];
            self.read(position - skip, &mut aligned);
            return out.copy_from_slice(&aligned[skip..]);
        }
        for (out, word) in out.chunks_mut(8).zip(&self.words()[position / 8..]) {
            out.copy_from_slice(&word.load(Ordering::Relaxed).to_ne_bytes()[..out.len()]);
        }
    }

    fn write(&self, position: usize, bytes: &[u8]) {
        let words = self.words();
        let mut written = 0;
        while written < bytes.len() {
            let (word, skip) = ((position + written) / 8, (position + written) % 8);
            let part = &bytes[written..bytes.len().min(written + 8 - skip)];
            // The rest of the word may change at the same time, and that change must not be lost.
            let stored = words[word].fetch_update(Ordering::Relaxed, Ordering::Relaxed, |old| {
                let mut new = old.to_ne_bytes();
                new[skip..skip + part.len()].copy_from_slice(part);
                Some(u64::from_ne_bytes(new))
            });
            stored.expect("the closure always gives a word");
            written += part.len();
        }
    }
}

struct Inode {
    number: u64,
    content: Mutex<Content>,
}

struct Content {
    /// The live bytes, and zeros after `len`.
    memory: Arc<Memory>,
    len: usize,
    /// The bytes that the page cache considers to be on the disk; more than `durable` after a failed sync.
    clean: Vec<u8>,
    durable: Vec<u8>,
    /// Pages that the next sync writes even if they look clean.
    forced: BTreeSet<usize>,
    /// How often writing it back has failed, and the errno of the last failure.
    failures: (u64, i32),
    /// The last failure was reported to some open file.
    is_reported: bool,
}

impl Content {
    fn of(bytes: Vec<u8>) -> io::Result<Content> {
        let memory = Arc::new(Memory::new(bytes.len())?);
        memory.write(0, &bytes);
        let (len, clean) = (bytes.len(), bytes.clone());
        Ok(Content {
            memory,
            len,
            clean,
            durable: bytes,
            forced: BTreeSet::new(),
            failures: (0, 0),
            is_reported: true,
        })
    }

    fn live(&self) -> Vec<u8> {
        let mut bytes = vec![0; self.len];
        self.memory.read(0, &mut bytes);
        bytes
    }

    fn grow(&mut self, len: usize) -> io::Result<()> {
        if len > self.memory.0.len() {
            // Each mapping holds the memory, which cannot be replaced while one exists.
            if Arc::strong_count(&self.memory) > 1 {
                return Err(io::Error::new(
                    io::ErrorKind::Unsupported,
                    format!("a mapped file of {} bytes cannot grow to {len}", self.len),
                ));
            }
            let wider = Memory::new(len)?;
            wider.write(0, &self.live());
            self.memory = Arc::new(wider);
        }
        self.len = self.len.max(len);
        Ok(())
    }

    fn force(&mut self, start: usize, end: usize) {
        self.forced.extend(start / PAGE_LEN..end.min(self.len).div_ceil(PAGE_LEN));
    }

    /// Marks all dirty pages as written; they are written only if the disk takes them.
    fn write_back(&mut self, disk_takes_them: bool) {
        self.clean.resize(self.len, 0);
        if disk_takes_them {
            self.durable.resize(self.len, 0);
        }
        let mut page = [0; PAGE_LEN];
        for start in (0..self.len).step_by(PAGE_LEN) {
            let end = self.len.min(start + PAGE_LEN);
            let page = &mut page[..end - start];
            self.memory.read(start, page);
            if self.clean[start..end] == *page && !self.forced.contains(&(start / PAGE_LEN)) {
                continue;
            }
            self.clean[start..end].copy_from_slice(page);
            if disk_takes_them {
                self.durable[start..end].copy_from_slice(page);
            }
        }
        self.forced.clear();
    }

    /// Returns how many failures are not reported to a file that is opened now.
    fn failures_before(&self) -> u64 {
        if self.is_reported {
            self.failures.0
        } else {
            0
        }
    }

    /// Fails if there were more failures than the `known` ones of an open file.
    fn report(&mut self, known: &AtomicU64) -> io::Result<()> {
        let (count, last) = self.failures;
        if known.swap(count, Ordering::Relaxed) == count {
            return Ok(());
        }
        self.is_reported = true;
        errno(last)
    }

    fn after_power_cut(&self, survivors: Survivors, random: &mut Random) -> Vec<u8> {
        let live = self.live();
        let mut bytes = self.durable.clone();
        bytes.resize(live.len(), 0);
        let sector = |at: usize| at..live.len().min(at + SECTOR_LEN);
        let changed: Vec<usize> = (0..live.len())
            .step_by(SECTOR_LEN)
            .filter(|&at| live[sector(at)] != bytes[sector(at)])
            .collect();
        let pivot = random.below(changed.len().max(1));
        for (index, at) in changed.into_iter().enumerate() {
            let survives = match survivors {
                Survivors::None => false,
                Survivors::All => true,
                Survivors::Some => random.coin(),
                Survivors::First => index < pivot,
                Survivors::Last => index >= pivot,
                Survivors::AllButOne => index != pivot,
            };
            if survives {
                bytes[sector(at)].copy_from_slice(&live[sector(at)]);
            }
        }
        if survivors != Survivors::All && random.coin() {
            bytes.truncate(self.durable.len());
        }
        bytes
    }
}

/// The unsynced sectors of a file that a power cut spares.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Survivors {
    None,
    All,
    Some,
    First,
    Last,
    AllButOne,
}

impl Survivors {
    fn draw(random: &mut Random) -> Survivors {
        use Survivors::{All, AllButOne, First, Last, None, Some};
        let all = [None, All, Some, First, Last, AllButOne];
        all[random.below(all.len())]
    }
}

/// SplitMix64, so that an image depends only on its seed.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }

    fn coin(&mut self) -> bool {
        self.next() >> 63 == 1
    }
}

/// The directory that contains everything else.
const ROOT: u64 = 0;

#[derive(Clone)]
enum Node {
    /// The directory's number: names in it stay when it is moved.
    Directory(u64),
    File(Arc<Inode>),
}

/// The number of a directory, and a name in it.
type Key = (u64, String);

#[derive(Clone)]
struct Names(BTreeMap<Key, Node>);

impl Names {
    fn new() -> Names {
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
    fn key(&self, from: u64, path: &Path) -> io::Result<Key> {
        let Some(name) = steps(path).next_back() else { return errno(libc::EBUSY) };
        Ok((self.directory(from, path.parent().unwrap_or(Path::new("")))?, name.to_owned()))
    }

    fn file(&self, path: &Path) -> Option<&Arc<Inode>> {
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

    fn collect_files(&self, directory: u64, path: &Path, found: &mut Vec<PathBuf>) {
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
enum Change {
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

    fn touches(&self, key: &Key) -> bool {
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

/// An exclusive lock of one open file on the bytes from `start` to `end`.
#[derive(Clone, Copy)]
struct Lock {
    inode: u64,
    process: u64,
    open: u64,
    start: u64,
    end: u64,
}

struct Fault {
    op: Op,
    call: u64,
    errno: i32,
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

    fn count(&mut self, op: Op) -> io::Result<()> {
        let call = self.calls[op as usize];
        self.calls[op as usize] += 1;
        match self.faults.iter().position(|fault| fault.op == op && fault.call == call) {
            Some(index) => Err(io::Error::from_raw_os_error(self.faults.remove(index).errno)),
            None => Ok(()),
        }
    }

    fn create(&mut self, key: Key) -> io::Result<Arc<Inode>> {
        if !self.names.has_directory(key.0) {
            return errno(libc::ENOENT);
        }
        let content = Mutex::new(Content::of(Vec::new())?);
        let inode = Arc::new(Inode { number: self.next_id(), content });
        self.change(Change::Create(key, Node::File(inode.clone())));
        Ok(inode)
    }

    fn change(&mut self, change: Change) {
        change.apply(&mut self.names);
        self.pending.push(change);
    }

    /// Makes changes durable, and with them the earlier ones that they rely on.
    fn settle(&mut self, is_settled: impl Fn(&Change) -> bool) {
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

    fn names_after_power_cut(&self, random: &mut Random) -> Names {
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

    fn extend(&self, inode: &Inode, len: u64) -> io::Result<()> {
        if len > FILE_LEN_MAX {
            return errno(libc::EFBIG);
        }
        let named_len = |node: &Node| match node {
            Node::File(inode) => inode.content.lock().len as u64,
            Node::Directory(_) => 0,
        };
        let used_len: u64 = self.names.0.values().map(named_len).sum();
        let mut content = inode.content.lock();
        if len > content.len as u64 && used_len + len - content.len as u64 > self.capacity_len {
            return errno(libc::ENOSPC);
        }
        content.grow(len as usize)
    }

    fn conflicts(&self, inode: u64, open: u64, start: u64, end: u64) -> bool {
        self.locks.iter().any(|lock| {
            lock.inode == inode && lock.open != open && lock.start < end && start < lock.end
        })
    }

    fn release(&mut self, open: u64, start: u64, end: u64) {
        for lock in std::mem::take(&mut self.locks) {
            if lock.open != open || lock.end <= start || end <= lock.start {
                self.locks.push(lock);
                continue;
            }
            if lock.start < start {
                self.locks.push(Lock { end: start, ..lock });
            }
            if end < lock.end {
                self.locks.push(Lock { start: end, ..lock });
            }
        }
    }
}

fn errno<T>(errno: i32) -> io::Result<T> {
    Err(io::Error::from_raw_os_error(errno))
}

/// Returns the names that lead from the root to `path`.
fn steps(path: &Path) -> impl DoubleEndedIterator<Item = &str> {
    let names = path.components().filter(|part| matches!(part, Component::Normal(_)));
    names.map(|name| name.as_os_str().to_str().expect("names of these tests are UTF-8"))
}

/// A directory that one process has open.
#[derive(Debug)]
struct SimDirectory {
    disk: SimDisk,
    number: u64,
    path: PathBuf,
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
        let mut state = self.disk.begin(Op::Rename)?;
        let (from, to) = (self.key(&state, from)?, self.key(&state, to)?);
        if !state.names.0.contains_key(&from) {
            return errno(libc::ENOENT);
        }
        if state.names.0.contains_key(&to) {
            return errno(libc::EEXIST);
        }
        state.change(Change::Rename(from, to));
        Ok(())
    }

    fn replace(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.disk.begin(Op::Rename)?;
        let (from, to) = (self.key(&state, from)?, self.key(&state, to)?);
        if !state.names.0.contains_key(&from) {
            return errno(libc::ENOENT);
        }
        state.change(Change::Rename(from, to));
        Ok(())
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

    fn inheritable_lock(&self, _path: &Path, _byte: u64) -> io::Result<super::InheritableLock> {
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

struct SimFile {
    disk: SimDisk,
    open: u64,
    inode: Arc<Inode>,
    writable: bool,
    /// How many failures to write it back were reported to this open file, or to others before it was opened.
    failures_known: AtomicU64,
}

impl fmt::Debug for SimFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let SimFile { disk, open, inode, writable, .. } = self;
        let number = inode.number;
        write!(f, "SimFile {{ {disk:?}, open: {open}, inode: {number}, writable: {writable} }}")
    }
}

impl Drop for SimFile {
    fn drop(&mut self) {
        self.disk.state.lock().locks.retain(|lock| lock.open != self.open);
    }
}

impl SimFile {
    fn need_write_access(&self) -> io::Result<()> {
        if self.writable {
            return Ok(());
        }
        errno(libc::EBADF)
    }
}

/// Returns the end of a range; as with fcntl(2), a length of 0 means one without end.
fn end_of(start: u64, len: u64) -> u64 {
    if len == 0 {
        return u64::MAX;
    }
    start.saturating_add(len)
}

impl DiskFile for SimFile {
    fn len(&self) -> io::Result<u64> {
        let _state = self.disk.alive()?;
        let len = self.inode.content.lock().len;
        Ok(len as u64)
    }

    fn identity(&self) -> io::Result<FileIdentity> {
        let _state = self.disk.alive()?;
        Ok(FileIdentity { dev: 1, ino: self.inode.number })
    }

    fn has_other_names(&self) -> io::Result<bool> {
        drop(self.disk.alive()?);
        Ok(false)
    }

    fn read_at(&self, buf: &mut [u8], position: u64) -> io::Result<usize> {
        let _state = self.disk.begin(Op::Read)?;
        let content = self.inode.content.lock();
        let rest_len = (content.len as u64).saturating_sub(position);
        let read_len = rest_len.min(buf.len() as u64) as usize;
        if read_len > 0 {
            content.memory.read(position as usize, &mut buf[..read_len]);
        }
        Ok(read_len)
    }

    fn write_all_at(&self, bytes: &[u8], position: u64) -> io::Result<()> {
        let state = self.disk.begin(Op::Write)?;
        self.need_write_access()?;
        if bytes.is_empty() {
            return Ok(());
        }
        let end = position.saturating_add(bytes.len() as u64);
        state.extend(&self.inode, end)?;
        let mut content = self.inode.content.lock();
        content.memory.write(position as usize, bytes);
        content.force(position as usize, end as usize);
        Ok(())
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        let state = self.disk.begin(Op::Allocate)?;
        self.need_write_access()?;
        state.extend(&self.inode, len)
    }

    fn redirty(&self, start: u64, end: u64) -> io::Result<()> {
        let _state = self.disk.begin(Op::Redirty)?;
        self.need_write_access()?;
        self.inode.content.lock().force(start as usize, end as usize);
        Ok(())
    }

    fn fill_holes(&self, _len: u64) -> io::Result<bool> {
        drop(self.disk.begin(Op::Allocate)?);
        self.need_write_access()?;
        Ok(true)
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut state = self.disk.alive()?;
        let written = state.count(Op::SyncData);
        {
            let mut content = self.inode.content.lock();
            content.write_back(written.is_ok());
            if let Err(error) = written {
                content.failures =
                    (content.failures.0 + 1, error.raw_os_error().unwrap_or(libc::EIO));
                content.is_reported = false;
            }
        }
        let action = state.during_syncs.pop_front();
        drop(state);
        if let Some(action) = action {
            action();
        }
        let _state = self.disk.alive()?;
        let result = self.inode.content.lock().report(&self.failures_known);
        result
    }

    fn has_unwritten_blocks(&self, _start: u64, _end: u64) -> io::Result<bool> {
        // A block here has no mark besides its bytes.
        Ok(false)
    }

    fn map(&self, len: usize, writable: bool) -> io::Result<Map> {
        let _state = self.disk.begin(Op::Map)?;
        if writable && !self.writable {
            return errno(libc::EACCES);
        }
        let content = self.inode.content.lock();
        if content.len < len {
            return Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                format!("the file is shorter than the {len} bytes to map"),
            ));
        }
        let memory = content.memory.clone();
        let start = memory.0.as_mut_ptr();
        // This share of the memory keeps `Content::grow` from replacing it.
        // SAFETY: `start` is on a page boundary, its memory has at least the file's length, checked
        // above, and is readable and writable; the owner holds it, and it is never moved.
        Ok(unsafe { Map::of_memory(start, len, writable, memory) })
    }

    fn try_lock(&self, start: u64, len: u64) -> io::Result<bool> {
        let mut state = self.disk.begin(Op::Lock)?;
        self.need_write_access()?;
        let (inode, open, end) = (self.inode.number, self.open, end_of(start, len));
        if state.conflicts(inode, open, start, end) {
            return Ok(false);
        }
        state.release(open, start, end);
        state.locks.push(Lock { inode, process: self.disk.process, open, start, end });
        Ok(true)
    }

    fn unlock(&self, start: u64, len: u64) -> io::Result<()> {
        self.disk.begin(Op::Lock)?.release(self.open, start, end_of(start, len));
        Ok(())
    }

    fn locked_by_other(&self, start: u64, len: u64) -> io::Result<bool> {
        let state = self.disk.begin(Op::Lock)?;
        Ok(state.conflicts(self.inode.number, self.open, start, end_of(start, len)))
    }
}

#[cfg(test)]
mod tests {
    use super::super::directory::RealDirectory;
    use super::*;

    const FILE: &str = "/log/file";

    fn root(disk: &SimDisk) -> Arc<dyn Directory> {
        disk.open_root(Path::new("/"), false).expect("the root is there")
    }

    fn disk_with(bytes: &[u8]) -> SimDisk {
        let disk = SimDisk::new();
        disk.open_root(Path::new("/log"), true).expect("creates");
        disk.write(FILE, bytes);
        disk
    }

    fn open(disk: &SimDisk, path: &str, access: Access) -> Box<dyn DiskFile> {
        root(disk).open(Path::new(path), access).expect("opens")
    }

    fn name_exists(disk: &SimDisk, path: &str) -> bool {
        disk.read(path).is_some()
    }

    fn errno_of<T: fmt::Debug>(result: io::Result<T>) -> Option<i32> {
        result.expect_err("fails").raw_os_error()
    }

    #[test]
    fn unsynced_bytes_may_vanish_sector_by_sector() {
        let disk = disk_with(&[1; 16 * SECTOR_LEN]);
        let file = open(&disk, FILE, Access::ReadWrite);
        file.write_all_at(&[2; 16 * SECTOR_LEN], 0).expect("writes");
        let mut patterns = BTreeSet::new();
        for seed in 0..1000 {
            let bytes = disk.power_cut(seed).read(FILE).expect("its name is durable");
            assert_eq!(bytes.len(), 16 * SECTOR_LEN, "seed {seed}");
            let mut pattern = 0;
            for (index, sector) in bytes.chunks(SECTOR_LEN).enumerate() {
                assert!(sector.iter().all(|byte| *byte == sector[0]), "seed {seed}: a torn sector");
                pattern |= usize::from(sector[0] == 2) << index;
            }
            patterns.insert(pattern);
        }
        let (none, all, first, last, all_but_one) = (0, 0xffff, 0x007f, 0xfe00, 0xfff7);
        let expected = BTreeSet::from([none, all, first, last, all_but_one]);
        assert!(patterns.is_superset(&expected), "{patterns:x?}");
        assert!(patterns.len() > 100, "{} patterns", patterns.len());
    }

    #[test]
    fn stores_through_a_map_are_unsynced_bytes_too() {
        let disk = disk_with(&[0; PAGE_LEN]);
        let file = open(&disk, FILE, Access::ReadWrite);
        let map = file.map(PAGE_LEN, true).expect("maps");
        map.write(100, b"stored");
        let mut bytes = [0; 6];
        assert_eq!(file.read_at(&mut bytes, 100).expect("reads"), 6);
        assert_eq!(&bytes, b"stored");
        assert_eq!(disk.durable(FILE), Some(vec![0; PAGE_LEN]));
        file.sync_data().expect("syncs");
        assert_eq!(disk.durable(FILE), disk.read(FILE));
    }

    #[test]
    fn synced_bytes_survive_every_power_cut() {
        let disk = disk_with(&[]);
        let file = open(&disk, FILE, Access::ReadWrite);
        file.allocate(3 * PAGE_LEN as u64).expect("allocates");
        file.write_all_at(&[7; 5000], 3).expect("writes");
        file.sync_data().expect("syncs");
        let synced = disk.read(FILE);
        file.write_all_at(&[8; 100], 3 * PAGE_LEN as u64).expect("writes");
        for seed in 0..200 {
            let bytes = disk.power_cut(seed).read(FILE).expect("its name is durable");
            assert_eq!(Some(&bytes[..3 * PAGE_LEN]), synced.as_deref(), "seed {seed}");
        }
    }

    #[test]
    fn a_file_that_was_never_synced_may_vanish_or_be_empty_or_zeros_or_whole() {
        let disk = disk_with(&[]);
        let file = open(&disk, "/log/new", Access::CreateNew);
        file.write_all_at(&[5; SECTOR_LEN], 0).expect("writes");
        let images: BTreeSet<_> =
            (0..200).map(|seed| disk.power_cut(seed).read("/log/new")).collect();
        let whole = Some(vec![5; SECTOR_LEN]);
        assert_eq!(images, BTreeSet::from([None, Some(vec![]), Some(vec![0; SECTOR_LEN]), whole]));
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

    #[test]
    fn a_failed_sync_leaves_its_pages_believed_clean_until_they_are_redirtied() {
        let disk = disk_with(&[1; 2 * PAGE_LEN]);
        let file = open(&disk, FILE, Access::ReadWrite);
        let map = file.map(2 * PAGE_LEN, true).expect("maps");
        map.write(0, &[2; 2 * PAGE_LEN]);
        disk.fail(Op::SyncData, 0, libc::EIO);
        assert_eq!(errno_of(file.sync_data()), Some(libc::EIO));
        file.sync_data().expect("the error is reported once");
        assert_eq!(disk.durable(FILE), Some(vec![1; 2 * PAGE_LEN]));
        assert_eq!(disk.read(FILE), Some(vec![2; 2 * PAGE_LEN]));

        file.redirty(PAGE_LEN as u64, 2 * PAGE_LEN as u64).expect("marks");
        file.sync_data().expect("syncs");
        let durable = disk.durable(FILE).expect("is there");
        assert_eq!(durable, [[1; PAGE_LEN], [2; PAGE_LEN]].concat());
        file.write_all_at(&[2], 0).expect("writes");
        file.sync_data().expect("syncs");
        assert_eq!(disk.durable(FILE), Some(vec![2; 2 * PAGE_LEN]));

        map.write(0, &[3; 2 * PAGE_LEN]);
        disk.fail(Op::SyncData, 0, libc::EIO);
        assert_eq!(errno_of(file.sync_data()), Some(libc::EIO));
        file.sync_data().expect("syncs");
        assert_eq!(disk.durable(FILE), Some(vec![2; 2 * PAGE_LEN]), "redirtied for one sync only");
    }

    #[test]
    fn an_error_is_reported_once_to_each_open_file_and_to_none_that_is_opened_after_the_first_report(
    ) {
        let disk = disk_with(&[1; PAGE_LEN]);
        let open = || open(&disk, FILE, Access::ReadWrite);
        let (one, other) = (open(), open());
        one.write_all_at(&[2; 8], 0).expect("writes");
        disk.fail(Op::SyncData, 0, libc::EIO);
        let opened = Arc::new(Mutex::new(None));
        let before_the_report = {
            let (disk, opened) = (disk.clone(), Arc::clone(&opened));
            move || *opened.lock() = Some(root(&disk).open(Path::new(FILE), Access::ReadWrite))
        };
        disk.during_sync(before_the_report);
        assert_eq!(errno_of(one.sync_data()), Some(libc::EIO));
        let early = opened.lock().take().expect("was called").expect("opens");
        let late = open();
        late.sync_data().expect("it was reported before");
        for file in [other, early] {
            assert_eq!(errno_of(file.sync_data()), Some(libc::EIO));
            file.sync_data().expect("once");
        }
        one.sync_data().expect("once");
    }

    #[test]
    fn a_killed_handle_releases_its_locks_and_fails_for_ever() {
        let disk = disk_with(&[3; 64]);
        let (doomed, other) = (disk.process(), disk.process());
        let (file, probe) =
            (open(&doomed, FILE, Access::ReadWrite), open(&other, FILE, Access::ReadWrite));
        let map = file.map(64, false).expect("maps");
        assert!(file.try_lock(0, 1).expect("locks"));
        assert!(!probe.try_lock(0, 1).expect("probes"));
        doomed.kill();
        assert!(probe.try_lock(0, 1).expect("locks"));
        let error = file.sync_data().expect_err("killed");
        assert_eq!((error.kind(), error.to_string().as_str()), (io::ErrorKind::Other, "killed"));
        assert!(file.unlock(0, 1).is_err() && file.len().is_err());
        assert!(doomed.open_root(Path::new("/log"), false).is_err());
        drop(file);
        assert!(open(&disk, FILE, Access::Read).locked_by_other(0, 1).expect("probes"));
        assert_eq!(map.word(56).load(Ordering::Relaxed), u64::from_ne_bytes([3; 8]));
    }

    #[test]
    fn locks_conflict_between_two_open_files_of_one_process() {
        let disk = disk_with(&[]);
        let (a, b) = (open(&disk, FILE, Access::ReadWrite), open(&disk, FILE, Access::ReadWrite));
        assert!(a.try_lock(0, 10).expect("locks") && a.try_lock(0, 10).expect("locks again"));
        assert!(!b.try_lock(9, 5).expect("probes") && b.try_lock(10, 5).expect("locks"));
        assert!(!a.locked_by_other(0, 10).expect("probes"));
        assert!(b.locked_by_other(0, 10).expect("probes"));
        a.unlock(4, 2).expect("unlocks");
        assert!(b.try_lock(4, 2).expect("locks the hole"));
        assert!(
            b.locked_by_other(3, 1).expect("probes") && b.locked_by_other(6, 1).expect("probes")
        );
        drop(a);
        assert!(!b.locked_by_other(0, 10).expect("probes"));
        let reader = open(&disk, FILE, Access::Read);
        assert_eq!(errno_of(reader.try_lock(100, 1)), Some(libc::EBADF));
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
    fn a_file_beyond_the_capacity_of_the_disk_gets_no_space() {
        let disk = disk_with(&[0; 1000]);
        disk.set_capacity(3000);
        let file = open(&disk, "/log/new", Access::CreateNew);
        assert_eq!(errno_of(file.allocate(2001)), Some(libc::ENOSPC));
        file.allocate(2000).expect("fits");
        assert_eq!(errno_of(file.write_all_at(b"x", 2000)), Some(libc::ENOSPC));
        root(&disk).remove_file(Path::new(FILE)).expect("removes");
        file.allocate(3000).expect("fits");
        assert_eq!(disk.read("/log/new"), Some(vec![0; 3000]));
    }

    #[test]
    fn a_mapped_file_does_not_move() {
        let disk = disk_with(b"bytes");
        let file = open(&disk, FILE, Access::ReadWrite);
        let map = file.map(5, true).expect("maps");
        file.allocate(MEMORY_LEN_MIN as u64).expect("grows within its memory");
        let error = file.allocate(MEMORY_LEN_MIN as u64 + 1).expect_err("does not grow beyond it");
        assert_eq!(error.kind(), io::ErrorKind::Unsupported);
        drop(map);
        file.allocate(MEMORY_LEN_MIN as u64 + 1).expect("grows when it is not mapped");
        assert_eq!(disk.read(FILE).expect("is there")[..6], *b"bytes\0");
        assert_eq!(
            file.map(1 << 20, false).expect_err("short").kind(),
            io::ErrorKind::UnexpectedEof
        );
    }

    #[test]
    fn the_same_seed_gives_the_same_image() {
        let disk = disk_with(&[1; 20 * SECTOR_LEN]);
        for index in 0..5u8 {
            let file = open(&disk, &format!("/log/{index}"), Access::CreateNew);
            file.write_all_at(&[index + 1; 20 * SECTOR_LEN], 0).expect("writes");
        }
        let image = |seed| {
            let image = disk.power_cut(seed);
            let files: Vec<_> =
                image.paths().into_iter().map(|path| (image.read(&path), path)).collect();
            (root(&image).boot_id().expect("alive"), files)
        };
        let images: BTreeSet<_> = (0..50).map(image).collect();
        assert!(images.len() > 40, "{} different images", images.len());
        assert!((0..50).map(image).all(|again| images.contains(&again)));
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

    #[test]
    fn errors_are_those_of_the_real_disk() {
        let disk = disk_with(&[9; 3]);
        let real_root = tempfile::tempdir().expect("creates");
        let real = RealDirectory::make(&real_root.path().join("log"), 0o600).expect("creates");
        std::fs::write(real.path().join("file"), [9; 3]).expect("writes");
        let outcomes = |disk: &dyn Directory| {
            let root = disk.path();
            let path = |name| root.join(name);
            let mut outcomes = Vec::new();
            let mut say = |result: io::Result<()>| outcomes.push(result.map_err(|e| e.kind()));
            say(disk.make_dir(&path("dir/inner")).map(drop));
            say(disk.make_dir(&path("dir")).map(drop));
            say(disk.make_dir(&path("dir/inner")).map(drop));
            say(disk.remove_dir(&path("dir")));
            say(disk.remove_dir(&path("dir/inner")));
            for name in ["file", "missing", "file/below", "missing/below", "dir"] {
                say(disk.open(&path(name), Access::ReadWrite).map(drop));
                say(disk.open(&path(name), Access::Read).map(drop));
                say(disk.list(&path(name)).map(drop));
                say(disk.rename_no_replace(&path(name), &path("file")));
                say(disk.remove_dir(&path(name)));
                say(disk.make_dir(&path("file/below")).map(drop));
                say(disk.open_dir(&path(name)).map(drop));
                say(disk.identity_of(&path(name)).map(drop));
            }
            say(disk.open(&path("file"), Access::CreateNew).map(drop));
            say(disk.remove_file(&path("missing")));
            say(disk.make_dir(&path("file")).map(drop));
            let file = disk.open(&path("file"), Access::Read).expect("opens");
            say(file.write_all_at(b"x", 0));
            say(file.map(3, true).map(drop));
            say(file.map(4, false).map(drop));
            say(file.allocate(10));
            let mut buf = [0; 5];
            let read = [0, 2, 3, 9].map(|at| file.read_at(&mut buf, at).expect("reads"));
            say(disk.remove_file(&path("file")));
            let below = disk.make_dir(&path("below")).expect("creates");
            say(disk.rename_no_replace(&path("below"), &path("moved")));
            say(below.open(&path("below/file"), Access::CreateNew).map(drop));
            say(disk.open(&path("moved/file"), Access::Read).map(drop));
            say(disk.remove_dir(&path("moved")));
            say(below.remove_file(&path("below/file")));
            say(disk.remove_dir(&path("moved")));
            say(below.open(&path("below/file"), Access::CreateNew).map(drop));
            say(below.list(&path("below")).map(drop));
            say(below.sync_dir(&path("below")));
            (outcomes, read)
        };
        let simulated = disk.open_root(Path::new("/log"), false).expect("is there");
        assert_eq!(outcomes(&*simulated), outcomes(&real));
    }
}
