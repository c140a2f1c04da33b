//! The services and clients that own topics. All other topics are the user's own.

use serde::Serialize;

/// The service or the client that created a topic.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Owner {
    Service(String),
    Client(String),
}

/// Ends the names of a service's topics.
const OF_SERVICE: &[&str] = &[".requests", ".replies", ".dead"];
const PARKED: &str = ".parked";
/// Ends the names of topics that hold the states of dead letters.
const MARKS: &str = ".marks";

impl Owner {
    /// Returns the owner of the topic `name`. `all`: the names of all topics of the log, sorted.
    pub(crate) fn of(name: &str, all: &[String]) -> Option<Owner> {
        let is_there = |name: &str| all.binary_search_by(|other| other.as_str().cmp(name)).is_ok();
        let name = name.strip_suffix(MARKS).filter(|letters| is_there(letters)).unwrap_or(name);
        if let Some(client) = name.strip_suffix(PARKED) {
            return Some(Owner::Client(client.to_owned()));
        }
        let service = OF_SERVICE.iter().find_map(|end| name.strip_suffix(end))?;
        let is_one =
            ["requests", "replies"].iter().all(|end| is_there(&format!("{service}.{end}")));
        is_one.then(|| Owner::Service(service.to_owned()))
    }

    /// Its name.
    pub(crate) fn name(&self) -> &str {
        match self {
            Owner::Service(name) | Owner::Client(name) => name,
        }
    }

    pub(crate) fn service(&self) -> Option<&str> {
        match self {
            Owner::Service(name) => Some(name),
            Owner::Client(_) => None,
        }
    }

    pub(crate) fn client(&self) -> Option<&str> {
        match self {
            Owner::Client(name) => Some(name),
            Owner::Service(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Owner;

    #[test]
    fn a_topic_belongs_to_the_service_or_client_that_made_it() {
        let all = [
            "cli.parked",
            "http.requests",
            "inventory.dead",
            "inventory.dead.marks",
            "inventory.replies",
            "inventory.requests",
            "orders",
            "orders.marks",
            "orders.shipping.dead",
            "orders.shipping.dead.marks",
            "water.marks",
        ]
        .map(str::to_owned);
        let service = || Some(Owner::Service("inventory".into()));
        for (name, owner) in [
            ("inventory.requests", service()),
            ("inventory.replies", service()),
            ("inventory.dead", service()),
            ("inventory.dead.marks", service()),
            ("cli.parked", Some(Owner::Client("cli".into()))),
            ("orders", None),
            ("orders.shipping.dead", None),
            ("orders.shipping.dead.marks", None),
            // Users name topics as they like.
            ("http.requests", None),
            ("orders.marks", None),
            ("water.marks", None),
        ] {
            assert_eq!(Owner::of(name, &all), owner, "{name}");
        }
    }
}
