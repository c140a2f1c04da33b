//! `bench`: its counts are right, its report can be read back, and it leaves no files.

use std::io::Read;
use std::path::Path;
use std::process::Command;

use base64::Engine;
use hdrhistogram::serialization::Deserializer;
use hdrhistogram::Histogram;
use serde_json::Value;

use crate::support::{Ran, Scratch};

/// `deaddrop bench --count 60 ARGS..` without warm-up, in the scratch directory.
fn bench(scratch: &Scratch, args: &[&str]) -> Ran {
    let args = [&["bench", "--count", "60", "--warm-up", "0s"], args].concat();
    Ran::of(&command(scratch, &args).output().unwrap())
}

fn command(scratch: &Scratch, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_deaddrop"));
    command.args(args).current_dir(scratch.path()).stdin(std::process::Stdio::null());
    command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
    command
}

fn read(path: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

fn names(dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(dir).unwrap();
    let mut names: Vec<String> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn histogram(case: &Value) -> Histogram<u64> {
    let text = case["histogram"].as_str().unwrap();
    let bytes = base64::engine::general_purpose::STANDARD.decode(text).unwrap();
    Deserializer::new().deserialize(&mut bytes.as_slice()).unwrap()
}

#[test]
fn every_operation_of_every_process_and_thread_is_in_the_report() {
    let scratch = Scratch::new();
    let ran = bench(
        &scratch,
        &["--processes", "2", "--threads", "1,2", "--output", "r.json", "--html", "r.html"],
    );
    ran.expect(0);
    let report = read(&scratch.path().join("r.json"));
    assert_eq!(
        (&report["format"], &report["format_version"]),
        (&"deaddrop-bench".into(), &1.into())
    );
    assert_eq!(report["window"]["count"], 60);
    for fact in ["cpu", "kernel", "file_system", "memory_bytes"] {
        assert!(report["machine"].get(fact).is_some(), "{fact}");
    }
    let cases = report["cases"].as_array().unwrap();
    assert_eq!(cases.len(), 3 * 2 * 2, "workloads, durabilities, threads");
    for case in cases {
        let processes: Vec<u64> = case["operations_by_process"]
            .as_array()
            .unwrap()
            .iter()
            .map(|count| count.as_u64().unwrap())
            .collect();
        assert_eq!(processes, [30, 30], "{case}");
        let merged = histogram(case);
        assert_eq!((merged.len(), &case["operations"]), (60, &60.into()));
        assert_eq!(case["latency_nanos"]["p50"], merged.value_at_quantile(0.5));
        assert_eq!(case["latency_nanos"]["max"], merged.max());
        let counts = case["series"]["counts"].as_array().unwrap();
        assert_eq!(counts.iter().map(|count| count.as_u64().unwrap()).sum::<u64>(), 60);
        let rate = 60.0 / case["seconds"].as_f64().unwrap();
        assert!((case["per_second"].as_f64().unwrap() / rate - 1.0).abs() < 1e-9);
        let syncs = case["sync"].as_str().unwrap().contains("after fdatasync");
        assert_eq!(syncs, case["durability"] == "power-loss" && case["workload"] != "consume");
    }
    assert_eq!(names(scratch.path()), ["r.html", "r.json"], "the log is removed");
}

#[test]
fn a_window_of_time_is_measured_for_that_time() {
    let scratch = Scratch::new();
    let args = ["bench", "--workload", "append", "--durability", "process-crash", "--json"];
    let args =
        [&args[..], &["--seconds", "0.05", "--warm-up", "10ms", "--size", "0,1KiB"]].concat();
    let ran = Ran::of(&command(&scratch, &args).output().unwrap()).expect(0);
    let cases = ran.json();
    assert_eq!(cases.len(), 2);
    for (case, size) in cases.iter().zip([0, 1024]) {
        assert!(case["seconds"].as_f64().unwrap() >= 0.05, "{case}");
        assert!(case["operations"].as_u64().unwrap() > 0);
        assert_eq!(case["size"], size);
        assert!(case.get("histogram").is_none(), "that is for the file");
    }
}

#[test]
fn the_page_has_all_plots_and_loads_nothing() {
    let scratch = Scratch::new();
    bench(&scratch, &["--html", "r.html", "--size", "1,64", "--durability", "process-crash"])
        .expect(0);
    let page = std::fs::read_to_string(scratch.path().join("r.html")).unwrap();
    assert_eq!(page.matches("<svg").count(), 3 * 3, "three for each workload");
    assert_eq!(page.matches("</svg>").count(), 9);
    for title in ["Append", "Consume", "Request and reply"] {
        assert!(page.contains(&format!("<h2>{title}, process-crash</h2>")), "{title}");
    }
    assert!(page.contains("<polyline class=\"line s1\"") && page.contains("class=\"bar s1\""));
    for external in ["http:", "https:", "src=", "href=", "url(", "@import", "<script"] {
        assert!(!page.contains(external), "{external}");
    }
}

#[test]
fn two_reports_are_compared_case_by_case() {
    let scratch = Scratch::new();
    let of = |file: &str, more: &[&str]| {
        let args = [&["--workload", "append", "--output", file], more].concat();
        bench(&scratch, &args).expect(0);
    };
    of("a.json", &["--durability", "process-crash,power-loss"]);
    let mut report = read(&scratch.path().join("a.json"));
    let case = &mut report["cases"][0];
    let rate = case["per_second"].as_f64().unwrap();
    case["per_second"] = (rate * 2.0).into();
    let p99 = case["latency_nanos"]["p99"].as_u64().unwrap();
    case["latency_nanos"]["p99"] = (p99 * 3).into();
    std::fs::write(scratch.path().join("b.json"), report.to_string()).unwrap();
    let compare = |more: &[&str]| {
        let args = [&["bench", "--compare"], more].concat();
        Ran::of(&command(&scratch, &args).output().unwrap())
    };
    let rows = compare(&["a.json", "b.json", "--json"]).expect(0).json();
    assert_eq!(rows.len(), 2);
    for (row, rate, p99) in [(&rows[0], 2.0, 3.0), (&rows[1], 1.0, 1.0)] {
        // A number that is written and read again can differ in its last bit.
        let is_near = |name: &str, ratio: f64| (row[name].as_f64().unwrap() - ratio).abs() < 1e-9;
        assert!(is_near("per_second_ratio", rate) && is_near("p99_ratio", p99), "{row}");
    }
    let text = compare(&["b.json", "a.json"]).expect(0).text();
    assert!(text.contains(" 0.50 ") && text.contains(" 0.33 "), "{text}");
    of("c.json", &["--durability", "process-crash", "--size", "7"]);
    let ran = compare(&["a.json", "c.json"]).expect(1);
    assert!(ran.stderr.contains("no case in common"), "{}", ran.stderr);
    assert!(ran.stderr.contains("only in B: append, process-crash, 7 B"), "{}", ran.stderr);
}

#[test]
fn servers_threads_and_outstanding_requests_make_cases_of_request() {
    let scratch = Scratch::new();
    let args =
        ["--workload", "append,request", "--durability", "process-crash", "--html", "r.html"];
    let more = ["--servers", "1,2", "--server-threads", "2", "--outstanding", "1,8"];
    let text =
        bench(&scratch, &[&args[..], &more, &["--output", "r.json"]].concat()).expect(0).text();
    assert!(text.contains(" 2 x 2            8 "), "{text}");
    let report = read(&scratch.path().join("r.json"));
    let (appends, requests): (Vec<_>, Vec<_>) =
        report["cases"].as_array().unwrap().iter().partition(|case| case["workload"] == "append");
    assert_eq!(appends.len(), 1, "it has no servers");
    assert!(appends[0].get("service").is_none());
    let services: Vec<_> = requests.iter().map(|case| case["service"].clone()).collect();
    let service = |servers: u32, outstanding: u32| serde_json::json!({ "servers": servers, "threads": 2, "outstanding": outstanding });
    assert_eq!(services, [service(1, 1), service(1, 8), service(2, 1), service(2, 8)]);
    for case in requests {
        assert_eq!((histogram(case).len(), &case["operations"]), (60, &60.into()));
        let calls = case["operation"].as_str().unwrap().starts_with("call()");
        assert_eq!(calls, case["service"]["outstanding"] == 1, "{case}");
    }
    let page = std::fs::read_to_string(scratch.path().join("r.html")).unwrap();
    assert!(page.contains(">8 outstanding, 2 x 2 threads serving<"));
    assert!(page.contains("<td>2 x 2</td><td>8</td>"));
    // Only cases with the same servers and the same options are compared.
    let mut others = report.clone();
    let cases = others["cases"].as_array_mut().unwrap();
    cases.retain(|case| case["service"]["servers"] == 1);
    cases[1]["service"]["threads"] = 3.into();
    std::fs::write(scratch.path().join("b.json"), others.to_string()).unwrap();
    let args = ["bench", "--compare", "r.json", "b.json", "--json"];
    let ran = Ran::of(&command(&scratch, &args).output().unwrap()).expect(0);
    let same: Vec<_> = ran.json().iter().map(|row| row["service"].clone()).collect();
    assert_eq!(same, [service(1, 1)]);
    let only_in_b =
        "only in B: request, process-crash, 256 B, 1 process, 1 thread, 8 outstanding, \
                     1 server of 3 threads";
    assert!(ran.stderr.contains(only_in_b), "{}", ran.stderr);
}

#[test]
fn a_report_that_names_no_servers_had_one_with_one_thread_and_one_request_outstanding() {
    let scratch = Scratch::new();
    let args = ["--workload", "append,request", "--durability", "process-crash"];
    let more = ["--output", "new.json", "--outstanding", "1,2"];
    bench(&scratch, &[&args[..], &more].concat()).expect(0);
    let mut old = read(&scratch.path().join("new.json"));
    for case in old["cases"].as_array_mut().unwrap() {
        case.as_object_mut().unwrap().remove("service");
    }
    old["cases"].as_array_mut().unwrap().pop();
    std::fs::write(scratch.path().join("old.json"), old.to_string()).unwrap();
    for files in [["old.json", "new.json"], ["new.json", "old.json"]] {
        let args = [&["bench", "--json", "--compare"], &files[..]].concat();
        let ran = Ran::of(&command(&scratch, &args).output().unwrap()).expect(0);
        let rows = ran.json();
        let workloads: Vec<_> = rows.iter().map(|row| row["workload"].clone()).collect();
        assert_eq!(workloads, ["append", "request"]);
        assert_eq!(
            (&rows[0]["service"], &rows[1]["service"]["servers"]),
            (&Value::Null, &1.into())
        );
        assert!(ran.stderr.contains("2 outstanding, 1 server of 1 thread"), "{}", ran.stderr);
    }
}

/// Returns, for each child process that serves, how many of its threads serve.
fn serving_threads(parent: u32) -> Vec<usize> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").unwrap() {
        let dir = entry.unwrap().path();
        // A process that ends meanwhile is left out.
        let read = |path: &Path| std::fs::read_to_string(path).unwrap_or_default();
        let stat = read(&dir.join("stat"));
        let behind_name = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
        if behind_name.split_whitespace().nth(1) != Some(parent.to_string().as_str()) {
            continue;
        }
        let tasks = std::fs::read_dir(dir.join("task")).into_iter().flatten().flatten();
        let names = tasks.map(|task| read(&task.path().join("comm")));
        match names.filter(|name| name.trim() == "serve-echo").count() {
            0 => {}
            some => found.push(some),
        }
    }
    found
}

