//! `serve` with several servers: threads, poison, and a killed server whose command runs on.

use std::path::Path;
use std::time::Duration;

use deaddrop::format::group::lane_of;
use deaddrop::service::Outcome;
use deaddrop::{Log, Record};

use crate::service::Server;
use crate::support::Scratch;

const LANES: u32 = 64;
/// Polls for a file, far more than a busy machine needs.
const LOOKS: u32 = 60_000;

/// Waits until a file has these words.
fn wait_for_words(path: &Path, words: &[&str]) {
    for _ in 0..LOOKS {
        let found = std::fs::read_to_string(path).unwrap_or_default();
        if found.split_whitespace().collect::<Vec<_>>() == words {
            return;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    let found = std::fs::read_to_string(path);
    panic!("{} should hold {words:?}: {found:?}", path.display());
}

#[test]
fn the_command_of_a_killed_server_ends_before_another_server_runs_it_again() {
    let scratch = Scratch::new();
    assert_ne!(lane_of(Some(b"slow"), 0, LANES), lane_of(Some(b"quick"), 0, LANES));
    let (said, told) = (scratch.path().join("said"), scratch.path().join("go"));
    let script = "case $DEADDROP_KEY in quick) exec cat;; esac
        echo begin >> said
        while [ ! -e go ]; do sleep 0.01; done
        echo end >> said
        echo $DEADDROP_ATTEMPT";
    let first = Server::start(&scratch, &[], script);
    let args = ["request", "echo", "x", "--key", "slow", "--no-wait"];
    let id = scratch.run(&args).expect(0).text();
    wait_for_words(&said, &["begin"]);
    // The kill is SIGKILL, so the command is an orphan then.
    drop(first);

    let second = Server::start(&scratch, &["-n", "4"], script);
    for _ in 0..3 {
        // It has all lanes but one, and skips the request that comes first.
        let args = ["request", "echo", "y", "--key", "quick", "--timeout", "60s"];
        assert_eq!(scratch.run(&args).expect(0).text(), "y\n");
    }
    wait_for_words(&said, &["begin"]);
    std::fs::write(&told, "").unwrap();
    let attach = ["request", "--attach", id.trim(), "--timeout", "60s"];
    assert_eq!(scratch.run(&attach).expect(0).text(), "2\n");
    assert_eq!(second.end(), Some(0));
    wait_for_words(&said, &["begin", "end", "begin", "end"]);
}

#[test]
fn as_many_commands_run_at_a_time_as_there_are_threads() {
    let scratch = Scratch::new();
    // No command ends before four have begun.
    let script = "touch begun.$DEADDROP_KEY
        while [ $(ls begun.* | wc -l) -lt 4 ]; do sleep 0.01; done
        cat";
    let _server = Server::start(&scratch, &["--threads", "4"], script);
    let log = Log::open_or_create(scratch.log()).unwrap();
    let client = log.client("c").open().unwrap();
    // The lanes of each thread are not known; with a request in each lane, every thread gets one.
    let key_in = |lane| {
        let mut keys = (0..100_000).map(|number| number.to_string());
        keys.find(|key| lane_of(Some(key.as_bytes()), 0, LANES) == lane).unwrap()
    };
    let send = |lane| {
        let request = client.request("echo", &Record::new("x")).unwrap();
        request.with_key(key_in(lane)).call().unwrap()
    };
    let calls: Vec<_> = (0..LANES).map(send).collect();
    for mut call in calls {
        let done = call.wait_timeout(Duration::from_secs(60)).unwrap();
        assert!(matches!(done.expect("a reply").outcome(), Outcome::Reply(_)));
    }
}

#[test]
fn poison_stops_the_lane_if_asked_until_it_is_resumed() {
    let scratch = Scratch::new();
    let args = ["--max-attempts", "1", "--poison", "stop-lane"];
    let script = "[ -e repaired ] && cat";
    let _server = Server::start(&scratch, &args, script);
    let id = scratch.run(&["request", "echo", "x", "--key", "k", "--no-wait"]).expect(0).text();
    let groups = ["groups", "echo.requests", "server", "--json"];
    let lane = lane_of(Some(b"k"), 0, LANES);
    for look in 0.. {
        assert!(look < LOOKS, "lane {lane} does not stop");
        let row = &scratch.run(&groups).expect(0).json()[0];
        if row["stopped"][0] == lane {
            break;
        }
    }
    scratch.run(&["request", "--attach", id.trim(), "--timeout", "10ms"]).expect(124);
    std::fs::write(scratch.path().join("repaired"), "").unwrap();
    let lane = lane.to_string();
    scratch.run(&["groups", "resume", "echo.requests", "server", &lane, "--execute"]).expect(0);
    let attach = ["request", "--attach", id.trim(), "--timeout", "60s"];
    assert_eq!(scratch.run(&attach).expect(0).text(), "x\n");
}
