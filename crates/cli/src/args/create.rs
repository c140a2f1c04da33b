//! The arguments of `create`.

use std::time::Duration;

use super::new_topic::NewTopic;
use super::size;

/// Make a topic with settings of its own
///
/// Settings are stored with the topic and never change. Other commands, and programs, make the topics
/// that they append to with the defaults: power-loss, segments of 16 MiB, everything kept.
#[derive(Debug, clap::Args)]
pub(crate) struct Create {
    /// The topic
    pub(crate) topic: String,
    #[command(flatten)]
    pub(crate) new: NewTopic,
    /// Segments may go when their newest record is older, e.g. 7d
    #[arg(long, value_name = "DURATION", value_parser = super::time::parse_duration)]
    pub(crate) retain_age: Option<Duration>,
    /// The oldest segments may go while the sealed ones take more, e.g. 1GiB
    #[arg(long, value_name = "BYTES", value_parser = size::parse)]
    pub(crate) retain_bytes: Option<u64>,
    /// Nothing goes that a consumer or a group has not committed past; without the limits above,
    /// everything else goes
    #[arg(long)]
    pub(crate) retain_unconsumed: bool,
    /// Mode of the files of a new log: 600 is for its owner, 640 lets a group read, 660 lets it append.
    /// What is added later gets the mode of the file `deaddrop` in the log
    #[arg(long, value_name = "OCTAL", value_parser = parse_mode)]
    pub(crate) mode: Option<u32>,
}

fn parse_mode(text: &str) -> Result<u32, String> {
    match u32::from_str_radix(text, 8) {
        Ok(mode) if mode & !0o666 == 0 && mode & 0o600 == 0o600 => Ok(mode),
        _ => Err("three octal digits from 600 to 666, without 1, 3, 5, 7: 640, say".to_owned()),
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
