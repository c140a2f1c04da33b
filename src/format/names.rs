//! Names of topics, consumers, clients, services and callbacks: they become file names, and some come from
//! the bytes of a record, so the rule is strict.

/// The longest name.
pub const MAX_LEN: usize = 128;

/// Returns why `name` is not allowed, or `Ok`. Allowed: 1 to 128 letters, digits, `.`, `_`, `-` (ASCII), not
/// starting with `.` or `-`, nor ending with `.tmp`.
pub fn check(name: &str) -> Result<(), &'static str> {
    if name.is_empty() {
        return Err("it is empty");
    }
    if name.len() > MAX_LEN {
        return Err("it is longer than 128 bytes");
    }
    if name.starts_with(['.', '-']) {
        return Err("it starts with '.' or '-'");
    }
    if !name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-')) {
        return Err("only ASCII letters, digits, '.', '_' and '-' are allowed");
    }
    if name.ends_with(".tmp") {
        return Err("names that end in '.tmp' are reserved for unfinished files");
    }
    Ok(())
}

/// Returns whether only the library creates topics of this name, for the parked outcomes of a client or the marks
/// of dead letters: records of other kinds would be mixed with them.
pub fn is_reserved(topic: &str) -> bool {
    [".dead.marks", ".parked"].iter().any(|ending| topic.ends_with(ending))
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_name_never_leaves_its_directory() {
        for bad in ["", ".", "..", "../x", "a/b", "a\0b", "-rf", ".hidden", "ü", "a b", "a.tmp"] {
            assert!(super::check(bad).is_err(), "{bad:?}");
        }
        assert!(super::check(&"x".repeat(129)).is_err());
        for good in ["orders", "inventory.requests", "A-1_b", "tmp", &"x".repeat(128)] {
            assert!(super::check(good).is_ok(), "{good:?}");
        }
    }
}
