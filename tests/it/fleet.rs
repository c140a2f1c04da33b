//! Many clients and many servers, killed, stopped and started again at random.

use std::collections::HashMap;
use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};

use deaddrop::service::{Completed, Envelope, HandlerError, Outcome, Reply, ServerOptions};
use deaddrop::{Durability, Log, Record, Start, Topic, TopicOptions};

use crate::child::{self, Child};
use crate::random::{number_from_env, seed, Random};

const CLIENTS: usize = 3;
const SERVERS: usize = 4;
const KEYS: u64 = 40;

fn server_options() -> ServerOptions {
    ServerOptions::default().with_threads(2).with_max_attempts(None::<u32>)
}

/// Role: serves with two threads; notes key and offset of each call of the handler in a file.
pub(crate) fn server(words: &[&str]) {
    let dir = Path::new(words[0]);
    let log = Log::open_or_create(dir).unwrap();
    let ledger = std::fs::OpenOptions::new()
        .create(true)
        .append(true)
        .open(dir.with_extension("ledger"))
        .unwrap();
    let handler = move |request: &deaddrop::service::Request<'_>| {
        let key = String::from_utf8_lossy(request.key().unwrap_or_default()).into_owned();
        (&ledger).write_all(format!("{key} {}\n", request.offset()).as_bytes())?;
        Ok(Reply::new(request.payload()))
    };
    let running = log.server_with("s", server_options(), handler).unwrap().spawn().unwrap();
    child::say("serving");
    child::listen();
    running.stop().unwrap();
}

fn open_client(log: &Log, name: &str) -> deaddrop::service::Client {
    log.client(name)
        .on("done", |done: &Completed| {
            let Outcome::Reply(reply) = done.outcome() else {
                return Err(HandlerError::terminal("no reply"));
            };
            assert_eq!(reply.payload(), done.context(), "the reply of another request");
            Ok(())
        })
        .open()
        .unwrap()
}

/// Role: sends requests until it is killed, and reports each id.
pub(crate) fn client(words: &[&str]) {
    let log = Log::open_or_create(words[0]).unwrap();
    let client = open_client(&log, words[1]);
    let _running = client.spawn().unwrap();
    for number in 0u64.. {
        let payload = format!("{}/{number}", std::process::id());
        let request = client.request("s", &Record::new(payload.clone())).unwrap();
        let key = format!("key-{}", number % KEYS);
        let id = request.with_key(key).with_context(payload).send("done").unwrap();
        child::say(&format!("sent {id}"));
        while client.outstanding().unwrap().len() > 100 {
            // The servers catch up: each reply makes room.
            std::thread::yield_now();
        }
    }
}

fn client_of(dir: &str, number: usize) -> Child {
    Child::spawn(&["fleet-client", dir, &format!("c{number}")])
}

/// Returns the ids that a client has reported so far.
fn said(client: &mut Child) -> Vec<String> {
    let mut ids = Vec::new();
    while let Ok(Some(line)) = client.hear_for(Duration::ZERO) {
        ids.extend(line.strip_prefix("sent ").map(str::to_owned));
    }
    ids
}

struct Fleet {
    dir: String,
    clients: Vec<Child>,
    servers: Vec<Option<Child>>,
    stopped: Vec<bool>,
    sent: Vec<String>,
    takeovers: Vec<Duration>,
}

impl Fleet {
    fn start(dir: &Path) -> Fleet {
        let dir = dir.to_str().unwrap().to_owned();
        let clients = (0..CLIENTS).map(|number| client_of(&dir, number)).collect();
        let server = |_| Some(Child::spawn(&["fleet-server", &dir]));
        let servers = (0..SERVERS).map(server).collect();
        let (sent, takeovers) = (Vec::new(), Vec::new());
        Fleet { dir, clients, servers, stopped: vec![false; SERVERS], sent, takeovers }
    }

    fn hear(&mut self) {
        for client in &mut self.clients {
            self.sent.extend(said(client));
        }
    }

