//! `deaddrop-disk IMAGE DIR`: serves the disk image as `DIR/image` and obeys lines in `DIR/control`.

use std::io;
use std::path::Path;

fn main() -> io::Result<()> {
    let words: Vec<_> = std::env::args_os().collect();
    let [_, image, dir] = &words[..] else {
        return Err(io::Error::other("usage: deaddrop-disk IMAGE DIR"));
    };
    deaddrop_disk::serve(Path::new(image), Path::new(dir))
}
