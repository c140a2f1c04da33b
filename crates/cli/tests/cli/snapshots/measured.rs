//! Measured values are made the same in every run; counts are left as they are.

/// Fields whose numbers are measured, by command. That they are numbers, and not null, still shows.
const FIELDS: &[(&str, &[&str])] = &[
    (
        "bench",
        &[
            "per_second",
            "payload_bytes_per_second",
            "min",
            "mean",
            "p50",
            "p90",
            "p99",
            "p99.9",
            "p99.99",
            "max",
            "seconds",
        ],
    ),
    ("pending", &[]),
    ("top", &["interval_seconds", "oldest_seconds", "p50", "p90", "p99", "max"]),
    ("trace", &["queueing_nanos", "handler_nanos"]),
];

/// Returns the text of a command that measures, without the measured values. The widths of columns
/// change with them, so runs of spaces become one.
pub(super) fn normalise(command: &str, text: &str) -> String {
    let Some((_, fields)) = FIELDS.iter().find(|(name, _)| *name == command) else {
        return text.to_owned();
    };
    let mut out = String::new();
    for line in text.lines() {
        let mut line = line.to_owned();
        if line.starts_with('{') {
            for field in *fields {
                line = blank_field(&line, field);
            }
        } else if !line.starts_with('$') {
            line = spans(&line);
            if command == "bench" {
                line = bench(&line);
            }
        }
        out += line.trim_end();
        out.push('\n');
    }
    out
}

/// Replaces the number of a JSON field by `N`.
fn blank_field(line: &str, field: &str) -> String {
    let name = format!("\"{field}\":");
    let mut out = String::new();
    let mut rest = line;
    while let Some((head, tail)) = rest.split_once(&name) {
        let end = tail.find(|char: char| !char.is_ascii_digit() && char != '.').unwrap_or(0);
        out += head;
        out += &name;
        if end > 0 {
            out.push('N');
        }
        rest = &tail[end..];
    }
    out + rest
}

fn is_number(word: &str) -> bool {
    let digits = |char: char| char.is_ascii_digit() || matches!(char, '.' | ',');
    !word.is_empty() && word.chars().all(digits)
}

/// `3.2 ms`, `less than 1 us`, `<10 ms` and `12s` become `SPAN`, and runs of spaces one.
fn spans(line: &str) -> String {
    let indent: String = line.chars().take_while(|&char| char == ' ').collect();
    let line = line.replace("less than 1 us", "1 us");
    let words: Vec<&str> = line.split_whitespace().collect();
    let mut out: Vec<String> = Vec::new();
    let mut at = 0;
    while at < words.len() {
        let number = words[at].trim_start_matches(['(', '<']);
        let unit = words.get(at + 1).map_or("", |unit| unit.trim_end_matches([',', ':', ';', ')']));
        if is_number(number) && matches!(unit, "ns" | "us" | "ms" | "s") {
            out.push(format!("SPAN{}", &words[at + 1][unit.len()..]));
            at += 2;
            continue;
        }
        let is_age = words[at].strip_suffix('s').is_some_and(is_number);
        out.push(if is_age { "SPAN".to_owned() } else { words[at].to_owned() });
        at += 1;
    }
    indent + &out.join(" ")
}

/// Replaces the facts of the machine, and the numbers after the name of a case.
fn bench(line: &str) -> String {
    let words: Vec<&str> = line.split(' ').collect();
    for fact in ["processor", "memory", "kernel", "file system", "clock"] {
        if line.starts_with(fact) {
            return format!("{fact} FACT");
        }
    }
    let case = match words[0] {
        // Workload, durability, size and its unit, processes, threads.
        "append" | "consume" | "request" => 6,
        "append," | "consume," | "request," => 8,
        _ => return line.to_owned(),
    };
    // A ratio of a report to itself is not measured.
    let blank = |(at, word): (usize, &&str)| match at < case || *word == "1.00" {
        true => (*word).to_owned(),
        false if is_number(word) => "N".to_owned(),
        false => (*word).to_owned(),
    };
    let out = words.iter().enumerate().map(blank).collect::<Vec<_>>().join(" ");
    ["B", "KiB", "MiB", "GiB"]
        .iter()
        .fold(out, |out, unit| out.replace(&format!("N {unit}"), "SIZE"))
}
