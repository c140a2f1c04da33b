//! Checks the small files of a topic.

use std::path::Path;

use deaddrop::format::{cursor, epochs, group, segment as layout, settings};
use deaddrop::{Error, Topic};

use super::segment::{said_of_cut, whole_records};
use super::Check;
use crate::failure::Failure;
use crate::frames::Frames;

fn read(path: &Path) -> Result<Option<Vec<u8>>, Failure> {
    match std::fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Failure::io("reading", path, &error)),
    }
}

/// The settings, checked.
pub(super) fn settings(
    check: &mut Check,
    dir: &Path,
) -> Result<Option<settings::Settings>, Failure> {
    let path = dir.join("settings");
    let Some(bytes) = read(&path)? else { return Ok(None) };
    match settings::Settings::decode(&bytes) {
        Ok(settings) => Ok(Some(settings)),
        // Opening the topic has said so already.
        Err(_) if !check.damages.is_empty() => Ok(None),
        Err(what) => {
            check.damage(&path, 0, 0..0, what.to_string());
            Ok(None)
        }
    }
}

/// Segment files that recoveries have set aside: the whole records in them.
pub(super) fn cut(check: &mut Check, dir: &Path) -> Result<(), Failure> {
    for path in files_in(dir)? {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let Some((segment, _)) = name.split_once(".cut-") else { continue };
        if layout::parse_file_name(segment).is_none() {
            continue;
        }
        let mut frames = match Frames::open(&path) {
            Ok(frames) => frames,
            // Its retention ended meanwhile.
            Err(_) if !path.exists() => continue,
            Err(failure) => return Err(failure),
        };
        let count = whole_records(&mut frames, 0)?;
        if count > 0 {
            check.cut += count;
            check.note(&path, said_of_cut(count, ""));
        }
    }
    Ok(())
}

/// The list of recoveries. A last entry whose write was cut off never counted.
pub(super) fn epochs(check: &mut Check, dir: &Path) -> Result<(), Failure> {
    let path = dir.join("epochs");
    let Some(bytes) = read(&path)? else { return Ok(()) };
    let used = bytes.iter().rposition(|&byte| byte != 0).map_or(0, |last| last + 1);
    let mut newest = 0;
    for (index, bytes) in bytes[..used].chunks(epochs::ENTRY_LEN).enumerate() {
        let position = (index * epochs::ENTRY_LEN) as u64;
        let is_last = position + epochs::ENTRY_LEN as u64 >= used as u64;
        match epochs::decode(bytes).first() {
            Some(entry) if entry.epoch <= newest => {
                let what = format!("epoch {} follows epoch {newest}", entry.epoch);
                check.damage(&path, position, 0..0, what);
            }
            Some(entry) => newest = entry.epoch,
            None if is_last => {}
            None => check.damage(&path, position, 0..0, "an entry is unreadable"),
        }
    }
    Ok(())
}

/// The offset files.
pub(super) fn consumers(
    check: &mut Check,
    dir: &Path,
    topic: Option<&Topic>,
) -> Result<(), Failure> {
    let Some(topic) = topic else { return without_topic(check, dir) };
    let end = topic.high_watermark()?;
    for consumer in topic.consumers()? {
        let path = dir.join("consumers").join(&consumer.name);
        match consumer.committed {
            // The consumer may have gone on since the end was read.
            Ok(committed) if committed > end.max(topic.high_watermark()?) && topic.is_live() => {
                let what = format!("committed {committed}, but the topic ends at {end}");
                check.damage(&path, cursor::LIVE_OFFSET_AT as u64, 0..0, what);
            }
            Ok(_) => {}
            Err(Error::Corrupt { path, position, what, .. }) => {
                check.damage(&path, position, 0..0, what);
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// The files of the groups.
pub(super) fn groups(check: &mut Check, dir: &Path) -> Result<(), Failure> {
    for path in files_in(&dir.join("groups"))? {
        let Some(bytes) = read(&path)? else { continue };
        if let Err((position, what)) = group::check(&bytes) {
            check.damage(&path, position as u64, 0..0, what.to_string());
        }
    }
    Ok(())
}

/// The files in a directory that is there or not, but for those being made.
fn files_in(dir: &Path) -> Result<Vec<std::path::PathBuf>, Failure> {
    let entries = match std::fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(Failure::io("listing", dir, &error)),
    };
    let mut files = Vec::new();
    for entry in entries {
        let path = entry.map_err(|error| Failure::io("listing", dir, &error))?.path();
        if path.is_file() && path.extension().is_none_or(|extension| extension != "tmp") {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

/// The offset files of a topic that does not open.
fn without_topic(check: &mut Check, dir: &Path) -> Result<(), Failure> {
    for path in files_in(&dir.join("consumers"))? {
        let Some(bytes) = read(&path)? else { continue };
        match cursor::decode_header(&bytes) {
            Err(what) => check.damage(&path, 0, 0..0, what.to_string()),
            Ok(_) if cursor::newest_slot(&bytes).is_none() => {
                check.damage(&path, cursor::SLOT_A_AT as u64, 0..0, "no valid slot");
            }
            Ok(_) => {}
        }
    }
    Ok(())
}