    fn disturb(&mut self, random: &mut Random, requests: &Topic) {
        self.hear();
        let number = random.below((CLIENTS + SERVERS) as u64) as usize;
        if number < CLIENTS {
            let mut old = self.clients.remove(number);
            self.sent.extend(said(&mut old));
            old.kill();
            self.clients.insert(number, client_of(&self.dir, number));
            return;
        }
        let number = number - CLIENTS;
        let Some(server) = self.servers[number].take() else { return };
        if !self.stopped[number] && random.one_in(4) {
            server.signal(libc::SIGSTOP);
            self.stopped[number] = true;
            self.servers[number] = Some(server);
            return;
        }
        let is_other_awake = (0..SERVERS).any(|other| other != number && !self.stopped[other]);
        let pid = server.pid();
        let killed = Instant::now();
        server.kill();
        if is_other_awake {
            self.takeovers.extend(takeover_of(requests, pid, killed));
        }
        self.stopped[number] = false;
        self.servers[number] = Some(Child::spawn(&["fleet-server", &self.dir]));
    }
}

/// Returns how long until the lanes of a killed server have other owners; `None` if they get none.
fn takeover_of(requests: &Topic, pid: u32, killed: Instant) -> Option<Duration> {
    for _ in 0..2_000 {
        let (_, info) = requests.groups().unwrap().pop()?;
        let lanes = info.unwrap().lanes;
        // The page of a lane without an owner still names the last one.
        if lanes.iter().all(|lane| lane.owner.is_some_and(|owner| owner != pid)) {
            return Some(killed.elapsed());
        }
        std::thread::yield_now();
        std::thread::sleep(Duration::from_micros(500));
    }
    None
}

fn check(log: &Log, fleet: &Fleet, seed: u64) {
    let mut replies: HashMap<String, u32> = HashMap::new();
    let mut reader = log.topic("s.replies").unwrap().reader(Start::First).unwrap();
    while let Some(record) = reader.next().unwrap() {
        let envelope = Envelope::of(&record).unwrap().unwrap();
        *replies.entry(envelope.id.to_string()).or_default() += 1;
    }
    let mut requests = std::collections::HashSet::new();
    let mut reader = log.topic("s.requests").unwrap().reader(Start::First).unwrap();
    while let Some(record) = reader.next().unwrap() {
        let id = Envelope::of(&record).unwrap().unwrap().id.to_string();
        assert_eq!(replies.get(&id), Some(&1), "outcomes of {id}; seed {seed}");
        requests.insert(id);
    }
    assert_eq!(replies.len(), requests.len(), "a reply to nothing; seed {seed}");
    for id in &fleet.sent {
        assert!(requests.contains(id), "{id} was acknowledged and is gone; seed {seed}");
    }
    let ledger = std::fs::read_to_string(Path::new(&fleet.dir).with_extension("ledger")).unwrap();
    let mut last: HashMap<&str, u64> = HashMap::new();
    for line in ledger.lines() {
        let (key, offset) = line.split_once(' ').unwrap();
        let offset: u64 = offset.parse().unwrap();
        let before = last.insert(key, offset).unwrap_or(0);
        assert!(before <= offset, "{key}: {offset} after {before}; seed {seed}");
    }
    println!("{} requests, {} calls of the handler", requests.len(), ledger.lines().count());
}

