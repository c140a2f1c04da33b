//! The messages that the services exchange.

use std::collections::HashSet;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::{failed, Result};

/// Ten thousand orders of a shop for tea and paper.
static SHIPPED: &[u8] = include_bytes!("../orders.ndjson");

/// An order, as the shop gets it. Other fields do not matter here.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Order {
    pub(crate) order: String,
    pub(crate) items: Vec<Item>,
}

/// A quantity of an article. The inventory does not need its price.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Item {
    pub(crate) sku: String,
    pub(crate) quantity: u32,
}

/// The order service's question: are these in stock? If so, they are reserved.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Check {
    pub(crate) order: String,
    pub(crate) items: Vec<Item>,
}

/// The answer of the inventory.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Answer {
    pub(crate) order: String,
    pub(crate) reserved: bool,
    /// The reserved items: all that were requested, or none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) items: Vec<Item>,
    /// The articles of which there was not enough.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) missing: Vec<String>,
}

/// The context that returns to the callback with the outcome.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Context {
    pub(crate) order: String,
    /// Nanoseconds since the Unix epoch.
    pub(crate) sent_at: u64,
}

/// The order service's note of an outcome.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Note {
    pub(crate) order: String,
    pub(crate) status: String,
    /// From before the request was sent until its callback ran.
    pub(crate) latency_us: u64,
}

pub(crate) const RESERVED: &str = "reserved";
pub(crate) const REJECTED: &str = "rejected";

/// The orders of a file, or the built-in ones.
pub(crate) fn read(path: Option<&Path>) -> Result<Vec<Order>> {
    let (bytes, name) = match path {
        None => (SHIPPED.to_owned(), "the built-in orders".to_owned()),
        Some(path) => {
            let read = std::fs::read(path);
            let bytes = read.map_err(|error| failed("reading", path, &error))?;
            (bytes, path.display().to_string())
        }
    };
    let mut orders = Vec::new();
    let mut known = HashSet::new();
    for (index, line) in bytes.split(|&byte| byte == b'\n').enumerate() {
        if line.trim_ascii().is_empty() {
            continue;
        }
        let order: Order = serde_json::from_slice(line).map_err(|error| {
            format!(
                "line {} of {name} is not an order: {error}; \
                 {{\"order\":\"ORD-1\",\"items\":[{{\"sku\":\"TEA-1\",\"quantity\":2}}]}} is one",
                index + 1
            )
        })?;
        if !known.insert(order.order.clone()) {
            let (line, order) = (index + 1, order.order);
            return Err(format!("line {line} of {name}: order {order} occurs twice").into());
        }
        orders.push(order);
    }
    if orders.is_empty() {
        return Err(format!("{name} contains no order").into());
    }
    Ok(orders)
}
