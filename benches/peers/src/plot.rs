//! The report as plots: an SVG for each table, with bars for each of its columns.

use std::fs;
use std::path::Path;

use deaddrop_bench::chart;

use crate::report::{Report, RowReport};
use crate::row::Unit;
use crate::table::number;

const WIDTH: f64 = 900.0;
const TITLE_HEIGHT: f64 = 34.0;

pub(crate) fn write(report: &Report, dir: &Path) {
    fs::create_dir_all(dir).expect("the directory of the plots");
    let mut headings: Vec<&str> = report.rows.iter().map(|row| row.heading.as_str()).collect();
    headings.dedup();
    for heading in headings {
        let rows = report.rows.iter().filter(|row| row.heading == heading);
        fs::write(dir.join(file_name(heading)), sheet(heading, rows)).expect("writing a plot");
    }
}

/// `appending-one-by-one.svg`.
pub(crate) fn file_name(heading: &str) -> String {
    let words = heading.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty());
    words.collect::<Vec<_>>().join("-").to_lowercase() + ".svg"
}

fn sheet<'a>(heading: &str, rows: impl Iterator<Item = &'a RowReport>) -> String {
    let (mut body, mut top) = (String::new(), 0.0);
    for row in rows {
        for (at, figure) in row.figures.iter().enumerate().filter(|(_, f)| f.unit != Unit::Records)
        {
            let bars: Vec<(String, f64, String)> = row
                .contenders
                .iter()
                .filter_map(|one| {
                    let (_, median, _) = one.spread(at)?;
                    Some((one.name.clone(), median, number(median, figure.unit)))
                })
                .collect();
            let better =
                if figure.unit.more_is_better() { "a second" } else { "shorter is better" };
            let title = format!("{} {} ({better})", row.name, figure.name).replace("  ", " ");
            let (panel, height) = chart::bars(&title, &bars);
            body += &format!("<text class=\"title\" x=\"0\" y=\"{}\">{title}</text>\n", top + 22.0);
            top += TITLE_HEIGHT;
            let place = format!("<svg y=\"{top}\" width=\"{WIDTH}\" height=\"{height}\" ");
            body += &panel.replacen("<svg ", &place, 1);
            top += height;
        }
    }
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {top}\" role=\"img\" \
         aria-label=\"{heading}\">\n<style>text {{ font: 12px system-ui, sans-serif; fill: #1c1c1c }} \
         .title {{ font-weight: bold }} .bar {{ fill: #56b4e9 }}</style>\n\
         <rect width=\"{WIDTH}\" height=\"{top}\" fill=\"#fff\"/>\n{body}</svg>\n"
    )
}
