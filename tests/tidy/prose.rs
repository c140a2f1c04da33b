//! Phrases that a reader whose native language is English has to read twice: none in documents, and none in
//! comments.

use crate::{files, report, Text};

/// A phrase, and a plain one. Words in lower case, as they are said.
const PHRASES: &[(&str, &str)] = &[
    ("go on", "continue"),
    ("goes on", "continues"),
    ("going on", "continuing"),
    ("went on", "continued"),
    ("anew", "again"),
    ("whoever", "the process, thread, caller or reader that"),
    ("so many", "N"),
    ("told", "reported, announced"),
    ("behind", "after, past"),
    ("nobody", "no process, no reader"),
    ("somebody", "a process, an operator"),
    ("anybody", "any process, anyone"),
    ("everybody", "every process, all"),
    ("stand", "be"),
    ("stands", "is"),
    ("stood", "was"),
    ("give up", "mark lost, release, stop retrying"),
    ("gives up", "marks lost, releases, stops retrying"),
    ("given up", "lost, released, no longer retried"),
    ("gave up", "marked lost, released, stopped retrying"),
    ("giving up", "marking lost, releasing, no longer retrying"),
    ("in hand", "in flight, owned"),
    ("time-out", "timeout"),
    ("time-outs", "timeouts"),
    ("for ever", "forever"),
    ("also if", "even if"),
    ("also when", "even when"),
    ("also where", "even where"),
    ("also after", "even after"),
    ("beneath", "under"),
    ("can be had", "is available"),
    ("to be had", "available"),
];

/// `who` after one of these, or at the start of a sentence, has no noun: name the actor.
const NO_ACTOR: &[&str] = &[
    ",", ";", ":", "(", "that", "because", "of", "for", "by", "to", "from", "with", "and", "but",
    "or", "if", "than", "as", "so",
];

/// `what` before one of these begins a clause where a noun belongs.
const CLAUSE: &[&str] = &["is", "are", "was", "were", "has", "had"];

/// The sentences of Markdown lines: paragraphs, headings, items and cells, without code.
fn sentences<'a>(lines: impl Iterator<Item = &'a str>) -> Vec<String> {
    let mut found = Vec::new();
    let mut paragraph = String::new();
    let mut in_code = false;
    for line in lines.chain([""]) {
        let line = line.trim();
        let is_fence = line.starts_with("```");
        in_code ^= is_fence;
        let is_own = line.starts_with(['#', '|']);
        let is_item = line.starts_with("- ") || line.starts_with(|c: char| c.is_ascii_digit());
        if line.is_empty() || is_fence || is_own || is_item {
            split(&std::mem::take(&mut paragraph), &mut found);
        }
        if in_code || is_fence {
            continue;
        }
        if is_own {
            line.split('|').for_each(|cell| split(cell.trim_start_matches('#'), &mut found));
        } else {
            paragraph.push_str(line);
            paragraph.push(' ');
        }
    }
    found
}

/// Splits a paragraph at the ends of its sentences and clauses. A code span becomes the word `code`, a link
/// loses its target.
fn split(paragraph: &str, found: &mut Vec<String>) {
    let mut text = String::new();
    for (index, part) in paragraph.split('`').enumerate() {
        text.push_str(if index % 2 == 0 { part } else { "code" });
    }
    while let Some(start) = text.find("](") {
        let end = text[start..].find(')').map_or(text.len(), |len| start + len + 1);
        text.replace_range(start..end, "");
    }
    let mut sentence = String::new();
    for word in text.split_whitespace() {
        sentence.push_str(word);
        sentence.push(' ');
        if word.ends_with(['.', '?', '!', ':', ';']) {
            found.push(std::mem::take(&mut sentence));
        }
    }
    found.push(sentence);
    found.retain(|sentence| !sentence.trim().is_empty());
}

