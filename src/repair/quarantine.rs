//! Side files with the bytes that a repair writes over: `quarantine/SEGMENT.POSITION.LEN` in the topic's
//! directory. Nothing in it is ever read again or deleted.

use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};

use crate::error::{Error, IoResultExt, Result};
use crate::sys::{self, Access, Directory, DiskFile};

const QUARANTINE: &str = "quarantine";
const CHUNK_LEN: usize = 1 << 20;
/// The most files of one name with different contents.
const VARIANTS_MAX: u32 = 10_000;

/// The quarantine of one topic.
#[derive(Debug)]
pub(super) struct Quarantine<'a> {
    files: &'a dyn Directory,
    dir: PathBuf,
}

impl<'a> Quarantine<'a> {
    /// Returns the quarantine in a topic's directory; the directory is created with the first file.
    pub(super) fn of(files: &'a dyn Directory, topic_dir: &Path) -> Quarantine<'a> {
        Quarantine { files, dir: topic_dir.join(QUARANTINE) }
    }

    /// Copies a range of a file, durably. Returns `None` if the range holds only zeros.
    pub(super) fn keep(
        &self,
        file: &dyn DiskFile,
        path: &Path,
        range: Range<u64>,
    ) -> Result<Option<PathBuf>> {
        let end = range.end.min(file.len().at("sizing", path)?);
        let range = range.start..end.max(range.start);
        let used = sys::end_of_bytes(file, range.clone()).at("reading", path)?;
        if used == range.start {
            return Ok(None);
        }
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let name = format!("{name}.{}.{}", range.start, range.end - range.start);
        let temporary = self.dir.join(format!("{name}.tmp"));
        self.make_dir()?;
        self.remove_leftover(&temporary)?;
        let copy = self.files.open(&temporary, Access::CreateNew).at("writing", &temporary)?;
        copy.allocate(range.end - range.start).at("writing", &temporary)?;
        copy_range(file, range.clone(), &*copy).at("writing", &temporary)?;
        copy.sync_data().at("writing", &temporary)?;
        let kept = self.give_name(&temporary, &*copy, &name)?;
        self.sync()?;
        Ok(Some(kept))
    }

    /// Moves a file into the quarantine, durably.
    pub(super) fn set_aside(&self, path: &Path, name: &str) -> Result<PathBuf> {
        self.make_dir()?;
        let to = self.free_name(path, name)?;
        self.sync()?;
        let parent = path.parent().unwrap_or(Path::new("."));
        self.files.sync_dir(parent).at("syncing", parent)?;
        Ok(to)
    }

    fn make_dir(&self) -> Result<()> {
        let made = self.files.make_dir(&self.dir).map(drop);
        made.at("creating", &self.dir)
    }

    fn sync(&self) -> Result<()> {
        self.files.sync_dir(&self.dir).at("syncing", &self.dir)
    }

    fn remove_leftover(&self, temporary: &Path) -> Result<()> {
        let removed = self.files.remove_file(temporary);
        removed.not_found_is_none().at("removing", temporary).map(drop)
    }

    /// Names the copy, unless a repair that was cut off has left the same bytes under that name.
    fn give_name(&self, temporary: &Path, copy: &dyn DiskFile, name: &str) -> Result<PathBuf> {
        let path = self.dir.join(name);
        if let Ok(earlier) = self.files.open(&path, Access::Read) {
            if same_bytes(&*earlier, copy).at("comparing", &path)? {
                // The earlier file may not have been durable yet.
                earlier.sync_data().at("comparing", &path)?;
                self.remove_leftover(temporary)?;
                return Ok(path);
            }
        }
        self.free_name(temporary, name)
    }

    fn free_name(&self, from: &Path, name: &str) -> Result<PathBuf> {
        for variant in 1..=VARIANTS_MAX {
            let path = match variant {
                1 => self.dir.join(name),
                _ => self.dir.join(format!("{name}.{variant}")),
            };
            match self.files.rename_no_replace(from, &path) {
                Ok(()) => return Ok(path),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(Error::io("renaming", from, error)),
            }
        }
        let dir = self.dir.display();
        let what = format!("there are {VARIANTS_MAX} files named {name} in {dir}: move them away");
        Err(Error::Invalid { what })
    }
}

fn copy_range(from: &dyn DiskFile, range: Range<u64>, to: &dyn DiskFile) -> io::Result<()> {
    let mut chunk = vec![0; CHUNK_LEN];
    let mut at = range.start;
    while at < range.end {
        let wanted = chunk.len().min((range.end - at) as usize);
        let read = from.read_at(&mut chunk[..wanted], at)?;
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        to.write_all_at(&chunk[..read], at - range.start)?;
        at += read as u64;
    }
    Ok(())
}

fn same_bytes(one: &dyn DiskFile, other: &dyn DiskFile) -> io::Result<bool> {
    let len = one.len()?;
    if other.len()? != len {
        return Ok(false);
    }
    let mut chunks = [vec![0; CHUNK_LEN], vec![0; CHUNK_LEN]];
    let mut at = 0;
    while at < len {
        let wanted = CHUNK_LEN.min((len - at) as usize);
        for (file, chunk) in [one, other].into_iter().zip(&mut chunks) {
            if file.read_at(&mut chunk[..wanted], at)? < wanted {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        if chunks[0][..wanted] != chunks[1][..wanted] {
            return Ok(false);
        }
        at += wanted as u64;
    }
    Ok(true)
}
