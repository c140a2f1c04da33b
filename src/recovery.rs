//! Decides what to do when a topic is opened: facts in, plan out. No I/O here.
//!
//! Two tables. The first decides, from the control words and the other members, how to open. The second
//! decides, from a scan of the newest segments, where the log ends and what that end means. Each row is a
//! pattern over facts; a test checks that every combination of facts matches exactly one row. The rows are
//! listed with their reasons in `docs/failure-model.md`.

/// The facts known after reading only the control words and the directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct OpeningFacts {
    /// No other process has the topic open for writing.
    pub(crate) alone: bool,
    /// The control words are complete, of this boot and of this very file.
    pub(crate) words_trusted: bool,
    /// The control words say that a sync failed. Used only if they are trusted.
    pub(crate) latched: bool,
    /// There is a segment file.
    pub(crate) has_segments: bool,
    /// The files hold something newer than the control words, or the words contradict themselves. Used only
    /// by a process that is alone, if the words are trusted and not latched.
    pub(crate) overtaken: bool,
}

/// How to open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Opening {
    /// Join the members; they keep the words true.
    Attach,
    /// Refuse: members are alive but their words cannot be trusted, because something damaged the control
    /// file.
    Refuse,
    /// Create the first segment.
    Create,
    /// Continue from the words; settle the unfinished work of dead members.
    Resume,
    /// Scan from the promised boundary, which the words help to find.
    ScanFromWords,
    /// Scan from the promised boundary in the segment headers; the words are only hints.
    ScanFromDisk,
}

/// A row of a table.
struct Row<const N: usize, P> {
    /// The facts that it matches; `None` matches both values.
    facts: [Option<bool>; N],
    plan: P,
}

const YES: Option<bool> = Some(true);
const NO: Option<bool> = Some(false);
const ANY: Option<bool> = None;

impl<const N: usize, P> Row<N, P> {
    const fn new(facts: [Option<bool>; N], plan: P) -> Row<N, P> {
        Row { facts, plan }
    }

    fn matches(&self, facts: [bool; N]) -> bool {
        self.facts.iter().zip(facts).all(|(row, fact)| row.is_none_or(|value| value == fact))
    }
}

/// Columns: alone, words trusted, latched, has segments, overtaken.
const OPENING: [Row<5, Opening>; 7] = [
    Row::new([NO, YES, ANY, ANY, ANY], Opening::Attach),
    Row::new([NO, NO, ANY, ANY, ANY], Opening::Refuse),
    Row::new([YES, ANY, ANY, NO, ANY], Opening::Create),
    Row::new([YES, YES, NO, YES, NO], Opening::Resume),
    Row::new([YES, YES, NO, YES, YES], Opening::ScanFromDisk),
    Row::new([YES, YES, YES, YES, ANY], Opening::ScanFromWords),
    Row::new([YES, NO, ANY, YES, ANY], Opening::ScanFromDisk),
];

impl OpeningFacts {
    fn columns(self) -> [bool; 5] {
        [self.alone, self.words_trusted, self.latched, self.has_segments, self.overtaken]
    }
}

/// Returns how to open, by the first table.
pub(crate) fn opening(facts: OpeningFacts) -> Opening {
    let row = OPENING.iter().find(|row| row.matches(facts.columns()));
    row.expect("every combination of facts has a row").plan
}

/// The result of a scan that begins at the segment with the promised boundary.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ScanFacts {
    /// The last whole frame ends at or after the promised boundary.
    pub(crate) boundary_reached: bool,
    /// After the last whole frame there are only zeros, and no segment follows.
    pub(crate) rest_is_clean: bool,
    /// There are whole frames after the first invalid byte that is at or after the boundary.
    pub(crate) whole_frames_after: bool,
}

/// Where the log continues, and what opening reports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ending {
    /// After the last whole frame, in the same segment.
    Continue,
    /// A torn tail: in a new segment, whose base is the end found. The bytes that are cut off stay in their
    /// file.
    Cut,
    /// As [`Ending::Cut`], and opening reports possible corruption with the number of frames.
    CutAndReport,
    /// Promised frames are missing: in a new segment, whose base is at least the boundary, so that no
    /// promised offset is used again. Opening reports corruption.
    RollPastDamage,
}

/// Columns: boundary reached, rest is clean, whole frames after.
const ENDINGS: [Row<3, Ending>; 4] = [
    Row::new([YES, YES, ANY], Ending::Continue),
    Row::new([YES, NO, NO], Ending::Cut),
    Row::new([YES, NO, YES], Ending::CutAndReport),
    Row::new([NO, ANY, ANY], Ending::RollPastDamage),
];

