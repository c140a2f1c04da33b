//! `trace`, `pending` and `dead`: what the log reports about requests.

use std::time::Duration;

use deaddrop::service::{Client, HandlerError, Poison, Reply, Request, ServerOptions};
use deaddrop::{Durability, Log, Record, TopicOptions};

use crate::support::{flip, snapshot, Scratch};

const LONG: Duration = Duration::from_secs(30);

fn open(scratch: &Scratch) -> Log {
    let log = Log::open_or_create(scratch.log()).unwrap();
    for service in ["orders", "stock"] {
        for end in ["requests", "replies"] {
            let options = TopicOptions::default().with_durability(Durability::ProcessCrash);
            log.topic_with(&format!("{service}.{end}"), options).unwrap();
        }
    }
    log
}

fn client(log: &Log, name: &str) -> Client {
    let options = TopicOptions::default().with_durability(Durability::ProcessCrash);
    let client = log.client(name).with_topic_options(options).on("done", |_| Ok(()));
    client.on("refuses", |_| Err(HandlerError::terminal("no"))).open().unwrap()
}

fn echo(request: &Request<'_>) -> Result<Reply, HandlerError> {
    Ok(Reply::new(request.payload()))
}

/// `shop` asks `orders`, whose handler asks `stock`.
fn conversation(log: &Log) -> (Client, Client, [String; 2]) {
    let (shop, nested) = (client(log, "shop"), client(log, "nested"));
    let request = shop.request("orders", &Record::new("order")).unwrap().with_key("k1");
    let first = request.send("done").unwrap();
    let asker = nested.clone();
    let handler = move |request: &Request<'_>| {
        asker.request("stock", &Record::new("item"))?.caused_by(request).send("refuses")?;
        Ok(Reply::new("ok"))
    };
    assert_eq!(log.server("orders", handler).unwrap().poll(LONG).unwrap(), 1);
    let second = nested.outstanding().unwrap()[0].id.to_string();
    (shop, nested, [first.to_string(), second])
}

#[test]
fn a_conversation_is_shown_as_a_tree_from_any_of_its_requests_and_nothing_is_written() {
    let scratch = Scratch::new();
    let log = open(&scratch);
    let (shop, nested, [first, second]) = conversation(&log);
    let other = shop.request("stock", &Record::new("other")).unwrap().send("done").unwrap();
    shop.poll(LONG).unwrap();
    for args in [
        &["trace", first.as_str(), "--json"][..],
        &["trace", &second, "--json"],
        &["trace", "--key", "k1", "--json"],
        &["trace", "--last", "1", "--service", "orders", "--json"],
    ] {
        let lines = scratch.run(args).expect(0).json();
        let ids: Vec<_> = lines.iter().map(|line| line["id"].as_str().unwrap()).collect();
        assert_eq!(ids, [&first, &second], "{args:?}");
        assert_eq!((&lines[0]["depth"], &lines[1]["depth"]), (&0.into(), &1.into()));
        assert_eq!(lines[0]["outcome"]["kind"], "reply");
        assert_eq!(lines[0]["delivery"], "delivered");
        assert_eq!(lines[1]["cause"], first.as_str());
        assert!(lines[1]["outcome"].is_null());
    }
    assert_eq!(log.server("stock", echo).unwrap().poll(LONG).unwrap(), 2);
    let before = scratch.run(&["trace", &second]).expect(0).text();
    assert!(before.contains("callback  refuses: not yet delivered"), "{before}");
    while nested.poll(Duration::ZERO).unwrap() != 0 {}
    drop((shop, nested, log));
    let files = snapshot(&scratch.log());
    let text = scratch.run(&["trace", &second]).expect(0).text();
    assert!(snapshot(&scratch.log()) == files, "it only reads");
    assert!(
        text.starts_with(&format!("{first}\n  request   shop -> orders offset 0 at ")),
        "{text}"
    );
    assert!(text.contains("5 bytes key k1\n"), "{text}");
    assert!(text.contains("callback  done: delivered\n"), "{text}");
    assert!(text.contains(&format!("\n    {second}\n      request   nested -> stock ")), "{text}");
    assert!(text.contains("      outcome   reply offset 0 after "), "{text}");
    assert!(text.contains("  queueing  ") && text.contains(", attempt 1\n"), "{text}");
    assert!(text.contains("      callback  refuses: parked\n"), "{text}");
    assert!(!text.contains(&other.to_string()), "{text}");
    let ran = scratch.run(&["trace", "shop-0000000000000000-9"]).expect(1);
    assert!(ran.stderr.contains("never sent, or it was trimmed"), "{}", ran.stderr);
    scratch.run(&["trace"]).expect(2);
    scratch.run(&["trace", "--last", "3", "--service", "nobody"]).expect(1);
}

