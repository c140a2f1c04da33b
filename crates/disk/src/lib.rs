//! A disk for tests: real file systems on a block device that can fail, stall, lie, and lose its power.
//!
//! [`Disk::new`] makes a file system in an image file, serves the image through a FUSE server, and mounts
//! it as a loop device over that. The server has a volatile cache: [`Disk::cut`] loses the bytes that
//! were written and not flushed. It runs as a process of its own, because the kernel may write to the
//! disk while the process that uses it ends. A test binary is its own server: it has one test that calls
//! [`serve_if_asked`], and names it to [`Disk::new`].
//!
//! To run it by hand: `cargo run -p deaddrop-disk -- IMAGE DIR`, then `mount -o loop DIR/image ...`,
//! and write lines into `DIR/control`.
#![allow(clippy::unwrap_used, clippy::print_stderr)]

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

mod protocol;
mod server;
mod volume;

/// Serves the image file `image` at the directory `dir` until the directory is unmounted.
///
/// # Errors
///
/// Those of the mount and of `/dev/fuse`.
pub fn serve(image: &Path, dir: &Path) -> io::Result<()> {
    server::serve(image, dir)
}

const ASKED: &str = "DEADDROP_DISK";

/// In a process that [`Disk`] started: serves, and returns when the disk is gone. In any other process,
/// returns at once.
pub fn serve_if_asked() {
    let Ok(asked) = std::env::var(ASKED) else { return };
    let (image, dir) = asked.split_once('\n').unwrap();
    let whole = Path::new(dir).parent().unwrap().to_owned();
    let parts = [whole.join("files"), PathBuf::from(dir), whole];
    std::thread::spawn(move || {
        // The test process holds the other end. If it ends without unmounting, this process unmounts.
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

    /// Returns why a disk with this file system is not available here; `None` if it is.
    ///
    /// # Panics
    ///
    /// If `CI` is `true` and the reason is not the kernel.
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
    /// Makes and mounts a disk in a new directory under `parent`. `entry` is the full name of the test of
    /// this binary that calls [`serve_if_asked`].
    ///
    /// # Panics
    ///
    /// If that fails: call [`FileSystem::missing`] first.
    pub fn new(parent: &Path, file_system: FileSystem, entry: &str) -> Disk {
        let dir = tempfile::Builder::new().prefix("disk").tempdir_in(parent).unwrap();
        let image = fs::File::create(dir.path().join("image")).unwrap();
        // The smallest size that xfs accepts; the image is sparse.
        image.set_len(320 << 20).unwrap();
        let mut mkfs = Command::new(format!("mkfs.{}", file_system.name()));
        if file_system == FileSystem::Ext4 {
            // As on a disk of ordinary size.
            mkfs.args(["-b", "4096"]);
        }
        must(mkfs.arg("-q").arg(dir.path().join("image")));
        // Unmounting under a shared mount also unmounts in the namespaces of `on_boot`, which would
        // otherwise keep the disk.
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
        // At most a minute: the server mounts before it serves, and reports nothing.
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

    /// Remounts the file system with other options, for example `ro`.
    pub fn change(&self, options: &str) {
        let options = format!("remount,{options}");
        when_free(Command::new("mount").args(["-o", &options]).arg(self.path()));
    }

    /// Sends the disk a command for its control file:
    ///
    /// * `fail writes N TEXT`: the next N writes that contain TEXT fail with `EIO` (without TEXT: any);
    ///   `fail flushes N`, `fail reads N` the same;
    /// * `lose writes N TEXT`, `lose flushes N`: they are reported as done, but are not;
    /// * `stall`: flushes are not answered, until
    /// * `resume`, which also ends every fault;
    /// * `cut SEED`: see [`Disk::cut`].
    ///
    /// A file system stops when its own structures fail: give a TEXT that only the records contain.
    pub fn tell(&self, line: &str) {
        fs::write(self.fuse().join("control"), line)
            .unwrap_or_else(|error| panic!("{line}: {error}"));
    }

    /// Returns one of the counts since the start: `writes`, `flushes`, `failed`, `lost`, `unflushed`.
    pub fn count(&self, name: &str) -> u64 {
        let state = fs::read_to_string(self.fuse().join("control")).unwrap();
        let line = state.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        line.trim().parse().unwrap()
    }

    /// Cuts the power: every sector that was not flushed is old or new, as the seed draws it, or always
    /// old without a seed. From then on all calls fail, until [`Disk::restart`].
    pub fn cut(&self, seed: Option<u64>) {
        self.tell(&seed.map_or("cut".to_owned(), |seed| format!("cut {seed}")));
    }

    /// Restores the power: mounts the flushed state. No process may have a file of the disk open.
    pub fn restart(&mut self) {
        self.unmount();
        self.stop();
        self.start("");
    }

    fn stop(&mut self) {
        when_free(Command::new("umount").arg(self.fuse()));
        let mut server = self.server.take().unwrap();
        // `wait` would close it, and the server would take that for the end of this process.
        let _held = server.stdin.take();
        assert!(server.wait().unwrap().success());
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // A failed test may leave the disk in any state.
        for dir in [self.path(), self.fuse(), self.dir.path().to_owned()] {
            run(Command::new("umount").arg("-l").arg(dir).stderr(Stdio::null()));
        }
        if let Some(mut server) = self.server.take() {
            drop(server.stdin.take());
            server.wait().unwrap();
        }
    }
}

/// Returns a command that runs as after a reboot: it sees another boot id than this process, and always
/// the same id for the same number.
pub fn on_boot(number: u32, program: &str) -> Command {
    let id = format!("{number:08x}-0000-4000-8000-000000000000");
    let script = r#"mount -t tmpfs tmpfs /mnt && echo "$0" > /mnt/boot_id \
        && mount --bind /mnt/boot_id /proc/sys/kernel/random/boot_id && exec "$@""#;
    let mut command = Command::new("unshare");
    command.args(["--mount", "--propagation", "slave", "sh", "-c", script, &id, program]);
    command
}
