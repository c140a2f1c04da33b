//! A disk for tests: real file systems on a block device that can fail, stall, lie, and lose its power.
//!
//! [`Disk::new`] makes a file system in an image file, serves the image through a FUSE server, and mounts
//! it as a loop device over that. The server has a volatile cache: what was written and not flushed is gone
//! after [`Disk::cut`]. It runs as a process of its own, because the kernel may write to the disk while
//! the process that uses it ends. A test binary is its own server: it has one test that calls
//! [`serve_if_asked`], and names it to [`Disk::new`].
//!
//! By hand: `cargo run -p deaddrop-disk -- IMAGE DIR`, then `mount -o loop DIR/image ...`, and lines into
//! `DIR/control`.
#![allow(clippy::unwrap_used, clippy::print_stderr)]

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

mod protocol;
mod server;
mod volume;

/// Serves the image file `image` at the directory `dir` until that is unmounted.
///
/// # Errors
///
/// Those of the mount and of `/dev/fuse`.
pub fn serve(image: &Path, dir: &Path) -> io::Result<()> {
    server::serve(image, dir)
}

const ASKED: &str = "DEADDROP_DISK";

/// In a process that [`Disk`] started: serves, and returns when the disk is gone. In any other, returns at
/// once.
pub fn serve_if_asked() {
    let Ok(asked) = std::env::var(ASKED) else { return };
    let (image, dir) = asked.split_once('\n').unwrap();
    let whole = Path::new(dir).parent().unwrap().to_owned();
    let parts = [whole.join("files"), PathBuf::from(dir), whole];
    std::thread::spawn(move || {
        // The test process holds the other end. When it is gone without an unmount, so are the mounts.
        io::copy(&mut io::stdin(), &mut io::sink()).unwrap();
        for dir in parts {
            run(Command::new("umount").arg("-l").arg(dir).stderr(Stdio::null()));
        }
        std::process::exit(1);
    });
    serve(Path::new(image), Path::new(dir)).unwrap();
    std::process::exit(0);
}

/// The file systems that a disk can have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileSystem {
    /// ext4, in its default mode: ordered data.
    Ext4,
    /// xfs.
    Xfs,
    /// btrfs, one copy of everything.
    Btrfs,
}

impl FileSystem {
    /// All of them.
    pub const ALL: [FileSystem; 3] = [FileSystem::Ext4, FileSystem::Xfs, FileSystem::Btrfs];

    fn name(self) -> &'static str {
        match self {
            FileSystem::Ext4 => "ext4",
            FileSystem::Xfs => "xfs",
            FileSystem::Btrfs => "btrfs",
        }
    }

    /// Why no disk with this file system can be had here; `None` if it can.
    ///
    /// # Panics
    ///
    /// Where `CI` is `true`, if anything but the kernel is the reason.
    pub fn missing(self) -> Option<String> {
        let name = self.name();
        run(Command::new("modprobe").arg(name).stdout(Stdio::null()).stderr(Stdio::null()));
        let known = fs::read_to_string("/proc/filesystems").unwrap();
        if !known.split_whitespace().any(|word| word == name) {
            return Some(format!("this kernel does not have {name}"));
        }
        let mkfs = format!("mkfs.{name}");
        let reason = if !rustix::process::geteuid().is_root() {
            "only root can mount".to_owned()
        } else if !Path::new("/dev/fuse").exists() || !Path::new("/dev/loop-control").exists() {
            "/dev/fuse or /dev/loop-control is missing".to_owned()
        } else if !run(Command::new(&mkfs).arg("-V").stdout(Stdio::null()).stderr(Stdio::null())) {
            format!("{mkfs} is not installed")
        } else {
            return None;
        };
        assert_ne!(
            std::env::var("CI").as_deref(),
            Ok("true"),
            "tests on {name} need root: {reason}"
        );
        Some(reason)
    }
}

fn run(command: &mut Command) -> bool {
    command.status().is_ok_and(|status| status.success())
}

