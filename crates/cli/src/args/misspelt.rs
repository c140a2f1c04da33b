//! Messages about words that are not a command or an option, where the parser itself would read them as
//! something else.

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Command, Error};

/// The first option among `args` that its command does not have, if there is one. A command that accepts
/// `-5` for records accepts anything that begins with a hyphen, so the parser does not notice.
pub(crate) fn unknown_option(args: impl Iterator<Item = String>) -> Option<Error> {
    let strict = super::command().mut_subcommands(|sub| {
        sub.mut_args(|arg| if arg.is_positional() { arg.allow_hyphen_values(false) } else { arg })
    });
    let mut error = strict.try_get_matches_from(without_ranges(args)).err()?;
    let option = match error.get(ContextKind::InvalidArg) {
        Some(ContextValue::String(option)) if error.kind() == ErrorKind::UnknownArgument => {
            option.clone()
        }
        _ => return None,
    };
    if !option.starts_with('-') {
        return None;
    }
    let tip = |text: &str| ContextValue::StyledStrs(vec![text.to_owned().into()]);
    match option.as_str() {
        "--follow" | "-f" => {
            drop(error.remove(ContextKind::SuggestedArg));
            error.insert(ContextKind::Suggested, tip("`deaddrop tail -f` follows a topic"));
        }
        // As a range or a point, such a word has no meaning.
        _ => drop(error.remove(ContextKind::Suggested)),
    }
    Some(error)
}

/// The arguments, up to `--`, with a plain word in place of each that can only be a range.
fn without_ranges(args: impl Iterator<Item = String>) -> impl Iterator<Item = String> {
    let mut is_over = false;
    args.map(move |arg| {
        is_over |= arg == "--";
        let behind = arg.strip_prefix('-').and_then(|rest| rest.chars().next());
        match behind {
            Some(first) if first.is_ascii_digit() && !is_over => "0".to_owned(),
            _ => arg,
        }
    })
}

/// Puts the commands that the user probably meant before the parser's suggestions: two swapped letters
/// are the most likely slip, and the parser does not count them as one.
pub(crate) fn suggest_command(error: &mut Error) {
    let Some(ContextValue::String(given)) = error.get(ContextKind::InvalidSubcommand) else {
        return;
    };
    let given = given.clone();
    if given.contains('/') {
        let tip = format!("name a log's directory with -d: deaddrop -d {given} COMMAND");
        error.insert(ContextKind::Suggested, ContextValue::StyledStrs(vec![tip.into()]));
        return;
    }
    let command: Command = super::command();
    let names = command.get_subcommands().filter(|sub| !sub.is_hide_set());
    let near: Vec<String> = names
        .map(|sub| sub.get_name().to_owned())
        .filter(|name| is_one_slip(&given, name))
        .collect();
    if !near.is_empty() {
        error.insert(ContextKind::SuggestedSubcommand, ContextValue::Strings(near));
    }
}

/// Whether one letter is missing, added or replaced, or two neighbours are swapped.
fn is_one_slip(given: &str, name: &str) -> bool {
    let (given, name): (Vec<char>, Vec<char>) = (given.chars().collect(), name.chars().collect());
    let same = given.iter().zip(&name).take_while(|(one, other)| one == other).count();
    let (given, name) = (&given[same..], &name[same..]);
    match (given, name) {
        ([a, b, rest @ ..], [c, d, others @ ..]) if a == d && b == c && rest == others => true,
        ([_, rest @ ..], [_, others @ ..]) if rest == others => true,
        ([_, rest @ ..], all) if rest == all => true,
        (all, [_, others @ ..]) => all == others,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::is_one_slip;

    #[test]
    fn one_slip_is_one_letter_or_two_that_changed_places() {
        for (given, name) in [
            ("cta", "cat"),
            ("ct", "cat"),
            ("catt", "cat"),
            ("cut", "cat"),
            ("xcat", "cat"),
            ("tial", "tail"),
        ] {
            assert!(is_one_slip(given, name), "{given} {name}");
        }
        for (given, name) in
            [("cat", "cat"), ("tac", "cat"), ("ca", "tail"), ("", "cat"), ("cta", "tail")]
        {
            assert!(!is_one_slip(given, name), "{given} {name}");
        }
    }
}
