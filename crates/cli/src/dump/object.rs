//! The fields of the small files of a log, as JSON.

use schemars::JsonSchema;
use serde::Serialize;

/// An object that the dump of a small file prints.
#[derive(Debug, JsonSchema, Serialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub(crate) enum Object {
    /// An index file.
    Index {
        /// Salt of its segment, in hexadecimal.
        salt: String,
        /// The offset after its segment.
        end: u64,
        /// Entries that follow.
        entries: usize,
    },
    /// An entry of an index file.
    Entry {
        /// Offset of a record.
        offset: u64,
        /// Its frame's first byte.
        position: u64,
        /// The newest time up to it: RFC 3339, UTC.
        max_timestamp: String,
    },
    /// A file of settings.
    Settings {
        /// power-loss, within, process-crash.
        durability: &'static str,
        /// The interval of within, in nanoseconds.
        interval_nanos: u64,
        /// Bytes of a segment file.
        segment_len: u64,
        /// The topic's id, in hexadecimal.
        topic_id: String,
        /// Unconsumed records are kept.
        retain_unconsumed: bool,
        /// Age that is kept, in nanoseconds; 0: any.
        retain_age_nanos: u64,
        /// Bytes that are kept; 0: any.
        retain_bytes: u64,
    },
    /// The marker file of a log.
    Marker {
        /// true.
        valid: bool,
    },
    /// An entry of a file of epochs.
    Epoch {
        /// A recovery that may have lost records.
        epoch: u32,
        /// Offset at which it began.
        start: u64,
    },
    /// A consumer's file.
    Consumer {
        #[serde(flatten)]
        words: Words,
    },
    /// A saved position in a consumer's or group's file.
    Slot {
        /// a or b.
        slot: &'static str,
        /// The larger one counts.
        sequence: u64,
        /// Its epoch.
        epoch: u32,
        /// The position.
        offset: u64,
        /// No position below it is taken.
        floor: u64,
        #[serde(flatten)]
        at: LanePage,
    },
    /// A saved position in a consumer's or group's file that does not exist.
    #[serde(rename = "slot")]
    Empty {
        /// a or b.
        slot: &'static str,
        /// null.
        sequence: (),
        #[serde(flatten)]
        at: LanePage,
    },
    /// Attempts at one record in a consumer's or group's file.
    Attempt {
        /// Offset of the record.
        offset: u64,
        /// Attempts.
        count: u64,
        /// The floor then.
        floor: u64,
        /// What the last attempt noted.
        note_base64: String,
        #[serde(flatten)]
        at: LanePage,
    },
    /// A group's file.
    Group {
        /// Its topic's id, in hexadecimal.
        topic_id: String,
        /// Lanes that follow.
        lanes: u32,
    },
    /// A lane in a group's file.
    Lane {
        #[serde(flatten)]
        words: Words,
        /// Its number.
        lane: u32,
        /// Its first byte in the file.
        position: usize,
    },
    /// A lane in a group's file that cannot be read.
    #[serde(rename = "lane")]
    Damaged {
        /// Its number.
        lane: u32,
        /// Its first byte in the file.
        position: usize,
        /// A description of the damage.
        damaged: String,
    },
    /// A control page; its words follow.
    Control {},
    /// A word of a control page.
    Word {
        /// Its first byte.
        position: usize,
        /// Its name.
        word: &'static str,
        /// Its value, or those of a pair of words.
        value: Value,
    },
    /// A process that has the topic open for writing, by its control page.
    Member {
        /// Its slot.
        slot: usize,
        /// How often the slot was taken.
        generation: u32,
        /// Its process id.
        pid: u32,
    },
}

/// The words of an offset file, or of a lane's page.
#[derive(Debug, JsonSchema, Serialize)]
pub(crate) struct Words {
    /// Its topic's id, in hexadecimal.
    pub(super) topic_id: String,
    /// Whether the words that follow are set.
    pub(super) live: bool,
    /// The position, as living processes share it.
    pub(super) offset: u64,
    /// Its epoch.
    pub(super) epoch: u64,
    /// No position below it is taken.
    pub(super) floor: u64,
    /// Process id of its owner.
    pub(super) pid: u64,
}

/// The place of a lane's page; empty in a consumer's file.
#[derive(Debug, Clone, Copy, Default, JsonSchema, Serialize)]
pub(crate) struct LanePage {
    /// In a group's file, its lane.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) lane: Option<u32>,
    /// The lane's first byte in the file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) position: Option<usize>,
}

/// A word, or a pair of them.
#[derive(Debug, JsonSchema, Serialize)]
#[serde(untagged)]
pub(crate) enum Value {
    Half(u32),
    One(u64),
    Pair([u64; 2]),
}