impl ScanFacts {
    fn columns(self) -> [bool; 3] {
        [self.boundary_reached, self.rest_is_clean, self.whole_frames_after]
    }
}

/// Returns what the end means, by the second table.
pub(crate) fn ending(facts: ScanFacts) -> Ending {
    let row = ENDINGS.iter().find(|row| row.matches(facts.columns()));
    row.expect("every combination of facts has a row").plan
}

/// The findings and actions of a recovery. Part of opening a topic after a crash; see
/// [`Topic::recovery`](crate::Topic::recovery). For a read-only handle: its findings, and what an opening for
/// writing would do.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct RecoveryReport {
    /// Every record below it was promised to survive.
    pub promised_boundary: u64,
    /// The end of the log after the recovery.
    pub end: u64,
    /// The epoch that the recovery began, if records may have been lost.
    pub epoch: Option<u32>,
    /// Whether a torn tail was cut off.
    pub cut: bool,
    /// Whole frames in the bytes that were cut off, in all files: records that existed and are no longer part
    /// of the log.
    pub frames_cut: u64,
    /// The cuts, one for each file.
    pub cuts: Vec<Cut>,
    /// Segment files in which no record was promised and which were set aside, under these names.
    pub set_aside: Vec<String>,
    /// Damage below the promised boundary: reading it returns [`Error::Corrupt`](crate::Error::Corrupt).
    pub damage: Vec<Damage>,
}

/// The bytes of one file that a recovery cut off. They stay in the file.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Cut {
    /// The file, by its name after the recovery.
    pub path: std::path::PathBuf,
    /// The position of the first of them.
    pub position: u64,
    /// How many whole frames they contain.
    pub frames: u64,
}

/// One damaged range of a segment file.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Damage {
    /// The file.
    pub path: std::path::PathBuf,
    /// The position of the first invalid byte.
    pub position: u64,
    /// The offsets that are missing.
    pub offsets: std::ops::Range<u64>,
    /// A description of the damage.
    pub what: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn combinations<const N: usize>() -> impl Iterator<Item = [bool; N]> {
        (0..1u32 << N).map(|all| std::array::from_fn(|bit| all >> bit & 1 == 1))
    }

    #[test]
    fn every_combination_of_facts_matches_exactly_one_row_of_each_table() {
        for facts in combinations() {
            let matching = OPENING.iter().filter(|row| row.matches(facts));
            assert_eq!(matching.count(), 1, "{facts:?}");
        }
        for facts in combinations() {
            let matching = ENDINGS.iter().filter(|row| row.matches(facts));
            assert_eq!(matching.count(), 1, "{facts:?}");
        }
    }

    #[test]
    fn every_row_is_needed() {
        assert!(OPENING.iter().all(|row| combinations().any(|facts| row.matches(facts))));
        assert!(ENDINGS.iter().all(|row| combinations().any(|facts| row.matches(facts))));
    }

    #[test]
    fn living_members_are_joined_whatever_else_is_seen_and_never_recovered_over() {
        for [latched, has_segments, overtaken] in combinations() {
            let facts = OpeningFacts {
                alone: false,
                words_trusted: true,
                latched,
                has_segments,
                overtaken,
            };
            assert_eq!(opening(facts), Opening::Attach);
        }
    }

    #[test]
    fn the_columns_of_a_table_are_its_facts() {
        let facts = OpeningFacts {
            alone: true,
            words_trusted: true,
            latched: true,
            has_segments: true,
            overtaken: false,
        };
        assert_eq!(opening(facts), Opening::ScanFromWords);
        let not_latched = OpeningFacts { latched: false, ..facts };
        assert_eq!(opening(not_latched), Opening::Resume);
        assert_eq!(opening(OpeningFacts { overtaken: true, ..not_latched }), Opening::ScanFromDisk);
        assert_eq!(opening(OpeningFacts { words_trusted: false, ..facts }), Opening::ScanFromDisk);
        assert_eq!(opening(OpeningFacts { has_segments: false, ..facts }), Opening::Create);
        let facts =
            ScanFacts { boundary_reached: true, rest_is_clean: false, whole_frames_after: true };
        assert_eq!(ending(facts), Ending::CutAndReport);
        assert_eq!(ending(ScanFacts { rest_is_clean: true, ..facts }), Ending::Continue);
        assert_eq!(ending(ScanFacts { whole_frames_after: false, ..facts }), Ending::Cut);
        assert_eq!(ending(ScanFacts { boundary_reached: false, ..facts }), Ending::RollPastDamage);
    }
}
