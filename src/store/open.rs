//! Opening a topic: take the gate, decide, recover, take a slot, release the gate.

use std::path::Path;
use std::sync::{Arc, OnceLock};

use super::access::{living_control, trusted_control};
use super::ahead::Ahead;
use super::background::Background;
use super::directory::{self, Entered, Location, CONTROL, LOCK, SETTINGS};
use super::epochs::Epochs;
use super::prepared::Claim;
use super::recover::Recovery;
use super::sealed::Sealed;
use super::segments::Segments;
use super::trim::Retaining;
use super::{medium_of, Access, Durability, Local, LogInner, Store, TopicOptions};
use crate::control::lock::Owner;
use crate::control::member::{self, Membership};
use crate::control::{self, Control, Words};
use crate::error::{Error, IoResultExt, Result};
use crate::format::{settings, settings::Settings};
use crate::segment::list_bases;
use crate::sys::atomic::Ordering;
use crate::sys::crash_point::crash_point;
use crate::sys::{self, Directory, DiskFile, FileIdentity, Medium};

impl Store {
    /// Opens a topic for reading and writing; `create` creates it if it does not exist.
    pub(crate) fn open(
        log: &Arc<LogInner>,
        name: &str,
        wanted: Option<TopicOptions>,
        create: bool,
    ) -> Result<Arc<Store>> {
        let Entered { files, lock_file } = directory::enter(log, name, || match create {
            true => make_directory(log, name, wanted),
            false => directory::existing(log, name),
        })?;
        let settings = read_or_create_settings(log, &*files, name, wanted)?;
        if let (true, Some(wanted)) = (settings.1, wanted) {
            let stored = TopicOptions::of_settings(&settings.0);
            if let Some(what) = wanted.difference(&stored) {
                return Err(Error::Conflict { topic: name.to_owned(), what });
            }
        }
        let topic = open_gated(log, name, files, lock_file, settings)?;
        let member = topic.member()?;
        member::leave_gate(&*member.lock_file).at("locking", &topic.dir.join(LOCK))?;
        topic.is_open.store(true, Ordering::Relaxed);
        topic.background.start_timers(&topic).at("starting a thread for", &topic.dir)?;
        Sealed::sync_inherited(&topic);
        Ok(topic)
    }

    /// Opens an existing topic that no other process has open for writing, and keeps the gate, so that none
    /// opens it before the value is dropped. Calls `before` first, with the end that the words of this boot
    /// give, 0 if there are none to trust.
    pub(crate) fn open_alone(
        log: &Arc<LogInner>,
        name: &str,
        before: impl FnOnce(&Arc<dyn Directory>, &Settings, u64) -> Result<()>,
    ) -> Result<Arc<Store>> {
        let open = || directory::existing(log, name);
        let Entered { files, lock_file } = directory::enter(log, name, open)?;
        let alone = member::is_alone(&*lock_file).at("locking", &files.path().join(LOCK))?;
        if !alone {
            return Err(Error::Locked { what: format!("topic {name}"), pid: None });
        }
        let (settings, _) = read_settings(&*files)?;
        let published = trusted_control(log, &*files)
            .map_or(0, |control| control.tail.end.load(Ordering::Acquire));
        before(&files, &settings, published)?;
        let topic = open_gated(log, name, files, lock_file, (settings, true))?;
        topic.is_open.store(true, Ordering::Relaxed);
        Ok(topic)
    }

