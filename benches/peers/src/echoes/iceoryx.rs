use std::path::Path;

use iceoryx2::port::listener::Listener;
use iceoryx2::port::notifier::Notifier;
use iceoryx2::prelude::*;

use super::Echo;
use crate::subject::Promise;

/// Requests and responses of iceoryx2, found by polling, or after an event.
pub(super) struct Iceoryx {
    pub(super) polls: bool,
}

/// Its payloads are values of a type with a fixed size.
type Payload = [u8; 256];

impl Echo for Iceoryx {
    fn name(&self) -> &'static str {
        if self.polls {
            "iceoryx2, polling"
        } else {
            "iceoryx2, events"
        }
    }

    fn usage(&self) -> &'static str {
        if self.polls {
            "request-response; both sides poll `receive` and never sleep"
        } else {
            "request-response, and an event for each direction: `notify`, `blocking_wait`"
        }
    }

    fn promise(&self, cpus: usize) -> Result<Promise, &'static str> {
        if self.polls && cpus == 1 {
            return Err("polling on one CPU measures the scheduler");
        }
        Ok(Promise::NOTHING)
    }

    fn serve(&self, dir: &Path, size: usize, ready: &dyn Fn()) {
        assert_eq!(size, size_of::<Payload>());
        let node = NodeBuilder::new().create::<ipc::Service>().unwrap();
        let calls = node.service_builder(&named(dir, "echo"));
        let calls = calls.request_response::<Payload, Payload>().open_or_create().unwrap();
        let server = calls.server_builder().create().unwrap();
        let wake = Wake::new(&node, dir, ["requests", "replies"]);
        ready();
        loop {
            self.wait(&wake);
            while let Some(request) = server.receive().unwrap() {
                let response = request.loan_uninit().unwrap();
                response.write_payload(*request).send().unwrap();
                self.notify(&wake);
            }
        }
    }

    fn client(&self, dir: &Path, request: &[u8]) -> Box<dyn FnMut()> {
        let request: Payload = request.try_into().expect("the size of a payload");
        let node = NodeBuilder::new().create::<ipc::Service>().unwrap();
        let calls = node.service_builder(&named(dir, "echo"));
        let calls = calls.request_response::<Payload, Payload>().open_or_create().unwrap();
        let client = calls.client_builder().create().unwrap();
        let wake = Wake::new(&node, dir, ["replies", "requests"]);
        let polls = Iceoryx { polls: self.polls };
        Box::new(move || {
            let _open = (&node, &calls);
            let loan = client.loan_uninit().unwrap();
            let pending = loan.write_payload(request).send().unwrap();
            polls.notify(&wake);
            while pending.receive().unwrap().is_none() {
                polls.wait(&wake);
            }
        })
    }
}

impl Iceoryx {
    fn wait(&self, wake: &Wake) {
        if self.polls {
            std::hint::spin_loop();
        } else {
            wake.waits.blocking_wait(|_| ()).unwrap();
        }
    }

    fn notify(&self, wake: &Wake) {
        if !self.polls {
            wake.notifies.notify().unwrap();
        }
    }
}

/// The two events, from one side.
struct Wake {
    waits: Listener<ipc::Service>,
    notifies: Notifier<ipc::Service>,
}

impl Wake {
    fn new(node: &Node<ipc::Service>, dir: &Path, [waits, notifies]: [&str; 2]) -> Wake {
        let event =
            |name| node.service_builder(&named(dir, name)).event().open_or_create().unwrap();
        Wake {
            waits: event(waits).listener_builder().create().unwrap(),
            notifies: event(notifies).notifier_builder().create().unwrap(),
        }
    }
}

/// The name of a service of this pass alone.
fn named(dir: &Path, what: &str) -> ServiceName {
    format!("{}/{what}", dir.display()).as_str().try_into().unwrap()
}
