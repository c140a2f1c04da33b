//! A file system that was shut down and mounted again brings back an older instant of its files, on
//! the same boot and under the same inode. Live words are then older than the log.

use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Duration;

use deaddrop::service::{Reply, Server, ServerOptions};
use deaddrop::sim::SimDisk;
use deaddrop::{Durability, Log, Record, Start, TopicOptions};

use crate::child::{self, Child};

const FIRST: u64 = 40;
const SECOND: u64 = 60;

fn server(log: &Log) -> Server {
    let topic =
        TopicOptions::default().with_durability(Durability::PowerLoss).with_segment_len(64 << 10);
    let options = ServerOptions::default().with_topic(topic);
    log.server_with("inv", options, |request| Ok(Reply::new(request.payload()))).unwrap()
}

/// Role: answers when asked to, reports how many, and waits to be killed.
pub(crate) fn answers(words: &[&str]) {
    let mut server = server(&Log::open_or_create(words[0]).unwrap());
    while let Some(line) = child::listen() {
        let wanted: u64 = line.parse().unwrap();
        let mut done = 0;
        while done < wanted {
            done += server.poll(child::GUARD).unwrap();
        }
        child::say("answered");
    }
}

fn overwrite(path: &Path, bytes: &[u8]) {
    std::fs::OpenOptions::new().write(true).open(path).unwrap().write_all_at(bytes, 0).unwrap();
}

#[test]
fn a_server_whose_lanes_are_of_an_older_instant_answers_nothing_twice() {
    let dir = crate::dir();
    let log = Log::open_or_create(dir.path()).unwrap();
    drop(server(&log));
    let client = log.client("shop").on("done", |_| Ok(())).open().unwrap();
    let send = |count: u64| {
        for number in 0..count {
            let record = Record::new("x").with_key(number.to_le_bytes());
            client.request("inv", &record).unwrap().send("done").unwrap();
        }
    };
    let mut child = Child::spawn(&["answers", dir.path().to_str().unwrap()]);
    send(FIRST);
    assert_eq!(child.ask(&FIRST.to_string()), "answered");
    let requests = log.open_topic("inv.requests").unwrap();
    let path = requests.dir().join("groups/server");
    let older = std::fs::read(&path).unwrap();
    send(SECOND);
    assert_eq!(child.ask(&SECOND.to_string()), "answered");
    child.kill();
    overwrite(&path, &older);

    // Requests that are still open, beside those that only seem to be.
    send(10);
    let mut server = server(&log);
    let mut settled = 0;
    while server.lag().unwrap() > 0 {
        settled += server.poll(Duration::from_millis(10)).unwrap();
    }
    assert!(settled >= 10);
    let replies = log.open_topic("inv.replies").unwrap();
    let mut reader = replies.reader(Start::First).unwrap();
    let mut count = 0;
    while reader.next().unwrap().is_some() {
        count += 1;
    }
    assert_eq!(count, FIRST + SECOND + 10, "one outcome for each");
}

/// The log comes back as it was before the consumer's file, which the kernel had written later.
#[test]
fn a_position_past_the_end_that_a_remount_brings_back_is_set_back_even_if_the_log_has_grown() {
    const FILES: [&str; 2] = ["control", "00000000000000000000.seg"];
    for durability in
        [Durability::ProcessCrash, Durability::PowerLossWithin(Duration::from_secs(3600))]
    {
        let disk = SimDisk::new();
        let open = |disk: &SimDisk| {
            let options =
                TopicOptions::default().with_durability(durability).with_segment_len(64 << 10);
            Log::open_sim(disk, "/log").unwrap().topic_with("t", options).unwrap()
        };
        let process = disk.process();
        let topic = open(&process);
        let append = |topic: &deaddrop::Topic, count: u64| {
            for _ in 0..count {
                topic.append(&Record::new("x")).unwrap();
            }
        };
        append(&topic, 5);
        let paths = FILES.map(|name| format!("/log/topics/t/{name}"));
        let older = paths.each_ref().map(|path| disk.read(path).unwrap());
        append(&topic, 5);
        let mut consumer = topic.consumer("c", Start::First).unwrap();
        while consumer.next().unwrap().is_some() {}
        consumer.commit().unwrap();
        process.kill();
        drop((consumer, topic));
        for (path, bytes) in paths.iter().zip(&older) {
            disk.write(path, bytes);
        }
        let topic = open(&disk.process());
        assert_eq!(topic.end_offset().unwrap(), 5, "{durability:?}");
        append(&topic, 20);
        let mut consumer = topic.consumer("c", Start::First).unwrap();
        assert_eq!(consumer.clamped_from(), Some(10), "{durability:?}");
        assert_eq!(consumer.next().unwrap().unwrap().offset(), 5, "{durability:?}");
    }
}