#[test]
fn a_payload_of_one_byte_is_counted_in_the_singular() {
    let scratch = Scratch::new();
    let log = open(&scratch);
    let shop = client(&log, "shop");
    shop.request("stock", &Record::new("x")).unwrap().send("done").unwrap();
    let text = scratch.run(&["trace", "--last", "1"]).expect(0).text();
    assert!(text.contains(", 1 byte\n"), "{text}");
    let ran = scratch.run(&["trace", "--last", "1", "--service", "orders"]).expect(1);
    assert!(ran.stderr.contains("no requests to orders in this log"), "{}", ran.stderr);
}

#[test]
fn pending_shows_waiting_answered_and_parked_requests() {
    let scratch = Scratch::new();
    let log = open(&scratch);
    let (shop, nested, [first, second]) = conversation(&log);
    let states = |args: &[&str]| {
        let args = [&["pending", "--json"], args].concat();
        let lines = scratch.run(&args).expect(0).json();
        let state = |line: &serde_json::Value| {
            let text = |name| line[name].as_str().unwrap().to_owned();
            (text("id"), text("service"), text("state"))
        };
        lines.iter().map(state).collect::<Vec<_>>()
    };
    let row = |id: &String, service: &str, state: &str| (id.clone(), service.into(), state.into());
    let (ordered, stock) = (row(&first, "orders", "answered"), row(&second, "stock", "waiting"));
    assert_eq!(states(&[]), [ordered.clone(), stock.clone()]);
    assert_eq!(states(&["--client", "shop"]), std::slice::from_ref(&ordered));
    assert_eq!(states(&["--service", "stock"]), [stock]);
    shop.poll(LONG).unwrap();
    log.server("stock", echo).unwrap().poll(LONG).unwrap();
    nested.poll(LONG).unwrap();
    let parked = row(&second, "stock", "parked");
    assert_eq!(states(&[]), std::slice::from_ref(&parked), "delivered outcomes are done");
    assert_eq!(states(&["--client", "nested", "--service", "stock"]), [parked]);
    let days = Duration::from_secs(100 * 24 * 3600);
    let late = shop.request("stock", &Record::new("x")).unwrap().with_deadline(days);
    let late = late.send("done").unwrap();
    let text = scratch.run(&["pending", "--client", "shop"]).expect(0).text();
    let line = text.lines().nth(1).unwrap();
    assert!(line.starts_with(&late.to_string()) && line.ends_with("  waiting"), "{text}");
    // Nearly all of the time is left, as months and days.
    assert!(line.contains("  in 3months"), "{text}");
    shop.cancel(&late).unwrap();
    shop.poll(LONG).unwrap();
    assert_eq!(
        scratch.run(&["pending", "--client", "shop"]).expect(0).text(),
        "nothing is pending\n"
    );
    scratch.run(&["pending", "--service", "nobody"]).expect(1);
}

