//! Recovery: how a topic is opened after a crash or a reboot. Collects the facts, and does what the tables of
//! [`recovery`] decide.

mod aside;
mod copy;
mod end;
mod rebuild;
mod resume;
mod scan;

use super::directory::CONTROL;
use super::{dropped, remove_if_there, Store, CONSUMERS, GROUPS};
use crate::control::Words;
use crate::error::{Error, IoResultExt, Result};
use crate::events;
use crate::recovery::{self, Opening, OpeningFacts};
use crate::segment::bases_among;
use crate::store::prepared::Claim;
use crate::sys::atomic::Ordering;
use crate::sys::crash_point::crash_point;
use crate::sys::{self, FileIdentity};

pub(super) use end::find_end;
pub(crate) use scan::check_settings;
use scan::possible_end;

/// The recovery of a topic by a process that holds the gate.
pub(super) struct Recovery<'a> {
    topic: &'a Store,
    words: &'a Words,
}

impl Recovery<'_> {
    /// Collects the facts and does what the table says. `alone`: no other process is a member. `existed`: the
    /// topic was not created by this opening.
    pub(super) fn run(topic: &Store, alone: bool, existed: bool) -> Result<()> {
        let words = &*topic.member()?.control;
        let recovery = Recovery { topic, words };
        // Read before the directory: see `Segments::refresh`.
        let active = words.tail.place().active;
        // Read once: a large log has many names.
        let names = topic.files.list(&topic.dir).at("listing", &topic.dir)?;
        let mut bases = bases_among(&names);
        if !alone {
            bases.retain(|&base| base <= active);
        }
        topic.segments.set_bases(&bases);
        let words_trusted = words.identity.is_of(topic.log.boot, recovery.identity()?);
        let latched = words.identity.latched.load(Ordering::Acquire) != 0;
        let facts = OpeningFacts {
            alone,
            words_trusted,
            latched,
            has_segments: !bases.is_empty(),
            overtaken: alone && words_trusted && !latched && recovery.is_overtaken(&bases)?,
        };
        let plan = recovery::opening(facts);
        if !matches!(plan, Opening::Attach | Opening::Refuse) {
            check_settings(&*topic.files, &bases, topic.settings.topic_id)?;
            // From here on no process trusts the words until all of them are true again.
            words.identity.ready.store(0, Ordering::Release);
            crash_point!("open.unready");
            recovery.remove_leftovers(words_trusted, &names)?;
            // Before a segment with one of their names could be set aside.
            dropped::remove_in_turns(topic, dropped::leftovers(topic, names)?);
        }
        match plan {
            Opening::Attach => {}
            Opening::Refuse => {
                return Err(Error::Corrupt {
                    path: topic.dir.join(CONTROL),
                    position: 0,
                    offset: None,
                    what: "the control file does not belong to the processes that use the topic: \
                           close the topic in all of them, and the next open rebuilds it"
                        .into(),
                })
            }
            Opening::Create => recovery.create_first_segment(words_trusted, existed)?,
            Opening::Resume => recovery.resume()?,
            Opening::ScanFromWords => {
                let boundary = words.durable.end.load(Ordering::Acquire);
                recovery.rebuild(Some(possible_end(topic, &bases, boundary)))?;
            }
            Opening::ScanFromDisk => recovery.rebuild(None)?,
        }
        topic.epochs.load()?;
        if let Some(report) = topic.recovery.get() {
            events::recovered(&topic.name, report);
        }
        if plan != Opening::Attach {
            recovery.make_words_trusted()?;
        }
        Ok(())
    }

    /// Returns the identity of the control file that has its name now.
    fn identity(&self) -> Result<FileIdentity> {
        let path = self.topic.dir.join(CONTROL);
        let file = self.topic.files.open(&path, sys::Access::Read);
        file.and_then(|file| file.identity()).at("identifying", &path)
    }

    /// The last step of every recovery.
    fn make_words_trusted(&self) -> Result<()> {
        let (topic, identity) = (self.topic, &self.words.identity);
        identity.stamp(topic.log.boot, self.identity()?, topic.files.mount());
        crash_point!("open.before-ready");
        identity.ready.store(1, Ordering::Release);
        Ok(())
    }

    /// Removes files that are not part of the log: those of dead rollers and of preparers that did not
    /// finish, and temporary ones. No other process is a member.
    fn remove_leftovers(&self, words_trusted: bool, names: &[String]) -> Result<()> {
        let topic = self.topic;
        if words_trusted {
            Claim::settle(topic, self.words, |_| true)?;
        } else {
            for word in &self.words.prepared.words {
                word.store(0, Ordering::Release);
            }
        }
        let kept: Vec<String> =
            Claim::all(self.words).into_iter().filter_map(Claim::file_name).collect();
        for name in names {
            if name.ends_with(".tmp") && !kept.contains(name) {
                remove_if_there(&*topic.files, &topic.dir.join(name))?;
            }
        }
        if !words_trusted {
            // Once per boot: they are few, and small.
            self.remove_unfinished(CONSUMERS)?;
            self.remove_unfinished(GROUPS)?;
        }
        Ok(())
    }

    /// Removes unfinished files from a directory of the topic, left by processes that died while they made
    /// them.
    fn remove_unfinished(&self, within: &str) -> Result<()> {
        let topic = self.topic;
        let dir = topic.dir.join(within);
        let names = topic.files.list(&dir).not_found_is_none().at("listing", &dir)?;
        for name in names.unwrap_or_default().iter().filter(|name| name.ends_with(".tmp")) {
            remove_if_there(&*topic.files, &dir.join(name))?;
        }
        Ok(())
    }
}
