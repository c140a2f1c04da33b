//! Measures how fast a log is on this machine, with this disk: appends, reading, request and reply. The
//! command `deaddrop bench` reads the arguments and prints; this crate measures, and knows the report.

mod case;
pub mod chart;
mod comparison;
mod error;
mod machine;
mod measurement;
mod page;
mod report;
mod run;
mod service;
pub mod units;
mod worker;

pub use case::{Case, Service, Setting, Window, Workload};
pub use comparison::{compare, ComparedCase, Comparison};
pub use error::{Error, Result};
pub use machine::Machine;
pub use report::{CaseReport, Report};
pub use run::run;
pub use service::LANES;
pub use worker::work;
