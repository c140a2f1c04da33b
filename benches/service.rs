//! A service with many outstanding requests and several servers, beside a socket with the same number;
//! and how much a group's workers read for what they handle, beside a bare tail read.

#![allow(clippy::unwrap_used)]

mod support;

use std::cell::RefCell;
use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use deaddrop::group::{GroupOptions, WorkerOptions};
use deaddrop::service::{Client, Reply};
use deaddrop::{Durability, Log, Record, Start};
use hdrhistogram::Histogram;
use support::child::{self, Role};
use support::{options, payload, Run};

const SIZE: usize = 64;
const PATIENCE: Duration = Duration::from_secs(10);
const OUTSTANDING: [usize; 3] = [1, 8, 64];

fn main() {
    if let Some((role, args)) = child::role() {
        let path = Path::new(&args[0]);
        return match role.as_str() {
            "service" => serve(path),
            "socket" => echo_socket(path),
            other => panic!("no role {other}"),
        };
    }
    let mut run = Run::new();
    run.table(
        "Requests of one client, by servers (processes) and requests outstanding",
        &["durability", "servers", "outstanding", "a second", "p50 us", "p99 us"],
    );
    for durability in [Durability::ProcessCrash, Durability::PowerLoss] {
        if run.wants(&format!("service/{durability:?}")) {
            compare(&mut run, durability);
        }
    }
    run.table(
        "Records of 64 bytes that a group handles and reads, by workers (threads)",
        &["lanes", "workers", "handled a second", "read / handled", "time / bare tail read"],
    );
    for (lanes, workers) in [(1, 1), (64, 1), (64, 2), (64, 4), (64, 8), (1024, 4)] {
        if run.wants(&format!("group/{lanes}-{workers}")) {
            amplification(&mut run, lanes, workers);
        }
    }
    run.finish();
}

type Times = Rc<RefCell<Histogram<u64>>>;

/// One way to get requests answered: a call sends `count`, with this many outstanding.
struct Contender {
    servers: String,
    outstanding: usize,
    work: Box<dyn FnMut(u64)>,
    times: Times,
    taken: Duration,
    count: u64,
    _peers: Rc<Vec<Role>>,
}

fn compare(run: &mut Run, durability: Durability) {
    let mut all = Vec::new();
    for servers in [1, 4] {
        let dir = run.path(&format!("{durability:?}-{servers}"));
        let client = make_service(&dir, durability);
        let start = |_| Role::start("service", &[dir.to_str().expect("UTF-8")]);
        let mut peers: Vec<Role> = (0..servers).map(start).collect();
        peers.iter_mut().for_each(|peer| assert_eq!(peer.hear(), "ready"));
        let peers = Rc::new(peers);
        for outstanding in OUTSTANDING {
            let times = Times::new(RefCell::new(Histogram::new(3).expect("three digits")));
            all.push(Contender {
                servers: servers.to_string(),
                outstanding,
                work: client.work(outstanding, &times),
                times,
                taken: Duration::ZERO,
                count: 0,
                _peers: Rc::clone(&peers),
            });
        }
    }
    if durability == Durability::ProcessCrash {
        let path = run.path("echo");
        let mut peer = Role::start("socket", &[path.to_str().expect("UTF-8")]);
        assert_eq!(peer.hear(), "ready");
        let peers = Rc::new(vec![peer]);
        let stream = Rc::new(RefCell::new(UnixStream::connect(&path).unwrap()));
        for outstanding in OUTSTANDING {
            let times = Times::new(RefCell::new(Histogram::new(3).expect("three digits")));
            all.push(Contender {
                servers: "socket echo".into(),
                outstanding,
                work: socket_work(&stream, outstanding, &times),
                times,
                taken: Duration::ZERO,
                count: 0,
                _peers: Rc::clone(&peers),
            });
        }
    }
    let count = match durability {
        Durability::ProcessCrash => run.choose(2_000, 8),
        _ => run.choose(300, 8),
    };
    for round in 0..run.choose(8, 2) {
        for contender in &mut all {
            if round == 1 {
                contender.times.borrow_mut().reset();
            }
            let begun = Instant::now();
            (contender.work)(count);
            if round > 0 {
                contender.taken += begun.elapsed();
                contender.count += count;
            }
        }
    }
    for contender in &all {
        let times = contender.times.borrow();
        let at = |part| format!("{:.1}", times.value_at_quantile(part) as f64 / 1e3);
        run.row(&[
            format!("{durability:?}"),
            contender.servers.clone(),
            contender.outstanding.to_string(),
            format!("{:.0}", contender.count as f64 / contender.taken.as_secs_f64()),
            at(0.5),
            at(0.99),
        ]);
    }
}

/// A client of a service, which records how long each request took.
#[derive(Clone)]
struct Asker {
    client: Client,
    begun: Instant,
    done: Arc<Mutex<Vec<u64>>>,
}

fn make_service(dir: &Path, durability: Durability) -> Asker {
    let log = Log::open_or_create(dir).unwrap();
    for name in ["echo.requests", "echo.replies"] {
        log.topic_with(name, options(durability, 16 << 20)).unwrap();
    }
    let begun = Instant::now();
    let done = Arc::<Mutex<Vec<u64>>>::default();
    let noted = Arc::clone(&done);
    let client = log
        .client("asker")
        .on("done", move |done| {
            let sent = u64::from_le_bytes(done.context().try_into().expect("8 bytes"));
            noted.lock().unwrap().push(begun.elapsed().as_nanos() as u64 - sent);
            Ok(())
        })
        .open()
        .unwrap();
    Asker { client, begun, done }
}

