//! Appending and reading back.

use deaddrop::{BorrowedRecord, Durability, Error, Log, Record, Start, TopicOptions};

fn small(durability: Durability) -> TopicOptions {
    TopicOptions::default().with_durability(durability).with_segment_len(64 << 10)
}

#[test]
fn records_come_back_in_order_over_many_segments() {
    for durability in [Durability::PowerLoss, Durability::ProcessCrash] {
        let dir = crate::dir();
        let log = Log::open_or_create(dir.path()).unwrap();
        let topic = log.topic_with("t", small(durability)).unwrap();
        let mut expected = Vec::new();
        for number in 0..2000u32 {
            let payload = vec![number as u8; (number % 700) as usize];
            let record = Record::new(payload.clone()).with_key(number.to_le_bytes());
            let offset = if durability == Durability::PowerLoss && number % 50 != 0 {
                topic.append_unsynced(&record).unwrap()
            } else {
                topic.append(&record).unwrap()
            };
            assert_eq!(offset, u64::from(number));
            expected.push(payload);
        }
        topic.wait_durable(1999).unwrap();
        for (reopen, start) in [(false, 0), (false, 777), (true, 0), (true, 1999), (true, 1234)] {
            let log = if reopen { Log::open_read_only(dir.path()).unwrap() } else { log.clone() };
            let topic = log.topic("t").unwrap();
            let mut reader = topic.reader(Start::Offset(start)).unwrap();
            for number in start..2000 {
                let record = reader.next().unwrap().unwrap();
                assert_eq!(record.offset(), number);
                assert_eq!(record.payload(), expected[number as usize]);
                assert_eq!(record.key(), Some(&(number as u32).to_le_bytes()[..]));
            }
            assert!(reader.next().unwrap().is_none());
        }
        drop((log, topic));
        let log = Log::open_or_create(dir.path()).unwrap();
        let topic = log.open_topic("t").unwrap();
        assert_eq!(topic.high_watermark().unwrap(), 2000);
        assert_eq!(topic.append(&Record::new("x")).unwrap(), 2000);
    }
}

#[test]
fn borrowed_records_come_back_as_owned_ones_do_and_have_the_same_limits() {
    let dir = crate::dir();
    let topic = Log::open_or_create(dir.path())
        .unwrap()
        .topic_with("t", small(Durability::ProcessCrash))
        .unwrap();
    let headers = [("trace", &b"abc"[..]), ("trace", b""), ("", b"d")];
    // Smaller and larger than the buffer in which frames are put together, and than a segment.
    let payloads = [0, 1, 500, 20_000, 100_000].map(|len| vec![7; len]);
    let mut owned = Vec::new();
    let mut borrowed = Vec::new();
    for payload in &payloads {
        owned.push(Record::new(&payload[..]));
        borrowed.push(BorrowedRecord::new(payload));
        let all = Record::new(&payload[..]).with_key("k").with_header("trace", "abc");
        owned.push(all.with_header("trace", "").with_header("", "d"));
        borrowed.push(BorrowedRecord::new(payload).with_key("k").with_headers(&headers));
    }
    topic.append_batch(&owned).unwrap();
    topic.append_batch(&borrowed).unwrap();
    for record in &borrowed {
        topic.append(record).unwrap();
    }
    let mut reader = topic.reader(Start::First).unwrap();
    for record in [&owned, &owned, &owned].into_iter().flatten() {
        assert_eq!(reader.next().unwrap().unwrap().to_owned().to_record(), *record);
    }

    let long = vec![b'x'; 1 << 16];
    let name = std::str::from_utf8(&long).unwrap();
    let reserved = [("deaddrop.x", &b""[..])];
    let sum = vec![("x", &long[..]); 256];
    for (record, why) in [
        (BorrowedRecord::new("").with_key(&long), "a key over"),
        (BorrowedRecord::new("").with_headers(&[(name, b"")]), "a header name over"),
        (BorrowedRecord::new("").with_headers(&sum), "headers over 16 MiB"),
        (BorrowedRecord::new("").with_headers(&reserved), "reserved"),
    ] {
        let Err(Error::Invalid { what }) = topic.append(&record) else { panic!("{why}") };
        assert!(what.contains(why), "{what}");
        assert!(topic.append_batch(&[BorrowedRecord::new("x"), record]).is_err());
    }
    assert_eq!(topic.end_offset().unwrap(), 30);
    topic.append(&BorrowedRecord::new("").with_key(&long[1..])).unwrap();
}

