//! The disk behaves as the tests that use it expect, on every file system that this kernel has.
#![allow(clippy::unwrap_used, clippy::print_stderr)]

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;

use deaddrop_disk::{Disk, FileSystem};

/// Not a test: the server of every disk here.
#[test]
fn server() {
    deaddrop_disk::serve_if_asked();
}

fn on_every_file_system(test: fn(FileSystem, Disk)) {
    for file_system in FileSystem::ALL {
        match file_system.missing() {
            Some(reason) => eprintln!("skipped on {file_system:?}: {reason}"),
            None => {
                let parent = Path::new(env!("CARGO_TARGET_TMPDIR"));
                test(file_system, Disk::new(parent, file_system, "server"));
            }
        }
    }
}

#[test]
fn a_cut_keeps_what_was_synced_and_loses_what_was_not() {
    on_every_file_system(|file_system, mut disk| {
        let synced = fs::File::create(disk.path().join("synced")).unwrap();
        synced.write_all_at(&[1; 100_000], 0).unwrap();
        synced.sync_all().unwrap();
        fs::write(disk.path().join("not synced"), [2; 100_000]).unwrap();
        drop(synced);
        disk.cut(None);
        disk.restart();
        assert_eq!(fs::read(disk.path().join("synced")).unwrap(), [1; 100_000], "{file_system:?}");
        let lost = fs::read(disk.path().join("not synced")).unwrap_or_default();
        assert!(lost.iter().all(|byte| *byte == 0), "{file_system:?}");
    });
}

#[test]
fn a_write_that_fails_once_is_told_once_and_its_page_is_called_clean_with_the_data_gone() {
    on_every_file_system(|file_system, mut disk| {
        let path = disk.path().join("file");
        let mut file = fs::File::create(&path).unwrap();
        file.write_all(&[b'-'; 8192]).unwrap();
        file.sync_all().unwrap();
        file.write_all_at(b"some text", 5000).unwrap();
        disk.tell("fail writes 1 some text");
        file.sync_data().unwrap_err();
        assert_eq!(disk.count("failed"), 1);
        // The error may be reported twice: for the data, and for the transaction.
        assert!((0..2).any(|_| file.sync_data().is_ok()), "{file_system:?} does not recover");
        let mut found = [0; 9];
        fs::File::open(&path).unwrap().read_exact_at(&mut found, 5000).unwrap();
        assert_eq!(&found, b"some text", "{file_system:?} shows what the disk does not have");
        drop(file);
        disk.cut(None);
        disk.restart();
        let mut found = Vec::new();
        fs::File::open(&path).unwrap().read_to_end(&mut found).unwrap();
        assert!(!found.windows(9).any(|bytes| bytes == b"some text"), "{file_system:?}");
    });
}

#[test]
fn a_flush_that_stalls_returns_when_the_disk_goes_on() {
    on_every_file_system(|_, disk| {
        disk.tell("stall");
        let file = fs::File::create(disk.path().join("file")).unwrap();
        let before = disk.count("flushes");
        let sync = std::thread::spawn(move || file.sync_all().unwrap());
        while disk.count("flushes") == before {
            std::thread::yield_now();
        }
        assert!(!sync.is_finished());
        disk.tell("resume");
        sync.join().unwrap();
    });
}

#[test]
fn a_lost_write_is_called_done_and_gone_after_a_cut() {
    on_every_file_system(|file_system, mut disk| {
        let path = disk.path().join("file");
        let file = fs::File::create(&path).unwrap();
        file.write_all_at(&[b'-'; 8192], 0).unwrap();
        file.sync_all().unwrap();
        disk.tell("lose writes 1 some text");
        file.write_all_at(b"some text", 5000).unwrap();
        file.sync_all().unwrap();
        drop(file);
        disk.cut(None);
        disk.restart();
        match fs::read(&path) {
            Ok(found) => assert!(!found.windows(9).any(|bytes| bytes == b"some text")),
            // btrfs notices through its checksums.
            Err(error) => assert_eq!(file_system, FileSystem::Btrfs, "{error}"),
        }
    });
}

#[test]
fn a_program_on_another_boot_sees_another_boot_id() {
    if FileSystem::Ext4.missing().is_some() {
        return;
    }
    let id = |number| {
        let mut cat = deaddrop_disk::on_boot(number, "cat");
        String::from_utf8(cat.arg("/proc/sys/kernel/random/boot_id").output().unwrap().stdout)
            .unwrap()
    };
    assert_eq!(id(7).trim(), "00000007-0000-4000-8000-000000000000");
    assert_ne!(id(7), id(8));
}
