//! A reader that follows a topic while another thread appends: it sleeps until there is a record to read,
//! and a `Stop` ends its wait.

#![allow(clippy::print_stdout)]

use std::time::Duration;

use deaddrop::{Durability, Log, Record, Start, Stop, TopicOptions};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let data = concat!(env!("CARGO_MANIFEST_DIR"), "/target/examples-data");
    let dir = format!("{data}/tailing-{}", std::process::id());
    let log = Log::open_or_create(&dir)?;
    // Readings may be lost with the power, but not with a process: an append is a store into memory.
    let options = TopicOptions::default().with_durability(Durability::ProcessCrash);
    let readings = log.topic_with("readings", options)?;
    let stop = Stop::new();

    let follower = std::thread::spawn({
        let (readings, stop) = (readings.clone(), stop.clone());
        move || -> deaddrop::Result<u64> {
            let mut reader = readings.reader(Start::First)?;
            let mut sum = 0;
            while let Some(record) = reader.wait(&stop)? {
                let bytes = record.payload().try_into().expect("eight bytes were appended");
                sum += u64::from_le_bytes(bytes);
                if sum == 4950 {
                    stop.stop();
                }
            }
            Ok(sum)
        }
    });

    for reading in 0..100u64 {
        readings.append(&Record::new(reading.to_le_bytes()))?;
    }
    let sum = follower.join().expect("the follower does not panic")?;
    println!("the sum of all readings is {sum}");
    assert_eq!(sum, 4950);

    // `None` after a timeout means: nothing yet.
    let mut reader = readings.reader(Start::End)?;
    assert!(reader.wait_timeout(Duration::from_millis(1))?.is_none());
    Ok(std::fs::remove_dir_all(dir)?)
}
