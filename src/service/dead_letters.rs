//! The public `DeadLetters`, for operators: the state of each letter of a topic, sending a letter again,
//! and taking one off the list.
//!
//! Actions on a letter are recorded in a second topic, `NAME.marks`: a *mark* names the letter by offset
//! and id. There is no other state: if a process is killed between a mark and the
//! action that the mark announces, the next process completes the action.

use std::collections::HashMap;
use std::time::{Duration, SystemTime};

use super::redrive::{Begun, Redrive};
use super::{record_at, topic_if_there};
use crate::error::{Error, Result};
use crate::group::{for_each_letter, DeadLetter};
use crate::log::Log;
use crate::ownership::Ownership;
use crate::reader::Start;
use crate::record::{OwnedRecord, Record, RecordRef};
use crate::topic::{Retention, Topic, TopicOptions};

const MARK: &str = "dead-letter-mark";
const MARKED: &str = "dead-letter-marked";
const MARKED_OFFSET: &str = "dead-letter-marked-offset";
const SENT_AS: &str = "dead-letter-sent-as";
const SENT_FROM: &str = "dead-letter-sent-from";
const SENT_TO: &str = "dead-letter-sent-to";

/// The state of a dead letter.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum LetterState {
    /// Nothing was done with it yet.
    Open,
    /// A process began to send it again and did not finish; [`DeadLetters::redrive`] finishes it.
    Sending(Redriven),
    /// It was sent again.
    Redriven(Redriven),
    /// An operator took it off the list at this time.
    Dropped(SystemTime),
}

/// A dead letter that was sent again.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Redriven {
    /// The id of the new record; for a request its [`RequestId`](super::RequestId).
    pub id: String,
    /// The offset in the topic that it was sent to; `None` if that is not known.
    pub offset: Option<u64>,
    /// When it was sent, by the wall clock.
    pub at: SystemTime,
}

/// A topic of dead letters: of a service (`SERVICE.dead`) or of a worker group (`TOPIC.GROUP.dead`).
///
/// [`redrive`](Self::redrive) sends a letter again. The letter of a request becomes a **new request**, with
/// an id and an outcome of its own. It has the callback, context and conversation of the old request, and
/// the old request as its [cause](super::Completed::cause). Its client delivers that outcome, whether it
/// runs now or later; if the new request fails as well, it gets a dead letter of its own. The letter of
/// another record becomes a new record of its topic, which all groups and readers of the topic receive.
///
/// ```
/// # fn main() -> deaddrop::Result<()> {
/// # let dir = deaddrop::doc_dir();
/// # let log = deaddrop::Log::open_or_create(&dir)?;
/// use deaddrop::group::HandlerError;
/// use deaddrop::service::{DeadLetters, LetterState, Outcome, Reply, ServerOptions};
/// use deaddrop::Record;
/// use std::time::Duration;
/// let wait = Duration::from_secs(10);
/// let client = log.client("order-service").open()?;
/// let mut call = client.request("inventory", &Record::new("item 7"))?.call()?;
/// let options = ServerOptions::default().with_max_attempts(1);
/// let mut broken = log.server_with("inventory", options, |_| Err(HandlerError::retry("down")))?;
/// broken.poll(wait)?;
/// assert!(matches!(call.wait_timeout(wait)?.unwrap().outcome(), Outcome::DeadLettered(_)));
/// drop(broken);
///
/// let mut letters = DeadLetters::open(&log, "inventory.dead")?;
/// let sent = letters.redrive(0)?;
/// assert!(matches!(letters.state(0)?, LetterState::Redriven(_)));
///
/// let mut mended = log.server("inventory", |request| Ok(Reply::new(request.payload())))?;
/// mended.poll(wait)?;
/// client.poll(wait)?;
/// let mut call = client.attach(&sent.id.parse()?)?;
/// assert!(matches!(call.wait_timeout(wait)?.unwrap().outcome(), Outcome::Reply(_)));
/// # Ok(()) }
/// ```
#[derive(Debug)]
#[doc(alias("dlq", "redrive"))]
pub struct DeadLetters {
    pub(super) log: Log,
    pub(super) topic: Topic,
    /// `NAME.marks`, if it exists.
    book: Option<Topic>,
    /// By the letter's offset and id, because a topic of letters may have been deleted and created again.
    marks: HashMap<(u64, String), Mark>,
    read_to: u64,
    /// Whether part of the topic could not be read, so a mark may be missing.
    is_partial: bool,
}

/// A mark, as it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Mark {
    /// The letter is being sent as this, into a topic that ended there before.
    Sending {
        id: String,
        from: u64,
        at: u64,
    },
    Sent {
        id: String,
        offset: Option<u64>,
        at: u64,
    },
    Dropped {
        at: u64,
    },
}

