//! The workload of requests: clients that keep some outstanding, and servers that echo.

use std::fs::DirEntry;
use std::sync::mpsc::{self, Receiver};
use std::time::{Duration, Instant};

use deaddrop::service::{Client, ClientBuilder, Completed, Outcome, Reply, Request, ServerOptions};
use deaddrop::{Log, Record, Stop, Topic, TopicOptions};

use crate::case::{Case, KEPT_BYTES, LOOK};
use crate::error::{At, Error, Result};
use crate::measurement::Operation;

const NAME: &str = "echo";
/// The lanes of the service, so at most this many threads have work at a time: the default number.
pub const LANES: u32 = 64;
const CALLBACK: &str = "done";

/// The operation that a client's thread repeats: it runs until there is one more reply.
pub(crate) fn request(
    case: &Case,
    log: &Log,
    name: &str,
    record: Record,
    stop: Stop,
) -> Result<Operation> {
    let client = log.client(&format!("bench-{name}")).with_topic_options(topic_options(case)?);
    let outstanding = case.service.unwrap_or_default().outstanding;
    if outstanding == 1 {
        let client = client.open()?;
        return Ok(Box::new(move || call(&client, &record, &stop).map(|()| None)));
    }
    let mut sender = Sender::open(client, record)?;
    Ok(Box::new(move || sender.next(outstanding, &stop)))
}

fn call(client: &Client, record: &Record, stop: &Stop) -> Result<()> {
    let mut call = client.request(NAME, record)?.call()?;
    while !stop.is_stopped() {
        if let Some(done) = call.wait_timeout(LOOK)? {
            return check(&done);
        }
    }
    Ok(())
}

fn check(done: &Completed) -> Result<()> {
    match done.outcome() {
        Outcome::Reply(_) => Ok(()),
        other => Err(Error::Failed(format!("the echo service: {other:?}"))),
    }
}

/// The time from the sending of a request, which its context holds, to its callback.
fn took(done: &Completed, epoch: Instant) -> Result<Duration> {
    check(done)?;
    let sent_at = done.context().try_into().map(u64::from_le_bytes);
    let sent_at = sent_at.map_err(|_| Error::Failed("a context came back changed".into()))?;
    Ok(epoch.elapsed().saturating_sub(Duration::from_nanos(sent_at)))
}

/// A client with several requests outstanding.
struct Sender {
    client: Client,
    record: Record,
    epoch: Instant,
    /// Replies that callbacks have recorded and [`Sender::next`] has not returned.
    replies: Receiver<Result<Duration>>,
    /// Requests that were sent, minus replies that were returned.
    open: u32,
}

impl Sender {
    fn open(client: ClientBuilder, record: Record) -> Result<Sender> {
        let epoch = Instant::now();
        let (sender, replies) = mpsc::channel();
        let client = client.on(CALLBACK, move |done| Ok(sender.send(took(done, epoch))?)).open()?;
        Ok(Sender { client, record, epoch, replies, open: 0 })
    }

    /// Sends as many requests as may be outstanding, and waits for one reply; none if it has to stop.
    fn next(&mut self, outstanding: u32, stop: &Stop) -> Result<Option<Duration>> {
        while self.open < outstanding {
            let now = self.epoch.elapsed().as_nanos() as u64;
            let request = self.client.request(NAME, &self.record)?;
            request.with_context(now.to_le_bytes()).send(CALLBACK)?;
            self.open += 1;
        }
        while !stop.is_stopped() {
            if let Ok(took) = self.replies.try_recv() {
                self.open -= 1;
                return took.map(Some);
            }
            self.client.poll(LOOK)?;
        }
        Ok(None)
    }
}

/// Topics of a service keep all records that an open request may need, so they have no retention.
fn topic_options(case: &Case) -> Result<TopicOptions> {
    Ok(case.topic_options()?.with_retention(Default::default()))
}

