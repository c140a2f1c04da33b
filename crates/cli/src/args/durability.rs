//! What acknowledged records are to survive, as users write it.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// `power-loss`, `process-crash`, `within:500ms`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Durability {
    PowerLoss,
    ProcessCrash,
    /// Power loss, except for records acknowledged within this time before it.
    Within(Duration),
}

impl FromStr for Durability {
    type Err = String;

    fn from_str(text: &str) -> Result<Durability, String> {
        match text {
            "power-loss" => Ok(Durability::PowerLoss),
            "process-crash" => Ok(Durability::ProcessCrash),
            other => match other.strip_prefix("within:") {
                Some(interval) => humantime::parse_duration(interval)
                    .map(Durability::Within)
                    .map_err(|error| format!("within:{interval}: {error}")),
                None => Err("write power-loss, process-crash or within:500ms".to_owned()),
            },
        }
    }
}

impl fmt::Display for Durability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Durability::PowerLoss => f.write_str("power-loss"),
            Durability::ProcessCrash => f.write_str("process-crash"),
            Durability::Within(interval) => {
                let interval = humantime::format_duration(*interval).to_string();
                write!(f, "within:{}", interval.replace(' ', ""))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Durability;

    #[test]
    fn a_durability_is_written_as_it_is_read() {
        for text in ["power-loss", "process-crash", "within:500ms", "within:1m30s"] {
            assert_eq!(text.parse::<Durability>().unwrap().to_string(), text);
        }
        for bad in ["within:", "none", ""] {
            assert!(bad.parse::<Durability>().is_err(), "{bad:?}");
        }
    }
}
