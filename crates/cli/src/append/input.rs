//! The input of `append`: a thread of its own reads the records.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{sync_channel, Receiver, SyncSender};

use deaddrop::Record;
use serde_json::error::Category;

use crate::failure::{At, Exit, Failure};
use crate::record::{GivenRecord, Taking};

/// Records that were read together, or the reason why reading ended.
pub(crate) type Piece = Result<Vec<Record>, Failure>;

/// How the input is split into records.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Kind {
    /// At each byte of this value, which is not part of any record.
    Lines(u8),
    /// Each line is a JSON object.
    Json,
    /// It is not split.
    Whole,
}

/// The input to read.
#[derive(Debug)]
pub(crate) struct Input {
    pub(crate) kind: Kind,
    /// None: standard input.
    pub(crate) files: Vec<PathBuf>,
    /// Headers of all records.
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) taking: Taking,
}

/// Bytes asked for at once. A pipe gives what it has.
const READ_LEN: usize = 256 << 10;
/// Pieces read ahead.
const PIECES_AHEAD: usize = 8;
/// That of UTF-8.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";
/// The largest record that a log accepts.
const MAX_LEN: usize = deaddrop::format::frame::MAX_LEN;

impl Input {
    /// Reads on a thread that ends with the input, or when its channel is closed.
    pub(crate) fn spawn(self) -> Receiver<Piece> {
        let (sender, receiver) = sync_channel(PIECES_AHEAD);
        std::thread::spawn(move || {
            let stdin = [PathBuf::from("-")];
            let files = if self.files.is_empty() { &stdin[..] } else { &self.files };
            for path in files {
                if !self.read_file(path, &sender) {
                    break;
                }
            }
        });
        receiver
    }

    /// Returns false if reading has to end.
    fn read_file(&self, path: &Path, sender: &SyncSender<Piece>) -> bool {
        let read = if path == Path::new("-") {
            self.read(path, &mut io::stdin().lock(), sender)
        } else {
            match File::open(path) {
                Ok(mut file) => self.read(path, &mut file, sender),
                Err(error) => Err(Failure::io("opening", path, &error)),
            }
        };
        match read {
            Ok(wanted) => wanted,
            Err(failure) => {
                // A closed channel: the appending thread has ended with a failure of its own.
                drop(sender.send(Err(failure)));
                false
            }
        }
    }

    fn read(
        &self,
        path: &Path,
        from: &mut impl Read,
        sender: &SyncSender<Piece>,
    ) -> Result<bool, Failure> {
        let separator = match self.kind {
            Kind::Lines(separator) => separator,
            Kind::Json => b'\n',
            Kind::Whole => {
                let payload = read_whole(path, from)?;
                return Ok(sender.send(Ok(vec![self.record(&payload)])).is_ok());
            }
        };
        let mut buffer = vec![0; READ_LEN];
        // Bytes of an incomplete line, and how many of them are known to hold no separator.
        let mut filled = 0;
        let mut line = 1;
        loop {
            if filled == buffer.len() {
                if filled > MAX_LEN {
                    return Err(too_long(path));
                }
                buffer.resize(2 * filled, 0);
            }
            let read = match from.read(&mut buffer[filled..]) {
                Ok(read) => read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(Failure::io("reading", path, &error)),
            };
            let fresh = &buffer[filled..filled + read];
            let end = match fresh.iter().rposition(|&byte| byte == separator) {
                Some(last) => filled + last + 1,
                None if read == 0 => filled,
                None => 0,
            };
            filled += read;
            if end > 0 {
                let whole = &buffer[..end];
                let whole = whole.strip_suffix(&[separator]).unwrap_or(whole);
                if !self.send_lines(path, whole, separator, &mut line, sender)? {
                    return Ok(false);
                }
                buffer.copy_within(end..filled, 0);
                filled -= end;
            }
            if read == 0 {
                return Ok(true);
            }
        }
    }

    /// Sends the records of `lines`, including those before a bad one.
    fn send_lines(
        &self,
        path: &Path,
        lines: &[u8],
        separator: u8,
        line: &mut u64,
        sender: &SyncSender<Piece>,
    ) -> Result<bool, Failure> {
        let mut records = Vec::with_capacity(lines.len() / 64);
        for bytes in lines.split(|&byte| byte == separator) {
            match self.record_of_line(bytes) {
                Ok(record) => records.extend(record),
                Err(what) => {
                    if sender.send(Ok(records)).is_err() {
                        return Ok(false);
                    }
                    let place = format!("line {line} of {}", name(path));
                    return Err(Failure::usage(format_args!("{place} is not a record: {what}")));
                }
            }
            *line += 1;
        }
        Ok(sender.send(Ok(records)).is_ok())
    }

    fn record_of_line(&self, bytes: &[u8]) -> Result<Option<Record>, String> {
        if !matches!(self.kind, Kind::Json) {
            return Ok(Some(self.record(bytes)));
        }
        // Some systems put one at the start of a file.
        let bytes = bytes.strip_prefix(BYTE_ORDER_MARK).unwrap_or(bytes);
        if bytes.trim_ascii().is_empty() {
            return Ok(None);
        }
        let given: GivenRecord = serde_json::from_slice(bytes).map_err(|error| {
            let column = error.column();
            match error.classify() {
                Category::Eof => format!("its JSON is cut off at column {column}"),
                Category::Syntax => format!("it is not valid JSON at column {column}"),
                Category::Data | Category::Io => {
                    let text = error.to_string();
                    let place = format!(" at line {} column {column}", error.line());
                    format!("{} at column {column}", text.strip_suffix(&place).unwrap_or(&text))
                }
            }
        })?;
        Ok(Some(self.with_headers(given.into_record(&self.taking)?)))
    }

    fn record(&self, payload: &[u8]) -> Record {
        let record = Record::new(payload);
        self.with_headers(match &self.taking.key {
            Some(key) => record.with_key(key),
            None => record,
        })
    }

    fn with_headers(&self, record: Record) -> Record {
        self.headers.iter().fold(record, |record, (name, value)| record.with_header(name, value))
    }
}

fn read_whole(path: &Path, from: &mut impl Read) -> Result<Vec<u8>, Failure> {
    let mut payload = Vec::new();
    from.take(MAX_LEN as u64 + 1).read_to_end(&mut payload).at("reading", path)?;
    if payload.len() > MAX_LEN {
        return Err(too_long(path));
    }
    Ok(payload)
}

fn too_long(path: &Path) -> Failure {
    let what = format!("a record in {} is larger than {MAX_LEN} bytes", name(path));
    Failure::new(Exit::Usage, what).and("split it, or keep it in a file and append its name")
}

fn name(path: &Path) -> String {
    if path == Path::new("-") {
        "standard input".to_owned()
    } else {
        path.display().to_string()
    }
}