/// Words in lower case, and the punctuation that can come before a clause.
fn words(sentence: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    for c in sentence.chars() {
        if c.is_alphanumeric() || matches!(c, '\'' | '-' | '_') {
            words.last_mut().unwrap().extend(c.to_lowercase());
        } else if matches!(c, ',' | ';' | ':' | '(' | ')') {
            words.extend([c.to_string(), String::new()]);
        } else {
            words.push(String::new());
        }
    }
    words.retain(|word| !word.is_empty());
    words
}

/// The phrases of a sentence, each with advice. A question may have `who` and `what is`.
fn phrases(sentence: &str) -> Vec<String> {
    let is_question = sentence.trim_end().ends_with('?');
    let words = words(sentence);
    let word = |at: usize| words.get(at).map_or("", String::as_str);
    let mut found = Vec::new();
    for at in 0..words.len() {
        for (phrase, plain) in PHRASES {
            if phrase.split(' ').enumerate().all(|(index, part)| word(at + index) == part) {
                found.push(format!("{phrase:?}, plainly: {plain}"));
            }
        }
        let before = if at == 0 { "," } else { word(at - 1) };
        let earlier = if at < 2 { "" } else { word(at - 2) };
        let next = word(at + 1);
        let is_word = next.starts_with(char::is_alphabetic) && !["longer", "more"].contains(&next);
        if word(at) == "no"
            && ["is", "are", "was", "were"].contains(&before)
            && earlier != "there"
            && is_word
        {
            found.push(format!("\"{before} no {next}\", plainly: {before} not"));
        }
        if word(at) == "who" && !is_question && NO_ACTOR.contains(&before) {
            found.push("\"who\" without an actor: name it".to_owned());
        }
        if word(at) == "what" && !is_question && CLAUSE.contains(&next) {
            found.push(format!("\"what {next}\" as a noun: name the thing"));
        }
    }
    found
}

/// The comments of a source as Markdown lines; a line of code is empty.
fn comments(text: &str) -> impl Iterator<Item = &str> {
    text.lines().map(|line| {
        let at =
            if line.trim_start().starts_with("//") { line.find("//") } else { line.find(" // ") };
        at.map_or("", |at| line[at..].trim_start().trim_start_matches('/').trim_start_matches('!'))
    })
}

fn found_in(file: &Text) -> Vec<String> {
    let sentences = match file.name.ends_with(".md") {
        true => sentences(file.text.lines()),
        false => sentences(comments(&file.text)),
    };
    let found = sentences.iter().flat_map(|sentence| {
        phrases(sentence).into_iter().map(move |phrase| {
            let start: String = sentence.chars().take(90).collect();
            format!("{}: {phrase}\n    {start}", file.name)
        })
    });
    found.collect()
}

#[test]
fn documents_and_comments_are_in_plain_english() {
    let files = files("md").into_iter().chain(files("rs"));
    let violations: Vec<String> = files.flat_map(|file| found_in(&file)).collect();
    report("phrases that have to be read twice", &violations);
}

#[test]
fn each_phrase_is_found_and_plain_english_is_not() {
    let count =
        |text: &str| -> usize { sentences(text.lines()).iter().map(|s| phrases(s).len()).sum() };
    for (phrase, _) in PHRASES {
        assert_eq!(count(&format!("A reader {phrase} it.")), 1, "{phrase}");
    }
    for text in [
        "Who waits syncs.",
        "So that who knows it\nfinds it.",
        "It is no log.",
        "Reads what is there.",
        "| a | what was cut |",
        "- goes\n  on",
    ] {
        assert_eq!(count(text), 1, "{text}");
    }
    for text in [
        "Who syncs?",
        "What is this file?",
        "A user who knows it finds it.",
        "There is no lock file, and it is no longer needed: the answer is no.",
        "`a_reader_behind_the_end_goes_on`, [a link](behind.md)",
        "```\nbehind\n```",
        "1. go\n2. on",
        "He understands.",
    ] {
        assert_eq!(count(text), 0, "{text}");
    }
}
