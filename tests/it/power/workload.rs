//! A random user of a log, whose disk is checked after power cuts at random instants.

use std::sync::{Arc, Mutex};
use std::thread::ThreadId;
use std::time::Duration;

use deaddrop::sim::SimDisk;
use deaddrop::{Consumer, Durability, Error, Log, Record, Start, Topic, TopicOptions};

use super::model::{Entry, Expected, Position, DIR, TOPIC};
use crate::random::Random;

/// An image, and the state that was known just before and just after it was taken.
struct Captured {
    image: SimDisk,
    before: Expected,
    at: &'static str,
}

/// What crash points take images of.
struct Scene {
    disk: SimDisk,
    random: Random,
    expected: Arc<Mutex<Expected>>,
    topic: Option<Topic>,
    captured: Vec<Captured>,
    thread: ThreadId,
    one_in: u64,
}

static SCENE: Mutex<Option<Scene>> = Mutex::new(None);

/// Makes crash points that this thread, or the background of any log, reaches take images of the
/// scene now and then. An image must be good at any instant, so it does not matter which background
/// it is.
fn arm() {
    deaddrop::arm_crash_points(Some(Box::new(|name| {
        let mut scene = SCENE.lock().unwrap();
        let Some(scene) = scene.as_mut() else { return };
        let current = std::thread::current();
        let background = current.name().is_some_and(|name| name.starts_with("deaddrop-"));
        if (current.id() == scene.thread || background) && scene.random.one_in(scene.one_in) {
            scene.capture(name);
        }
    })));
}

impl Scene {
    fn capture(&mut self, at: &'static str) {
        // Held until the image is taken, so that the user cannot begin another append meanwhile.
        let expected = self.expected.lock().unwrap();
        let mut before = expected.clone();
        if let Some(topic) = &self.topic {
            // Any caller can have been given this durable end, so it must hold.
            before.durable = before.durable.max(topic.durable_end().unwrap());
        }
        let image = self.disk.power_cut(self.random.next());
        drop(expected);
        self.captured.push(Captured { image, before, at });
    }
}

fn set_scene(scene: Option<Scene>) -> Vec<Captured> {
    let before = std::mem::replace(&mut *SCENE.lock().unwrap(), scene);
    before.map_or_else(Vec::new, |scene| scene.captured)
}

/// Counts of what a run checked.
#[derive(Debug, Default)]
pub struct Counts {
    pub images: u64,
    pub inside_crash_points: u64,
    pub cut_in_recovery: u64,
    pub cut_again: u64,
    pub lost_records: u64,
}

/// One log through several lives.
pub struct World {
    pub seed: u64,
    random: Random,
    durability: Durability,
    disk: SimDisk,
    expected: Arc<Mutex<Expected>>,
    log: Option<Log>,
    topic: Option<Topic>,
    consumers: Vec<Consumer>,
    counter: u64,
    trace: Vec<String>,
}

impl World {
    pub fn new(seed: u64) -> World {
        arm();
        let mut random = Random(seed);
        let durability = match random.below(3) {
            0 => Durability::PowerLoss,
            1 => Durability::PowerLossWithin(Duration::from_secs(3600)),
            _ => Durability::ProcessCrash,
        };
        let disk = SimDisk::new();
        let mut world = World {
            seed,
            random,
            durability,
            disk,
            expected: Arc::default(),
            log: None,
            topic: None,
            consumers: Vec::new(),
            counter: 0,
            trace: Vec::new(),
        };
        let options =
            TopicOptions::default().with_durability(durability).with_segment_len(16 << 10);
        let log = Log::open_sim(&world.disk.process(), DIR).unwrap();
        world.topic = Some(log.topic_with(TOPIC, options).unwrap());
        world.log = Some(log);
        world
    }