#[test]
fn a_fleet_killed_and_stopped_at_random_answers_every_request_once_and_in_order() {
    let seed = seed("fleet");
    let mut random = Random(seed);
    for durability in [Durability::ProcessCrash, Durability::PowerLoss] {
        let parent = crate::dir();
        let dir = parent.path().join("log");
        let log = Log::open_or_create(&dir).unwrap();
        let options = TopicOptions::default().with_durability(durability).with_segment_len(1 << 20);
        let requests = log.topic_with("s.requests", options).unwrap();
        log.topic_with("s.replies", options).unwrap();
        let mut fleet = Fleet::start(&dir);
        let disturbances = number_from_env("DEADDROP_FLEET_KILLS", 25);
        for _ in 0..disturbances {
            std::thread::sleep(Duration::from_millis(random.below(30)));
            fleet.disturb(&mut random, &requests);
        }
        fleet.hear();
        let clients = std::mem::take(&mut fleet.clients);
        for mut client in clients {
            fleet.sent.extend(said(&mut client));
            client.kill();
        }
        for server in fleet.servers.iter_mut().filter_map(Option::take) {
            server.kill();
        }
        // This process finishes the rest.
        let echo = |request: &deaddrop::service::Request<'_>| Ok(Reply::new(request.payload()));
        let mut server = log.server_with("s", server_options(), echo).unwrap();
        // A record that a killed client appended and no process synced is a request too.
        requests.settled_end().unwrap();
        while server.lag().unwrap() > 0 {
            server.poll(Duration::ZERO).unwrap();
        }
        for number in 0..CLIENTS {
            let client = open_client(&log, &format!("c{number}"));
            while !client.outstanding().unwrap().is_empty() {
                assert_ne!(client.poll(child::GUARD).unwrap(), 0, "stuck; seed {seed}");
            }
            assert!(client.parked().is_empty(), "seed {seed}");
        }
        check(&log, &fleet, seed);
        let mut times = fleet.takeovers.clone();
        times.sort_unstable();
        if let Some(most) = times.last() {
            let at = |part: usize| times[times.len() * part / 100];
            println!(
                "{durability:?}: {} takeovers: p50 {:?}, p90 {:?}, p99 {:?}, max {most:?}",
                times.len(),
                at(50),
                at(90),
                at(99),
            );
        }
    }
}

/// Role: serves with three threads; dies of every request whose payload says "deadly".
pub(crate) fn mortal(words: &[&str]) {
    let log = Log::open_or_create(words[0]).unwrap();
    let handler = |request: &deaddrop::service::Request<'_>| {
        if request.payload() == b"deadly" {
            child::raise(libc::SIGKILL);
        }
        Ok(Reply::new(request.payload()))
    };
    let options = ServerOptions::default().with_threads(3).with_max_attempts(3);
    let running = log.server_with("s", options, handler).unwrap().spawn().unwrap();
    child::listen();
    running.stop().unwrap();
}

#[test]
fn a_request_that_kills_its_server_is_answered_as_a_dead_letter_and_all_others_by_a_reply() {
    let dir = crate::dir();
    let log = Log::open_or_create(dir.path()).unwrap();
    crate::service::make_topics(&log, "s");
    let outcomes = std::sync::Arc::new(std::sync::Mutex::new(HashMap::new()));
    let noted = std::sync::Arc::clone(&outcomes);
    let client = log.client("c").on("done", move |done: &Completed| {
        let outcome = match done.outcome() {
            Outcome::Reply(_) => "reply",
            Outcome::DeadLettered(_) => "dead",
            _ => "other",
        };
        let context = String::from_utf8_lossy(done.context()).into_owned();
        noted.lock().unwrap().insert(context, outcome);
        Ok(())
    });
    let client = client.open().unwrap();
    for number in 0..90 {
        let payload = if number % 30 == 7 { "deadly" } else { "good" };
        let request = client.request("s", &Record::new(payload)).unwrap();
        let request =
            request.with_key(format!("key-{number}")).with_context(format!("{payload}-{number}"));
        request.send("done").unwrap();
    }
    let mut deaths = 0;
    let directory = dir.path().to_str().unwrap();
    let mut server = Child::spawn(&["mortal-server", directory]);
    while !client.outstanding().unwrap().is_empty() {
        client.poll(Duration::from_millis(50)).unwrap();
        if let Ok(None) = server.hear_for(Duration::ZERO) {
            deaths += 1;
            assert!(deaths < 60, "never dead-lettered: {:?}", client.outstanding());
            server = Child::spawn(&["mortal-server", directory]);
        }
    }
    for (context, outcome) in outcomes.lock().unwrap().iter() {
        let expected = if context.starts_with("deadly") { "dead" } else { "reply" };
        assert_eq!(*outcome, expected, "{context}");
    }
    assert!(deaths >= 9, "three deaths of its own each: {deaths}");
}
