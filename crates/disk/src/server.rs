//! The FUSE server: mounts a directory that shows the volume as the file `image`, and obeys the lines
//! that are written into the file `control`.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;
use std::path::Path;

use rustix::io::Errno;
use rustix::mount::{mount, MountFlags};

use crate::protocol::{self, Call, Request, CONTROL, IMAGE, ROOT};
use crate::volume::{Outcome, Volume};

struct Server {
    kernel: File,
    volume: Volume,
    /// Flushes that are answered when the volume resumes.
    stalled: Vec<u64>,
}

/// Serves `image` at `dir` until the directory is unmounted.
pub(crate) fn serve(image: &Path, dir: &Path) -> io::Result<()> {
    let image = OpenOptions::new().read(true).write(true).open(image)?;
    let kernel = OpenOptions::new().read(true).write(true).open("/dev/fuse")?;
    let options = format!("fd={},rootmode=40000,user_id=0,group_id=0", kernel.as_raw_fd());
    let flags = MountFlags::NOSUID | MountFlags::NODEV;
    let options = std::ffi::CString::new(options)?;
    mount("deaddrop-disk", dir, "fuse", flags, options.as_c_str())?;
    let mut server = Server { kernel, volume: Volume::new(image)?, stalled: Vec::new() };
    let mut buffer = vec![0; protocol::REQUEST_MAX];
    loop {
        match server.kernel.read(&mut buffer) {
            Ok(len) => {
                let Some(request) = protocol::decode(&buffer[..len]) else {
                    return Err(io::Error::other("a request that is cut short"));
                };
                server.answer(&request)?;
            }
            // The request was interrupted before it was read.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            // Unmounted.
            Err(error) if Errno::from_io_error(&error) == Some(Errno::NODEV) => return Ok(()),
            Err(error) => return Err(error),
        }
    }
}

impl Server {
    fn answer(&mut self, request: &Request<'_>) -> io::Result<()> {
        let len_bytes = |node| if node == IMAGE { self.volume.len_bytes() } else { 0 };
        let result = match request.call {
            Call::Start => Ok(protocol::started()),
            Call::Lookup { name } => match name {
                b"image" => Ok(protocol::entry(IMAGE, len_bytes(IMAGE))),
                b"control" => Ok(protocol::entry(CONTROL, 0)),
                _ => Err(Errno::NOENT),
            },
            Call::Attributes => Ok(protocol::attributes_of(request.node, len_bytes(request.node))),
            Call::Open => Ok(protocol::opened(request.node)),
            Call::FileSystem => Ok(protocol::file_system()),
            Call::Read { position, len } => self.read(request.node, position, len),
            Call::Write { position, data } if request.node == CONTROL => {
                let line = String::from_utf8_lossy(data);
                let done = if position == 0 { self.volume.obey(&line) } else { Err(Errno::INVAL) };
                self.answer_stalled()?;
                done.map(|()| protocol::written(data.len()))
            }
            Call::Write { position, data } => {
                let done = self.volume.write(position, data);
                settled(done).map(|()| protocol::written(data.len()))
            }
            Call::Sync if request.node == IMAGE => match self.volume.flush() {
                Outcome::Stalled => {
                    self.stalled.push(request.unique);
                    return Ok(());
                }
                done => settled(done).map(|()| Vec::new()),
            },
            Call::Sync | Call::Done { reply: true } => Ok(Vec::new()),
            Call::Done { reply: false } => return Ok(()),
            Call::Unknown => Err(Errno::NOSYS),
        };
        self.reply(request.unique, result)
    }

    fn read(&mut self, node: u64, position: u64, len: usize) -> Result<Vec<u8>, Errno> {
        match node {
            IMAGE => self.volume.read(position, len).map_err(|_| Errno::IO),
            CONTROL => {
                let state = self.volume.state().into_bytes();
                let from = state.len().min(position as usize);
                Ok(state[from..state.len().min(from + len)].to_vec())
            }
            ROOT => Ok(Vec::new()),
            _ => Err(Errno::NOENT),
        }
    }

    fn answer_stalled(&mut self) -> io::Result<()> {
        if self.volume.is_stalled() {
            return Ok(());
        }
        for unique in std::mem::take(&mut self.stalled) {
            let done = settled(self.volume.flush());
            self.reply(unique, done.map(|()| Vec::new()))?;
        }
        Ok(())
    }

    fn reply(&mut self, unique: u64, result: Result<Vec<u8>, Errno>) -> io::Result<()> {
        let bytes = match result {
            Ok(body) => protocol::reply(unique, 0, &body),
            Err(errno) => protocol::reply(unique, errno.raw_os_error(), &[]),
        };
        match self.kernel.write(&bytes) {
            Ok(_) => Ok(()),
            // The requesting process was interrupted or is gone.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
        }
    }
}

fn settled(outcome: Outcome) -> Result<(), Errno> {
    match outcome {
        Outcome::Done => Ok(()),
        Outcome::Failed(errno) => Err(errno),
        Outcome::Stalled => Err(Errno::AGAIN),
    }
}
