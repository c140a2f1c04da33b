//! A lane's guard: keeps the lane from other workers while a child process works on it.

use std::process::Command;

use super::file::GroupFile;
use crate::error::{IoResultExt, Result};
use crate::format::group::GUARD_LOCKS;
use crate::sys::{Directory, InheritableLock};

/// Keeps a lane's records from other workers while any process has it open, even after its worker was
/// killed. A handler that leaves its work to a child process passes it to the child. Otherwise another
/// worker would start the same record while the child of a killed worker is still working on it.
///
/// Dropping it, or the command that it was passed to, ends this process's part. The child's part ends with
/// the child, and with every process that the child has passed its descriptors to. It does not
/// hinder the worker that owns the lane.
///
/// ```
/// # fn main() -> deaddrop::Result<()> {
/// # let dir = deaddrop::doc_dir();
/// # let log = deaddrop::Log::open_or_create(&dir)?;
/// # use deaddrop::{group::{GroupOptions, WorkerOptions}, Record};
/// # use std::{process::Command, time::Duration};
/// let orders = log.topic("orders")?;
/// orders.append(&Record::new("item 7"))?;
/// let group = orders.group("shipping", GroupOptions::default())?;
/// let mut worker = group.worker(WorkerOptions::default(), |job| {
///     let mut command = Command::new("true");
///     job.lane_guard()?.pass_to(&mut command);
///     command.status()?;
///     Ok(())
/// })?;
/// assert_eq!(worker.poll(Duration::from_secs(10))?, 1);
/// # Ok(()) }
/// ```
#[derive(Debug)]
#[must_use = "dropping it releases the lane: pass it to the child process"]
pub struct LaneGuard {
    lock: InheritableLock,
}

impl LaneGuard {
    pub(super) fn take(files: &dyn Directory, group: &GroupFile, lane: u32) -> Result<LaneGuard> {
        let lock = files
            .inheritable_lock(&group.path, GUARD_LOCKS + u64::from(lane))
            .at("locking", &group.path)?;
        Ok(LaneGuard { lock })
    }

    /// Makes the children of this command inherit it. Children that are started meanwhile in other ways
    /// do not inherit it.
    pub fn pass_to(self, command: &mut Command) {
        self.lock.pass_to(command);
    }
}