#[test]
fn a_stopped_lane_is_shown_where_requests_wait_in_it() {
    let scratch = Scratch::new();
    let log = open(&scratch);
    let shop = client(&log, "shop");
    for _ in 0..2 {
        shop.request("stock", &Record::new("x")).unwrap().with_key("k").send("done").unwrap();
    }
    let options = ServerOptions::default().with_max_attempts(1).with_poison(Poison::StopLane);
    let mut server = log.server_with("stock", options, |_| Err(HandlerError::retry("no"))).unwrap();
    while server.stats().stopped == 0 {
        server.poll(Duration::from_millis(1)).unwrap();
    }
    let text = scratch.run(&["pending"]).expect(0).text();
    assert_eq!(text.lines().filter(|line| line.ends_with("  stopped")).count(), 2, "{text}");
    let info = scratch.run(&["info", "stock.requests"]).expect(0).text();
    assert!(info.contains("  1 stopped\n"), "{info}");
}

#[test]
fn a_deadline_that_has_passed_is_shown_as_that() {
    let scratch = Scratch::new();
    let log = open(&scratch);
    let shop = client(&log, "shop");
    let request = shop.request("stock", &Record::new("x")).unwrap();
    request.with_deadline(Duration::from_millis(1)).send("done").unwrap();
    drop(shop);
    // Once the deadline has passed, which is soon, it stays so.
    let is_passed = |_| scratch.run(&["pending"]).expect(0).text().contains("  passed  ");
    assert!((0..500).any(is_passed));
}

#[test]
fn dead_letters_are_listed_and_their_requests_sent_again_once_asked_to() {
    let scratch = Scratch::new();
    let log = open(&scratch);
    let shop = client(&log, "shop");
    let options = ServerOptions::default()
        .with_topic(TopicOptions::default().with_durability(Durability::ProcessCrash))
        .with_max_attempts(1);
    let poison = |_: &Request<'_>| Err(HandlerError::retry("too\thot"));
    let ids = ["a", "b"].map(|payload| {
        let request = shop.request("stock", &Record::new(payload)).unwrap().with_key(payload);
        request.with_context("c").send("done").unwrap().to_string()
    });
    assert_eq!(log.server_with("stock", options, poison).unwrap().poll(LONG).unwrap(), 2);
    while shop.poll(Duration::ZERO).unwrap() != 0 {}
    let listed = scratch.run(&["dead", "ls", "stock.dead"]).expect(0).text();
    let line = listed.lines().nth(1).unwrap();
    let words: Vec<_> = line.split_whitespace().collect();
    assert_eq!(words[..2], ["stock.dead", "0"], "{listed}");
    assert_eq!(words[3..], ["open", &ids[0], "stock.requests", "0", "a", "1", "too\\thot"]);
    assert_eq!(scratch.run(&["dead"]).expect(0).text(), listed, "all topics of dead letters");
    assert_eq!(scratch.run(&["dead", "stock.dead", "--json"]).expect(0).json().len(), 2);
    let requests = log.open_topic("stock.requests").unwrap();
    let dry = scratch.run(&["dead", "redrive", "stock.dead"]).expect(0).text();
    assert_eq!(requests.end_offset().unwrap(), 2, "{dry}");
    assert!(dry.ends_with("nothing was changed: add --execute to do it\n"), "{dry}");
    let args = ["dead", "redrive", "stock.dead", "--offset", "1", "--execute"];
    let text = scratch.run(&args).expect(0).text();
    let new =
        text.strip_prefix(&format!("1 {} sent again to stock.requests, offset 2, as ", ids[1]));
    let new = new.unwrap_or_else(|| panic!("{text}")).trim_end();
    assert_eq!(log.server("stock", echo).unwrap().poll(LONG).unwrap(), 1);
    while shop.poll(Duration::ZERO).unwrap() != 0 {}
    let traced = scratch.run(&["trace", &ids[1], "--json"]).expect(0).json();
    assert_eq!((&traced[0]["outcome"]["kind"], traced.len()), (&"dead-lettered".into(), 2));
    assert_eq!((&traced[1]["id"], &traced[1]["cause"]), (&new.into(), &traced[0]["id"]));
    assert_eq!((&traced[1]["redrive_of"], &traced[1]["depth"]), (&traced[0]["id"], &1.into()));
    assert_eq!(
        (&traced[1]["outcome"]["kind"], &traced[1]["delivery"]),
        (&"reply".into(), &"delivered".into())
    );
    let text = scratch.run(&["trace", &ids[1]]).expect(0).text();
    assert!(text.contains(&format!("redrive   of the dead letter of {}", ids[1])), "{text}");

    // It is sent once, unless asked for again.
    let execute = |words: &[&str]| scratch.run(&[words, &["--execute"]].concat()).expect(0).text();
    let text = execute(&["dead", "redrive", "stock.dead", "--key", "b"]);
    assert!(text.contains("sent again or dropped: 1 letter;"), "{text}");
    let lines = scratch.run(&["dead", "redrive", "stock.dead", "--json"]).expect(0).json();
    assert_eq!((&lines[0]["state"], &lines[1]["state"]), (&"open".into(), &"sent again".into()));
    assert_eq!(lines[1]["sent_as"], new);
    assert_eq!(requests.end_offset().unwrap(), 3);
    let text = execute(&["dead", "redrive", "stock.dead", "--key", "b", "--again"]);
    assert!(text.contains("offset 3"), "{text}");
    assert!(
        execute(&["dead", "drop", "stock.dead", "--reason", "cold"]).contains("no dead letters")
    );
    let text = execute(&["dead", "drop", "stock.dead", "--reason", "hot", "--offset", "0"]);
    assert_eq!(text, format!("0 {} dropped\n", ids[0]));
    assert!(!scratch.run(&["dead", "stock.dead"]).expect(0).text().contains(&ids[0]));
    assert!(scratch.run(&["dead", "stock.dead", "--all"]).expect(0).text().contains(&ids[0]));
    assert!(
        execute(&["dead", "redrive", "stock.dead"]).contains("sent again or dropped: 2 letters;")
    );
    assert_eq!(requests.end_offset().unwrap(), 4);
}

