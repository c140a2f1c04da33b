//! What threads may share and pass on.

use std::collections::BTreeSet;
use std::path::Path;

use deaddrop::{group::*, repair::*, service::*, *};

/// Checks each type, and returns their names.
macro_rules! check {
    ($check:ident: $($name:ident $(<$life:lifetime>)?)*) => {
        [$({
            $check::<$name $(<$life>)?>();
            stringify!($name)
        }),*]
    };
}

fn shared<T: Send + Sync>() {}
fn sent<T: Send>() {}

/// Returns the names of the types that a file declares or exports.
fn types_of(file: &str) -> BTreeSet<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(file);
    let text = std::fs::read_to_string(path).unwrap();
    let declared = text.lines().filter_map(|line| {
        let rest = line.strip_prefix("pub struct ").or(line.strip_prefix("pub enum "))?;
        rest.split(|c: char| !c.is_alphanumeric()).next()
    });
    let exports = text.split("\npub use ").skip(1).map(|rest| rest.split_once(';').unwrap().0);
    let exported = exports.flat_map(|list| list.split(|c: char| !c.is_alphanumeric() && c != '_'));
    let is_type =
        |name: &&str| name.starts_with(char::is_uppercase) && name.contains(char::is_lowercase);
    declared.chain(exported).filter(is_type).map(str::to_owned).collect()
}

#[test]
fn every_public_type_can_be_shared_between_threads_except_workers_which_can_be_passed_on() {
    let mut checked = BTreeSet::from(check!(shared:
        AttemptState BorrowedRecord<'static> Call CallbackRetry Cause Client ClientBuilder ClientInfo
        ClientService ClientStats Clocks Completed Consumer ConsumerInfo Contents Cut Damage DeadLetter
        DeadLetters Durability Envelope Error Finding Group GroupInfo GroupOptions HandlerError
        InHand Job Kind LaneGuard LaneInfo LetterState Log LogOptions MemberInfo Note Options Outcome
        Outstanding OwnedRecord Parked Poison Reader Record RecordRef<'static> RecoveryReport
        Redriven Remedy Reply Report Request<'static> RequestBuilder<'static> RequestId Retention
        Running Server ServerOptions Start Stop Stranded Topic TopicOptions WorkerOptions
        WorkerStats
    ));
    checked.extend(check!(sent: Worker));
    let mut public = BTreeSet::new();
    for file in ["src/lib.rs", "src/group/mod.rs", "src/repair.rs", "src/service/mod.rs"] {
        public.extend(types_of(file));
    }
    // A trait, a type of the caller's, and a name that is exported as another.
    public.retain(|name| !["Append", "Result", "State"].contains(&name.as_str()));
    assert!(public.len() > 50);
    assert_eq!(checked.into_iter().map(str::to_owned).collect::<BTreeSet<_>>(), public);
}
