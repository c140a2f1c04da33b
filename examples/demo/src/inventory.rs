//! The inventory service: answers whether articles are in stock, and reserves them.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use deaddrop::service::{Envelope, Kind, Reply, ServerOptions};
use deaddrop::{Log, Start};

use crate::orders::{Answer, Check, Item};
use crate::{stop_at_end_of_input, Result, Setting, REPLIES, SERVICE};

/// The initial stock of each article.
pub(crate) const STOCK: u32 = 250;

/// How many of each article are left.
///
/// Kept in memory only: it is the sum of the replies in the log, so a restarted service counts these and
/// knows what its predecessor promised.
#[derive(Debug, Default)]
pub(crate) struct Shelf {
    taken: HashMap<String, u32>,
}

impl Shelf {
    fn left(&self, sku: &str) -> u32 {
        STOCK.saturating_sub(self.taken.get(sku).copied().unwrap_or(0))
    }

    /// Subtracts the items of a reply; returns the articles of which more was promised than there were.
    pub(crate) fn take(&mut self, items: &[Item]) -> Vec<String> {
        let mut oversold = Vec::new();
        for item in items {
            let taken = self.taken.entry(item.sku.clone()).or_default();
            *taken = taken.saturating_add(item.quantity);
            if *taken > STOCK {
                oversold.push(item.sku.clone());
            }
        }
        oversold
    }

    /// Reserves all requested items, or nothing.
    fn answer(&mut self, check: Check) -> Answer {
        let mut wanted: HashMap<&str, u32> = HashMap::new();
        for item in &check.items {
            let all = wanted.entry(&item.sku).or_default();
            *all = all.saturating_add(item.quantity);
        }
        let mut missing: Vec<String> = wanted
            .iter()
            .filter(|(sku, quantity)| self.left(sku) < **quantity)
            .map(|(sku, _)| (*sku).to_owned())
            .collect();
        missing.sort();
        let reserved = missing.is_empty();
        let items = if reserved { check.items } else { Vec::new() };
        self.take(&items);
        Answer { order: check.order, reserved, items, missing }
    }
}

pub(crate) fn run(setting: &Setting) -> Result<()> {
    let stop = stop_at_end_of_input();
    let log = Log::open_or_create(&setting.dir)?;
    let shelf = Arc::new(Mutex::new(Shelf::default()));
    let options = ServerOptions::default().with_topic(setting.topic_options());
    let stock = Arc::clone(&shelf);
    let mut server = log.server_with(SERVICE, options, move |request| {
        let check: Check = request.json()?;
        let answer = stock.lock().unwrap_or_else(PoisonError::into_inner).answer(check);
        Ok(Reply::json(&answer)?)
    })?;
    // Opening the server has settled its predecessor's requests in flight: all replies are there.
    let replies = log.open_topic(REPLIES)?;
    let mut reader = replies.reader(Start::First)?;
    while let Some(reply) = reader.next()? {
        if let Some(Ok(Envelope { kind: Kind::Reply, .. })) = Envelope::of(&reply) {
            let answer: Answer = reply.json()?;
            shelf.lock().unwrap_or_else(PoisonError::into_inner).take(&answer.items);
        }
    }
    server.run(&stop)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(items: &[(&str, u32)]) -> Check {
        let items = items.iter().map(|&(sku, quantity)| Item { sku: sku.into(), quantity });
        Check { order: "o".into(), items: items.collect() }
    }

    #[test]
    fn all_or_nothing_is_reserved_and_never_more_than_there_is() {
        let mut shelf = Shelf::default();
        assert!(shelf.answer(check(&[("a", STOCK - 1), ("b", 1)])).reserved);
        let answer = shelf.answer(check(&[("a", 2), ("b", 1)]));
        assert!(!answer.reserved && answer.items.is_empty());
        assert_eq!(answer.missing, ["a"]);
        assert_eq!((shelf.left("a"), shelf.left("b")), (1, STOCK - 1));
        assert!(!shelf.answer(check(&[("b", STOCK), ("b", u32::MAX)])).reserved);
        assert!(shelf.answer(check(&[("a", 1)])).reserved);
        assert_eq!(shelf.take(&[Item { sku: "a".into(), quantity: 1 }]), ["a"]);
    }
}
