use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

use super::Echo;
use crate::subject::Promise;

pub(super) struct Socket;

impl Echo for Socket {
    fn name(&self) -> &'static str {
        "Unix socket"
    }

    fn usage(&self) -> &'static str {
        "a stream, `write_all` and `read_exact`"
    }

    fn promise(&self, _cpus: usize) -> Result<Promise, &'static str> {
        Ok(Promise::NOTHING)
    }

    fn serve(&self, dir: &Path, size: usize, ready: &dyn Fn()) {
        let listener = UnixListener::bind(dir.join("s")).unwrap();
        ready();
        let (mut stream, _) = listener.accept().unwrap();
        let mut bytes = vec![0; size];
        while stream.read_exact(&mut bytes).is_ok() {
            stream.write_all(&bytes).unwrap();
        }
    }

    fn client(&self, dir: &Path, request: &[u8]) -> Box<dyn FnMut()> {
        let mut stream = UnixStream::connect(dir.join("s")).unwrap();
        let mut bytes = request.to_vec();
        Box::new(move || {
            stream.write_all(&bytes).unwrap();
            stream.read_exact(&mut bytes).unwrap();
        })
    }
}