    /// Runs `lives` spans of about `steps` operations each, and checks images of each.
    pub fn run(&mut self, lives: u64, steps: u64, counts: &mut Counts) {
        for _ in 0..lives {
            let scene = self.scene(self.disk.clone(), Arc::clone(&self.expected), 6);
            set_scene(Some(Scene { topic: self.topic.clone(), ..scene }));
            for _ in 0..1 + self.random.below(2 * steps) {
                self.step();
            }
            let mut captured = set_scene(None);
            let next = captured.len().checked_sub(1).filter(|_| self.random.one_in(2));
            let next =
                next.map(|last| captured.swap_remove(self.random.below(last as u64 + 1) as usize));
            for captured in captured {
                self.check(captured, counts);
            }
            self.close();
            match next {
                Some(captured) => {
                    self.trace.push(format!("power cut at {}", captured.at));
                    self.continue_on(&captured.image, captured.before, false);
                }
                None => self.reopen(),
            }
        }
        self.close();
    }

    fn scene(&mut self, disk: SimDisk, expected: Arc<Mutex<Expected>>, one_in: u64) -> Scene {
        Scene {
            disk,
            random: Random(self.random.next()),
            expected,
            topic: None,
            captured: Vec::new(),
            thread: std::thread::current().id(),
            one_in,
        }
    }

    fn topic(&self) -> &Topic {
        self.topic.as_ref().expect("open")
    }

    fn step(&mut self) {
        match self.random.below(100) {
            0..30 => self.append(1, false),
            30..50 => self.append(1, true),
            50..60 => {
                let count = 2 + self.random.below(5);
                self.append(count, false);
            }
            60..70 => self.wait_durable(),
            70..84 => self.consume(),
            84..87 => self.new_consumer(),
            87..90 => self.trim(),
            _ => {
                if let Some(scene) = SCENE.lock().unwrap().as_mut() {
                    scene.capture("between");
                }
            }
        }
    }

    fn append(&mut self, count: u64, unsynced: bool) {
        let mut entries = Vec::new();
        for left in (0..count).rev() {
            self.counter += 1;
            // Few lengths, so that a frame often fits exactly where another one was cut.
            let len = [8, 8, 100, 100, 100, 600, 3000, 20_000][self.random.below(8) as usize];
            let len = if len == 20_000 && !self.random.one_in(4) { 40 } else { len };
            let mut payload = (self.counter << 32 | self.seed & 0xffff_ffff).to_le_bytes().to_vec();
            payload.resize(len, self.counter as u8);
            let key = self.random.one_in(3).then(|| self.counter.to_be_bytes().to_vec());
            entries.push(Arc::new(Entry { payload, key, continues: left > 0 }));
        }
        let records: Vec<Record> = entries.iter().map(|entry| entry.record()).collect();
        let offset = {
            let mut expected = self.expected.lock().unwrap();
            expected.records.extend(entries);
            expected.records.len() as u64 - count
        };
        self.trace.push(format!("append {count} at {offset} unsynced {unsynced}"));
        let topic = self.topic();
        let got = match (unsynced, &records[..]) {
            (true, [record]) => topic.append_unsynced(record).unwrap(),
            (false, [record]) => topic.append(record).unwrap(),
            (_, records) => topic.append_batch(records).unwrap().start,
        };
        assert_eq!(got, offset);
        if self.durability == Durability::PowerLoss && !unsynced {
            self.expected.lock().unwrap().durable = offset + count;
        }
    }

    fn wait_durable(&mut self) {
        let end = self.expected.lock().unwrap().records.len() as u64;
        let first = self.topic().first_offset().unwrap();
        if end > first {
            let offset = first + self.random.below(end - first);
            self.trace.push(format!("wait_durable {offset}"));
            self.topic().wait_durable(offset).unwrap();
            let mut expected = self.expected.lock().unwrap();
            expected.durable = expected.durable.max(offset + 1);
        }
    }

