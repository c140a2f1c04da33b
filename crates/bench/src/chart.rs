//! Charts as inline SVG: lines over two axes, and bars.

/// One axis: its range in the units of the data, and where it has ticks.
pub(crate) struct Axis {
    pub(crate) label: &'static str,
    pub(crate) min: f64,
    pub(crate) max: f64,
    pub(crate) is_log: bool,
    pub(crate) ticks: Vec<(f64, String)>,
}

/// A named line through points, in the order of the legend.
pub(crate) struct Line {
    pub(crate) name: String,
    pub(crate) points: Vec<(f64, f64)>,
}

const WIDTH: f64 = 900.0;
const HEIGHT: f64 = 300.0;
const LEFT: f64 = 70.0;
const RIGHT: f64 = 640.0;
const TOP: f64 = 14.0;
const BOTTOM: f64 = 250.0;
/// Distinguishable for colour-blind readers as well; `page` has the colours.
pub(crate) const COLOURS: usize = 7;

impl Axis {
    /// A logarithmic axis around positive values, with `name` for the ticks at powers of ten.
    pub(crate) fn log(
        label: &'static str,
        values: impl Iterator<Item = f64>,
        name: impl Fn(f64) -> String,
    ) -> Axis {
        let (mut low, mut high) = (f64::INFINITY, f64::NEG_INFINITY);
        for value in values.filter(|value| value.is_finite() && *value > 0.0) {
            low = low.min(value.log10().floor());
            high = high.max(value.log10().ceil());
        }
        if low > high {
            (low, high) = (0.0, 1.0);
        }
        let high = high.max(low + 1.0);
        let ticks = (low as i32..=high as i32).map(|power| 10f64.powi(power));
        let ticks = ticks.map(|value| (value, name(value))).collect();
        Axis { label, min: 10f64.powf(low), max: 10f64.powf(high), is_log: true, ticks }
    }

    /// From zero to `max`, with about five round ticks.
    pub(crate) fn linear(label: &'static str, max: f64, name: impl Fn(f64) -> String) -> Axis {
        let max = if max.is_finite() && max > 0.0 { max } else { 1.0 };
        let rough = max / 5.0;
        let power = 10f64.powf(rough.log10().floor());
        let step = [1.0, 2.0, 5.0, 10.0].map(|factor| factor * power);
        let step = step.into_iter().find(|step| *step >= rough).unwrap_or(power * 10.0);
        let count = (max / step).floor() as usize;
        let ticks = (0..=count).map(|index| index as f64 * step);
        let ticks = ticks.map(|value| (value, name(value))).collect();
        Axis { label, min: 0.0, max, is_log: false, ticks }
    }

    /// The position of a value, from 0 to 1; values outside of the range are at its edge.
    fn place(&self, value: f64) -> f64 {
        let scale = |value: f64| if self.is_log { value.max(self.min).log10() } else { value };
        let (low, high) = (scale(self.min), scale(self.max));
        ((scale(value) - low) / (high - low)).clamp(0.0, 1.0)
    }

    fn x(&self, value: f64) -> f64 {
        LEFT + self.place(value) * (RIGHT - LEFT)
    }

    fn y(&self, value: f64) -> f64 {
        BOTTOM - self.place(value) * (BOTTOM - TOP)
    }
}

/// A chart of lines with a legend beside it.
pub(crate) fn lines(title: &str, x: &Axis, y: &Axis, lines: &[Line]) -> String {
    let height = HEIGHT.max(TOP + 18.0 * lines.len() as f64 + 10.0);
    let mut svg = open(title, height);
    for (value, name) in &x.ticks {
        let at = x.x(*value);
        line(&mut svg, "grid", (at, TOP), (at, BOTTOM));
        text(&mut svg, (at, BOTTOM + 17.0), "middle", name);
    }
    for (value, name) in &y.ticks {
        let at = y.y(*value);
        line(&mut svg, "grid", (LEFT, at), (RIGHT, at));
        text(&mut svg, (LEFT - 6.0, at + 4.0), "end", name);
    }
    text(&mut svg, ((LEFT + RIGHT) / 2.0, BOTTOM + 38.0), "middle", x.label);
    for (number, one) in lines.iter().enumerate() {
        let class = class(number);
        let points: Vec<String> = one
            .points
            .iter()
            .map(|&(at, value)| format!("{:.1},{:.1}", x.x(at), y.y(value)))
            .collect();
        match points.as_slice() {
            // A line through one point would be invisible.
            [_] => {
                let (at, value) = one.points[0];
                let (at, value) = (x.x(at), y.y(value));
                push(
                    &mut svg,
                    format_args!(
                        "<circle class=\"{class}\" cx=\"{at:.1}\" cy=\"{value:.1}\" r=\"3\"/>"
                    ),
                );
            }
            _ => push(
                &mut svg,
                format_args!("<polyline class=\"{class}\" points=\"{}\"/>", points.join(" ")),
            ),
        }
        let at = TOP + 8.0 + 18.0 * number as f64;
        line(&mut svg, &class, (RIGHT + 20.0, at), (RIGHT + 44.0, at));
        text(&mut svg, (RIGHT + 52.0, at + 4.0), "start", &one.name);
    }
    svg + "</svg>\n"
}

