//! Line charts as SVG: one logarithmic scale upwards, named steps to the right.

use std::fmt::Write as _;

const WIDTH: f64 = 720.0;
const HEIGHT: f64 = 380.0;
const LEFT: f64 = 70.0;
const RIGHT: f64 = 170.0;
const TOP: f64 = 40.0;
const BOTTOM: f64 = 50.0;
/// How far names are apart that are written one below the other.
const LINE: f64 = 14.0;
const BLACK: &str = "black";
/// Colours that differ for everybody (Okabe and Ito).
const COLOURS: [&str; 6] = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9"];

/// A chart to be drawn.
#[derive(Clone, Debug, Default)]
pub(crate) struct Plot {
    pub(crate) title: String,
    /// What the steps to the right are.
    pub(crate) right: String,
    /// What is measured, with its unit.
    pub(crate) up: String,
    pub(crate) steps: Vec<String>,
    /// A name, and a value for each step that has one.
    pub(crate) lines: Vec<(String, Vec<Option<f64>>)>,
}

impl Plot {
    pub(crate) fn svg(&self) -> String {
        let values = || self.lines.iter().flat_map(|(_, values)| values).flatten().copied();
        let lowest = values().fold(f64::INFINITY, f64::min).log10().floor();
        let highest = values().fold(f64::NEG_INFINITY, f64::max).log10().ceil();
        let (lowest, highest) =
            if lowest < highest { (lowest, highest) } else { (lowest, lowest + 1.0) };
        let high = HEIGHT - TOP - BOTTOM;
        let wide = WIDTH - LEFT - RIGHT;
        let y = |value: f64| TOP + high * (highest - value.log10()) / (highest - lowest);
        let last = self.steps.len().saturating_sub(1).max(1) as f64;
        let x = |step: usize| LEFT + wide * step as f64 / last;

        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" \
             font-family=\"sans-serif\" font-size=\"12\">\n\
             <rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"white\"/>\n"
        );
        let mut text = |x: f64, y: f64, anchor: &str, colour: &str, text: &str| {
            let text = text.replace('&', "&amp;").replace('<', "&lt;");
            let _ = writeln!(
                svg,
                "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\" fill=\"{colour}\">{text}</text>"
            );
        };
        text(LEFT, 20.0, "start", BLACK, &self.title);
        text(LEFT + wide / 2.0, HEIGHT - 12.0, "middle", BLACK, &self.right);
        text(8.0, TOP - 8.0, "start", BLACK, &self.up);
        for (step, name) in self.steps.iter().enumerate() {
            text(x(step), HEIGHT - BOTTOM + 18.0, "middle", BLACK, name);
        }
        for power in lowest as i32..=highest as i32 {
            let value = 10_f64.powi(power);
            text(LEFT - 8.0, y(value) + 4.0, "end", BLACK, &value.to_string());
        }
        let coloured = || self.lines.iter().zip(COLOURS.iter().cycle());
        let mut labels: Vec<_> = coloured()
            .filter_map(|((name, values), colour)| {
                let last = values.iter().rposition(Option::is_some)?;
                Some((last, y(values[last]?), name, colour))
            })
            .collect();
        labels.sort_by(|one, other| one.0.cmp(&other.0).then(one.1.total_cmp(&other.1)));
        let mut above = (0, f64::NEG_INFINITY);
        for (step, y, name, colour) in labels {
            // The names of lines that end at the same place are written one below the other.
            let y = if step == above.0 { y.max(above.1 + LINE) } else { y };
            text(x(step) + 8.0, y + 4.0, "start", colour, name);
            above = (step, y);
        }
        for power in lowest as i32..=highest as i32 {
            let y = y(10_f64.powi(power));
            let end = LEFT + wide;
            let _ = writeln!(svg, "<path d=\"M{LEFT} {y:.1}H{end:.1}\" stroke=\"#ddd\"/>");
        }
        for ((_, values), colour) in coloured() {
            let mut path = String::new();
            for (step, value) in values.iter().enumerate() {
                let Some(value) = value else { continue };
                let (x, y) = (x(step), y(*value));
                let _ = write!(path, "{}{x:.1} {y:.1}", if path.is_empty() { 'M' } else { 'L' });
                let _ = writeln!(
                    svg,
                    "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3\" fill=\"{colour}\"/>"
                );
            }
            let _ = writeln!(
                svg,
                "<path d=\"{path}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"/>"
            );
        }
        svg.push_str("</svg>\n");
        svg
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_without_a_value_is_left_out() {
        let plot = Plot {
            steps: ["0", "100", "1,000"].map(str::to_owned).into(),
            lines: vec![("a < b".into(), vec![Some(1.0), None, Some(100.0)])],
            ..Plot::default()
        };
        let svg = plot.svg();
        assert_eq!(svg.matches("<circle").count(), 2);
        assert!(svg.contains("a &lt; b"), "{svg}");
        // Two decades: the first value lies at the bottom, the last at the top.
        assert!(svg.contains("M70.0 330.0L550.0 40.0"), "{svg}");
    }

    #[test]
    fn names_of_lines_that_end_together_do_not_overlap() {
        let line = |name: &str, value| (name.to_owned(), vec![Some(value)]);
        let plot = Plot {
            steps: vec!["0".to_owned()],
            lines: vec![line("low", 20.0), line("high", 21.0)],
            ..Plot::default()
        };
        let svg = plot.svg();
        let height = |name: &str| {
            let text = svg.lines().find(|line| line.contains(name)).expect("its name is there");
            text.split('"').nth(3).and_then(|y| y.parse::<f64>().ok()).expect("a height")
        };
        assert!(height(">low<") - height(">high<") >= LINE, "{svg}");
    }
}
