//! A client lives while a backup is restored into its log, file by file: its name is free in the
//! restored log, and the client that has it open does no further work.

use std::time::Duration;

use deaddrop::{Error, Log, Record};

use crate::moved::{copy, restore_in_place};
use crate::service::{echo, make_topics, seen, Seen};

const SHORT: Duration = Duration::from_millis(10);

fn replaced(error: &Error) -> bool {
    match error {
        Error::Replaced { .. } => true,
        Error::Unknown { source, .. } => replaced(source),
        _ => false,
    }
}

#[test]
fn after_a_restore_only_the_client_of_the_restored_files_keeps_working() {
    let dir = crate::dir();
    let [path, backup] = ["drop", "backup"].map(|name| dir.path().join(name));
    let log = Log::open_or_create(&path).unwrap();
    make_topics(&log, "s");
    let old = Seen::default();
    let client = log.client("shop").on("done", old.callback()).open().unwrap();
    let request = |client: &deaddrop::service::Client, text: &str| {
        client.request("s", &Record::new(text)).unwrap().with_context(text).send("done")
    };
    request(&client, "before").unwrap();
    copy(&path, &backup);
    let busy = log.client("shop").on("done", |_| Ok(())).open().unwrap_err();
    assert!(matches!(busy, Error::Locked { .. }), "{busy}");

    restore_in_place(&backup, &path);
    let restored = Log::open_or_create(&path).unwrap();
    let new = Seen::default();
    let second = restored.client("shop").on("done", new.callback()).open().unwrap();
    request(&second, "after").unwrap();
    let mut server = restored.server("s", echo).unwrap();
    while server.poll(SHORT).unwrap() > 0 {}
    // Topics that survive a process crash only check for it once a second.
    let error = (0..100_000).find_map(|_| request(&client, "lost").err()).unwrap();
    assert!(replaced(&error), "{error}");
    let error = (0..10_000).find_map(|_| client.poll(SHORT).err()).unwrap();
    assert!(replaced(&error), "{error}");
    crate::service::drain(&second);
    let mut called = new.take();
    called.sort();
    assert_eq!(called, [seen("after", "after"), seen("before", "before")]);
    assert_eq!(old.take(), [], "no outcome reaches both");
}

#[test]
fn a_client_whose_name_file_is_removed_keeps_its_positions_to_itself() {
    let dir = crate::dir();
    let log = Log::open_or_create(dir.path()).unwrap();
    make_topics(&log, "s");
    let client = log.client("shop").on("done", |_| Ok(())).open().unwrap();
    client.request("s", &Record::new("x")).unwrap().send("done").unwrap();
    std::fs::remove_file(dir.path().join("clients/shop")).unwrap();
    let other = Log::open_or_create(dir.path()).unwrap();
    let error = other.client("shop").on("done", |_| Ok(())).open().unwrap_err();
    assert!(matches!(error, Error::Locked { .. }), "{error}");
    drop(client);
    drop(other.client("shop").on("done", |_| Ok(())).open().unwrap());
}
