//! The ends of the commands' help texts: ranges, formats, and examples that can be typed as they are.

use clap::Command;

use super::format::ESCAPES;
use super::range::{RANGES, TIMES};

/// Examples of each command, in the order of the commands.
const EXAMPLES: &[(&str, &str)] = &[
    (
        "append",
        "\
  echo '3 of item 7' | deaddrop append orders
  seq 5000000 | deaddrop append numbers --durability process-crash
  deaddrop append photos --key holiday --file beach.jpg hills.jpg
  deaddrop append orders --ndjson < orders.ndjson",
    ),
    (
        "cat",
        "\
  deaddrop cat orders -5
  deaddrop cat orders --from -1h --format '%o %d %k %v%n'
  deaddrop cat orders @2026-01-01T00:00:00Z:end --json
  deaddrop cat photos 3 --format raw > beach.jpg",
    ),
    (
        "tail",
        "\
  deaddrop tail -n 3 orders
  deaddrop tail -f orders --format '%d %v{json}%n'
  deaddrop tail -f --from -10m orders",
    ),
    (
        "export",
        "\
  deaddrop export orders > orders.ndjson
  deaddrop export orders -1h: | gzip > last-hour.ndjson.gz
  deaddrop -d /srv/drop export orders | deaddrop -d ./copy import orders",
    ),
    (
        "import",
        "\
  deaddrop import orders orders.ndjson
  deaddrop import orders --origin --durability process-crash < orders.ndjson
  deaddrop import inventory.requests --reserved requests.ndjson",
    ),
    (
        "create",
        "\
  deaddrop create orders --durability within:100ms
  deaddrop create clicks --durability process-crash --retain-age 7d --retain-bytes 10GiB
  deaddrop create work --segment-size 1MiB --retain-unconsumed
  deaddrop -d /srv/drop create orders --mode 640",
    ),
    (
        "trim",
        "\
  deaddrop trim orders --before -7d
  deaddrop trim orders --before @2026-11-29T15:40+01:00
  deaddrop trim orders --before 1000000 --execute",
    ),
    (
        "delete",
        "\
  deaddrop delete orders
  deaddrop delete orders --execute",
    ),
    (
        "ls",
        "\
  deaddrop ls
  deaddrop ls --names
  deaddrop -d /srv/drop ls --json",
    ),
    (
        "info",
        "\
  deaddrop info orders
  deaddrop info orders --json",
    ),
    (
        "stats",
        "\
  deaddrop stats
  deaddrop stats orders --full
  deaddrop stats orders --json",
    ),
    (
        "dump",
        "\
  deaddrop dump orders
  deaddrop dump --hex --full ./00000000000000000000.seg
  deaddrop dump orders --quiet --json",
    ),
    (
        "consumers",
        "\
  deaddrop consumers orders
  deaddrop consumers orders --reset billing --to -1h
  deaddrop consumers orders --delete billing --execute",
    ),
    (
        "groups",
        "\
  deaddrop groups orders shipping --lanes
  deaddrop groups resume orders shipping 17 --execute
  deaddrop groups skip orders shipping 17
  deaddrop groups reset orders shipping --to -1h",
    ),
    (
        "verify",
        "\
  deaddrop verify
  deaddrop verify orders billing
  deaddrop verify --json",
    ),
    (
        "repair",
        "\
  deaddrop repair orders
  deaddrop repair --all --execute",
    ),
    (
        "request",
        "\
  deaddrop request inventory 'item 7'
  deaddrop request inventory --key 'item 7' --timeout 5s < request.json
  deaddrop request inventory 'item 7' --no-wait
  deaddrop request --attach cli-0000000000000001-0",
    ),
    (
        "serve",
        "\
  deaddrop serve inventory -- ./look-up
  deaddrop serve upper --max-attempts 3 -- tr a-z A-Z
  deaddrop serve once -n 1 -- sh -c 'echo $DEADDROP_KEY; cat'",
    ),
    (
        "trace",
        "\
  deaddrop trace cli-0000000000000001-0
  deaddrop trace --key customer-12
  deaddrop trace --last 5 --service inventory --json",
    ),
    (
        "pending",
        "\
  deaddrop pending
  deaddrop pending --client order-service --service inventory",
    ),
    (
        "cancel",
        "\
  deaddrop cancel cli-0000000000000001-0
  deaddrop cancel cli-0000000000000001-0 --json",
    ),
    (
        "clients",
        "\
  deaddrop clients
  deaddrop clients retire pod-7f9c
  deaddrop clients retire pod-7f9c --discard --execute",
    ),
    (
        "dead",
        "\
  deaddrop dead inventory.dead --reason 'connection refused'
  deaddrop dead redrive inventory.dead --offset 10:20
  deaddrop dead redrive inventory.dead --execute
  deaddrop dead drop inventory.dead --key 'item 7' --execute",
    ),
    (
        "top",
        "\
  deaddrop top
  deaddrop top --once
  deaddrop top --interval 5s --count 12 --json",
    ),
    (
        "bench",
        "\
  deaddrop bench --workload append --size 64,1KiB --durability process-crash
  deaddrop bench --workload request --servers 1,4 --outstanding 1,8,64
  deaddrop -d /srv bench --seconds 10 --output before.json
  deaddrop bench --compare before.json after.json",
    ),
    (
        "completions",
        "\
  deaddrop completions bash > ~/.local/share/bash-completion/completions/deaddrop
  deaddrop completions zsh > ~/.zfunc/_deaddrop
  deaddrop completions fish > ~/.config/fish/completions/deaddrop.fish",
    ),
    (
        "man",
        "\
  deaddrop man ~/.local/share/man/man1
  deaddrop man ./man1",
    ),
];

