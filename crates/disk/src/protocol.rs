//! The FUSE protocol, as far as a directory with two files needs it: requests decoded, replies encoded.
//! Layouts are those of `linux/fuse.h`; this speaks minor version 31, which every supported kernel knows.

/// The longest write that the server accepts, and the room that a request may need.
pub(crate) const WRITE_MAX: usize = 1 << 20;
pub(crate) const REQUEST_MAX: usize = WRITE_MAX + 4096;

pub(crate) const ROOT: u64 = 1;
pub(crate) const IMAGE: u64 = 2;
pub(crate) const CONTROL: u64 = 3;

const HEADER_LEN: usize = 40;
const WRITE_HEADER_LEN: usize = 40;

/// The request of the kernel.
pub(crate) enum Call<'a> {
    Lookup {
        name: &'a [u8],
    },
    Attributes,
    Open,
    Read {
        position: u64,
        len: usize,
    },
    Write {
        position: u64,
        data: &'a [u8],
    },
    Sync,
    FileSystem,
    Start,
    /// Closing, forgetting: these need no action, with or without a reply.
    Done {
        reply: bool,
    },
    Unknown,
}

pub(crate) struct Request<'a> {
    pub(crate) unique: u64,
    pub(crate) node: u64,
    pub(crate) call: Call<'a>,
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}

/// Decodes one request; `None` if the bytes are not a whole request.
pub(crate) fn decode(bytes: &[u8]) -> Option<Request<'_>> {
    let opcode = u32_at(bytes, 4)?;
    let body = bytes.get(HEADER_LEN..)?;
    let call = match opcode {
        1 => Call::Lookup { name: body.strip_suffix(&[0])? },
        3 => Call::Attributes,
        14 | 27 => Call::Open,
        15 | 28 => Call::Read { position: u64_at(body, 8)?, len: u32_at(body, 16)? as usize },
        16 => {
            let len = u32_at(body, 16)? as usize;
            let data = body.get(WRITE_HEADER_LEN..WRITE_HEADER_LEN + len)?;
            Call::Write { position: u64_at(body, 8)?, data }
        }
        17 => Call::FileSystem,
        18 | 25 | 29 => Call::Done { reply: true },
        20 => Call::Sync,
        26 => Call::Start,
        2 | 36 | 42 => Call::Done { reply: false },
        // SETATTR: a shell truncates the control file before it writes into it.
        4 => Call::Attributes,
        _ => Call::Unknown,
    };
    Some(Request { unique: u64_at(bytes, 8)?, node: u64_at(bytes, 16)?, call })
}

/// A whole reply: an error number, 0 for none, and the body.
pub(crate) fn reply(unique: u64, errno: i32, body: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(16 + body.len());
    bytes.extend((16 + body.len() as u32).to_le_bytes());
    bytes.extend((-errno).to_le_bytes());
    bytes.extend(unique.to_le_bytes());
    bytes.extend(body);
    bytes
}

pub(crate) fn started() -> Vec<u8> {
    const BIG_WRITES: u32 = 1 << 5;
    const MAX_PAGES: u32 = 1 << 22;
    let mut body = Vec::new();
    for word in [7, 31, 1 << 20, BIG_WRITES | MAX_PAGES] {
        body.extend(u32::to_le_bytes(word));
    }
    // The limit of requests in the background, and from how many on the kernel throttles writers.
    body.extend([16u16.to_le_bytes(), 12u16.to_le_bytes()].concat());
    body.extend((WRITE_MAX as u32).to_le_bytes());
    body.extend(1u32.to_le_bytes());
    body.extend((((WRITE_MAX / 4096) as u16).to_le_bytes()).into_iter().chain([0, 0]));
    body.resize(64, 0);
    body
}

fn attributes(node: u64, len_bytes: u64) -> Vec<u8> {
    let (mode, links) = if node == ROOT { (0o40_755, 2u32) } else { (0o100_600, 1) };
    let mut body = Vec::new();
    body.extend(node.to_le_bytes());
    body.extend(len_bytes.to_le_bytes());
    body.extend(len_bytes.div_ceil(512).to_le_bytes());
    body.resize(48 + 12, 0);
    body.extend(u32::to_le_bytes(mode));
    body.extend(links.to_le_bytes());
    body.resize(88, 0);
    body
}

/// How long the kernel may rely on a name and its attributes: they never change.
const VALID_S: u64 = 3600;

pub(crate) fn entry(node: u64, len_bytes: u64) -> Vec<u8> {
    let mut body = Vec::new();
    for word in [node, 0, VALID_S, VALID_S, 0] {
        body.extend(word.to_le_bytes());
    }
    body.extend(attributes(node, len_bytes));
    body
}

pub(crate) fn attributes_of(node: u64, len_bytes: u64) -> Vec<u8> {
    let mut body = Vec::new();
    body.extend(VALID_S.to_le_bytes());
    body.extend([0; 8]);
    body.extend(attributes(node, len_bytes));
    body
}

/// The image is cached by the kernel, as a disk's blocks are; the control file is not.
pub(crate) fn opened(node: u64) -> Vec<u8> {
    const DIRECT_IO: u32 = 1;
    let flags = if node == CONTROL { DIRECT_IO } else { 0 };
    [&[0; 8][..], &flags.to_le_bytes(), &[0; 4]].concat()
}

pub(crate) fn written(len: usize) -> Vec<u8> {
    [(len as u32).to_le_bytes(), [0; 4]].concat()
}

pub(crate) fn file_system() -> Vec<u8> {
    let mut body = vec![0; 40];
    for word in [4096u32, 255, 4096] {
        body.extend(word.to_le_bytes());
    }
    body.resize(80, 0);
    body
}
