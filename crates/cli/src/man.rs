//! `man`: writes the manual pages, which the build script has generated.

use std::fs;

use crate::args::man::Man;
use crate::failure::{At, Exit, Failure};

/// The pages: file name and content.
const PAGES: &[(&str, &str)] = include!(concat!(env!("OUT_DIR"), "/man.rs"));

impl Man {
    pub(crate) fn run(&self) -> Result<Exit, Failure> {
        let write = |(name, page): &(&str, &str)| fs::write(self.target.join(name), page);
        fs::create_dir_all(&self.target)
            .and_then(|()| PAGES.iter().try_for_each(write))
            .at("writing manual pages to", &self.target)?;
        Ok(Exit::Ok)
    }
}