#[test]
fn a_record_larger_than_a_segment_gets_one_of_its_own() {
    let dir = crate::dir();
    let log = Log::open_or_create(dir.path()).unwrap();
    let topic = log.topic_with("t", small(Durability::ProcessCrash)).unwrap();
    let big: Vec<u8> = (0..300_000u32).map(|byte| (byte % 251) as u8).collect();
    for round in 0..3 {
        assert_eq!(topic.append(&Record::new(big.clone())).unwrap(), 2 * round);
        assert_eq!(topic.append(&Record::new("small")).unwrap(), 2 * round + 1);
    }
    let mut reader = topic.reader(Start::First).unwrap();
    for offset in 0..6 {
        let record = reader.next().unwrap().unwrap();
        let expected = if offset % 2 == 0 { &big[..] } else { b"small" };
        assert_eq!((record.offset(), record.payload()), (offset, expected));
    }
}

#[test]
fn two_threads_and_two_handles_append_to_one_topic() {
    let dir = crate::dir();
    let logs = [Log::open_or_create(dir.path()).unwrap(), Log::open_or_create(dir.path()).unwrap()];
    let options = small(Durability::ProcessCrash);
    std::thread::scope(|scope| {
        for (handle, log) in logs.iter().enumerate() {
            for thread in 0..2 {
                let topic = log.topic_with("t", options).unwrap();
                scope.spawn(move || {
                    for number in 0..5000u32 {
                        let key = [handle as u8, thread];
                        topic.append(&Record::new(number.to_le_bytes()).with_key(key)).unwrap();
                    }
                });
            }
        }
    });
    let topic = logs[0].topic("t").unwrap();
    let mut next = std::collections::HashMap::new();
    let mut reader = topic.reader(Start::First).unwrap();
    let mut count = 0;
    while let Some(record) = reader.next().unwrap() {
        let next = next.entry(record.key().unwrap().to_owned()).or_insert(0u32);
        assert_eq!(record.payload(), next.to_le_bytes());
        *next += 1;
        count += 1;
    }
    assert_eq!(count, 20_000);
}

#[test]
fn records_read_in_place_are_those_that_are_copied_in_every_kind_of_segment() {
    let dir = crate::dir();
    let log = Log::open_or_create(dir.path()).unwrap();
    let topic = log.topic_with("t", small(Durability::ProcessCrash)).unwrap();
    for number in 0..300usize {
        let len = if number == 150 { 200_000 } else { number * 7 };
        topic.append(&Record::new(vec![number as u8; len]).with_key(number.to_le_bytes())).unwrap();
    }
    let read_only = Log::open_read_only(dir.path()).unwrap().topic("t").unwrap();
    for topic in [&topic, &read_only] {
        let mut copied = topic.reader(Start::First).unwrap();
        let mut in_place = topic.reader(Start::First).unwrap();
        let mut count = 0;
        while let Some(expected) = copied.next().unwrap() {
            // SAFETY: no process changes the files while this test reads them.
            let record = unsafe { in_place.next_in_place() }.unwrap().unwrap();
            assert_eq!(record.offset(), expected.offset());
            assert_eq!((record.key(), record.payload()), (expected.key(), expected.payload()));
            count += 1;
        }
        assert_eq!(count, 300);
        // SAFETY: as above.
        assert!(unsafe { in_place.next_in_place() }.unwrap().is_none());
    }
}

#[test]
fn damage_is_found_in_place_too() {
    let dir = crate::dir();
    let log = Log::open_or_create(dir.path()).unwrap();
    let topic = log.topic_with("t", small(Durability::ProcessCrash)).unwrap();
    for number in 0..10u8 {
        topic.append(&Record::new(vec![number; 100])).unwrap();
    }
    let path = topic.dir().join("00000000000000000000.seg");
    let file = std::fs::OpenOptions::new().write(true).open(path).unwrap();
    // In the payload of the sixth record: frames of 136 bytes follow a header page.
    std::os::unix::fs::FileExt::write_all_at(&file, b"!", 4096 + 5 * 136 + 50).unwrap();
    let mut reader = topic.reader(Start::First).unwrap();
    for offset in 0..5 {
        // SAFETY: no process changes the files any more.
        assert_eq!(unsafe { reader.next_in_place() }.unwrap().unwrap().offset(), offset);
    }
    // SAFETY: as above.
    assert!(unsafe { reader.next_in_place() }.unwrap_err().is_corruption());
    assert_eq!(reader.skip_damage().unwrap(), 5..6);
    // SAFETY: as above.
    assert_eq!(unsafe { reader.next_in_place() }.unwrap().unwrap().offset(), 6);
}
