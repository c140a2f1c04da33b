//! Every command, in every situation that a log can be in: being written, crashed, damaged, owned
//! by another user, readable only. A command that is missing from the table below fails a test.

mod codes;
mod crashed;
mod elsewhere;
mod flipped;
mod live;
mod load;
mod pipes;
mod reader;
mod standing;

use std::path::Path;

use crate::support::{Ran, Scratch};

/// What a command does with its log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Does {
    /// Reads it.
    Read,
    /// Changes an existing log.
    Change,
    /// Makes a log if there is none.
    Make,
    /// Does not use a log.
    Nothing,
}

use Does::{Change, Make, Nothing, Read};

/// Each visible command with its arguments. `T` is the topic, `LOG` the log's directory, `NEW` a
/// path that does not exist yet.
const COMMANDS: &[(&str, Does, &[&str])] = &[
    ("append", Make, &["T --key k", "T --ack"]),
    ("cat", Read, &["T", "T -50:", "T -1h: -n 10 --skip-damage", "T --format %o\\n"]),
    ("tail", Read, &["T", "T -n 100 --format %o:%k:%v\\n", "T -5:"]),
    ("export", Read, &["T", "T -20: --skip-damage"]),
    ("import", Make, &["T --origin"]),
    ("create", Make, &["T", "made --segment-size 64KiB --durability process-crash"]),
    ("trim", Read, &["T --before -10"]),
    ("trim", Change, &["T --before start --execute"]),
    ("delete", Read, &["T"]),
    ("delete", Change, &["made --execute"]),
    ("ls", Read, &["", "-1"]),
    ("info", Read, &["T"]),
    ("stats", Read, &["", "T --full"]),
    (
        "dump",
        Read,
        &[
            "T -q",
            "T -20: --hex",
            "LOG/deaddrop",
            "LOG/topics/T/settings",
            "LOG/topics/T/control",
            "LOG/topics/T/consumers/idle",
            "LOG/topics/T/groups/workers",
        ],
    ),
    ("consumers", Read, &["T", "T --reset idle --to end", "T --delete idle"]),
    ("consumers", Change, &["T --reset idle --to end --execute"]),
    ("groups", Read, &["", "T workers --lanes"]),
    ("groups", Change, &["delete T spare --execute"]),
    ("verify", Read, &["", "T"]),
    ("repair", Read, &["T", "--all"]),
    ("request", Make, &["echo hello --no-wait --key k", "echo hello --timeout 30s"]),
    ("serve", Make, &["echo -n 1 -- cat"]),
    ("trace", Read, &["--last 5", "--key k --service echo"]),
    ("pending", Read, &["", "--client shop --service echo"]),
    ("cancel", Change, &["cli-0000000000000001-0"]),
    ("clients", Read, &["", "ls", "retire shop"]),
    ("dead", Read, &["echo.dead", "ls echo.dead", "redrive echo.dead"]),
    ("completions", Nothing, &["bash"]),
    ("man", Nothing, &["NEW"]),
    ("top", Read, &["--once --interval 10ms", "-n 2 --interval 10ms"]),
    (
        "bench",
        Nothing,
        &["--workload append --durability process-crash --count 20 --warm-up 0s -o NEW"],
    ),
];

/// Commands that print no JSON.
const WITHOUT_JSON: &[&str] = &["completions", "man", "serve"];

/// A command with its arguments.
#[derive(Debug, Clone)]
pub(crate) struct Line {
    pub(crate) command: &'static str,
    pub(crate) does: Does,
    /// The command and its arguments.
    pub(crate) words: Vec<String>,
}

impl Line {
    pub(crate) fn has_json(&self) -> bool {
        !WITHOUT_JSON.contains(&self.command)
    }

    pub(crate) fn is(&self, command: &str, word: &str) -> bool {
        self.command == command && self.words.iter().any(|found| found == word)
    }

    /// Returns whether it shows a file, whatever is around the file.
    pub(crate) fn is_file(&self) -> bool {
        self.command == "dump" && self.words[1].contains('/')
    }

    /// Returns the arguments, with `--json` if that is wanted and known.
    pub(crate) fn args(&self, json: bool) -> Vec<&str> {
        let json = (json && self.has_json()).then_some("--json");
        json.into_iter().chain(self.words.iter().map(String::as_str)).collect()
    }

    /// Returns its standard input.
    pub(crate) fn input(&self) -> &'static [u8] {
        match self.command {
            "append" => b"by hand\nby hand\n",
            "import" => b"{\"topic\":\"t\",\"offset\":7,\"payload\":\"by hand\"}\n",
            _ => b"",
        }
    }

    /// Runs it to its end, and checks the form of its output.
    #[track_caller]
    pub(crate) fn run(&self, scratch: &Scratch, json: bool) -> Ran {
        let ran = scratch.run_with(&self.args(json), self.input());
        self.check_form(&ran, json && self.has_json());
        ran
    }

    /// Checks that there is no panic and no signal, and that every object has its version.
    #[track_caller]
    pub(crate) fn check_form(&self, ran: &Ran, json: bool) {
        let (words, said) = (&self.words, &ran.stderr);
        assert!(matches!(ran.code, Some(0..=5 | 124)), "{words:?}: {:?} {said}", ran.code);
        assert!(!said.contains("panicked"), "{words:?}: {said}");
        crate::hints::check(ran);
        assert!(ran.code == Some(0) || !said.is_empty() || !ran.stdout.is_empty(), "{words:?}");
        for line in said.lines().filter(|_| self.does != Nothing) {
            assert!(line.starts_with("deaddrop: "), "{words:?}: {said}");
        }
        if json {
            for object in ran.json() {
                assert_eq!(object["v"], 1, "{words:?}: {object}");
            }
        }
    }
}

/// Returns all commands for a topic of a log in `scratch`.
pub(crate) fn lines(scratch: &Scratch, topic: &str) -> Vec<Line> {
    let log = scratch.log().display().to_string();
    let mut all = Vec::new();
    for &(command, does, lists) in COMMANDS {
        for list in lists {
            let word = |word: &str| match word {
                "T" => topic.to_owned(),
                "NEW" => path_of_nothing(scratch.path()),
                path if path.starts_with("LOG/") => {
                    path.replace("LOG", &log).replace("/T/", &format!("/{topic}/"))
                }
                other => other.to_owned(),
            };
            let given = list.split_whitespace().map(word);
            let words = [command.to_owned()].into_iter().chain(given).collect();
            all.push(Line { command, does, words });
        }
    }
    all
}

fn path_of_nothing(dir: &Path) -> String {
    let path = (0..).map(|number| dir.join(format!("new-{number}"))).find(|path| !path.exists());
    path.unwrap().display().to_string()
}

#[test]
fn every_command_that_help_lists_is_in_the_table() {
    let scratch = Scratch::new();
    let listed = crate::help::commands(&scratch, &[]);
    let mut tabled: Vec<&str> = COMMANDS.iter().map(|(name, ..)| *name).collect();
    tabled.dedup();
    assert_eq!(listed, tabled, "a command needs arguments here, in the order of help");
    assert!(COMMANDS.iter().all(|(.., lists)| !lists.is_empty()));
}
