//! The positions of consumers and groups, as stored in their files: they keep records from being trimmed.
//!
//! Each position has a page, laid out as in [`format::cursor`](crate::format::cursor). A consumer's file is
//! one page; a group's file has a page for each lane.

use std::path::Path;

use super::{names_in, Store};
use crate::control::are_of;
use crate::error::{Error, IoResultExt, Result};
use crate::format::{cursor, group, Malformed, PAGE_LEN};
use crate::sys::atomic::Ordering;
use crate::sys::{self, Access, DiskFile, FileIdentity, Map};

/// The name of the directory of the offset files, one for each consumer.
pub(crate) const CONSUMERS: &str = "consumers";
/// The name of the directory of the group files.
pub(crate) const GROUPS: &str = "groups";

/// Whether the live words of the page at `base` were written on this boot, to this file.
pub(crate) fn is_live_trusted(
    store: &Store,
    map: &Map,
    base: usize,
    identity: FileIdentity,
) -> bool {
    let word = |at: usize| map.word(base + at);
    let boot_at = cursor::LIVE_BOOT_AT;
    let words = [boot_at, boot_at + 8, cursor::LIVE_DEV_AT, cursor::LIVE_INO_AT].map(word);
    are_of(word(cursor::LIVE_READY_AT), words, store.log.boot, identity)
}

/// Returns the slots of the page at `base`, read before as `bytes`, of which a power loss leaves one.
pub(crate) fn durable_slots<'a>(
    map: &Map,
    base: usize,
    bytes: &'a [u8],
    is_live: bool,
) -> impl Iterator<Item = cursor::Saved> + 'a {
    let known = || map.word(base + cursor::LIVE_SLOT_AT).load(Ordering::Acquire);
    cursor::durable_slots(bytes, is_live.then(known))
}

/// Returns the smallest durable position of all consumers and lanes; `None` if there are none. An unreadable
/// file or page keeps everything. The consumers of these names are left out.
pub(super) fn durable_floor(topic: &Store, without: &[String]) -> Result<Option<u64>> {
    let mut floor: Option<u64> = None;
    for kind in [CONSUMERS, GROUPS] {
        let dir = topic.dir.join(kind);
        for name in names_in(&*topic.files, &dir)? {
            if kind == CONSUMERS && without.contains(&name) {
                continue;
            }
            let path = dir.join(name);
            let file = topic.files.open(&path, Access::Read).not_found_is_none();
            let Some(file) = file.at("reading", &path)? else { continue };
            let least = match pages_of(topic, kind, &path, &*file)? {
                Some((first, len)) => {
                    let map = file.map(len, false).at("reading", &path)?;
                    let identity = file.identity().at("reading", &path)?;
                    least_durable(topic, &path, &map, first, identity)?
                }
                None => 0,
            };
            floor = Some(floor.map_or(least, |floor| floor.min(least)));
        }
    }
    Ok(floor)
}

/// Returns where a file's pages begin and end; `None` if the file is unreadable or belongs to another topic.
fn pages_of(
    topic: &Store,
    kind: &str,
    path: &Path,
    file: &dyn DiskFile,
) -> Result<Option<(usize, usize)>> {
    let len = file.len().at("reading", path)?;
    if kind == CONSUMERS {
        return Ok((len >= cursor::LEN as u64).then_some((0, cursor::LEN)));
    }
    let header = sys::read_start(file, PAGE_LEN).at("reading", path)?;
    let header = unless_newer(path, 0, group::decode_header(&header, len))?;
    let lanes = header.filter(|(topic_id, _)| *topic_id == topic.settings.topic_id);
    Ok(lanes.map(|(_, lanes)| (group::lane_at(0), group::file_len(lanes))))
}

/// Returns the smallest durable position of the pages from `first` on.
fn least_durable(
    topic: &Store,
    path: &Path,
    map: &Map,
    first: usize,
    identity: FileIdentity,
) -> Result<u64> {
    let mut least = u64::MAX;
    for base in (first..map.len()).step_by(PAGE_LEN) {
        let mut bytes = vec![0; PAGE_LEN];
        map.read(base, &mut bytes);
        let topic_id = unless_newer(path, base as u64, cursor::decode_header(&bytes))?;
        let is_ours = topic_id == Some(topic.settings.topic_id);
        let is_live = is_live_trusted(topic, map, base, identity);
        let durable = durable_slots(map, base, &bytes, is_live).filter(|_| is_ours);
        let durable = durable.map(|slot| topic.epochs.clamp(slot.epoch, slot.offset));
        least = least.min(durable.min().unwrap_or(0));
    }
    Ok(least)
}

/// Returns `None` if the bytes are damaged, and an error if another version wrote them.
fn unless_newer<T>(
    path: &Path,
    position: u64,
    decoded: std::result::Result<T, Malformed>,
) -> Result<Option<T>> {
    match decoded {
        Err(version @ Malformed::Version { .. }) => Err(Error::malformed(path, position, version)),
        other => Ok(other.ok()),
    }
}
