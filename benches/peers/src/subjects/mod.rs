//! The subjects, in the order of the tables.

mod bare;
mod commitlog;
mod deaddrop;
mod fsys;
mod khata;
mod lmdb;
mod logdb;
mod okaywal;
mod raft_engine;
mod rewal;
mod sqlite;
mod wal_db;
mod writeahead;
mod yaque;

use crate::subject::Subject;

pub(crate) const ALL: [&dyn Subject; 16] = [
    &deaddrop::Deaddrop,
    &yaque::Yaque,
    &wal_db::WalDb,
    &commitlog::Commitlog,
    &fsys::Fsys,
    &raft_engine::RaftEngine,
    &okaywal::Okaywal,
    &writeahead::Writeahead,
    &lmdb::Lmdb,
    &sqlite::Sqlite,
    &khata::Khata,
    &logdb::Logdb,
    &rewal::Rewal,
    &bare::Pwrite,
    &bare::Mapping,
    &bare::Memory,
];

pub(crate) fn named(name: &str) -> &'static dyn Subject {
    ALL.into_iter().find(|subject| subject.name() == name).expect("the name of a subject")
}

/// The version of a package that this program was compiled with.
pub(crate) fn version(package: &str) -> Option<&'static str> {
    let lock = include_str!("../../Cargo.lock");
    let (_, rest) = lock.split_once(&format!("name = \"{package}\"\nversion = \""))?;
    rest.split('"').next()
}
