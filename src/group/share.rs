//! The lanes that a worker owns: a fair share of them, by kernel locks.

use std::cmp::Reverse;
use std::time::{Duration, Instant};

use super::dispatch::{Dispatch, LOOK};
use super::lane::{Lane, Mode};
use super::stats::count;
use crate::error::{IoResultExt, Result};
use crate::events;
use crate::format::group::GUARD_LOCKS;

/// A lane that stays free this long may be taken by a worker that already has its share.
const PATIENCE: Duration = Duration::from_millis(60);
/// How often a worker that has its share looks for free lanes although no worker joined, left or released
/// any: a tool may have had a lane for a moment. Asking the kernel for each lane takes long if there are many.
const SCAN_INTERVAL: Duration = Duration::from_millis(250);

/// Returns how far a lane is from being this worker's own: 0 for every `members`-th lane. A worker takes
/// those first and releases them last. So records without a key, which go to one lane after another, also
/// go to one worker after another.
fn distance(lane: u32, members: u64, rank: u64) -> u64 {
    (u64::from(lane) + members - rank) % members
}

impl Dispatch {
    /// Takes free lanes up to the fair share, and releases those above it if another worker asks for lanes.
    /// Takes more than the share only of lanes that stay free: the workers whose turn it is may be stopped.
    pub(super) fn look(&mut self) -> Result<()> {
        let is_wanted = self.member.is_outdated();
        let total = u64::from(self.group.lanes);
        let (members, rank) = self.member.count()?;
        // Exact, so that no worker that has its share keeps another one from its own.
        let share = (total / members + u64::from(rank < total % members)) as usize;
        self.lanes.resume_stopped();
        if is_wanted && self.lanes.len() > share {
            return self.release_down_to(share, members, rank);
        }
        let seen = [self.member.changes_seen(), members, rank];
        let is_known =
            self.scanned.is_some_and(|(at, all)| all == seen && at.elapsed() < SCAN_INTERVAL);
        if is_known && self.lanes.len() >= share && self.free_since.is_none() {
            return Ok(());
        }
        self.scanned = Some((Instant::now(), seen));
        let is_patient = self.free_since.is_some_and(|since| since.elapsed() >= PATIENCE);
        let most = if is_patient { total as usize } else { share };
        let mut all: Vec<u32> = (0..self.group.lanes).collect();
        all.sort_by_key(|&lane| distance(lane, members, rank));
        let mut taken = Vec::new();
        let mut is_free_left = false;
        for lane in all {
            if self.lanes.get(lane).is_some() {
                continue;
            }
            if self.lanes.len() >= most {
                is_free_left = !self.group.is_held(lane)?;
                if is_free_left {
                    break;
                }
                continue;
            }
            match self.try_take(lane) {
                Ok(true) => taken.push(lane),
                Ok(false) => {}
                Err(error) => {
                    // The lanes taken before an error belong to this worker all the same.
                    self.settle_floors(&taken)?;
                    return Err(error);
                }
            }
        }
        if !taken.is_empty() {
            let suspects = taken.iter().filter(|&&lane| self.lanes.lane(lane).deaths > 0).count();
            let (topic, held) = (&self.topic.name, self.lanes.len());
            events::lanes_taken(topic, &self.name, taken.len(), held, suspects);
        }
        self.free_since = is_free_left.then(|| self.free_since.unwrap_or_else(Instant::now));
        let is_hungry = taken.is_empty() && self.lanes.len() < share;
        if is_hungry && self.wanted_at.elapsed() >= LOOK {
            self.wanted_at = Instant::now();
            self.member.want();
        }
        self.settle_floors(&taken)
    }

    fn release_down_to(&mut self, share: usize, members: u64, rank: u64) -> Result<()> {
        // First the lanes with nothing in flight: the work of the others would start again elsewhere.
        let order = |(number, lane): (u32, &Lane)| {
            (lane.mode != Mode::Joined, Reverse(distance(number, members, rank)), number)
        };
        let mut excess: Vec<_> = self.lanes.iter().map(order).collect();
        excess.sort_unstable();
        excess.truncate(self.lanes.len() - share);
        self.advance()?;
        for (.., lane) in excess {
            self.release(lane)?;
        }
        self.member.offer();
        Ok(())
    }

    /// Takes a lane if no worker owns it.
    fn try_take(&mut self, number: u32) -> Result<bool> {
        let (lane_at, guard_at) = (u64::from(number), GUARD_LOCKS + u64::from(number));
        let file = &self.group.file;
        if self.group.is_held(number)?
            || !file.try_lock(lane_at, 1).at("locking", &self.group.path)?
        {
            return Ok(false);
        }
        // The owner died, but a command that it started may still be running.
        let taken = match file.locked_by_other(guard_at, 1).at("locking", &self.group.path)? {
            true => None,
            false => Some(Lane::take(&self.topic, &self.book, number, self.meaning())),
        };
        let lane = match taken {
            Some(Ok(lane)) => lane,
            other => {
                file.unlock(lane_at, 1).at("locking", &self.group.path)?;
                return other.map_or(Ok(false), |taken| taken.map(|_| false));
            }
        };
        crate::sys::crash_point::crash_point!("lane.taken");
        count(&self.counters.lanes_taken, 1);
        count(&self.counters.suspects, (lane.deaths > 0 || lane.is_suspect()).into());
        let floor = lane.cursor.floor();
        self.taken_floor = Some(self.taken_floor.map_or(floor, |least| least.min(floor)));
        // Records that other lanes did not need may concern this one: its floor waits until they are read.
        self.effects_kept = self.effects_kept.min(floor);
        self.lanes.insert(number, lane);
        Ok(true)
    }

    /// After a power loss, lowers the floors of lanes just taken to the end of the topic that their effects
    /// are in, and makes the floors durable, before any record is added there.
    fn settle_floors(&mut self, taken: &[u32]) -> Result<()> {
        let Some(effects) = &self.effects else { return Ok(()) };
        let lost: Vec<u32> = taken
            .iter()
            .copied()
            .filter(|&lane| self.lanes.lane(lane).cursor.doubt() != 0)
            .collect();
        if lost.is_empty() {
            return Ok(());
        }
        let end = effects.settled_end()?;
        // Below the positions there are also replies of this boot, whose server died.
        effects.wait_durable_to(end)?;
        for lane in lost {
            let cursor = &self.lanes.lane(lane).cursor;
            cursor.set_floor(cursor.floor().min(end));
        }
        self.book.sync(&self.topic)
    }

    fn release(&mut self, number: u32) -> Result<()> {
        let Some(lane) = self.lanes.remove(number) else { return Ok(()) };
        count(&self.counters.lanes_released, 1);
        drop(lane);
        self.group.file.unlock(number.into(), 1).at("unlocking", &self.group.path)
    }
}
