//! `create`: creates a topic with its own settings.

use std::fs::Permissions;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use deaddrop::{Error, Log, LogOptions, Retention, TopicOptions};
use schemars::JsonSchema;
use serde::Serialize;

use crate::args::create::Create;
use crate::failure::{note, At, Exit, Failure};
use crate::missing::{say_recovery, Recovered};
use crate::output::Out;
use crate::{units, Global};

/// The topic.
#[derive(Debug, JsonSchema, Serialize)]
pub(crate) struct Created<'a> {
    /// Its name.
    topic: &'a str,
    /// Whether it was created; if not, it already existed with these settings.
    created: bool,
    /// power-loss, process-crash, within:INTERVAL.
    durability: String,
    /// Bytes of a segment file.
    segment_size: u64,
    /// Which records are kept.
    retention: String,
    /// What opening the topic cut off or set aside, if it did.
    recovery: Option<Recovered>,
}

impl Create {
    pub(crate) fn run(&self, global: &Global, out: &mut Out) -> Result<Exit, Failure> {
        let log = self.open_log(global.dir())?;
        // Kept open: opening it again reports what this opening found.
        let held = match log.open_topic(&self.topic) {
            Ok(topic) => Some(topic),
            Err(Error::NotFound { .. }) => None,
            Err(error) => return Err(error.into()),
        };
        let exit = held.as_ref().map_or(Exit::Ok, say_recovery);
        let (is_new, mut base) = match &held {
            Some(topic) => (false, *topic.options()),
            None => (true, TopicOptions::default()),
        };
        let retention = Retention::default()
            .with_age(self.retain_age)
            .with_bytes(self.retain_bytes)
            .with_consumed(self.retain_unconsumed);
        if retention != Retention::default() {
            base.retention = retention;
        }
        let topic = match log.topic_with(&self.topic, self.new.over(base)) {
            Err(Error::Conflict { .. }) => {
                return Err(Failure::usage(format_args!(
                    "topic {} already exists with other settings ({}); settings cannot be changed: choose \
                     another name",
                    self.topic,
                    describe(log.open_topic(&self.topic)?.options())
                )))
            }
            other => other?,
        };
        let options = topic.options();
        if out.is_json() {
            out.object(&Created {
                topic: &self.topic,
                created: is_new,
                durability: units::durability(options.durability),
                segment_size: options.segment_len,
                retention: units::retention(options.retention),
                recovery: held.as_ref().and_then(Recovered::of),
            })?;
            return Ok(exit);
        }
        let done = if is_new { "created" } else { "exists already" };
        writeln!(out, "{} {done}: {}", self.topic, describe(options))?;
        if let Some(bytes) = options.retention.bytes.filter(|&bytes| bytes < options.segment_len) {
            note(format_args!(
                "{} to retain is less than a segment ({}), and only whole segments are dropped: \
                 the newest two always stay; choose a smaller --segment-size to keep less",
                units::size(bytes),
                units::size(options.segment_len)
            ));
        }
        Ok(exit)
    }
}

impl Create {
    fn open_log(&self, dir: &Path) -> Result<Log, Failure> {
        let Some(mode) = self.mode else { return Ok(Log::open_or_create(dir)?) };
        if let Ok(log) = Log::open_read_only(dir) {
            return Err(Failure::usage(format_args!(
                "--mode is for a new log, and {} exists already: chmod -R changes the mode of its \
                 files, and of those created later",
                log.dir().display()
            )));
        }
        let is_there = dir.is_dir();
        let log = Log::open_or_create_with(dir, LogOptions::default().with_mode(mode))?;
        // Applied whatever the umask is: files created later get the mode of the marker.
        let search = mode | (mode & 0o444) >> 2;
        let made = [("deaddrop", mode), ("topics", search), ("", search)];
        for (name, mode) in made.iter().take(if is_there { 2 } else { 3 }) {
            let path = dir.join(name);
            std::fs::set_permissions(&path, Permissions::from_mode(*mode))
                .at("setting the mode of", &path)?;
        }
        drop(log);
        Ok(Log::open_or_create(dir)?)
    }
}

fn describe(options: &TopicOptions) -> String {
    format!(
        "{}, segments of {}, kept: {}",
        units::durability(options.durability),
        units::size(options.segment_len),
        units::retention(options.retention)
    )
}