    fn assemble(
        log: &Arc<LogInner>,
        name: &str,
        files: Arc<dyn Directory>,
        settings: Settings,
        access: Access,
        known_by: (&'static str, FileIdentity),
        medium: Medium,
    ) -> Arc<Store> {
        let writable = match access {
            Access::Member(_) => sys::Access::ReadWrite,
            _ => sys::Access::Read,
        };
        Arc::new_cyclic(|this| Store {
            log: Arc::clone(log),
            name: name.to_owned(),
            dir: files.path().to_owned(),
            settings,
            options: TopicOptions::of_settings(&settings),
            access,
            location: Location::new(log, name, &files, known_by),
            segments: Segments::new(&files, writable, settings.topic_id),
            indexes: Default::default(),
            epochs: Epochs::new(&files),
            recovery: OnceLock::new(),
            ahead: Ahead::default(),
            is_open: false.into(),
            background: Background::new(log, this),
            sealed: Arc::default(),
            books: Default::default(),
            last_end: 0.into(),
            made_in: log.made_in,
            by_call: medium == Medium::CopyOnWrite
                || TopicOptions::of_settings(&settings).durability == Durability::PowerLoss,
            files,
            retaining: Retaining::default(),
            files_made: 0.into(),
        })
    }

    /// Opens a topic without writing or locking anything.
    pub(crate) fn open_read_only(log: &Arc<LogInner>, name: &str) -> Result<Arc<Store>> {
        let files = directory::existing(log, name)?;
        let medium = medium_of(&*files, &log.options)?;
        let (settings, file) = read_settings(&*files)?;
        if list_bases(&*files, files.path())?.is_empty() {
            return Err(Error::NotFound {
                what: format!(
                    "segment in {}: the creation of the topic was interrupted (by a full disk or a kill), or \
                     is in progress; open it for writing to complete it, or delete it",
                    files.path().display()
                ),
            });
        }
        let access = match living_control(log, &*files) {
            Some(control) => Access::Live(control),
            None => Access::Still {
                left: trusted_control(log, &*files),
                found: Box::default(),
                live: OnceLock::new(),
            },
        };
        let topic = Store::assemble(log, name, files, settings, access, (SETTINGS, file), medium);
        topic.epochs.load()?;
        topic.frontier()?;
        Ok(topic)
    }
}

/// Recovers if necessary, and takes a slot. The caller holds the gate, which stays held.
fn open_gated(
    log: &Arc<LogInner>,
    name: &str,
    files: Arc<dyn Directory>,
    lock_file: Box<dyn DiskFile>,
    settings: (Settings, bool),
) -> Result<Arc<Store>> {
    let medium = check_medium(log, &*files, files.path(), &settings.0)?;
    check_links(&*files, &*lock_file)?;
    let control = open_control(&*files)?;
    let path = files.path().join(LOCK);
    let alone = member::is_alone(&*lock_file).at("locking", &path)?;
    let lock = lock_file.identity().at("locking", &path)?;
    let slot = member::take_slot(&*lock_file).at("locking", &path)?;
    let slot = slot.ok_or_else(|| Error::Locked {
        what: format!("every one of the {} member slots of topic {name}", control::MAX_MEMBERS),
        pid: None,
    })?;
    let generation = introduce(&control, slot);
    crash_point!("open.slot-taken");
    let membership =
        Membership::new(control, lock_file, Owner::new(slot, generation), Local::default());
    let access = Access::Member(membership);
    let topic = Store::assemble(log, name, files, settings.0, access, (LOCK, lock), medium);
    Recovery::run(&topic, alone, settings.1)?;
    settle_slot(&topic, slot)?;
    crash_point!("open.before-gate-is-left");
    Ok(topic)
}

/// Settles every word that names an earlier holder of `slot`.
fn settle_slot(topic: &Store, slot: usize) -> Result<()> {
    let words = &topic.member()?.control;
    let names_slot = |word: u32| Owner::of_word(word).is_some_and(|owner| owner.slot() == slot);
    if names_slot(words.lock.word.load(Ordering::Acquire)) {
        // Taking the lock settles a dead owner's intent.
        drop(topic.lock_append()?);
    }
    let syncing = words.sync.owner.load(Ordering::Acquire);
    if names_slot(syncing) {
        words.sync.suspect_end.fetch_max(words.tail.end.load(Ordering::Acquire), Ordering::AcqRel);
        // Fails if a waiter was faster: then the word no longer names the slot.
        let freed =
            words.sync.owner.compare_exchange(syncing, 0, Ordering::AcqRel, Ordering::Relaxed);
        debug_assert!(freed.is_ok() || freed != Err(syncing));
    }
    Claim::settle(topic, words, |owner| owner.slot() == slot)?;
    crash_point!("open.slot-settled");
    Ok(())
}

/// Creates the directory of a topic, unless it exists.
fn make_directory(
    log: &LogInner,
    name: &str,
    wanted: Option<TopicOptions>,
) -> Result<Arc<dyn Directory>> {
    let dir = log.topic_dir(name);
    let topics = log.topics_for_writing()?;
    if !directory::exists(&**topics, &dir)? {
        log.check_not_replaced()?;
        // A topic that cannot be created leaves no directory.
        check_medium(log, &**topics, &dir, &wanted.unwrap_or_default().to_settings(0)?)?;
    }
    directory::make(&**topics, &dir)
}

/// Returns the settings, and the identity of the file that they are in.
fn read_settings(files: &dyn Directory) -> Result<(Settings, FileIdentity)> {
    let path = files.path().join(SETTINGS);
    let read = files
        .open(&path, sys::Access::Read)
        .and_then(|file| Ok((sys::read_start(&*file, settings::LEN)?, file.identity()?)));
    let (bytes, file) = read.at("reading", &path)?;
    let settings = Settings::decode(&bytes);
    Ok((settings.map_err(|error| Error::malformed(&path, 0, error))?, file))
}

/// Gives `slot`, whose byte is locked, to this process. From here on, words that name an earlier holder name
/// a dead one, and this process counts as alive before it takes the first lock. If it dies while it settles,
/// its successor has another generation.
fn introduce(words: &Words, slot: usize) -> u32 {
    let member = &words.members[slot];
    let generation = member.generation.load(Ordering::Relaxed).wrapping_add(1);
    member.pid.store(std::process::id(), Ordering::Relaxed);
    member.generation.store(generation, Ordering::Release);
    generation
}

/// Returns the stored settings, and whether they existed before.
fn read_or_create_settings(
    log: &LogInner,
    files: &dyn Directory,
    name: &str,
    wanted: Option<TopicOptions>,
) -> Result<(Settings, bool)> {
    let path = files.path().join(SETTINGS);
    match read_settings(files) {
        Err(error) if error.is_file_not_found() => {}
        other => return Ok((other?.0, true)),
    }
    if !list_bases(files, files.path())?.is_empty() {
        return Err(Error::Corrupt {
            path,
            position: 0,
            offset: None,
            what: format!("topic {name} has segments but its settings are missing"),
        });
    }
    let settings = wanted.unwrap_or_default().to_settings(sys::random())?;
    check_medium(log, files, files.path(), &settings)?;
    sys::create_durably(files, &path, &settings.encode(), sys::random()).at("creating", &path)?;
    crash_point!("create.settings");
    Ok((settings, false))
}

fn check_medium(
    log: &LogInner,
    files: &dyn Directory,
    dir: &Path,
    settings: &Settings,
) -> Result<Medium> {
    let medium = medium_of(files, &log.options)?;
    if medium == Medium::Memory
        && TopicOptions::of_settings(settings).durability != Durability::ProcessCrash
    {
        return Err(Error::Unsupported {
            path: dir.to_owned(),
            why: "this file system is in memory and is lost at a power loss, so it cannot keep \
                  PowerLoss: choose Durability::ProcessCrash, or a directory on a disk"
                .into(),
        });
    }
    Ok(medium)
}

/// Refuses a copy that was made of hard links. Its files are those of the copied log: records appended to one
/// would be in both, and each would miss the segments that the other starts.
fn check_links(files: &dyn Directory, lock_file: &dyn DiskFile) -> Result<()> {
    if !lock_file.has_other_names().at("counting the links of", &files.path().join(LOCK))? {
        return Ok(());
    }
    let why = "its file `lock` has more than one name: the topic was copied by hard links (cp -l, rsync \
               --link-dest), and a log's files are changed in place; make a copy without links (cp -r) \
               and remove the linked one, or open it read-only";
    Err(Error::Unsupported { path: files.path().to_owned(), why: why.into() })
}

fn open_control(files: &dyn Directory) -> Result<Control> {
    let path = files.path().join(CONTROL);
    let file = files.open(&path, sys::Access::OpenOrCreate).at("opening", &path)?;
    file.allocate(control::LEN as u64).at("opening", &path)?;
    file.fill_holes(control::LEN as u64).at("opening", &path)?;
    let map = file.map(control::LEN, true).at("opening", &path)?;
    sys::populate(&*file, &map, 0, control::LEN).at("opening", &path)?;
    Ok(Control::new(map))
}
