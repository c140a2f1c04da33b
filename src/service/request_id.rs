//! The identity of a request.

use std::fmt;
use std::str::FromStr;

use crate::error::{Error, Result};
use crate::format::names;

/// Identifies a request, and is never used again: the client's name, a random number drawn at each start of
/// the client, and a count. Offsets can be used again after a power loss; ids cannot.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RequestId {
    client: String,
    incarnation: u64,
    sequence: u64,
}

impl RequestId {
    pub(crate) fn new(client: &str, incarnation: u64, sequence: u64) -> RequestId {
        RequestId { client: client.to_owned(), incarnation, sequence }
    }

    /// Returns the name of the client that sent the request.
    pub fn client(&self) -> &str {
        &self.client
    }

    /// Returns the random number of that start of the client.
    pub fn incarnation(&self) -> u64 {
        self.incarnation
    }

    /// Returns the number of the request within that start of the client.
    pub fn sequence(&self) -> u64 {
        self.sequence
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{:016x}-{}", self.client, self.incarnation, self.sequence)
    }
}

impl FromStr for RequestId {
    type Err = Error;

    fn from_str(text: &str) -> Result<RequestId> {
        let parse = || {
            let (rest, sequence) = text.rsplit_once('-')?;
            let (client, incarnation) = rest.rsplit_once('-')?;
            names::check(client).ok()?;
            let canonical = incarnation.len() == 16;
            let incarnation = u64::from_str_radix(incarnation, 16).ok().filter(|_| canonical)?;
            Some(RequestId::new(client, incarnation, sequence.parse().ok()?))
        };
        parse().ok_or_else(|| Error::Invalid {
            what: format!("{text:?} is not a request id: expected CLIENT-INCARNATION-SEQUENCE"),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_read_back_from_its_text_and_anything_else_refused() {
        let id = RequestId::new("order-service", 0xabc, 7);
        assert_eq!(id.to_string(), "order-service-0000000000000abc-7");
        assert_eq!(id.to_string().parse::<RequestId>().unwrap(), id);
        for bad in ["", "a-b-c", "x-0abc-7", "../x-0000000000000abc-7", "x-0000000000000abc--7"] {
            assert!(bad.parse::<RequestId>().is_err(), "{bad}");
        }
    }
}
