//! The arguments of `append`.

use std::path::PathBuf;

use super::new_topic::NewTopic;

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

pub(crate) fn parse_header(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("write NAME=VALUE")?;
    check_header_name(name)?;
    Ok((name.to_owned(), value.to_owned()))
}

/// A name that is empty or breaks a line is an oversight.
pub(crate) fn check_header_name(name: &str) -> Result<(), String> {
    if name.is_empty() {
        return Err("a header's name is empty".to_owned());
    }
    if name.contains(char::is_control) {
        return Err(format!("a header's name has a control character: {name:?}"));
    }
    Ok(())
}
