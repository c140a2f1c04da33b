//! An embedded, brokerless, multi-process, crash-safe append-only log.
#![deny(unsafe_code)]
#![warn(missing_docs)]

mod consumer;
#[allow(unsafe_code)]
mod control;
mod error;
#[doc(hidden)]
pub mod format;
mod housekeeper;
mod index;
mod log;
mod ownership;
mod reader;
mod record;
mod recovery;
mod segment;
pub mod service;
mod stop;
#[allow(unsafe_code)]
mod sys;
mod topic;

pub use consumer::{Consumer, ConsumerInfo};
pub use error::{Error, Result};
pub use log::{Log, LogOptions};
pub use reader::{Reader, Start};
pub use record::{OwnedRecord, Record, RecordRef};
pub use recovery::{Damage, RecoveryReport};
pub use stop::Stop;
#[cfg(feature = "sim")]
pub use sys::{crash_point::arm as arm_crash_points, sim};
pub use topic::{Durability, Retention, Topic, TopicOptions};

/// A directory for the examples in this documentation.
#[cfg(feature = "sim")]
#[doc(hidden)]
pub fn doc_dir() -> std::path::PathBuf {
    let name = format!("deaddrop-doc-{}-{:x}", std::process::id(), sys::random());
    std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("target/doc").join(name)
}
