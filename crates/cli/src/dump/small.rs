//! The small files of a log, field by field.

use std::io::{Read, Write};
use std::path::Path;

use deaddrop::format::{cursor, epochs, group, index, marker, settings, Malformed, PAGE_LEN};

use super::base64;
use super::object::{LanePage, Object, Value, Words};
use crate::failure::{At, Exit, Failure};
use crate::output::Out;
use crate::units;

/// No small file is larger: a group has up to 4096 lanes of one page each.
const MAX_LEN: u64 = 17 << 20;

/// Prints a file whose kind its magic number or its name says; returns false if it is not a small file.
pub(super) fn dump(out: &mut Out, path: &Path) -> Result<bool, Failure> {
    let mut bytes = Vec::new();
    std::fs::File::open(path)
        .and_then(|file| file.take(MAX_LEN).read_to_end(&mut bytes))
        .at("reading", path)?;
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let magic: Option<[u8; 8]> = bytes.get(..8).and_then(|magic| magic.try_into().ok());
    let decoded = match (magic, name.as_str()) {
        (Some(index::MAGIC), _) => index_entries(&bytes),
        (Some(settings::MAGIC), _) => settings_fields(&bytes),
        (Some(cursor::MAGIC), _) => cursor_fields(&bytes),
        (Some(group::MAGIC), _) => group_fields(&bytes),
        (Some(marker::MAGIC), _) => {
            marker::decode(&bytes).map(|()| vec![Object::Marker { valid: true }])
        }
        (_, "epochs") => Ok(epoch_entries(&bytes)),
        (_, name) if name.ends_with(".idx") => index_entries(&bytes),
        (_, "settings") => settings_fields(&bytes),
        (_, "control") => control_fields(&bytes),
        _ => return Ok(false),
    };
    let objects = decoded.map_err(|what| match what {
        Malformed::Version { .. } => {
            let what = format!("{}: {what}: use the release that wrote it", path.display());
            Failure::new(Exit::Io, what)
        }
        _ => Failure::new(Exit::Corruption, format_args!("{} is damaged: {what}", path.display())),
    })?;
    let mut damaged = false;
    for object in objects {
        damaged |= matches!(object, Object::Damaged { .. });
        if out.is_json() {
            out.object(&object)?;
            continue;
        }
        let object = serde_json::to_value(object).unwrap_or_default();
        let fields = object.as_object().into_iter().flatten();
        let line: Vec<String> =
            fields.map(|(name, value)| format!("{name} {}", text(value))).collect();
        writeln!(out, "{}", line.join("  "))?;
    }
    if damaged {
        out.flush()?;
        let what = format!("{} is damaged in part", path.display());
        return Err(Failure::new(Exit::Corruption, what));
    }
    Ok(true)
}

fn text(value: &serde_json::Value) -> String {
    match value {
        serde_json::Value::String(text) => text.clone(),
        serde_json::Value::Null => "-".to_owned(),
        other => other.to_string(),
    }
}

fn index_entries(bytes: &[u8]) -> Result<Vec<Object>, Malformed> {
    let (salt, end, entries) = index::decode(bytes)?;
    let head = Object::Index { salt: format!("{salt:016x}"), end, entries: entries.len() };
    let entries = entries.iter().map(|entry| Object::Entry {
        offset: entry.offset,
        position: entry.position,
        max_timestamp: units::time(entry.max_timestamp),
    });
    Ok([head].into_iter().chain(entries).collect())
}

fn settings_fields(bytes: &[u8]) -> Result<Vec<Object>, Malformed> {
    let stored = settings::Settings::decode(bytes)?;
    let durability = match stored.durability {
        settings::POWER_LOSS => "power-loss",
        settings::POWER_LOSS_WITHIN => "within",
        _ => "process-crash",
    };
    Ok(vec![Object::Settings {
        durability,
        interval_nanos: stored.interval,
        segment_len: stored.segment_len,
        topic_id: format!("{:016x}", stored.topic_id),
        retain_unconsumed: stored.retain_unconsumed,
        retain_age_nanos: stored.retain_age,
        retain_bytes: stored.retain_bytes,
    }])
}

fn epoch_entries(bytes: &[u8]) -> Vec<Object> {
    let entries = epochs::decode(bytes);
    let entry = |entry: &epochs::Entry| Object::Epoch { epoch: entry.epoch, start: entry.start };
    entries.iter().map(entry).collect()
}

