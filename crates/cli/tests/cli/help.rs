//! Help, completions, manual pages, colours.

use std::process::Command;

use crate::support::Scratch;

/// The commands that help lists.
fn commands(scratch: &Scratch) -> Vec<String> {
    let help = scratch.run(&["--help"]).expect(0).text();
    let (_, rest) = help.split_once("Commands:\n").unwrap();
    let lines = rest.lines().take_while(|line| !line.is_empty());
    let names = lines.filter(|line| line.starts_with("  ") && !line.starts_with("    "));
    names.map(|line| line.split_whitespace().next().unwrap().to_owned()).collect()
}

#[test]
fn every_command_has_help_with_examples_a_manual_page_and_completions() {
    let scratch = Scratch::new();
    let pages = scratch.path().join("new/man1");
    scratch.run(&["man", pages.to_str().unwrap()]).expect(0);
    let completions = scratch.run(&["completions", "bash"]).expect(0).text();
    let names = commands(&scratch);
    assert!(names.len() > 12, "{names:?}");
    let whole = std::fs::read_to_string(pages.join("deaddrop.1")).unwrap();
    for name in names.iter().filter(|name| *name != "help") {
        let help = scratch.run(&[name, "--help"]).expect(0).text();
        assert!(help.contains("Examples:\n  "), "{name}:\n{help}");
        let page = std::fs::read_to_string(pages.join(format!("deaddrop-{name}.1"))).unwrap();
        let title = format!(".TH deaddrop-{name} 1 ");
        assert!(page.contains(&title) && page.contains("Examples:"), "{page}");
        assert!(whole.contains(&format!("deaddrop\\-{name}(1)")), "{name}: {whole}");
        assert!(completions.contains(&format!("deaddrop,{name})")), "{name}");
    }
    // What is hidden stays so.
    assert!(!pages.join("deaddrop-demo-verify.1").exists());
    assert!(!completions.contains("demo-verify"), "{completions}");
}

#[test]
fn completions_are_taken_by_their_shells() {
    let scratch = Scratch::new();
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = scratch.run(&["completions", shell]).expect(0);
        assert!(script.text().contains("export"), "{shell}");
        let path = scratch.path().join(shell);
        std::fs::write(&path, &script.stdout).unwrap();
        // A shell that is not installed cannot refuse.
        if let Ok(output) = Command::new(shell).arg("-n").arg(&path).output() {
            assert!(output.status.success(), "{shell}: {output:?}");
        }
    }
    scratch.run(&["completions", "tcsh"]).expect(2);
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
        assert!(coloured(&["--color=always"], "1"), "asked for is asked for: {args:?}");
        assert!(!coloured(&["--color", "never"], ""), "{args:?}");
        assert!(!coloured(&[], ""), "no terminal: {args:?}");
    }
    assert!(!scratch.run(&["ls", "--json", "--color", "always"]).text().contains('\x1b'));
    scratch.run(&["ls", "--color", "sometimes"]).expect(2);
}