impl DeadLetters {
    /// Opens the topic of this name. If the log is open read-only, no letter can be sent or dropped.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`], and as [`Log::topic`].
    pub fn open(log: &Log, topic: &str) -> Result<DeadLetters> {
        let topic = log.open_topic(topic)?;
        Ok(DeadLetters {
            log: log.clone(),
            topic,
            book: None,
            marks: HashMap::new(),
            read_to: 0,
            is_partial: false,
        })
    }

    /// Returns the topic: its records are the letters, which [`DeadLetter::of`] reads.
    pub fn topic(&self) -> &Topic {
        &self.topic
    }

    /// Returns the current state of the letter at `offset`.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] if there is no letter at `offset`, [`Error::Corrupt`], [`Error::Io`].
    pub fn state(&mut self, offset: u64) -> Result<LetterState> {
        let (letter, _) = self.letter(offset)?;
        self.state_of(offset, letter.id)
    }

    fn state_of(&mut self, offset: u64, id: String) -> Result<LetterState> {
        self.read_marks()?;
        let time = |nanos: u64| SystemTime::UNIX_EPOCH + Duration::from_nanos(nanos);
        Ok(match self.marks.get(&(offset, id)).cloned() {
            None => LetterState::Open,
            Some(Mark::Sending { id, at, .. }) => {
                LetterState::Sending(Redriven { id, offset: None, at: time(at) })
            }
            Some(Mark::Sent { id, offset, at }) => {
                LetterState::Redriven(Redriven { id, offset, at: time(at) })
            }
            Some(Mark::Dropped { at }) => LetterState::Dropped(time(at)),
        })
    }

    /// Sends the letter at `offset` again, once: if the process is killed in between, another call finishes
    /// the redrive that was begun. On return the new record is durable.
    ///
    /// The deadline of the new request is as long after now as the old one's was after its sending.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] if there is no dead letter, or it was sent again or dropped before: see
    /// [`redrive_again`](Self::redrive_again). [`Error::Locked`] while another process sends or drops a letter
    /// of this topic. [`Error::NotFound`] if the topic to send to does not exist, or if the letter had no
    /// room for a copy of the record and the record was trimmed. And as [`Topic::append`].
    pub fn redrive(&mut self, offset: u64) -> Result<Redriven> {
        self.redrive_with(offset, false)
    }

    /// Sends the letter at `offset` again, even if it was sent again or dropped before.
    ///
    /// # Errors
    ///
    /// As [`redrive`](Self::redrive).
    pub fn redrive_again(&mut self, offset: u64) -> Result<Redriven> {
        self.redrive_with(offset, true)
    }

    fn redrive_with(&mut self, offset: u64, again: bool) -> Result<Redriven> {
        let _owned = self.own()?;
        let (letter, kept) = self.letter(offset)?;
        self.read_marks()?;
        let id = letter.id.clone();
        let begun = match self.marks.get(&(offset, id.clone())) {
            Some(Mark::Sending { id, from, .. }) => Begun::Marked { id: id.clone(), from: *from },
            _ if again => Begun::No,
            None if self.is_partial => Begun::Perhaps,
            None => Begun::No,
            Some(Mark::Sent { id, .. }) => {
                return Err(self.refused(offset, &format!("was sent again as {id}")));
            }
            Some(Mark::Dropped { .. }) => return Err(self.refused(offset, "was dropped")),
        };
        Redrive { letters: self, offset, letter, kept }.run(begun)?;
        match self.state_of(offset, id)? {
            LetterState::Redriven(sent) => Ok(sent),
            other => Err(Error::Invalid {
                what: format!(
                    "the mark of dead letter {offset} cannot be read back ({other:?}): verify {}.marks",
                    self.topic.name()
                ),
            }),
        }
    }

    /// Takes the letter at `offset` off the list: only [`redrive_again`](Self::redrive_again) sends it again.
    /// Its record stays until the topic is trimmed.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] if there is no dead letter, [`Error::Locked`], and as [`Topic::append`].
    pub fn discard(&mut self, offset: u64) -> Result<()> {
        let _owned = self.own()?;
        let (letter, _) = self.letter(offset)?;
        if matches!(self.state_of(offset, letter.id.clone())?, LetterState::Dropped(_)) {
            return Ok(());
        }
        self.mark(offset, &letter, &Mark::Dropped { at: 0 })
    }

    /// Returns the offset of the letter of the record at `offset` of `topic`: the last one, if there are several.
    pub(super) fn find(&self, topic: &str, offset: u64) -> Result<Option<u64>> {
        let mut found = None;
        for_each_letter(&self.topic, 0, self.topic.high_watermark()?, |record| {
            let is_it = |letter: &DeadLetter| letter.topic == topic && letter.offset == offset;
            if DeadLetter::of(record).filter(is_it).is_some() {
                found = Some(record.offset());
            }
            false
        })?;
        Ok(found)
    }