#[test]
fn as_many_servers_with_as_many_threads_run_as_were_asked_for() {
    let scratch = Scratch::new();
    let args = ["bench", "--workload", "request", "--durability", "process-crash"];
    let more = ["--seconds", "600", "--servers", "3", "--server-threads", "2"];
    let mut child = command(&scratch, &[&args[..], &more].concat()).spawn().unwrap();
    let mut found = Vec::new();
    for _ in 0..20_000 {
        found = serving_threads(child.id());
        if found == [2, 2, 2] || child.try_wait().unwrap().is_some() {
            break;
        }
        std::thread::yield_now();
    }
    let pid = child.id().to_string();
    assert!(Command::new("kill").args(["-INT", &pid]).status().unwrap().success());
    let ended = child.wait_with_output().unwrap();
    assert_eq!(found, [2, 2, 2], "{ended:?}");
    assert_eq!(ended.status.code(), Some(1));
}

#[test]
fn an_invalid_or_changed_report_is_refused() {
    let scratch = Scratch::new();
    bench(&scratch, &["--workload", "append", "--output", "a.json"]).expect(0);
    let good = read(&scratch.path().join("a.json"));
    let refused = |text: String, why: &str| {
        std::fs::write(scratch.path().join("x.json"), text).unwrap();
        let args = ["bench", "--compare", "a.json", "x.json"];
        let ran = Ran::of(&command(&scratch, &args).output().unwrap()).expect(2);
        assert!(ran.stderr.contains("x.json is not a report of bench"), "{}", ran.stderr);
        assert!(ran.stderr.contains(why), "{why}: {}", ran.stderr);
    };
    refused(String::new(), "EOF");
    refused("{\"format\": 1}".into(), "line 1");
    let changed = |path: &str, value: Value| {
        let mut report = good.clone();
        *report.pointer_mut(path).unwrap() = value;
        report.to_string()
    };
    refused(changed("/format_version", 2.into()), "deaddrop-bench 2");
    refused(changed("/cases/0/operations", 7.into()), "its count is 7");
    refused(changed("/cases/0/histogram", "////".into()), "its histogram");
    refused(changed("/cases/0/series/slot_nanos", 0.into()), "slots");
    let args = ["bench", "--compare", "a.json", "missing.json"];
    Ran::of(&command(&scratch, &args).output().unwrap()).expect(3);
}

