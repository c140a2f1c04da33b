//! The arguments of `create`.

use std::time::Duration;

use super::new_topic::NewTopic;
use super::size;

/// Create a topic with its own settings
///
/// Settings are stored with the topic and never change. Other commands, and programs, create the topics
/// that they append to with the defaults: power-loss, segments of 16 MiB, all records kept.
#[derive(Debug, clap::Args)]
pub(crate) struct Create {
    /// The topic
    pub(crate) topic: String,
    #[command(flatten)]
    pub(crate) new: NewTopic,
    /// Allow a segment to be dropped when its newest record is older than this, e.g. 7d
    #[arg(long, value_name = "DURATION", value_parser = super::time::parse_duration)]
    pub(crate) retain_age: Option<Duration>,
    /// Allow the oldest segments to be dropped while the sealed ones take more than this, e.g. 1GiB
    #[arg(long, value_name = "BYTES", value_parser = size::parse)]
    pub(crate) retain_bytes: Option<u64>,
    /// Keep each record that a consumer or a group has not committed past; without the limits above, drop
    /// all others
    #[arg(long)]
    pub(crate) retain_unconsumed: bool,
    /// Give the files of a new log this mode: with 600 only the owner has access, with 640 a group can
    /// read, with 660 it can append. Files created later get the mode of the file `deaddrop` in the log
    #[arg(long, value_name = "OCTAL", value_parser = parse_mode)]
    pub(crate) mode: Option<u32>,
}

fn parse_mode(text: &str) -> Result<u32, String> {
    match u32::from_str_radix(text, 8) {
        Ok(mode) if mode & !0o666 == 0 && mode & 0o600 == 0o600 => Ok(mode),
        _ => Err("three octal digits from 600 to 666, without 1, 3, 5, 7, such as 640".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::parse_mode;

    #[test]
    fn a_mode_lets_its_owner_read_and_write_and_nobody_execute() {
        assert_eq!(parse_mode("640"), Ok(0o640));
        assert_eq!(parse_mode("0666"), Ok(0o666));
        for bad in ["", "400", "755", "8", "1640", "-1"] {
            assert!(parse_mode(bad).is_err(), "{bad:?}");
        }
    }
}
