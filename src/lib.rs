//! An append-only log of records in a directory, for several processes on one Linux machine, without a
//! server: link the crate, name a directory, append. An acknowledged record survives `kill -9` and, by
//! default, power loss. Processes that never run at the same time can still communicate.
//!
//! ```
//! # fn main() -> deaddrop::Result<()> {
//! # let dir = deaddrop::doc_dir();
//! use deaddrop::{Log, Record, Start};
//!
//! let log = Log::open_or_create(&dir)?; // any number of processes may open it
//! let orders = log.topic("orders")?;
//! orders.append(&Record::new("3 of item 7").with_key("customer-12"))?; // durable on return
//!
//! // In the same process, in another one, or next week:
//! let mut billing = orders.consumer("billing", Start::First)?;
//! while let Some(order) = billing.next()? {
//!     assert_eq!(order.payload(), b"3 of item 7");
//!     billing.commit()?; // survives kill -9; after a restart, reading resumes at the next record
//! }
//! # Ok(()) }
//! ```
//!
//! # Logs, topics, readers
//!
//! A [`Log`] is a directory of topics. A [`Topic`] is a sequence of records with dense offsets from 0, stored
//! in segment files. A [`Reader`] reads from its own position; a [`Consumer`] is a named position, kept in a
//! file, with one owner at a time. A wait ([`Reader::wait`], [`Consumer::wait`]) sleeps in the kernel until a
//! process appends; a [`Stop`] ends it.
//!
//! [`service`] builds request and reply on two topics: a server that answers each request once, and clients
//! whose callbacks are registered by name, so that an outcome reaches them even after a restart.
//!
//! It is not a broker: there is no network protocol and no replication. Delivery is at least once. All calls
//! block; in async code use a thread or `spawn_blocking`.
//!
//! # Promises
//!
//! Each topic has a [`Durability`], chosen when it is created:
//!
//! | | `PowerLoss` (default) | `PowerLossWithin(d)` | `ProcessCrash` |
//! |---|---|---|---|
//! | [`append`](Topic::append) returns after | fdatasync, which concurrent appends share | a store into memory | a store into memory |
//! | `kill -9` of any process | survives | survives | survives |
//! | power loss, kernel crash | survives | survives if older than `d` and a writer process ran | the newest records may be lost; a prefix comes back |
//! | readers see a record | when it is durable | when it is appended | when it is appended |
//!
//! On every durability: a batch is all or nothing; a killed writer blocks no other process, and the others
//! wait for a stopped writer but never take its lock; a full disk is an error of one append, not a signal;
//! after a failed fdatasync nothing more is appended, and everything that was durable stays readable; a
//! damaged byte is an error that names file, position and offset, never a wrong record (up to the 2^-32 of a
//! CRC-32), and readers can continue after it; only retention ever deletes anything.
//!
//! The error of a failed append says whether the record is in the log: see [`Error`].
//!
//! # Processes, threads, forks
//!
//! [`Log`] and [`Topic`] are `Clone + Send + Sync`. One topic can be open for writing in 1,023 processes.
//! Kernel locks, not process ids, clocks or timeouts, decide which processes are alive, so containers that
//! share the directory can share the log, and there is nothing to clean up after a crash. In a forked child
//! every call returns [`Error::Forked`]: open the log in the child.
//!
//! The trust boundary is the permissions of the directory. Whatever bytes its files hold, opening and reading
//! return errors and do not panic; but a process that may write the files can destroy the log, and truncating
//! a file while a process has it open ends that process.
//!
//! # Platform
//!
//! Linux 5.14 or newer, 64-bit, little-endian, on a local file system. Network file systems are
//! refused, see [`LogOptions::allow_network_file_system`].
//!
//! # Features
//!
//! None is enabled by default.
//!
//! - `json`: [`Record::json`] and [`RecordRef::json`], payloads through serde.
//! - `tracing`: spans of requests and callbacks, with the field names that OpenTelemetry gives messaging.
//! - `sim`: disks in memory, images of power cuts, faults and crash points, to test code that embeds
//!   the log. Costs a load at every crash point.
#![cfg_attr(docsrs, feature(doc_cfg))]
#![deny(unsafe_code)]
#![warn(missing_docs)]
// A loom build has the words of the control page and their protocols, and nothing above them.
#![cfg_attr(loom, allow(dead_code, unused_imports))]