#[test]
fn a_record_that_is_not_a_dead_letter_is_not_sent_again_and_damage_is_skipped_with_code_4() {
    let scratch = Scratch::new();
    let log = open(&scratch);
    let shop = client(&log, "shop");
    let ids = ["a", "b"].map(|payload| {
        let request = shop.request("stock", &Record::new(payload)).unwrap();
        request.send("done").unwrap().to_string()
    });
    let options = TopicOptions::default().with_durability(Durability::ProcessCrash);
    let dead = log.topic_with("stock.dead", options).unwrap();
    let forged = |topic: &str, offset: &str| {
        let record = Record::new("x").with_header("dead-letter-id", &ids[0]);
        record.with_header("dead-letter-topic", topic).with_header("dead-letter-offset", offset)
    };
    let letters = [
        forged("../../etc", "0"),
        forged("stock.requests", "1"),
        forged("stock.requests", "99"),
        forged("nobody.requests", "0"),
        Record::new("no letter"),
    ];
    dead.append_batch(&letters).unwrap();
    let lines =
        scratch.run(&["dead", "redrive", "stock.dead", "--execute", "--json"]).expect(1).json();
    assert_eq!(lines.len(), 5);
    assert!(lines.iter().all(|line| line["error"].is_string()), "{lines:?}");
    let requests = log.open_topic("stock.requests").unwrap();
    assert_eq!(requests.end_offset().unwrap(), 2);
    drop((shop, requests, dead, log));
    let path = scratch.segments("stock.requests").swap_remove(0);
    flip(&path, 4096 + 40, 1);
    let ran = scratch.run(&["trace", "--last", "5", "--json"]).expect(4);
    assert_eq!(ran.json().len(), 1);
    assert!(ran.stderr.contains("skipped offsets 0..1"), "{}", ran.stderr);
}

