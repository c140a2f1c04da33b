//! Header pages and file lengths, which have to be right before a topic is opened.

use std::collections::HashMap;
use std::io::ErrorKind::NotFound;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::plan::{self, HeaderPage};
use super::quarantine::Quarantine;
use super::segments::{remove_index_of, Repair};
use super::{finding, survey, Finding, Note, Remedy, Report};
use crate::error::{Error, IoResultExt, Result};
use crate::format::segment::{self as layout, Header};
use crate::format::settings::Settings;
use crate::format::{frame, PAGE_LEN, SECTOR_LEN};
use crate::segment::{list_bases, Batches, Found, Frames, Segment};
use crate::store::check_settings;
use crate::sys::crash_point::crash_point;
use crate::sys::{self, Access, Directory, DiskFile};

/// The header pages of a topic.
pub(super) struct Headers<'a> {
    files: &'a dyn Directory,
    dir: &'a Path,
    topic_id: u64,
    execute: bool,
    findings: Vec<Finding>,
    notes: Vec<Note>,
    /// Headers that are not in their files, or were not before this repair.
    rebuilt: HashMap<u64, Header>,
    /// Segments of another topic that are moved away.
    foreign: Vec<u64>,
}

impl<'a> Headers<'a> {
    pub(super) fn of(
        files: &'a dyn Directory,
        dir: &'a Path,
        settings: &Settings,
        execute: bool,
    ) -> Headers<'a> {
        let topic_id = settings.topic_id;
        let (findings, notes, rebuilt) = (Vec::new(), Vec::new(), HashMap::new());
        Headers { files, dir, topic_id, execute, findings, notes, rebuilt, foreign: Vec::new() }
    }

    /// Continues with the repair of the rest of the topic.
    pub(super) fn repair(self) -> Repair<'a> {
        Repair {
            files: self.files,
            dir: self.dir,
            topic_id: self.topic_id,
            execute: self.execute,
            rebuilt: self.rebuilt,
            foreign: self.foreign,
            report: Report { findings: self.findings, notes: self.notes, ..Report::default() },
            marked_lost: Vec::new(),
        }
    }

    /// Checks all segments, and repairs them if `execute` is set.
    pub(super) fn look(&mut self) -> Result<()> {
        let bases = list_bases(self.files, self.dir)?;
        check_settings(self.files, &bases, self.topic_id)?;
        let mut previous = None;
        for (index, &base) in bases.iter().enumerate() {
            let (is_first, is_newest) = (index == 0, index + 1 == bases.len());
            if let Some(header) = self.segment(base, is_first, is_newest, previous)? {
                previous = Some(header);
            }
        }
        Ok(())
    }

    /// Returns the header of a segment, if it can be determined.
    fn segment(
        &mut self,
        base: u64,
        is_first: bool,
        is_newest: bool,
        previous: Option<Header>,
    ) -> Result<Option<Header>> {
        let path = self.dir.join(layout::file_name(base));
        let access = if self.execute { Access::ReadWrite } else { Access::Read };
        let file = match self.files.open(&path, access) {
            Ok(file) => file,
            // A process that uses the topic has trimmed it since the directory was read.
            Err(error) if error.kind() == NotFound && !self.execute => return Ok(None),
            Err(error) => return Err(Error::io("reading", &path, error)),
        };
        let page = sys::read_start(&*file, PAGE_LEN).at("reading", &path)?;
        let found = plan::header_page(&page, base, self.topic_id)
            .map_err(|error| Error::malformed(&path, 0, error))?;
        let header = match found {
            HeaderPage::Whole(header) => header,
            HeaderPage::OneSector(header, at) => {
                let what = plan::damaged_sector(at).to_owned();
                let finding = finding(&path, at as u64, SECTOR_LEN as u64, what);
                self.write(
                    &*file,
                    Finding { remedy: Remedy::RestoreHeader, ..finding },
                    &[(at, header)],
                )?;
                header
            }
            HeaderPage::Unreadable { blank: true, .. } if is_newest => {
                let what = "no header has reached the disk: opening the topic sets the file aside";
                self.notes.push(Note { path, what: what.into() });
                return Ok(None);
            }
            HeaderPage::Unreadable { what, foreign, .. } => {
                let salt = survey::salt(&*file).at("reading", &path)?;
                // The frames say whether the file is foreign, or its header alone.
                let is_of =
                    |other| salt.is_none_or(|salt| frame::seed(salt, 0) == frame::seed(other, 0));
                if foreign.is_some_and(is_of) {
                    // The first one has a place in the log, whose offsets are marked lost later.
                    if !is_first {
                        self.move_away(&*file, base)?;
                    }
                    return Ok(None);
                }
                let Some(salt) = salt else { return Ok(None) };
                let header = self.rebuild(&*file, &path, base, salt, previous)?;
                self.rebuilt.insert(base, header);
                let finding = finding(&path, 0, PAGE_LEN as u64, what);
                let both = [(0, header), (layout::HEADER_COPY_AT, header)];
                self.write(&*file, Finding { remedy: Remedy::RebuildHeader, ..finding }, &both)?;
                header
            }
        };
        // A repair opens the topic, which clears the latch.
        if layout::is_latched(&page) && !self.execute {
            let what = "a sync failed here: check the disk, close the topic in every process and open it again";
            let finding = finding(&path, layout::LATCH_AT as u64, 8, what.to_owned());
            self.findings.push(Finding { remedy: Remedy::Reopen, ..finding });
        }
        self.extend(&*file, path, &header)?;
        Ok(Some(header))
    }

    /// Gives a file that was cut off its former length.
    fn extend(&mut self, file: &dyn DiskFile, path: PathBuf, header: &Header) -> Result<()> {
        let len = file.len().at("reading", &path)?;
        if len < header.file_len {
            let what = format!("{} bytes expected, {len} found", header.file_len);
            let mut finding = finding(&path, len, header.file_len - len, what);
            finding.remedy = Remedy::Extend;
            if self.execute {
                file.allocate(header.file_len).at("extending", &path)?;
                file.sync_data().at("extending", &path)?;
                finding.done = true;
            }
            self.findings.push(finding);
        }
        Ok(())
    }

    /// Moves a segment of another topic into the quarantine. The offsets that are lost with the file whose place
    /// it took are a gap between the others.
    fn move_away(&mut self, file: &dyn DiskFile, base: u64) -> Result<()> {
        let path = self.dir.join(layout::file_name(base));
        let len = file.len().at("sizing", &path)?;
        let mut finding = finding(&path, 0, len, plan::FOREIGN.to_owned());
        finding.remedy = Remedy::SetAside;
        if self.execute {
            let quarantine = Quarantine::of(self.files, self.dir);
            finding.kept = Some(quarantine.set_aside(&path, &layout::file_name(base))?);
            remove_index_of(self.files, self.dir, base)?;
            finding.done = true;
        }
        self.foreign.push(base);
        self.findings.push(finding);
        Ok(())
    }

    /// Returns the header of a segment whose frames have this salt. Its durable end is that of the segment
    /// before: less than that of the lost header, and never more than was promised.
    fn rebuild(
        &self,
        file: &dyn DiskFile,
        path: &Path,
        base: u64,
        salt: u64,
        previous: Option<Header>,
    ) -> Result<Header> {
        let max_timestamp = match previous {
            Some(previous) => self.max_timestamp(previous, base)?,
            None => 0,
        };
        Ok(Header {
            epoch: previous.map_or(0, |previous| previous.epoch),
            base,
            salt,
            topic_id: self.topic_id,
            durable_end: previous.map_or(0, |previous| previous.durable_end),
            max_timestamp,
            file_len: file.len().at("sizing", path)?,
        })
    }

    /// The largest timestamp of all records up to the end of a segment, which `next` follows.
    fn max_timestamp(&self, header: Header, next: u64) -> Result<u64> {
        let path = self.dir.join(layout::file_name(header.base));
        let file = self.files.open(&path, Access::Read).at("opening", &path)?;
        let segment = Arc::new(Segment::with_header(path, file, header, None)?);
        let mut batches = Batches::of(Frames::of(&segment).before(Some(next)));
        loop {
            let is_over = match batches.next()? {
                Found::Batch(_) | Found::Lost => false,
                Found::Bad(_) => batches.pass()?.found.is_none(),
                Found::End => true,
            };
            if is_over {
                return Ok(header.max_timestamp.max(batches.newest));
            }
        }
    }

    /// Writes header sectors, after keeping the bytes of the finding's range.
    fn write(
        &mut self,
        file: &dyn DiskFile,
        mut finding: Finding,
        sectors: &[(usize, Header)],
    ) -> Result<()> {
        if self.execute {
            let range = finding.position..finding.position + finding.len;
            let quarantine = Quarantine::of(self.files, self.dir);
            finding.kept = quarantine.keep(file, &finding.path, range)?;
            crash_point!("repair.header-kept");
            for (at, header) in sectors {
                file.write_all_at(&header.encode(), *at as u64).at("writing", &finding.path)?;
                crash_point!("repair.header-written");
            }
            file.sync_data().at("writing", &finding.path)?;
            finding.done = true;
        }
        self.findings.push(finding);
        Ok(())
    }
}