#[cfg(not(all(target_os = "linux", target_pointer_width = "64", target_endian = "little")))]
compile_error!("deaddrop needs Linux 5.14 or newer on a 64-bit, little-endian processor");

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
mod readme {}

/// The setters of a struct of options.
#[cfg(not(loom))]
macro_rules! setters {
    ($options:ty: $($set:ident $field:ident: $value:ty,)*) => {
        impl $options {
            $(
                #[doc = concat!("Sets [`", stringify!($field), "`](Self::", stringify!($field), ").")]
                #[must_use]
                pub fn $set(mut self, $field: $value) -> Self {
                    self.$field = $field.into();
                    self
                }
            )*
        }
    };
}

/// Counters that only increase, and the struct that a caller reads them into. No other data is read through them,
/// so they need no memory ordering.
#[cfg(not(loom))]
macro_rules! counters {
    ($(#[$about:meta])* $stats:ident of $counters:ident: $($(#[$counts:meta])* $name:ident,)*) => {
        $(#[$about])*
        #[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
        #[non_exhaustive]
        pub struct $stats {
            $($(#[$counts])* pub $name: u64,)*
        }

        #[derive(Debug, Default)]
        pub(crate) struct $counters {
            $(pub(crate) $name: AtomicU64,)*
        }

        impl $counters {
            pub(crate) fn read_out(&self) -> $stats {
                $stats { $($name: self.$name.load(Ordering::Relaxed),)* }
            }
        }
    };
}

#[cfg(not(loom))]
mod consumer;
#[allow(unsafe_code)]
mod control;
#[cfg(not(loom))]
mod cursor;
mod error;
mod events;
#[doc(hidden)]
pub mod format;
#[cfg(not(loom))]
pub mod group;
mod housekeeper;
mod index;
#[cfg(not(loom))]
#[doc(hidden)]
pub mod inspect;
#[cfg(not(loom))]
mod log;
#[cfg(not(loom))]
mod ownership;
#[cfg(not(loom))]
mod reader;
mod record;
mod recovery;
#[cfg(not(loom))]
pub mod repair;
mod segment;
#[cfg(not(loom))]
pub mod service;
mod stop;
#[cfg(not(loom))]
mod store;
#[allow(unsafe_code)]
mod sys;
#[cfg(not(loom))]
mod topic;

#[cfg(not(loom))]
pub use consumer::{Consumer, ConsumerInfo};
#[cfg(not(loom))]
#[doc(hidden)]
pub use control::{control_words, CONTROL_MAGIC, CONTROL_MEMBERS_AT};
pub use error::{Error, Result};
#[cfg(not(loom))]
pub use log::{Log, LogOptions};
#[cfg(not(loom))]
pub use reader::{Reader, Start};
pub use record::{BorrowedRecord, OwnedRecord, Record, RecordRef};
pub use recovery::{Cut, Damage, RecoveryReport};
pub use stop::Stop;
#[cfg(feature = "sim")]
#[doc(hidden)]
pub use sys::{blocks as blocks_of, clock::shift_wall_clock};
#[cfg(feature = "sim")]
pub use sys::{crash_point::arm as arm_crash_points, sim};
#[cfg(not(loom))]
pub use topic::{Append, Clocks, Durability, MemberInfo, Retention, Topic, TopicOptions};

/// A directory for the examples in this documentation.
#[cfg(feature = "sim")]
#[doc(hidden)]
pub fn doc_dir() -> std::path::PathBuf {
    let name = format!("deaddrop-doc-{}-{:x}", std::process::id(), sys::random());
    std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("target/doc").join(name)
}