/// A group: its lanes, each a page laid out as an offset file.
fn group_fields(bytes: &[u8]) -> Result<Vec<Object>, Malformed> {
    let (topic_id, lanes) = group::decode_header(bytes, bytes.len() as u64)?;
    let mut objects = vec![Object::Group { topic_id: format!("{topic_id:016x}"), lanes }];
    for lane in 0..lanes {
        let position = group::lane_at(lane);
        let page = &bytes[position..position + PAGE_LEN];
        match words(page) {
            Ok(words) => {
                objects.push(Object::Lane { words, lane, position });
                saved(page, LanePage { lane: Some(lane), position: Some(position) }, &mut objects);
            }
            Err(what) => {
                objects.push(Object::Damaged { lane, position, damaged: what.to_string() });
            }
        }
    }
    Ok(objects)
}

/// The words of a control page, as of this moment. They are valid only on the boot and for the file that they
/// name.
fn control_fields(bytes: &[u8]) -> Result<Vec<Object>, Malformed> {
    if !bytes.starts_with(&deaddrop::CONTROL_MAGIC) {
        return Err(Malformed::Magic);
    }
    let needed = deaddrop::CONTROL_MEMBERS_AT;
    if bytes.len() < needed {
        return Err(Malformed::Short { needed, found: bytes.len() });
    }
    let half = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"));
    let mut objects = vec![Object::Control {}];
    for (word, position, len) in deaddrop::control_words() {
        let value = match len {
            4 => Value::Half(half(position)),
            8 => Value::One(word_at(bytes, position)),
            _ => Value::Pair([word_at(bytes, position), word_at(bytes, position + 8)]),
        };
        objects.push(Object::Word { position, word, value });
    }
    for (slot, member) in bytes[needed..].chunks_exact(8).enumerate() {
        let at = needed + 8 * slot;
        if member.iter().any(|&byte| byte != 0) {
            objects.push(Object::Member { slot, generation: half(at), pid: half(at + 4) });
        }
    }
    Ok(objects)
}

fn word_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

fn cursor_fields(bytes: &[u8]) -> Result<Vec<Object>, Malformed> {
    let mut objects = vec![Object::Consumer { words: words(bytes)? }];
    saved(bytes, LanePage::default(), &mut objects);
    Ok(objects)
}

fn words(bytes: &[u8]) -> Result<Words, Malformed> {
    let topic_id = cursor::decode_header(bytes)?;
    Ok(Words {
        topic_id: format!("{topic_id:016x}"),
        live: word_at(bytes, cursor::LIVE_READY_AT) == 1,
        offset: word_at(bytes, cursor::LIVE_OFFSET_AT),
        epoch: word_at(bytes, cursor::LIVE_EPOCH_AT),
        floor: word_at(bytes, cursor::LIVE_FLOOR_AT),
        pid: word_at(bytes, cursor::LIVE_PID_AT),
    })
}

/// Adds the saved positions of an offset file or a lane's page, and the attempts.
fn saved(bytes: &[u8], at: LanePage, objects: &mut Vec<Object>) {
    for (slot, slot_at) in [("a", cursor::SLOT_A_AT), ("b", cursor::SLOT_B_AT)] {
        objects.push(match bytes.get(slot_at..).and_then(cursor::Saved::decode) {
            Some(cursor::Saved { sequence, epoch, offset, floor, .. }) => {
                Object::Slot { slot, sequence, epoch, offset, floor, at }
            }
            None => Object::Empty { slot, sequence: (), at },
        });
    }
    if let Some(offset) = word_at(bytes, cursor::ATTEMPT_AT).checked_sub(1) {
        let len = word_at(bytes, cursor::ATTEMPT_NOTE_LEN_AT).min(cursor::MAX_NOTE_LEN as u64);
        let note = &bytes[cursor::ATTEMPT_NOTE_AT..][..len as usize];
        objects.push(Object::Attempt {
            offset,
            count: word_at(bytes, cursor::ATTEMPT_COUNT_AT),
            floor: word_at(bytes, cursor::ATTEMPT_FLOOR_AT),
            note_base64: base64(note),
            at,
        });
    }
}
