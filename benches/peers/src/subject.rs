//! What a subject has to do to be measured.

use std::path::Path;

use serde::{Deserialize, Serialize};

/// What a record survives as soon as the call that appended it returns.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Promise {
    /// Another process can read it.
    pub(crate) is_visible: bool,
    /// It survives `kill -9`.
    pub(crate) survives_kill: bool,
    /// It survives a power loss.
    pub(crate) survives_power_loss: bool,
}

impl Promise {
    pub(crate) const NOTHING: Promise =
        Promise { is_visible: false, survives_kill: false, survives_power_loss: false };
    /// For its own process only.
    pub(crate) const KILL: Promise = Promise { survives_kill: true, ..Promise::NOTHING };
    /// For its own process only.
    pub(crate) const POWER: Promise = Promise { survives_power_loss: true, ..Promise::KILL };
    pub(crate) const VISIBLE: Promise = Promise { is_visible: true, ..Promise::KILL };
    pub(crate) const ALL: Promise = Promise { is_visible: true, ..Promise::POWER };

    /// For a table.
    pub(crate) fn text(self) -> String {
        let parts = [
            (self.is_visible, "visible"),
            (self.survives_kill, "kill -9"),
            (self.survives_power_loss, "power loss"),
        ];
        let kept: Vec<&str> = parts.iter().filter(|(is, _)| *is).map(|(_, name)| *name).collect();
        if kept.is_empty() {
            "nothing".to_owned()
        } else {
            kept.join(", ")
        }
    }
}

/// What a subject does for a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Work {
    /// Appends, in the cheapest mode that acknowledges records.
    Append,
    /// Appends that return after the record is on the disk.
    Durable,
    /// Reads what another process has written.
    Read,
    /// Opens after the last process was killed.
    Reopen,
}

/// A log, or something bare that is measured beside logs.
pub(crate) trait Subject: Sync {
    /// The name in tables. Names that begin with `bare` are not logs.
    fn name(&self) -> &'static str;

    /// How it is used.
    fn usage(&self) -> &'static str;

    /// What a record survives, or why the subject does not take part. [`Work::Read`] and
    /// [`Work::Reopen`] use the mode of [`Work::Append`] where there is one.
    fn promise(&self, work: Work) -> Result<Promise, &'static str>;

    /// Opens the log in `dir`, creating it if it does not exist, and returns a writer for each of
    /// `threads`. `syncs` chooses between [`Work::Durable`] and [`Work::Append`].
    fn open(&self, dir: &Path, syncs: bool, threads: usize) -> Vec<Box<dyn Writer>>;

    /// Opens the log of processes that were killed, as [`open`](Subject::open) does for one thread.
    fn reopen(&self, dir: &Path, syncs: bool) -> Box<dyn Writer> {
        self.open(dir, syncs, 1).remove(0)
    }

    /// Opens the log for reading. The function that is returned calls its argument with every record.
    fn reader(&self, _dir: &Path) -> Box<dyn FnMut(Each<'_>)> {
        unreachable!("a subject that does not take part in reading")
    }

    /// Whether reading checks a checksum of each record.
    fn verifies(&self) -> bool {
        true
    }
}

/// Takes a record that was read.
pub(crate) type Each<'a> = &'a mut dyn FnMut(&[u8]);

/// Appends, for one thread.
pub(crate) trait Writer: Send {
    fn append(&mut self, record: &[u8]);

    fn append_batch(&mut self, records: &[&[u8]]) {
        records.iter().for_each(|record| self.append(record));
    }

    /// Returns when the log's files have all records: at once, unless the log promises nothing before.
    fn finish(&mut self) {}
}