#[test]
fn a_case_that_cannot_be_measured_is_code_2_with_the_reason() {
    let scratch = Scratch::new();
    std::fs::write(scratch.path().join("file"), "").unwrap();
    scratch.append("t", "a\n");
    for (args, why) in [
        (vec!["--seconds", "0"], "--seconds 0"),
        (vec!["--seconds", "NaN"], "--seconds NaN"),
        (vec!["--seconds", "1", "--count", "5"], "cannot be used with"),
        (vec!["--count", "0"], "--count 0"),
        (vec!["--count", "3", "--threads", "4"], "less than one operation for each thread"),
        (vec!["--threads", "0"], "--threads 0 is out of range: use 1 to 256"),
        (vec!["--processes", "1,9999"], "--processes 9999"),
        (vec!["--servers", "0"], "--servers 0 is out of range: use 1 to 64"),
        (vec!["--server-threads", "65"], "--server-threads 65"),
        (vec!["--servers", "2,9", "--server-threads", "8"], "the service has 64 lanes"),
        (vec!["--outstanding", "1,9999"], "--outstanding 9999 is out of range: use 1 to 4096"),
        (vec!["--outstanding", "x"], "invalid digit"),
        (vec!["--workload", "append", "--servers", "2"], "--servers needs the workload request"),
        (vec!["--workload", "consume", "--outstanding", "1,8"], "--outstanding needs"),
        (vec!["--size", "1G"], "--size"),
        (vec!["--size", "1.5k"], "unit"),
        (vec!["--workload", "sleep"], "append, consume, request"),
        (vec!["--durability", "sometimes"], "power-loss, process-crash or within:500ms"),
        (vec!["--warm-up", "9999999s"], "--warm-up"),
        (vec!["--output", "no/such/r.json"], "there is no directory no/such"),
        (vec!["--html", "."], "is a directory"),
        (vec!["-d", "missing"], "there is no directory missing"),
        (vec!["-d", "file"], "there is no directory file"),
        (vec!["-d", "drop"], "drop is a log"),
        (vec!["--compare", "a.json"], "2 values required"),
        (vec!["--compare", "a.json", "b.json", "--size", "1"], "cannot be used with"),
        (vec!["--compare", "a.json", "b.json", "--servers", "1"], "cannot be used with"),
    ] {
        let args = [&["bench"], &args[..]].concat();
        let ran = Ran::of(&command(&scratch, &args).output().unwrap()).expect(2);
        assert!(ran.stderr.contains(why), "{args:?}: {}", ran.stderr);
        assert!(ran.stdout.is_empty());
    }
    assert_eq!(names(scratch.path()), ["drop", "file"]);
}

