//! The arguments of `append`.

use std::path::PathBuf;

use super::new_topic::NewTopic;

/// Append records: each line of the files, or of standard input, is one record
///
/// An acknowledged record survives what the topic's durability promises; with the default, power-loss, it
/// is on the disk. The log and the topic are created if they do not exist.
#[derive(Debug, clap::Args)]
pub(crate) struct Append {
    /// The topic
    pub(crate) topic: String,
    /// Files to append, one record each
    #[arg(long, value_name = "PATH", num_args = 1.., conflicts_with_all = ["files", "null", "ndjson"])]
    pub(crate) file: Vec<PathBuf>,
    /// Files to read instead of standard input; - is standard input
    pub(crate) files: Vec<PathBuf>,
    /// Expect records to end with a NUL byte instead of a newline
    #[arg(short = '0', long, conflicts_with_all = ["whole", "ndjson"])]
    pub(crate) null: bool,
    /// Append each file, or all of standard input, as one record
    #[arg(long, conflicts_with = "ndjson")]
    pub(crate) whole: bool,
    /// Read each line as a JSON object with "payload" or "payload_base64", and optionally "key" and
    /// "headers", as `cat --json` and `export` print them
    #[arg(long)]
    pub(crate) ndjson: bool,
    /// Give the records this key
    #[arg(short, long)]
    pub(crate) key: Option<String>,
    /// Add a header to the records; may be repeated
    #[arg(short = 'H', long = "header", value_name = "NAME=VALUE", value_parser = parse_header)]
    pub(crate) headers: Vec<(String, String)>,
    /// Print the offset of each record as soon as it is acknowledged
    #[arg(long)]
    pub(crate) ack: bool,
    /// Print nothing at the end
    #[arg(short, long)]
    pub(crate) quiet: bool,
    #[command(flatten)]
    pub(crate) new: NewTopic,
}

pub(crate) fn parse_header(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("write NAME=VALUE")?;
    check_header_name(name)?;
    Ok((name.to_owned(), value.to_owned()))
}

/// A name that is empty or contains a line break is a mistake.
pub(crate) fn check_header_name(name: &str) -> Result<(), String> {
    if name.is_empty() {
        return Err("a header's name is empty".to_owned());
    }
    if name.contains(char::is_control) {
        return Err(format!("a header's name has a control character: {name:?}"));
    }
    Ok(())
}
