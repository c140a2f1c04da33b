//! A request and its reply between two processes, beside a socket and a bare futex.

#![allow(clippy::unwrap_used)]

mod support;

use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use deaddrop::service::{Reply, Request};
use deaddrop::{Durability, Log, Reader, Record, Start, Stop, Topic};
use hdrhistogram::Histogram;
use support::child::{self, Role};
use support::limit::Prewritten;
use support::{options, payload, Run};

const SIZE: usize = 64;
/// As long as a spinning side polls before it sleeps.
const SPIN: Duration = Duration::from_millis(1);
const PATIENCE: Duration = Duration::from_secs(10);

fn main() {
    if let Some((role, args)) = child::role() {
        pin(args[2].parse().expect("a CPU"));
        let (path, setting) = (Path::new(&args[0]), Setting::parse(&args[1]));
        return match role.as_str() {
            "topics" => echo_topics(path, setting),
            "service" => serve(path, setting),
            "socket" => echo_socket(path),
            "futex" => echo_futex(path, setting),
            other => panic!("no role {other}"),
        };
    }
    let mut run = Run::new();
    run.table(
        "A request and its reply between two processes, us",
        &["how", "what", "p50", "p99", "p50 / socket"],
    );
    for (setting, peer_cpu, name) in [
        (Setting::Kernel, 0, "kernel, one CPU"),
        (Setting::Kernel, 1, "kernel, two CPUs"),
        (Setting::Spin, 1, "spinning, two CPUs"),
        (Setting::Durable, 1, "PowerLoss, two CPUs"),
    ] {
        if run.wants(&format!("roundtrip/{name}")) {
            compare(&mut run, setting, peer_cpu, name);
        }
    }
    run.finish();
}

/// How both sides wait, and what their records survive.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Setting {
    Kernel,
    Spin,
    Durable,
}

impl Setting {
    fn parse(name: &str) -> Setting {
        match name {
            "Kernel" => Setting::Kernel,
            "Spin" => Setting::Spin,
            _ => Setting::Durable,
        }
    }

    fn durability(self) -> Durability {
        match self {
            Setting::Durable => Durability::PowerLoss,
            _ => Durability::ProcessCrash,
        }
    }

    fn spin(self) -> Duration {
        match self {
            Setting::Spin => SPIN,
            _ => Duration::ZERO,
        }
    }
}

/// One way to get a reply, and the process that gives it.
struct Contender {
    name: &'static str,
    call: Box<dyn FnMut()>,
    _peer: Option<Role>,
    times: Histogram<u64>,
}

fn compare(run: &mut Run, setting: Setting, peer_cpu: usize, name: &str) {
    pin(0);
    let dir = run.path(&format!("{setting:?}-{peer_cpu}"));
    std::fs::create_dir_all(&dir).unwrap();
    let start = |role: &str, path: &Path| {
        let path = path.to_str().expect("a path in UTF-8");
        let mut role = Role::start(role, &[path, &format!("{setting:?}"), &peer_cpu.to_string()]);
        assert_eq!(role.hear(), "ready");
        role
    };
    let mut all = Vec::new();
    let mut add = |name, call: Box<dyn FnMut()>, peer| {
        let times = Histogram::new(3).expect("three digits");
        all.push(Contender { name, call, _peer: peer, times });
    };
    if setting == Setting::Durable {
        let mut bare = Prewritten::new(&dir.join("bare"), 1 << 20);
        let bytes = payload(SIZE);
        add(
            "two bare fdatasyncs",
            Box::new(move || {
                bare.synced_writes(2, &bytes);
            }),
            None,
        );
    } else {
        let path = dir.join("futex");
        std::fs::write(&path, vec![0; 4096]).unwrap();
        let peer = start("futex", &path);
        add("futex", futex_call(&path, setting), Some(peer));
        if setting == Setting::Kernel {
            let path = dir.join("socket");
            let peer = start("socket", &path);
            add("socket", socket_call(&path), Some(peer));
        }
    }
    let path = dir.join("topics");
    let peer = start("topics", &path);
    add("two topics", topics_call(&path, setting), Some(peer));
    let path = dir.join("service");
    let peer = start("service", &path);
    add("client and server", service_call(&path, setting), Some(peer));
    measure(run, all, setting, name);
}

fn measure(run: &mut Run, mut all: Vec<Contender>, setting: Setting, name: &str) {
    let (rounds, count) = match setting {
        _ if run.quick => (1, 2),
        Setting::Durable => (20, 10),
        _ => (20, 250),
    };
    for round in 0..rounds + 1 {
        for contender in &mut all {
            if setting == Setting::Spin {
                // All peers share a CPU: the others stop spinning before this one is timed.
                std::thread::sleep(4 * SPIN);
                (contender.call)();
            }
            for _ in 0..count {
                let begun = Instant::now();
                (contender.call)();
                let nanos = begun.elapsed().as_nanos() as u64;
                if round > 0 {
                    contender.times.record(nanos).expect("below the histogram's limit");
                }
            }
        }
    }
    let p50 = |contender: &Contender| contender.times.value_at_quantile(0.5) as f64 / 1e3;
    let socket = all.iter().find(|contender| contender.name == "socket").map(p50);
    for contender in &all {
        let p99 = contender.times.value_at_quantile(0.99) as f64 / 1e3;
        run.row(&[
            name.to_owned(),
            contender.name.to_owned(),
            format!("{:.2}", p50(contender)),
            format!("{p99:.2}"),
            socket.map_or("-".into(), |socket| format!("{:.2}", p50(contender) / socket)),
        ]);
    }
    for contender in &mut all {
        let name = format!("{name}/{}", contender.name);
        run.criterion_only("roundtrip", &name, &mut |count| {
            (contender.call)();
            support::timed(|| (0..count).for_each(|_| (contender.call)()))
        });
    }
}