    fn new_consumer(&mut self) {
        if self.consumers.len() >= 3 {
            return;
        }
        let name = format!("c{}", self.counter);
        let mut expected = self.expected.lock().unwrap();
        if expected.consumers.iter().any(|known| known.name == name) {
            return;
        }
        let topic = self.topic.as_ref().expect("open");
        let (start, at) = match self.random.one_in(2) {
            true => (Start::End, topic.high_watermark().unwrap()),
            false => (Start::First, topic.first_offset().unwrap()),
        };
        // A sync in the background can raise the high watermark meanwhile.
        let highest = expected.records.len() as u64;
        let position =
            Position { name, synced: at, committed: at, highest, stored: highest, exists: false };
        let name = position.name.clone();
        expected.consumers.push(position);
        drop(expected);
        self.trace.push(format!("consumer {name} {start:?}"));
        let consumer = topic.consumer(&name, start).unwrap();
        let mut expected = self.expected.lock().unwrap();
        let position = expected.consumers.last_mut().expect("just pushed");
        position.exists = true;
        position.committed = consumer.committed();
        drop(expected);
        self.consumers.push(consumer);
    }

    fn consume(&mut self) {
        if self.consumers.is_empty() {
            return;
        }
        let index = self.random.below(self.consumers.len() as u64) as usize;
        let count = self.random.below(8);
        let sync = self.random.one_in(2);
        let topic = self.topic.as_ref().expect("open");
        let consumer = &mut self.consumers[index];
        let name = consumer.name().to_owned();
        let with = |change: &dyn Fn(&mut Position)| {
            let mut expected = self.expected.lock().unwrap();
            let known = expected.consumers.iter_mut().find(|known| known.name == name);
            change(known.expect("known"));
        };
        let mut at = consumer.committed();
        for _ in 0..count {
            match consumer.next() {
                Ok(Some(record)) => at = record.offset() + 1,
                Ok(None) => break,
                Err(Error::Trimmed { first, .. }) => {
                    at = first;
                    with(&|known| known.raise(at));
                    consumer.seek(Start::Offset(first)).unwrap();
                }
                Err(error) => panic!("{error}"),
            }
        }
        self.trace.push(format!("commit {name} at {at}, sync {sync}"));
        with(&|known| known.raise(at));
        consumer.commit().unwrap();
        assert_eq!(consumer.committed(), at);
        with(&|known| known.committed = at);
        if sync {
            let to = at.min(topic.durable_end().unwrap());
            // A sync can also lower it: from now on either slot may be in force.
            with(&|known| known.synced = known.synced.min(to));
            consumer.sync().unwrap();
            with(&|known| known.synced = to);
        }
    }

    fn trim(&mut self) {
        let mut expected = self.expected.lock().unwrap();
        let offset = self.random.below(expected.records.len() as u64 + 1);
        expected.first_most = expected.first_most.max(offset);
        drop(expected);
        self.trace.push(format!("trim {offset}"));
        let first = self.topic().trim_before(offset).unwrap();
        let mut expected = self.expected.lock().unwrap();
        expected.first_least = expected.first_least.max(first);
    }

    fn close(&mut self) {
        self.consumers.clear();
        self.topic = None;
        self.log = None;
    }

    /// Every process has ended; opens the log on the files that are there.
    fn reopen(&mut self) {
        let (disk, how) = match self.random.below(4) {
            0 => (self.disk.reboot(), "reboot"),
            1 => (self.disk.copy(), "copy"),
            _ => (self.disk.process(), "reopen"),
        };
        self.trace.push(how.into());
        let mut expected = self.expected.lock().unwrap().clone();
        let known_durable = expected.durable;
        expected.durable = expected.records.len() as u64;
        if how != "reopen" {
            return self.continue_on(&disk, expected, false);
        }
        let synced: Vec<u64> = expected.consumers.iter().map(|known| known.synced).collect();
        for known in &mut expected.consumers {
            (known.synced, known.highest) = (known.committed, known.committed);
        }
        self.continue_on(&disk, expected, true);
        let mut expected = self.expected.lock().unwrap();
        expected.durable = known_durable;
        for (known, synced) in expected.consumers.iter_mut().zip(synced) {
            known.synced = synced;
        }
    }

