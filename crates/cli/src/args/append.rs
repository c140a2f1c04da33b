//! The arguments of `append`.

use std::path::PathBuf;

use super::durability::Durability;
use super::size;

/// Append records: each line of the files, or of standard input, is one
///
/// What is acknowledged survives what the topic's durability says: the default, power-loss, is on
/// the disk. The log and the topic are made if there are none.
#[derive(Debug, clap::Args)]
pub(crate) struct Append {
    /// The topic
    pub(crate) topic: String,
    /// Files to append, one record each
    #[arg(long, value_name = "PATH", num_args = 1.., conflicts_with_all = ["files", "null", "ndjson"])]
    pub(crate) file: Vec<PathBuf>,
    /// Files to read instead of standard input; - is standard input
    pub(crate) files: Vec<PathBuf>,
    /// Records end with a NUL byte instead of a newline
    #[arg(short = '0', long, conflicts_with_all = ["whole", "ndjson"])]
    pub(crate) null: bool,
    /// Each file, or all of standard input, is one record
    #[arg(long, conflicts_with = "ndjson")]
    pub(crate) whole: bool,
    /// Each line is a JSON object with "payload" or "payload_base64", and "key", "headers" if wanted:
    /// what `cat --json` and `export` print
    #[arg(long)]
    pub(crate) ndjson: bool,
    /// The key of the records
    #[arg(short, long)]
    pub(crate) key: Option<String>,
    /// A header of the records; may be repeated
    #[arg(short = 'H', long = "header", value_name = "NAME=VALUE", value_parser = parse_header)]
    pub(crate) headers: Vec<(String, String)>,
    /// Print the offset of each record the moment it is acknowledged
    #[arg(long)]
    pub(crate) ack: bool,
    /// Say nothing at the end
    #[arg(short, long)]
    pub(crate) quiet: bool,
    #[command(flatten)]
    pub(crate) new: NewTopic,
}

/// What a topic is made with, if it is new.
#[derive(Debug, clap::Args)]
pub(crate) struct NewTopic {
    /// What acknowledged records of a new topic survive: power-loss, process-crash, within:500ms
    #[arg(long)]
    pub(crate) durability: Option<Durability>,
    /// Bytes of the segment files of a new topic, e.g. 16MiB
    #[arg(long, value_name = "BYTES", value_parser = size::parse)]
    pub(crate) segment_size: Option<u64>,
}

pub(crate) fn parse_header(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("write NAME=VALUE")?;
    Ok((name.to_owned(), value.to_owned()))
}