#[test]
fn a_file_system_in_memory_is_refused_for_power_loss() {
    let scratch = Scratch::new();
    let memory = Path::new("/dev/shm");
    if !memory.is_dir() {
        return;
    }
    let dir = tempfile::tempdir_in(memory).unwrap();
    let dir_name = dir.path().to_str().unwrap();
    let args = ["-d", dir_name, "--workload", "append", "--durability"];
    let ran = bench(&scratch, &[&args[..], &["process-crash,power-loss"]].concat());
    assert_eq!(ran.code, Some(3));
    assert!(ran.stderr.contains("choose Durability::ProcessCrash"), "{}", ran.stderr);
    assert!(ran.stdout.is_empty(), "before anything was measured");
    bench(&scratch, &[&args[..], &["process-crash"]].concat()).expect(0);
    assert_eq!(names(dir.path()), Vec::<String>::new());
}

#[test]
fn an_interrupted_run_leaves_no_directory_and_no_process() {
    let scratch = Scratch::new();
    let args = ["bench", "--workload", "request", "--seconds", "60", "--warm-up", "0s"];
    let mut child = command(&scratch, &args).spawn().unwrap();
    // Its case has begun once the topics of the service are there.
    let is_measuring = || {
        let found = names(scratch.path());
        found.first().is_some_and(|name| {
            scratch.path().join(name).join("case-0/topics/echo.requests").exists()
        })
    };
    for _ in 0..10_000_000 {
        if is_measuring() || child.try_wait().unwrap().is_some() {
            break;
        }
        std::thread::yield_now();
    }
    let pid = child.id().to_string();
    assert!(Command::new("kill").args(["-INT", &pid]).status().unwrap().success());
    let mut said = String::new();
    // Ends when every process that has inherited it has ended.
    child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(1), "{said}");
    assert!(said.contains("interrupted"), "{said}");
    assert_eq!(names(scratch.path()), Vec::<String>::new());
}