/// Horizontal bars, each with a name and its value as text; and the height of the chart.
pub fn bars(title: &str, bars: &[(String, f64, String)]) -> (String, f64) {
    const ROW: f64 = 24.0;
    const START: f64 = 220.0;
    const END: f64 = 760.0;
    let height = ROW * bars.len() as f64 + 12.0;
    let mut svg = open(title, height);
    let most = bars.iter().map(|(_, value, _)| *value).fold(f64::MIN_POSITIVE, f64::max);
    for (number, (name, value, shown)) in bars.iter().enumerate() {
        let at = 6.0 + ROW * number as f64;
        let width = (END - START) * (value / most).clamp(0.0, 1.0);
        text(&mut svg, (START - 8.0, at + 16.0), "end", name);
        push(
            &mut svg,
            format_args!(
                "<rect class=\"bar s{}\" x=\"{START}\" y=\"{:.1}\" width=\"{width:.1}\" height=\"16\"/>",
                number % COLOURS,
                at + 3.0
            ),
        );
        text(&mut svg, (START + width + 8.0, at + 16.0), "start", shown);
    }
    (svg + "</svg>\n", height)
}

/// The style of line `number`: first the colours, then the same colours dashed.
fn class(number: usize) -> String {
    let dash = if number / COLOURS % 2 == 1 { " dashed" } else { "" };
    format!("line s{}{dash}", number % COLOURS)
}

fn open(title: &str, height: f64) -> String {
    let title = escape(title);
    format!(
        "<svg viewBox=\"0 0 {WIDTH} {height}\" role=\"img\" aria-label=\"{title}\">\
         <title>{title}</title>\n"
    )
}

fn push(svg: &mut String, element: std::fmt::Arguments<'_>) {
    svg.push_str(&element.to_string());
    svg.push('\n');
}

fn line(svg: &mut String, class: &str, from: (f64, f64), to: (f64, f64)) {
    push(
        svg,
        format_args!(
            "<line class=\"{class}\" x1=\"{:.1}\" y1=\"{:.1}\" x2=\"{:.1}\" y2=\"{:.1}\"/>",
            from.0, from.1, to.0, to.1
        ),
    );
}

fn text(svg: &mut String, at: (f64, f64), anchor: &str, text: &str) {
    push(
        svg,
        format_args!(
            "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"{anchor}\">{}</text>",
            at.0,
            at.1,
            escape(text)
        ),
    );
}

/// Text as HTML.
pub(crate) fn escape(text: &str) -> String {
    let text = text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    text.replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round() {
        let axis = Axis::linear("x", 7.3, |value| value.to_string());
        let names: Vec<&str> = axis.ticks.iter().map(|(_, name)| name.as_str()).collect();
        assert_eq!(names, ["0", "2", "4", "6"]);
        let axis = Axis::log("y", [30.0, 4000.0].into_iter(), |value| value.to_string());
        let names: Vec<&str> = axis.ticks.iter().map(|(_, name)| name.as_str()).collect();
        assert_eq!(names, ["10", "100", "1000", "10000"]);
        assert_eq!((axis.place(10.0), axis.place(1e9), axis.place(0.0)), (0.0, 1.0, 0.0));
        for odd in [0.0, f64::NAN, f64::INFINITY] {
            let axis = Axis::linear("x", odd, |value| value.to_string());
            assert!(axis.place(0.5).is_finite() && axis.ticks.len() < 10);
            Axis::log("y", [odd].into_iter(), |value| value.to_string());
        }
    }

    #[test]
    fn names_cannot_break_out_of_the_picture() {
        let one = Line { name: "</text><script>".into(), points: vec![(0.0, 1.0), (1.0, 2.0)] };
        let axis = || Axis::linear("<", 2.0, |value| value.to_string());
        let svg = lines("\"&", &axis(), &axis(), &[one]);
        assert!(!svg.contains("<script") && svg.contains("aria-label=\"&quot;&amp;\""), "{svg}");
    }
}
