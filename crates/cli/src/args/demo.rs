//! The arguments of `demo`, and of the processes that it starts.

use std::path::PathBuf;
use std::time::Duration;

use super::durability::Durability;

/// Watch two services talk through a log while they are killed and restarted
///
/// An order service asks an inventory service for the stock of 10,000 orders, without waiting for it.
/// Both are killed with SIGKILL on the way and started again. A fresh process then reads the log and
/// proves that every order was asked for once and has one outcome. The log is left for you to look at:
/// in DIR, or without -d in ./target/demo/run-1 below the current directory, the next one in run-2.
#[derive(Debug, clap::Args)]
pub(crate) struct Demo {
    #[command(flatten)]
    pub(crate) setting: Setting,
}

/// What all processes of a demo must agree on.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Setting {
    /// Orders to play, one JSON object a line, instead of those that come with the program
    #[arg(long, value_name = "FILE")]
    pub(crate) orders: Option<PathBuf>,
    /// What an acknowledged record survives; the demo kills processes, not the power
    #[arg(long, default_value = "process-crash")]
    pub(crate) durability: Durability,
    /// The orders come in over this time; 0s: as fast as they can be sent
    #[arg(long, value_name = "DURATION", default_value = "4s", value_parser = super::time::parse_duration)]
    pub(crate) over: Duration,
}

/// The demo's order service
#[derive(Debug, clap::Args)]
pub(crate) struct OrderService {
    #[command(flatten)]
    pub(crate) setting: Setting,
}

/// The demo's inventory service
#[derive(Debug, clap::Args)]
pub(crate) struct InventoryService {
    #[command(flatten)]
    pub(crate) setting: Setting,
}

/// Prove from the log of a demo that every order has exactly one request and one outcome
#[derive(Debug, clap::Args)]
pub(crate) struct Proof {
    /// The orders that were played [default: those that come with the program]
    pub(crate) orders: Option<PathBuf>,
}
