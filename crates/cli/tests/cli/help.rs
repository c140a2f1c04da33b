//! Help, completions, manual pages, colours.

use std::process::Command;

use crate::support::Scratch;

const SHELLS: [&str; 5] = ["bash", "zsh", "fish", "elvish", "powershell"];

/// Returns the commands that the help of `args` lists.
pub(crate) fn commands(scratch: &Scratch, args: &[&str]) -> Vec<String> {
    let help = scratch.run(&[args, &["--help"]].concat()).expect(0).text();
    let listed = help.split_once("Commands:\n").map_or("", |(_, rest)| rest);
    let lines = listed.lines().take_while(|line| !line.is_empty());
    let names = lines.filter(|line| line.starts_with("  ") && !line.starts_with("    "));
    let names = names.map(|line| line.split_whitespace().next().unwrap().to_owned());
    names.filter(|name| name != "help").collect()
}

/// Returns the examples of a command's help, or of its manual page, line by line.
fn examples(text: &str) -> Vec<&str> {
    let behind = text.split_once("Examples:\n").unwrap_or_else(|| panic!("no examples: {text}")).1;
    behind.lines().take_while(|line| line.starts_with("  ")).collect()
}

/// Returns a manual page without the escapes that roff needs for these characters.
fn plain(page: &str) -> String {
    page.replace("\\-", "-").replace("\\*(Aq", "'").replace("\\\\", "\\")
}

#[test]
fn every_command_has_help_and_a_manual_page_with_the_same_examples() {
    let scratch = Scratch::new();
    let pages = scratch.path().join("new/man1");
    scratch.run(&["man", pages.to_str().unwrap()]).expect(0);
    let read = |name: &str| plain(&std::fs::read_to_string(pages.join(name)).unwrap());
    let whole = read("deaddrop.1");
    let mut expected = vec!["deaddrop.1".to_owned()];
    let names = commands(&scratch, &[]);
    assert!(names.len() > 20, "{names:?}");
    for name in &names {
        let help = scratch.run(&[name, "--help"]).expect(0).text();
        let page = read(&format!("deaddrop-{name}.1"));
        assert!(page.contains(&format!(".TH deaddrop-{name} 1 ")), "{page}");
        let lines = examples(&help);
        assert!(lines.len() > 1, "{name}: {lines:?}");
        assert_eq!(lines, examples(&page), "{name}");
        assert!(whole.contains(&format!("deaddrop-{name}(1)")), "{name}: {whole}");
        expected.push(format!("deaddrop-{name}.1"));
        let inner = commands(&scratch, &[name]).into_iter();
        expected.extend(inner.map(|inner| format!("deaddrop-{name}-{inner}.1")));
    }
    // No other pages: hidden commands stay hidden.
    let entries = std::fs::read_dir(&pages).unwrap();
    let mut found: Vec<String> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    found.sort();
    expected.sort();
    assert_eq!(found, expected);
}

#[test]
fn every_command_that_is_not_hidden_is_completed() {
    let scratch = Scratch::new();
    for shell in SHELLS {
        let script = scratch.run(&["completions", shell]).expect(0).text();
        for name in commands(&scratch, &[]) {
            assert!(script.contains(&name), "{shell}: {name}");
        }
        assert!(!script.contains("bench-worker"), "{shell}");
    }
    let bash = scratch.run(&["completions", "bash"]).expect(0).text();
    for name in commands(&scratch, &[]) {
        assert!(bash.contains(&format!("deaddrop,{name})")), "{name}");
    }
}

#[test]
fn completions_are_taken_by_their_shells() {
    let scratch = Scratch::new();
    for shell in SHELLS {
        let script = scratch.run(&["completions", shell]).expect(0);
        assert!(script.text().contains("export"), "{shell}");
        let path = scratch.path().join(shell);
        std::fs::write(&path, &script.stdout).unwrap();
        // A shell that is not installed cannot refuse the script.
        if let Ok(output) = Command::new(shell).arg("-n").arg(&path).output() {
            assert!(output.status.success(), "{shell}: {output:?}");
        }
    }
    scratch.run(&["completions", "tcsh"]).expect(2);
    let zsh = scratch.run(&["completions", "zsh"]).expect(0).text();
    // Options are offered after a list too, except after a command to run.
    assert!(zsh.contains("'*:files -- ") && zsh.contains("'*:topics -- "), "{zsh}");
    assert_eq!(zsh.matches("'*::").count(), 1, "{zsh}");
    assert!(zsh.contains(":FORMAT:(json text raw help)'"), "{zsh}");
    let fish = scratch.run(&["completions", "fish"]).expect(0).text();
    let shells = "using_subcommand completions\" -f -a \"bash elvish fish powershell zsh\"";
    assert!(fish.contains(shells) && fish.contains("using_subcommand cat\" -f\n"), "{fish}");
    assert!(!fish.contains("using_subcommand dump\" -f\n"), "{fish}");
}

#[test]
fn colours_come_on_demand_and_go_with_no_color() {
    let scratch = Scratch::new();
    scratch.append("t", "a\n");
    for args in [vec!["ls"], vec!["verify"], vec!["info", "t"], vec!["cat", "--help"]] {
        let coloured = |extra: &[&str], no_color: &str| {
            let args = [extra, &args].concat();
            let output = scratch.command(&args).env("NO_COLOR", no_color).output().unwrap();
            assert_eq!(output.status.code(), Some(0));
            output.stdout.contains(&0x1b)
        };
        assert!(coloured(&["--color", "always"], ""), "{args:?}");
        assert!(coloured(&["--color=always"], "1"), "it was asked for: {args:?}");
        assert!(!coloured(&["--color", "never"], ""), "{args:?}");
        assert!(!coloured(&[], ""), "no terminal: {args:?}");
    }
    assert!(!scratch.run(&["ls", "--json", "--color", "always"]).text().contains('\x1b'));
    scratch.run(&["ls", "--color", "sometimes"]).expect(2);
}
