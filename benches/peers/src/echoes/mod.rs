//! Ways to get a reply from another process, in the order of the table.

mod deaddrop;
mod iceoryx;
mod socket;

use std::path::Path;

use crate::subject::Promise;

/// A server that sends each request back, and its client.
pub(crate) trait Echo: Sync {
    fn name(&self) -> &'static str;

    /// How it is used.
    fn usage(&self) -> &'static str;

    /// What a request and a reply survive, or why this does not take part with this number of CPUs.
    fn promise(&self, cpus: usize) -> Result<Promise, &'static str>;

    /// Calls `ready` as soon as clients can connect, and then answers requests of `size` bytes forever.
    fn serve(&self, dir: &Path, size: usize, ready: &dyn Fn());

    /// Connects. Each call of the function that is returned sends the request and waits for its reply.
    fn client(&self, dir: &Path, request: &[u8]) -> Box<dyn FnMut()>;
}

pub(crate) const ALL: [&dyn Echo; 5] = [
    &deaddrop::Topics,
    &deaddrop::Service,
    &socket::Socket,
    &iceoryx::Iceoryx { polls: false },
    &iceoryx::Iceoryx { polls: true },
];

pub(crate) fn named(name: &str) -> &'static dyn Echo {
    ALL.into_iter().find(|echo| echo.name() == name).expect("the name of an echo")
}
