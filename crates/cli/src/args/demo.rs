//! The arguments of `demo`, and of the processes that it starts.

use std::path::PathBuf;
use std::time::Duration;

use super::durability::Durability;

/// Watch two services talk through a log while they are killed and restarted
///
/// An order service asks an inventory service for the stock of 10,000 orders, without waiting for it.
/// Both are killed with SIGKILL on the way and started again. A new process then reads the log and proves
/// that every order has one request and one outcome. The log is kept so that you can inspect it: in DIR,
/// or without -d in ./target/demo/run-1 under the current directory, the next one in run-2.
#[derive(Debug, clap::Args)]
pub(crate) struct Demo {
    #[command(flatten)]
    pub(crate) setting: Setting,
}

/// Settings on which all processes of a demo must agree.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Setting {
    /// Play the orders of this file, one JSON object per line, instead of the built-in ones
    #[arg(long, value_name = "FILE")]
    pub(crate) orders: Option<PathBuf>,
    /// Set what an acknowledged record survives; the demo kills processes, not the power
    #[arg(long, default_value = "process-crash")]
    pub(crate) durability: Durability,
    /// Spread the orders over this time; 0s sends them as fast as possible
    #[arg(long, value_name = "DURATION", default_value = "4s", value_parser = super::time::parse_duration)]
    pub(crate) over: Duration,
}

/// Run the demo's order service
#[derive(Debug, clap::Args)]
pub(crate) struct OrderService {
    #[command(flatten)]
    pub(crate) setting: Setting,
}

/// Run the demo's inventory service
#[derive(Debug, clap::Args)]
pub(crate) struct InventoryService {
    #[command(flatten)]
    pub(crate) setting: Setting,
}

/// Prove from the log of a demo that every order has exactly one request and one outcome
#[derive(Debug, clap::Args)]
pub(crate) struct Proof {
    /// Check these orders, which were played [default: the built-in ones]
    pub(crate) orders: Option<PathBuf>,
}