impl Asker {
    fn work(&self, outstanding: usize, times: &Times) -> Box<dyn FnMut(u64)> {
        let (asker, times) = (self.clone(), Rc::clone(times));
        let record = Record::new(payload(SIZE));
        let mut key = 0u64;
        Box::new(move |count| {
            let (mut sent, mut answered) = (0, 0);
            while answered < count {
                while sent < count && sent - answered < outstanding as u64 {
                    let now = asker.begun.elapsed().as_nanos() as u64;
                    let request = asker.client.request("echo", &record).unwrap();
                    key += 1;
                    let request =
                        request.with_key(key.to_le_bytes()).with_context(now.to_le_bytes());
                    request.send("done").unwrap();
                    sent += 1;
                }
                assert_ne!(asker.client.poll(PATIENCE).unwrap(), 0, "no reply");
                for nanos in asker.done.lock().unwrap().drain(..) {
                    times.borrow_mut().record(nanos).expect("below the histogram's limit");
                    answered += 1;
                }
            }
        })
    }
}

/// Role: serves with one thread until it is killed.
fn serve(dir: &Path) {
    let log = Log::open_or_create(dir).unwrap();
    let server = log.server("echo", |request| Ok(Reply::new(request.payload()))).unwrap();
    let running = server.spawn().unwrap();
    child::say("ready");
    child::hear();
    running.stop().unwrap();
}

fn socket_work(
    stream: &Rc<RefCell<UnixStream>>,
    outstanding: usize,
    times: &Times,
) -> Box<dyn FnMut(u64)> {
    let (stream, times) = (Rc::clone(stream), Rc::clone(times));
    Box::new(move |count| {
        let mut stream = stream.borrow_mut();
        let mut bytes = payload(SIZE);
        let mut sent_at = std::collections::VecDeque::new();
        let (mut sent, mut answered) = (0, 0);
        while answered < count {
            while sent < count && sent - answered < outstanding as u64 {
                sent_at.push_back(Instant::now());
                stream.write_all(&bytes).unwrap();
                sent += 1;
            }
            stream.read_exact(&mut bytes).unwrap();
            let nanos = sent_at.pop_front().expect("as many as answers").elapsed().as_nanos();
            times.borrow_mut().record(nanos as u64).expect("below the histogram's limit");
            answered += 1;
        }
    })
}

/// Role: echoes what it receives, message by message.
fn echo_socket(path: &Path) {
    let listener = UnixListener::bind(path).unwrap();
    child::say("ready");
    let (mut stream, _) = listener.accept().unwrap();
    let mut bytes = vec![0; SIZE];
    while stream.read_exact(&mut bytes).is_ok() {
        stream.write_all(&bytes).unwrap();
    }
}

fn amplification(run: &mut Run, lanes: u32, workers: usize) {
    let count: u64 = run.choose(200_000, 200);
    let dir = run.path(&format!("group-{lanes}-{workers}"));
    let log = Log::open_or_create(&dir).unwrap();
    let topic = log.topic_with("t", options(Durability::ProcessCrash, 64 << 20)).unwrap();
    let batch: Vec<Record> = (0..100u64)
        .map(|number| Record::new(payload(SIZE)).with_key((number * 7919).to_le_bytes()))
        .collect();
    for _ in 0..count / 100 {
        topic.append_batch(&batch).unwrap();
    }
    let mut reader = topic.reader(Start::First).unwrap();
    let mut read_bare = || {
        reader.seek(Start::First).unwrap();
        support::timed(|| while reader.next().unwrap().is_some() {})
    };
    read_bare();
    let mut ratios = Vec::new();
    let mut rates = Vec::new();
    let mut amplifications = Vec::new();
    for round in 0..run.choose(5, 1) {
        let bare = read_bare();
        let name = format!("g{round}");
        let options = GroupOptions::default().with_lanes(lanes).with_start(Start::First);
        let group = topic.group(&name, options).unwrap();
        let handled = Arc::new(AtomicU64::new(0));
        let begun = Instant::now();
        let threads: Vec<_> = (0..workers)
            .map(|_| {
                let (handled, group) = (Arc::clone(&handled), group.clone());
                std::thread::spawn(move || {
                    let count_one = Arc::clone(&handled);
                    let mut worker = group
                        .worker(WorkerOptions::default(), move |_| {
                            count_one.fetch_add(1, Ordering::Relaxed);
                            Ok(())
                        })
                        .unwrap();
                    while handled.load(Ordering::Relaxed) < count {
                        worker.poll(Duration::from_millis(1)).unwrap();
                    }
                    worker.stats().read
                })
            })
            .collect();
        let read: u64 = threads.into_iter().map(|thread| thread.join().unwrap()).sum();
        let taken = begun.elapsed().as_secs_f64();
        rates.push(count as f64 / taken);
        ratios.push(taken / bare.as_secs_f64());
        amplifications.push(read as f64 / count as f64);
    }
    run.row(&[
        lanes.to_string(),
        workers.to_string(),
        format!("{:.0}", support::median(rates)),
        format!("{:.2}", support::median(amplifications)),
        format!("{:.1}", support::median(ratios)),
    ]);
}