/// Answers until it is stopped. `is_first`: whether this is the one server of the case that trims.
/// `ready` returns when all processes are to begin.
pub(crate) fn serve(
    case: &Case,
    log: &Log,
    is_first: bool,
    stop: &Stop,
    ready: impl FnOnce() -> Result<()>,
) -> Result<()> {
    let options = ServerOptions::default()
        .with_topic(topic_options(case)?)
        .with_lanes(LANES)
        .with_threads(case.service.unwrap_or_default().threads as usize);
    let echo = |request: &Request<'_>| Ok(Reply::new(request.payload()));
    let server = log.server_with(NAME, options, echo)?;
    let (requests, replies) = (format!("{NAME}.requests"), format!("{NAME}.replies"));
    let topics = [log.open_topic(&requests)?, log.open_topic(&replies)?];
    let running = server.spawn()?;
    ready()?;
    while !stop.is_stopped() && !running.has_ended() {
        for topic in topics.iter().filter(|_| is_first) {
            trim(topic)?;
        }
        std::thread::park_timeout(LOOK);
    }
    Ok(running.stop()?)
}

/// Drops the records that client and server no longer need, once they take more room than a bench may.
fn trim(topic: &Topic) -> Result<()> {
    let files = std::fs::read_dir(topic.dir());
    let files = files.at("listing", topic.dir())?;
    // A file that is removed meanwhile takes no room.
    let len = |file: DirEntry| file.metadata().map_or(0, |metadata| metadata.len());
    if files.filter_map(|file| file.ok()).map(len).sum::<u64>() <= KEPT_BYTES {
        return Ok(());
    }
    let mut floor = u64::MAX;
    for consumer in topic.consumers()? {
        floor = floor.min(consumer.committed?);
    }
    for (_, group) in topic.groups()? {
        floor = floor.min(group?.committed);
    }
    match topic.trim_before(floor.min(topic.high_watermark()?)) {
        // A later pass drops them.
        Ok(_) | Err(deaddrop::Error::TimedOut { .. }) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::case::{Service, Workload};

    #[test]
    fn a_sender_has_so_many_requests_outstanding_and_times_each_from_its_sending() {
        let dir = tempfile::tempdir().unwrap();
        let case = Case {
            workload: Workload::Request,
            durability: "process-crash".into(),
            size: 1,
            processes: 1,
            threads: 1,
            service: Some(Service { servers: 1, threads: 2, outstanding: 5 }),
        };
        let log = Log::open_or_create(dir.path()).unwrap();
        let client = log.client("c").with_topic_options(topic_options(&case).unwrap());
        let mut sender = Sender::open(client, Record::new("x")).unwrap();
        let sent = || log.open_topic("echo.requests").unwrap().high_watermark().unwrap();
        let (stop, stopped) = (Stop::new(), Stop::new());
        stopped.stop();
        for _ in 0..2 {
            assert_eq!(sender.next(5, &stopped).unwrap(), None, "no server answers");
            assert_eq!(sent(), 5);
        }
        let all_sent = Instant::now();
        std::thread::scope(|scope| {
            let (ready, is_ready) = mpsc::channel();
            let (case, log, stop) = (&case, &log, &stop);
            let server = scope.spawn(move || {
                serve(case, log, true, stop, || {
                    ready.send(()).unwrap();
                    Ok(())
                })
            });
            is_ready.recv().unwrap();
            let waited = all_sent.elapsed();
            let answered: Vec<_> =
                (0..5).map(|_| (sender.next(5, stop).map(Option::unwrap), sent())).collect();
            // This comes first: a failed assertion would wait for the server.
            stop.stop();
            server.join().unwrap().unwrap();
            assert!(answered[0].0.as_ref().unwrap() > &waited);
            let sent: Vec<u64> = answered.iter().map(|(_, sent)| *sent).collect();
            assert_eq!(sent, [5, 6, 7, 8, 9], "one more for each reply");
        });
    }
}
