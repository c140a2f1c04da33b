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

/// A row: `None` matches both values.
struct OpeningRow {
    alone: Option<bool>,
    words_trusted: Option<bool>,
    latched: Option<bool>,
    has_segments: Option<bool>,
    overtaken: Option<bool>,
    plan: Opening,
}

const OPENING: [OpeningRow; 7] = {
    const fn row(
        alone: Option<bool>,
        words_trusted: Option<bool>,
        latched: Option<bool>,
        has_segments: Option<bool>,
        overtaken: Option<bool>,
        plan: Opening,
    ) -> OpeningRow {
        OpeningRow { alone, words_trusted, latched, has_segments, overtaken, plan }
    }
    const YES: Option<bool> = Some(true);
    const NO: Option<bool> = Some(false);
    [
        row(NO, YES, None, None, None, Opening::Attach),
        row(NO, NO, None, None, None, Opening::Refuse),
        row(YES, None, None, NO, None, Opening::Create),
        row(YES, YES, NO, YES, NO, Opening::Resume),
        row(YES, YES, NO, YES, YES, Opening::ScanFromDisk),
        row(YES, YES, YES, YES, None, Opening::ScanFromWords),
        row(YES, NO, None, YES, None, Opening::ScanFromDisk),
    ]
};

fn fits(pattern: Option<bool>, fact: bool) -> bool {
    pattern.is_none_or(|pattern| pattern == fact)
}

impl OpeningRow {
    fn matches(&self, facts: OpeningFacts) -> bool {
        fits(self.alone, facts.alone)
            && fits(self.words_trusted, facts.words_trusted)
            && fits(self.latched, facts.latched)
            && fits(self.has_segments, facts.has_segments)
            && fits(self.overtaken, facts.overtaken)
    }
}

/// Returns how to open, by the first table.
pub(crate) fn opening(facts: OpeningFacts) -> Opening {
    let row = OPENING.iter().find(|row| row.matches(facts));
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

struct EndingRow {
    boundary_reached: Option<bool>,
    rest_is_clean: Option<bool>,
    whole_frames_after: Option<bool>,
    plan: Ending,
}

const ENDINGS: [EndingRow; 4] = {
    const YES: Option<bool> = Some(true);
    const NO: Option<bool> = Some(false);
    const fn row(
        boundary_reached: Option<bool>,
        rest_is_clean: Option<bool>,
        whole_frames_after: Option<bool>,
        plan: Ending,
    ) -> EndingRow {
        EndingRow { boundary_reached, rest_is_clean, whole_frames_after, plan }
    }
    [
        row(YES, YES, None, Ending::Continue),
        row(YES, NO, NO, Ending::Cut),
        row(YES, NO, YES, Ending::CutAndReport),
        row(NO, None, None, Ending::RollPastDamage),
    ]
};

impl EndingRow {
    fn matches(&self, facts: ScanFacts) -> bool {
        fits(self.boundary_reached, facts.boundary_reached)
            && fits(self.rest_is_clean, facts.rest_is_clean)
            && fits(self.whole_frames_after, facts.whole_frames_after)
    }
}

/// Returns what the end means, by the second table.
pub(crate) fn ending(facts: ScanFacts) -> Ending {
    let row = ENDINGS.iter().find(|row| row.matches(facts));
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
    pub frames_behind_cut: u64,
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

    fn combinations(bits: u32) -> impl Iterator<Item = Vec<bool>> {
        (0..1u32 << bits).map(move |all| (0..bits).map(|bit| all >> bit & 1 == 1).collect())
    }

    #[test]
    fn every_combination_of_opening_facts_matches_exactly_one_row() {
        for facts in combinations(5) {
            let facts = OpeningFacts {
                alone: facts[0],
                words_trusted: facts[1],
                latched: facts[2],
                has_segments: facts[3],
                overtaken: facts[4],
            };
            assert_eq!(OPENING.iter().filter(|row| row.matches(facts)).count(), 1, "{facts:?}");
        }
    }

    #[test]
    fn every_combination_of_scan_facts_matches_exactly_one_row() {
        for facts in combinations(3) {
            let facts = ScanFacts {
                boundary_reached: facts[0],
                rest_is_clean: facts[1],
                whole_frames_after: facts[2],
            };
            assert_eq!(ENDINGS.iter().filter(|row| row.matches(facts)).count(), 1, "{facts:?}");
        }
    }

    #[test]
    fn every_row_is_needed() {
        let plans: Vec<_> = combinations(3)
            .map(|facts| {
                ending(ScanFacts {
                    boundary_reached: facts[0],
                    rest_is_clean: facts[1],
                    whole_frames_after: facts[2],
                })
            })
            .collect();
        for row in &ENDINGS {
            assert!(plans.contains(&row.plan), "{:?}", row.plan);
        }
    }

    #[test]
    fn living_members_are_joined_whatever_else_is_seen_and_never_recovered_over() {
        for facts in combinations(3) {
            let facts = OpeningFacts {
                alone: false,
                words_trusted: true,
                latched: facts[0],
                has_segments: facts[1],
                overtaken: facts[2],
            };
            assert_eq!(opening(facts), Opening::Attach);
        }
    }
}