    fn refused(&self, offset: u64, why: &str) -> Error {
        let topic = self.topic.name();
        Error::Invalid {
            what: format!(
                "dead letter {offset} of {topic} {why}: to send it once more, request that explicitly (again)"
            ),
        }
    }

    /// Takes the lock under which one process at a time sends and drops the letters of a topic.
    fn own(&self) -> Result<Ownership> {
        self.log.writable()?;
        Ownership::take(self.log.inner(), "redrives", self.topic.name())
    }

    fn letter(&self, offset: u64) -> Result<(DeadLetter, OwnedRecord)> {
        let topic = self.topic.name();
        let none = || Error::Invalid {
            what: format!("there is no dead letter at offset {offset} of {topic}"),
        };
        let record = record_at(&self.topic, offset)?.ok_or_else(none)?;
        let letter = DeadLetter::of(&record.as_ref()).ok_or_else(none)?;
        Ok((letter, record))
    }

    /// Appends a mark.
    pub(super) fn mark(&mut self, offset: u64, letter: &DeadLetter, mark: &Mark) -> Result<()> {
        let name = match mark {
            Mark::Sending { .. } => "sending",
            Mark::Sent { .. } => "sent",
            Mark::Dropped { .. } => "dropped",
        };
        let record = Record::default()
            .with_header(MARK, name)
            .with_header(MARKED, &letter.id)
            .with_header(MARKED_OFFSET, offset.to_string());
        let record = match mark {
            Mark::Sending { id, from, .. } => {
                record.with_header(SENT_AS, id).with_header(SENT_FROM, from.to_string())
            }
            Mark::Sent { id, offset: Some(offset), .. } => {
                record.with_header(SENT_AS, id).with_header(SENT_TO, offset.to_string())
            }
            Mark::Sent { id, .. } => record.with_header(SENT_AS, id),
            Mark::Dropped { .. } => record,
        };
        let book = match self.book()? {
            Some(book) => book,
            None => self.log.restore_topic(&self.book_name(), book_options(&self.topic))?,
        };
        let at = book.append(&record)?;
        book.wait_durable(at)
    }

    fn book_name(&self) -> String {
        format!("{}.marks", self.topic.name())
    }

    /// Returns the topic of marks, if any letter was marked.
    fn book(&mut self) -> Result<Option<Topic>> {
        if self.book.is_none() {
            self.book = topic_if_there(&self.log, &self.book_name())?;
        }
        Ok(self.book.clone())
    }

    fn read_marks(&mut self) -> Result<()> {
        let Some(book) = self.book()? else { return Ok(()) };
        let end = book.high_watermark()?;
        if self.read_to >= end {
            return Ok(());
        }
        let mut reader = book.reader(Start::First)?;
        if self.read_to > reader.offset() {
            reader.seek_to(self.read_to);
        }
        while reader.offset() < end {
            match reader.next() {
                Ok(Some(record)) => {
                    self.marks.extend(read_mark(&record));
                }
                Ok(None) => break,
                Err(Error::Corrupt { .. }) => {
                    reader.skip_damage()?;
                    self.is_partial = true;
                }
                Err(Error::Lost { .. }) => self.is_partial = true,
                Err(Error::Trimmed { first, .. }) => {
                    reader.seek_to(first);
                    self.is_partial = true;
                }
                Err(error) => return Err(error),
            }
        }
        self.read_to = end;
        Ok(())
    }
}

/// Returns the options of the topic of marks: marks are small and few, so segments have the smallest size.
fn book_options(letters: &Topic) -> TopicOptions {
    TopicOptions { segment_len: 64 << 10, retention: Retention::default(), ..*letters.options() }
}

/// Returns the letter that a record marks, by its offset and id, and the mark.
fn read_mark(record: &RecordRef<'_>) -> Option<((u64, String), Mark)> {
    let text = |name| record.header(name).and_then(|text| std::str::from_utf8(text).ok());
    let number = |name| text(name).and_then(|text| text.parse::<u64>().ok());
    let (id, at) = (|| Some(text(SENT_AS)?.to_owned()), record.timestamp_nanos());
    let mark = match text(MARK)? {
        "sending" => Mark::Sending { id: id()?, from: number(SENT_FROM)?, at },
        "sent" => Mark::Sent { id: id()?, offset: number(SENT_TO), at },
        "dropped" => Mark::Dropped { at },
        _ => return None,
    };
    Some(((number(MARKED_OFFSET)?, text(MARKED)?.to_owned()), mark))
}
