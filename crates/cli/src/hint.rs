//! Commands that messages recommend, with the log's directory that this command was given.

use std::path::Path;
use std::sync::OnceLock;

/// `deaddrop`, with `-d DIR` as it was given.
static PROGRAM: OnceLock<String> = OnceLock::new();

/// Remembers the directory that the user gave, if any: recommended commands have to name it as well.
pub(crate) fn set_dir(dir: Option<&Path>) {
    if let Some(dir) = dir {
        PROGRAM.get_or_init(|| format!("deaddrop -d {}", quoted(&dir.to_string_lossy())));
    }
}

/// A command of this program, as the user can type it.
pub(crate) fn command(args: &str) -> String {
    format!("{} {args}", PROGRAM.get().map_or("deaddrop", String::as_str))
}

/// `text` with the directory in each command that it recommends in backticks, even in the library's
/// messages. A command that already has the directory does not change.
pub(crate) fn with_dir(text: &str) -> String {
    let Some(program) = PROGRAM.get() else { return text.to_owned() };
    let (without, with) = ("`deaddrop ", format!("`{program} "));
    text.replace(&with, without).replace(without, &with)
}

/// The text of an error, with the directory in its commands, for a table or a JSON object.
pub(crate) fn error(error: &deaddrop::Error) -> String {
    with_dir(&error.to_string())
}

/// A word, quoted for a shell if needed.
pub(crate) fn quoted(word: &str) -> String {
    let is_plain = |char: char| char.is_ascii_alphanumeric() || "%+,-./:=@_".contains(char);
    if !word.is_empty() && word.chars().all(is_plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::quoted;

    #[test]
    fn a_word_is_quoted_where_a_shell_would_take_it_apart() {
        for (word, text) in [
            ("/srv/drop", "/srv/drop"),
            ("a b", "'a b'"),
            ("$HOME", "'$HOME'"),
            ("it's", r"'it'\''s'"),
            ("", "''"),
        ] {
            assert_eq!(quoted(word), text);
        }
    }
}