#[test]
fn requests_are_cancelled_and_clients_that_never_return_are_retired() {
    let scratch = Scratch::new();
    let log = open(&scratch);
    let shop = client(&log, "shop");
    let ids = ["a", "b"].map(|payload| {
        let request = shop.request("stock", &Record::new(payload)).unwrap();
        request.send("done").unwrap().to_string()
    });
    let ran = scratch.run(&["cancel", &ids[0]]).expect(5);
    assert!(ran.stderr.contains("shop"), "its client lives: {}", ran.stderr);
    scratch.run(&["clients", "retire", "shop"]).expect(5);
    scratch.run(&["clients", "retire", "shop", "--execute"]).expect(5);
    drop(shop);
    assert_eq!(
        scratch.run(&["cancel", &ids[0]]).expect(0).text(),
        format!("{} cancelled\n", ids[0])
    );
    assert_eq!(scratch.run(&["cancel", "no-id"]).expect(2).stdout.len(), 0);
    let row = &scratch.run(&["clients", "--json"]).expect(0).json()[0];
    // The cancelled one is closed when its client has read the cancellation.
    assert_eq!((&row["client"], &row["outstanding"]), (&"shop".into(), &2.into()));
    assert_eq!((&row["owner"], &row["requests_held"]), (&serde_json::Value::Null, &2.into()));
    let text = scratch.run(&["clients"]).expect(0).text();
    assert!(text.contains("shop") && text.contains("stock"), "{text}");

    let refused = scratch.run(&["clients", "retire", "shop"]).expect(1);
    assert!(refused.stderr.contains("2 requests outstanding"), "{}", refused.stderr);
    let dry = scratch.run(&["clients", "retire", "shop", "--discard"]).expect(0).text();
    assert!(dry.contains("add --execute"), "{dry}");
    scratch.run(&["clients", "retire", "shop", "--discard", "--execute"]).expect(0);
    assert_eq!(scratch.run(&["clients"]).expect(0).text(), "no clients\n");
    scratch.run(&["clients", "retire", "shop", "--discard"]).expect(1);
    let requests = log.open_topic("stock.requests").unwrap();
    assert!(requests.consumers().unwrap().is_empty());
}

#[test]
fn a_request_to_a_service_without_a_server_reports_that() {
    let scratch = Scratch::new();
    let log = open(&scratch);
    let wait = ["request", "new", "x", "--timeout", "1ms"];
    let said = || scratch.run(&wait).stderr;
    let first = said();
    assert!(first.contains("new is a new service"), "{first}");
    let second = said();
    assert!(second.contains("no server of new is running"), "{second}");
    let server = log.server("new", echo).unwrap().spawn().unwrap();
    let is_held = || {
        let groups = log.open_topic("new.requests").unwrap().groups().unwrap();
        groups.iter().any(|(_, info)| info.as_ref().unwrap().lanes[0].owner.is_some())
    };
    while !is_held() {
        std::thread::yield_now();
    }
    assert!(!said().contains("running"));
    server.stop().unwrap();
    assert!(said().contains("no server of new is running"));
}

#[test]
fn parked_outcomes_show_when_their_request_was_sent() {
    let scratch = Scratch::new();
    let log = open(&scratch);
    let options = TopicOptions::default().with_durability(Durability::ProcessCrash);
    let refuses = |_: &deaddrop::service::Completed| Err(HandlerError::terminal("never"));
    let shop = log.client("shop").with_topic_options(options).on("done", refuses).open().unwrap();
    shop.request("stock", &Record::new("x")).unwrap().send("done").unwrap();
    let sent_at = scratch.run(&["pending", "--json"]).expect(0).json()[0]["sent_at"].clone();
    log.server("stock", echo).unwrap().poll(LONG).unwrap();
    while shop.parked().is_empty() {
        shop.poll(LONG).unwrap();
    }
    let rows = scratch.run(&["pending", "--json"]).expect(0).json();
    let row = rows.iter().find(|row| row["state"] == "parked").unwrap();
    assert_eq!((&row["sent_at"], &row["offset"]), (&sent_at, &0.into()));
}
