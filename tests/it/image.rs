//! A file system of its own, in an image file on a loop device. Its power can be cut: what the image file
//! holds at some moment is what a disk would hold.
//!
//! That takes root. A test that cannot have one says so and ends; on continuous integration it fails.

use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Unmounted and removed when dropped.
pub(crate) struct Image {
    dir: tempfile::TempDir,
    is_mounted: bool,
}

/// Blocks of a file as they were on the disk: their positions in the image, and their bytes.
pub(crate) struct Blocks(Vec<(u64, Vec<u8>)>);

fn run(program: &str, arguments: &[&str]) {
    let output = Command::new(program).args(arguments).output();
    let output = output.unwrap_or_else(|error| panic!("{program}: {error}"));
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}: {text}");
}

impl Image {
    /// A new file system, made by `mkfs.KIND` with these options; `None` without the rights.
    pub(crate) fn new(kind: &str, len: u64, options: &[&str]) -> Option<Image> {
        // SAFETY: takes no arguments.
        if unsafe { libc::geteuid() } != 0 {
            assert!(std::env::var("CI").as_deref() != Ok("true"), "no root on CI");
            println!("skipped: a file system on a loop device needs root");
            return None;
        }
        let mut image = Image { dir: crate::dir(), is_mounted: false };
        File::create(image.file()).unwrap().set_len(len).unwrap();
        fs::create_dir(image.root()).unwrap();
        let file = image.file();
        let arguments = [options, &[file.to_str().unwrap()]].concat();
        run(&format!("mkfs.{kind}"), &arguments);
        image.mount();
        Some(image)
    }

    fn file(&self) -> PathBuf {
        self.dir.path().join("image")
    }

    /// Where it is mounted.
    pub(crate) fn root(&self) -> PathBuf {
        self.dir.path().join("root")
    }

    fn mount(&mut self) {
        let (file, root) = (self.file(), self.root());
        run("mount", &["-o", "loop", file.to_str().unwrap(), root.to_str().unwrap()]);
        self.is_mounted = true;
    }

    /// The disk as it is at this moment, after the power failed and came back.
    pub(crate) fn after_power_cut(&self) -> Image {
        let mut after = Image { dir: crate::dir(), is_mounted: false };
        fs::copy(self.file(), after.file()).unwrap();
        fs::create_dir(after.root()).unwrap();
        after.mount();
        after
    }

    /// What a file system does by itself after an error of its metadata: from now on nothing reaches the
    /// disk, not even its journal.
    pub(crate) fn shut_down(&self) {
        const SHUTDOWN: libc::c_ulong = 0x8004_587d;
        const NO_LOG_FLUSH: u32 = 2;
        let root = File::open(self.root()).unwrap();
        // SAFETY: an open descriptor; the request reads one u32.
        assert_eq!(unsafe { libc::ioctl(root.as_raw_fd(), SHUTDOWN, &NO_LOG_FLUSH) }, 0);
    }

    /// Unmounts the file system and mounts it again. No process may keep a file of it open.
    pub(crate) fn mount_again(&mut self) {
        deaddrop_disk::when_free(Command::new("umount").arg(self.root()));
        self.is_mounted = false;
        self.mount();
    }

    /// Writes everything to the disk.
    pub(crate) fn sync(&self) {
        let root = File::open(self.root()).unwrap();
        // SAFETY: an open descriptor.
        assert_eq!(unsafe { libc::syncfs(root.as_raw_fd()) }, 0);
    }

    /// What the disk holds of a file.
    pub(crate) fn blocks_of(&self, path: &Path) -> Blocks {
        let image = File::open(self.file()).unwrap();
        let read = |(at, len): (u64, u64)| {
            let mut bytes = vec![0; len as usize];
            image.read_exact_at(&mut bytes, at).unwrap();
            (at, bytes)
        };
        let blocks = deaddrop::blocks_of(&File::open(path).unwrap()).unwrap();
        assert!(!blocks.is_empty(), "{} has no blocks", path.display());
        Blocks(blocks.into_iter().map(read).collect())
    }

    /// Undoes every write since then without the file system's knowledge.
    pub(crate) fn restore(&self, blocks: &Blocks) {
        let image = File::options().write(true).open(self.file()).unwrap();
        for (at, bytes) in &blocks.0 {
            image.write_all_at(bytes, *at).unwrap();
        }
    }
}

impl Drop for Image {
    fn drop(&mut self) {
        if self.is_mounted {
            let root = std::ffi::CString::new(self.root().into_os_string().into_encoded_bytes());
            // SAFETY: a NUL-terminated path. Detached, so that a failed test whose files are still open
            // leaves nothing mounted.
            let result = unsafe { libc::umount2(root.unwrap().as_ptr(), libc::MNT_DETACH) };
            assert!(result == 0 || std::thread::panicking(), "unmounting");
        }
    }
}