#[track_caller]
fn must(command: &mut Command) {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Runs a command on a mount until it succeeds: a child that another thread is starting may hold a file of
/// the file system until its exec.
///
/// # Panics
///
/// If the command still fails after five seconds.
#[track_caller]
pub fn when_free(command: &mut Command) {
    for _ in 0..500 {
        if run(command.stderr(Stdio::null())) {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    must(command.stderr(Stdio::piped()));
}

/// A mounted file system on a disk of its own, in a directory of its own. Unmounted when dropped.
pub struct Disk {
    dir: tempfile::TempDir,
    server: Option<Child>,
    entry: String,
}

impl Disk {
    /// Makes and mounts a disk in a new directory below `parent`. `entry` is the full name of the test of
    /// this binary that calls [`serve_if_asked`].
    ///
    /// # Panics
    ///
    /// If that fails: ask [`FileSystem::missing`] first.
    pub fn new(parent: &Path, file_system: FileSystem, entry: &str) -> Disk {
        let dir = tempfile::Builder::new().prefix("disk").tempdir_in(parent).unwrap();
        let image = fs::File::create(dir.path().join("image")).unwrap();
        // The least that xfs accepts; the image is sparse.
        image.set_len(320 << 20).unwrap();
        let mut mkfs = Command::new(format!("mkfs.{}", file_system.name()));
        if file_system == FileSystem::Ext4 {
            // As on a disk of ordinary size.
            mkfs.args(["-b", "4096"]);
        }
        must(mkfs.arg("-q").arg(dir.path().join("image")));
        // Unmounting below a shared mount does so in the namespaces of `on_boot` as well, which would keep
        // the disk else.
        must(Command::new("mount").arg("--bind").args([dir.path(), dir.path()]));
        must(Command::new("mount").arg("--make-shared").arg(dir.path()));
        fs::create_dir(dir.path().join("fuse")).unwrap();
        fs::create_dir(dir.path().join("files")).unwrap();
        let mut disk = Disk { dir, server: None, entry: entry.to_owned() };
        disk.start("");
        disk
    }

    /// The root of the mounted file system.
    pub fn path(&self) -> PathBuf {
        self.dir.path().join("files")
    }

    fn fuse(&self) -> PathBuf {
        self.dir.path().join("fuse")
    }

    fn start(&mut self, options: &str) {
        let server = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", &self.entry, "--nocapture", "--test-threads=1"])
            .env(
                ASKED,
                format!("{}\n{}", self.dir.path().join("image").display(), self.fuse().display()),
            )
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn();
        self.server = Some(server.unwrap());
        // Bounded by a minute: the server mounts before it serves, and says nothing.
        let up = (0..6000).any(|_| {
            std::thread::sleep(std::time::Duration::from_millis(10));
            self.fuse().join("control").exists()
        });
        assert!(up, "the disk's server did not come up");
        self.mount(options);
    }

    /// Mounts the file system, with further mount options.
    pub fn mount(&self, options: &str) {
        let options = format!("loop,nodiscard,{options}");
        let image = self.fuse().join("image");
        must(
            Command::new("mount")
                .args(["-o", options.trim_end_matches(',')])
                .arg(image)
                .arg(self.path()),
        );
    }

    /// Unmounts the file system. No process may have a file of it open.
    pub fn unmount(&self) {
        when_free(Command::new("umount").arg(self.path()));
    }

    /// Mounts what is mounted with other options, `ro` for example.
    pub fn change(&self, options: &str) {
        let options = format!("remount,{options}");
        when_free(Command::new("mount").args(["-o", &options]).arg(self.path()));
    }

    /// Tells the disk what to do from here on, as its control file understands it:
    ///
    /// * `fail writes N TEXT`: the next N writes that contain TEXT fail with `EIO` (without TEXT: any);
    ///   `fail flushes N`, `fail reads N` the same;
    /// * `lose writes N TEXT`, `lose flushes N`: they are said to be done, and are not;
    /// * `stall`: flushes are not answered, until
    /// * `resume`, which also ends every fault;
    /// * `cut SEED`: see [`Disk::cut`].
    ///
    /// A file system's own structures must not fail if it is to go on: give a TEXT that only the records hold.
    pub fn tell(&self, line: &str) {
        fs::write(self.fuse().join("control"), line)
            .unwrap_or_else(|error| panic!("{line}: {error}"));
    }

    /// One of the counts since the disk was started: `writes`, `flushes`, `failed`, `lost`, `unflushed`.
    pub fn count(&self, name: &str) -> u64 {
        let state = fs::read_to_string(self.fuse().join("control")).unwrap();
        let line = state.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        line.trim().parse().unwrap()
    }

    /// The power fails: every sector that was not flushed is old or new, as the seed draws it, or always
    /// old without one. From then on everything fails, until [`Disk::restart`].
    pub fn cut(&self, seed: Option<u64>) {
        self.tell(&seed.map_or("cut".to_owned(), |seed| format!("cut {seed}")));
    }

    /// The power is back: mounts what was flushed. No process may have a file of the disk open.
    pub fn restart(&mut self) {
        self.unmount();
        self.stop();
        self.start("");
    }

    fn stop(&mut self) {
        when_free(Command::new("umount").arg(self.fuse()));
        let mut server = self.server.take().unwrap();
        // `wait` would close it, and the server take this process for gone.
        let _held = server.stdin.take();
        assert!(server.wait().unwrap().success());
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // A failed test may leave it in any state.
        for dir in [self.path(), self.fuse(), self.dir.path().to_owned()] {
            run(Command::new("umount").arg("-l").arg(dir).stderr(Stdio::null()));
        }
        if let Some(mut server) = self.server.take() {
            drop(server.stdin.take());
            server.wait().unwrap();
        }
    }
}

/// Has a command run as after a reboot: it sees another boot id than this process, the same for the same
/// number.
pub fn on_boot(number: u32, program: &str) -> Command {
    let id = format!("{number:08x}-0000-4000-8000-000000000000");
    let script = r#"mount -t tmpfs tmpfs /mnt && echo "$0" > /mnt/boot_id \
        && mount --bind /mnt/boot_id /proc/sys/kernel/random/boot_id && exec "$@""#;
    let mut command = Command::new("unshare");
    command.args(["--mount", "--propagation", "slave", "sh", "-c", script, &id, program]);
    command
}