/// Keeps this thread, and those that it starts, on one CPU.
fn pin(cpu: usize) {
    // SAFETY: plain integers; an all-zero set is a valid value; the kernel only reads it.
    unsafe {
        let count = libc::sysconf(libc::_SC_NPROCESSORS_ONLN).max(1) as usize;
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(cpu % count, &mut set);
        libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &set);
    }
}

/// The two topics, and a reader at the end of the topic that is named.
fn topics(dir: &Path, setting: Setting, read: &str) -> (Log, Topic, Topic, Reader) {
    let log = Log::open_or_create(dir).unwrap();
    let options = options(setting.durability(), 16 << 20);
    let requests = log.topic_with("requests", options).unwrap();
    let replies = log.topic_with("replies", options).unwrap();
    let to_read = if read == "requests" { &requests } else { &replies };
    let mut reader = to_read.reader(Start::End).unwrap();
    reader.set_spin(setting.spin());
    (log, requests, replies, reader)
}

fn echo_topics(dir: &Path, setting: Setting) {
    let (_log, _, replies, mut requests) = topics(dir, setting, "requests");
    child::say("ready");
    loop {
        let found = requests.wait_timeout(Duration::from_secs(1)).unwrap();
        let Some(record) = found else { continue };
        let reply = Record::new(record.payload());
        replies.append(&reply).unwrap();
    }
}

fn topics_call(dir: &Path, setting: Setting) -> Box<dyn FnMut()> {
    let (log, requests, _, mut replies) = topics(dir, setting, "replies");
    let record = Record::new(payload(SIZE));
    Box::new(move || {
        let _open = &log;
        requests.append(&record).unwrap();
        assert!(replies.wait_timeout(PATIENCE).unwrap().is_some());
    })
}

fn serve(dir: &Path, setting: Setting) {
    let log = Log::open_or_create(dir).unwrap();
    let server_options = deaddrop::service::ServerOptions::default()
        .with_topic(options(setting.durability(), 16 << 20))
        .with_spin(setting.spin());
    let mut server = log
        .server_with("echo", server_options, |request: &Request<'_>| {
            Ok(Reply::new(request.payload()))
        })
        .unwrap();
    child::say("ready");
    server.run(&Stop::new()).unwrap();
}

fn service_call(dir: &Path, setting: Setting) -> Box<dyn FnMut()> {
    let log = Log::open_or_create(dir).unwrap();
    let client = log.client("bench").with_spin(setting.spin()).open().unwrap();
    let record = Record::new(payload(SIZE));
    Box::new(move || {
        let _open = &log;
        let mut call = client.request("echo", &record).unwrap().call().unwrap();
        assert!(call.wait_timeout(PATIENCE).unwrap().is_some());
    })
}

fn echo_socket(path: &Path) {
    let listener = UnixListener::bind(path).unwrap();
    child::say("ready");
    let (mut stream, _) = listener.accept().unwrap();
    let mut bytes = [0; SIZE];
    while stream.read_exact(&mut bytes).is_ok() {
        stream.write_all(&bytes).unwrap();
    }
}

fn socket_call(path: &Path) -> Box<dyn FnMut()> {
    let mut stream = UnixStream::connect(path).unwrap();
    let mut bytes = [7; SIZE];
    Box::new(move || {
        stream.write_all(&bytes).unwrap();
        stream.read_exact(&mut bytes).unwrap();
    })
}

/// Two words of a shared file: one counts requests, one replies.
struct Words {
    map: memmap2::MmapRaw,
    spin: Duration,
}

impl Words {
    fn open(path: &Path, setting: Setting) -> Words {
        let file = std::fs::File::options().read(true).write(true).open(path).unwrap();
        Words { map: memmap2::MmapRaw::map_raw(&file).unwrap(), spin: setting.spin() }
    }

    fn word(&self, index: usize) -> &AtomicU32 {
        // SAFETY: inside the page that is mapped, aligned, used as an atomic only.
        unsafe { AtomicU32::from_ptr(self.map.as_mut_ptr().add(index * 128).cast()) }
    }

    fn raise(&self, index: usize) {
        self.word(index).fetch_add(1, Ordering::SeqCst);
        if self.spin.is_zero() {
            self.futex(index, libc::FUTEX_WAKE, 1);
        }
    }

    fn wait(&self, index: usize, seen: u32) -> u32 {
        let looks = if self.spin.is_zero() { 1 } else { 32 };
        let begun = Instant::now();
        loop {
            for _ in 0..looks {
                let now = self.word(index).load(Ordering::SeqCst);
                if now != seen {
                    return now;
                }
                std::hint::spin_loop();
            }
            if self.spin.is_zero() {
                self.futex(index, libc::FUTEX_WAIT, seen);
            } else if begun.elapsed() >= self.spin {
                // Not its turn: the other peers need the CPU.
                std::thread::sleep(SPIN / 20);
            }
        }
    }

    fn futex(&self, index: usize, operation: i32, value: u32) {
        let limit = libc::timespec { tv_sec: 1, tv_nsec: 0 };
        // SAFETY: a live word; every result leads to another check.
        unsafe {
            libc::syscall(libc::SYS_futex, self.word(index).as_ptr(), operation, value, &limit);
        }
    }
}

fn echo_futex(path: &Path, setting: Setting) {
    let words = Words::open(path, setting);
    child::say("ready");
    let mut seen = 0;
    loop {
        seen = words.wait(0, seen);
        words.raise(1);
    }
}

fn futex_call(path: &Path, setting: Setting) -> Box<dyn FnMut()> {
    let words = Words::open(path, setting);
    let mut seen = 0;
    Box::new(move || {
        words.raise(0);
        seen = words.wait(1, seen);
    })
}
