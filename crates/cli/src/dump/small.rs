//! The small files of a log, field by field.

use std::io::{Read, Write};
use std::path::Path;

use deaddrop::format::{cursor, epochs, group, index, marker, settings, Malformed, PAGE_LEN};
use serde_json::{json, Value};

use super::base64;
use crate::failure::{Exit, Failure};
use crate::output::Out;
use crate::units;

/// No small file is larger: a group has up to 4096 lanes of one page each.
const MAX_LEN: u64 = 17 << 20;

/// Prints a file whose kind its magic number or its name says; returns false if it is not a small file.
pub(super) fn dump(out: &mut Out, path: &Path) -> Result<bool, Failure> {
    let mut bytes = Vec::new();
    std::fs::File::open(path)
        .and_then(|file| file.take(MAX_LEN).read_to_end(&mut bytes))
        .map_err(|error| Failure::io("reading", path, &error))?;
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let magic: Option<[u8; 8]> = bytes.get(..8).and_then(|magic| magic.try_into().ok());
    let decoded = match (magic, name.as_str()) {
        (Some(index::MAGIC), _) => index_entries(&bytes),
        (Some(settings::MAGIC), _) => settings_fields(&bytes),
        (Some(cursor::MAGIC), _) => cursor_fields(&bytes),
        (Some(group::MAGIC), _) => group_fields(&bytes),
        (Some(marker::MAGIC), _) => {
            marker::decode(&bytes).map(|()| vec![json!({ "kind": "marker", "valid": true })])
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
        damaged |= object["damaged"].is_string();
        if out.is_json() {
            out.object(&object)?;
            continue;
        }
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

fn text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => "-".to_owned(),
        other => other.to_string(),
    }
}

fn index_entries(bytes: &[u8]) -> Result<Vec<Value>, Malformed> {
    let (salt, end, entries) = index::decode(bytes)?;
    let head = json!({
        "kind": "index", "salt": format!("{salt:016x}"), "end": end, "entries": entries.len(),
    });
    let entries = entries.iter().map(|entry| {
        json!({
            "kind": "entry", "offset": entry.offset, "position": entry.position,
            "max_timestamp": units::time(entry.max_timestamp),
        })
    });
    Ok([head].into_iter().chain(entries).collect())
}

fn settings_fields(bytes: &[u8]) -> Result<Vec<Value>, Malformed> {
    let stored = settings::Settings::decode(bytes)?;
    let durability = match stored.durability {
        settings::POWER_LOSS => "power-loss",
        settings::POWER_LOSS_WITHIN => "within",
        _ => "process-crash",
    };
    Ok(vec![json!({
        "kind": "settings", "durability": durability, "interval_nanos": stored.interval,
        "segment_len": stored.segment_len, "topic_id": format!("{:016x}", stored.topic_id),
        "retain_unconsumed": stored.retain_unconsumed, "retain_age_nanos": stored.retain_age,
        "retain_bytes": stored.retain_bytes,
    })])
}

fn epoch_entries(bytes: &[u8]) -> Vec<Value> {
    let entries = epochs::decode(bytes);
    let entry = |entry: &epochs::Entry| json!({ "kind": "epoch", "epoch": entry.epoch, "start": entry.start });
    entries.iter().map(entry).collect()
}

/// A group: its lanes, each a page laid out as an offset file.
fn group_fields(bytes: &[u8]) -> Result<Vec<Value>, Malformed> {
    let (topic_id, lanes) = group::decode_header(bytes, bytes.len() as u64)?;
    let mut objects = vec![json!({
        "kind": "group", "topic_id": format!("{topic_id:016x}"), "lanes": lanes,
    })];
    for lane in 0..lanes {
        let at = group::lane_at(lane);
        let page = &bytes[at..at + PAGE_LEN];
        match cursor_fields(page) {
            Ok(fields) => objects.extend(fields.into_iter().map(|mut object| {
                if object["kind"] == "consumer" {
                    object["kind"] = json!("lane");
                }
                object["lane"] = json!(lane);
                object["position"] = json!(at);
                object
            })),
            Err(what) => objects.push(json!({
                "kind": "lane", "lane": lane, "position": at, "damaged": what.to_string(),
            })),
        }
    }
    Ok(objects)
}

/// The words of a control page, as of this moment. They are valid only on the boot and for the file that they
/// name.
fn control_fields(bytes: &[u8]) -> Result<Vec<Value>, Malformed> {
    if !bytes.starts_with(&deaddrop::CONTROL_MAGIC) {
        return Err(Malformed::Magic);
    }
    let needed = deaddrop::CONTROL_MEMBERS_AT;
    if bytes.len() < needed {
        return Err(Malformed::Short { needed, found: bytes.len() });
    }
    let half = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"));
    let word = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"));
    let mut objects = vec![json!({ "kind": "control" })];
    for (name, at, len) in deaddrop::control_words() {
        let value = match len {
            4 => json!(half(at)),
            8 => json!(word(at)),
            _ => json!([word(at), word(at + 8)]),
        };
        objects.push(json!({ "kind": "word", "position": at, "word": name, "value": value }));
    }
    for (slot, member) in bytes[needed..].chunks_exact(8).enumerate() {
        let at = needed + 8 * slot;
        if member.iter().any(|&byte| byte != 0) {
            objects.push(json!({
                "kind": "member", "slot": slot, "generation": half(at), "pid": half(at + 4),
            }));
        }
    }
    Ok(objects)
}

fn cursor_fields(bytes: &[u8]) -> Result<Vec<Value>, Malformed> {
    let topic_id = cursor::decode_header(bytes)?;
    let word = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"));
    let mut objects = vec![json!({
        "kind": "consumer", "topic_id": format!("{topic_id:016x}"),
        "live": word(cursor::LIVE_READY_AT) == 1, "offset": word(cursor::LIVE_OFFSET_AT),
        "epoch": word(cursor::LIVE_EPOCH_AT), "floor": word(cursor::LIVE_FLOOR_AT),
        "pid": word(cursor::LIVE_PID_AT),
    })];
    for (name, at) in [("a", cursor::SLOT_A_AT), ("b", cursor::SLOT_B_AT)] {
        let slot = bytes.get(at..).and_then(cursor::Saved::decode);
        objects.push(match slot {
            Some(saved) => json!({
                "kind": "slot", "slot": name, "sequence": saved.sequence, "epoch": saved.epoch,
                "offset": saved.offset, "floor": saved.floor,
            }),
            None => json!({ "kind": "slot", "slot": name, "sequence": null }),
        });
    }
    if let Some(offset) = word(cursor::ATTEMPT_AT).checked_sub(1) {
        let len = word(cursor::ATTEMPT_NOTE_LEN_AT).min(cursor::MAX_NOTE_LEN as u64) as usize;
        let note = &bytes[cursor::ATTEMPT_NOTE_AT..][..len];
        objects.push(json!({
            "kind": "attempt", "offset": offset, "count": word(cursor::ATTEMPT_COUNT_AT),
            "floor": word(cursor::ATTEMPT_FLOOR_AT), "note_base64": base64(note),
        }));
    }
    Ok(objects)
}
