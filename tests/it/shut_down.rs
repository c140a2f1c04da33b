//! A file system that has shut itself down after an error: opening a log on it says why it fails.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::Path;

use deaddrop::{Error, Log, Record};
use deaddrop_disk::{Disk, FileSystem};

/// Makes the file system refuse everything from now on, as it does by itself when it cannot write
/// its own structures.
fn shut_down(dir: &Path) {
    /// `_IOR('X', 125, u32)`, of xfs and ext4.
    const GOING_DOWN: libc::c_ulong = 0x8004_587d;
    let without_flushing: u32 = 2;
    let dir = File::open(dir).unwrap();
    // SAFETY: an open descriptor; the request reads one word.
    let done = unsafe { libc::ioctl(dir.as_raw_fd(), GOING_DOWN, &without_flushing) };
    assert_eq!(done, 0, "{}", std::io::Error::last_os_error());
}

#[test]
fn opening_a_log_on_a_file_system_that_is_shut_down_names_the_cause() {
    for file_system in [FileSystem::Ext4, FileSystem::Xfs] {
        if let Some(reason) = file_system.missing() {
            println!("skipped on {file_system:?}: {reason}");
            continue;
        }
        let parent = Path::new(env!("CARGO_TARGET_TMPDIR"));
        let disk = Disk::new(parent, file_system, "field::server");
        let dir = disk.path().join("log");
        let topic = Log::open_or_create(&dir).unwrap().topic("t").unwrap();
        topic.append(&Record::new("x")).unwrap();
        shut_down(&disk.path());
        let opened = [
            Log::open_or_create(&dir).and_then(|log| log.topic("t")).map(drop),
            Log::open_or_create(dir.join("below")).map(drop),
            Log::open_or_create(disk.path().join("new")).map(drop),
            Log::open_read_only(&dir).and_then(|log| log.topic("t")).map(drop),
        ];
        for result in opened {
            let error = result.unwrap_err();
            let Error::Io { source, .. } = &error else { panic!("{file_system:?}: {error:?}") };
            assert_eq!(source.raw_os_error(), Some(libc::EIO), "{file_system:?}: {error}");
        }
        drop(topic);
    }
}