    /// Opens the log on `disk`, compares it with the expected state, and continues there.
    fn continue_on(&mut self, disk: &SimDisk, expected: Expected, same_boot: bool) {
        let found = self.told("opening it again", disk, || match same_boot {
            true => expected.check_in_same_boot(disk),
            false => expected.check(disk),
        });
        let mut expected = expected.after(found.end);
        let there: Vec<String> =
            found.topic.consumers().unwrap().into_iter().map(|info| info.name).collect();
        expected.consumers.retain(|known| there.contains(&known.name));
        for known in &mut expected.consumers {
            let consumer = found.topic.consumer(&known.name, Start::First).unwrap();
            known.committed = consumer.committed();
            (known.synced, known.exists) = (known.synced.min(known.committed), true);
            self.consumers.push(consumer);
        }
        *self.expected.lock().unwrap() = expected;
        (self.disk, self.log, self.topic) = (disk.clone(), Some(found.log), Some(found.topic));
    }

    /// Checks an image, the images taken inside its recovery, and what a second cut leaves of it.
    fn check(&mut self, captured: Captured, counts: &mut Counts) {
        let Captured { image, before, at } = captured;
        counts.images += 1;
        counts.inside_crash_points += u64::from(at != "between");
        if self.random.one_in(3) {
            let shared = Arc::new(Mutex::new(before.clone()));
            set_scene(Some(self.scene(image.clone(), shared, 3)));
        }
        let found = self.told(at, &image, || before.check(&image));
        let inside = set_scene(None);
        let end = found.end;
        counts.lost_records += before.records.len() as u64 - end;
        for captured in inside.into_iter().take(4) {
            counts.images += 1;
            counts.cut_in_recovery += 1;
            let again = self.told(captured.at, &captured.image, || before.check(&captured.image));
            assert_eq!(again.end, end, "a recovery cut at {} found another end", captured.at);
        }
        let mut after = before.after(end);
        if self.random.one_in(2) {
            self.append_to(&found.topic, &mut after, before.records.get(end as usize));
        }
        drop(found);
        counts.images += 1;
        counts.cut_again += 1;
        let image = image.power_cut(self.random.next());
        self.told("a second cut", &image, || after.check(&image));
    }

    /// Appends durable records where others were lost, the first one as long as the one lost there.
    fn append_to(&mut self, topic: &Topic, after: &mut Expected, lost: Option<&Arc<Entry>>) {
        for count in 0..1 + self.random.below(2) {
            self.counter += 1;
            let mut payload = self.counter.to_le_bytes().to_vec();
            let len = lost.filter(|_| count == 0).map_or(8, |lost| lost.payload.len());
            payload.resize(len, 0xaa);
            let key = lost.filter(|_| count == 0).and_then(|lost| lost.key.clone());
            let entry = Entry { payload, key, continues: false };
            let offset = topic.append(&entry.record()).unwrap();
            assert_eq!(offset, after.records.len() as u64);
            topic.wait_durable(offset).unwrap();
            after.records.push(Arc::new(entry));
        }
        after.durable = after.records.len() as u64;
    }

    /// Prints the story if `check` panics.
    fn told<T>(&self, at: &str, image: &SimDisk, check: impl FnOnce() -> T) -> T {
        let checked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(check));
        checked.unwrap_or_else(|panic| {
            for line in &self.trace {
                eprintln!("  {line}");
            }
            eprintln!("{:?}: then {at}; replay: DEADDROP_SEED={}", self.durability, self.seed);
            for path in image.paths() {
                eprintln!("  {} {}", path.display(), image.read(&path).map_or(0, |b| b.len()));
            }
            std::panic::resume_unwind(panic)
        })
    }
}