/// What the help of a command says about ranges and formats.
fn notation(name: &str) -> String {
    match name {
        "cat" | "tail" => {
            format!("{RANGES}\n{TIMES}\nFormats: json, text, raw (nothing between payloads), or a line:\n{ESCAPES}\n\n")
        }
        "export" | "dump" => format!("{RANGES}\n{TIMES}\n\n"),
        "trim" | "consumers" | "groups" => format!("{TIMES}\n\n"),
        _ => String::new(),
    }
}

/// The command line with the examples at the end of each command's help.
pub(crate) fn add(mut command: Command) -> Command {
    for (name, examples) in EXAMPLES {
        command = command.mut_subcommand(name, |sub| {
            let before = sub.get_after_help().map_or(String::new(), |text| format!("{text}\n\n"));
            sub.after_help(format!("{before}{}Examples:\n  {examples}", notation(name)))
        });
    }
    command
}

#[cfg(test)]
mod tests {
    /// Words as a shell splits them, up to a redirection or a pipe.
    fn words(line: &str) -> Vec<String> {
        let mut words = Vec::new();
        let mut word: Option<String> = None;
        let mut quoted = false;
        for char in line.chars() {
            match char {
                '\'' => {
                    quoted = !quoted;
                    word.get_or_insert_default();
                }
                '|' | '<' | '>' if !quoted => break,
                ' ' if !quoted => words.extend(word.take()),
                other => word.get_or_insert_default().push(other),
            }
        }
        assert!(!quoted, "{line}");
        words.extend(word);
        words
    }

    #[test]
    fn every_command_has_examples_that_its_parser_takes() {
        let whole = crate::args::command();
        for sub in whole.get_subcommands().filter(|sub| !sub.is_hide_set()) {
            let name = sub.get_name();
            let help = sub.get_after_help().map(ToString::to_string).unwrap_or_default();
            let (_, examples) = help.split_once("Examples:\n").unwrap_or_else(|| panic!("{name}"));
            let lines: Vec<&str> = examples.lines().collect();
            assert!((2..=4).contains(&lines.len()), "{name}");
            for line in lines {
                let starts: Vec<usize> =
                    line.match_indices("deaddrop ").map(|(at, _)| at).collect();
                assert!(!starts.is_empty(), "{line}");
                let mut named = false;
                for start in starts {
                    let matches = whole.clone().try_get_matches_from(words(&line[start..]));
                    let matches = matches.unwrap_or_else(|error| panic!("{line}: {error}"));
                    named |= matches.subcommand_name() == Some(name);
                }
                assert!(named, "{line} is not an example of {name}");
            }
        }
    }

    #[test]
    fn a_shell_and_the_test_split_words_alike() {
        assert_eq!(words("a 'b c' --d='%o x' | e"), ["a", "b c", "--d=%o x"]);
    }
}
