//! The arguments of `stats`.

/// Show how much topics contain: records, bytes, rates, sizes, age, overhead, consumers and their lag
///
/// Rates are computed from the records' times, which the indexes find. Sizes are those of up to 10,000
/// records, evenly spread; --full reads all.
#[derive(Debug, clap::Args)]
pub(crate) struct Stats {
    /// The topics [default: all]
    pub(crate) topics: Vec<String>,
    /// Read every record, instead of a sample
    #[arg(long)]
    pub(crate) full: bool,
}
