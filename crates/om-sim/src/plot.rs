//! A comparison as a picture: slowdown over load, and who ran where.
//!
//! Plain SVG, written by hand: a few axes, lines and boxes need no library. Everything is drawn for a width of 1,200
//! pixels; the height follows from what there is to draw.

mod curves;
mod stays;

use std::fmt::Write;

use crate::chronicle::Chronicle;
use crate::run::Comparison;

const WIDTH: f64 = 1200.0;
const MARGIN: f64 = 20.0;

/// Draws a comparison, and what happened in the run of that name.
#[must_use]
pub fn draw(comparison: &Comparison, run: Option<(&str, &Chronicle)>) -> String {
    let mut canvas = Canvas::default();
    let mut bottom = curves::draw(&mut canvas, comparison);
    if let Some((name, chronicle)) = run {
        bottom = stays::draw(&mut canvas, bottom + 2.0 * MARGIN, comparison.nodes, name, chronicle);
    }
    canvas.finish(bottom + MARGIN)
}

/// Where a text is anchored.
#[derive(Clone, Copy, Debug)]
enum Anchor {
    Start,
    Middle,
    End,
}

/// An SVG in the making; coordinates are pixels from the upper left corner.
#[derive(Debug, Default)]
struct Canvas {
    body: String,
}

impl Canvas {
    fn finish(self, height: f64) -> String {
        format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{height:.0}\" \
             viewBox=\"0 0 {WIDTH} {height:.0}\" font-family=\"sans-serif\" font-size=\"13\">\n\
             <rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n{}</svg>\n",
            self.body
        )
    }

    fn element(&mut self, element: std::fmt::Arguments<'_>) {
        // A String takes everything.
        let _ = writeln!(self.body, "{element}");
    }

    fn text(&mut self, (x, y): (f64, f64), anchor: Anchor, text: &str) {
        let anchor = match anchor {
            Anchor::Start => "start",
            Anchor::Middle => "middle",
            Anchor::End => "end",
        };
        let text = escape(text);
        self.element(format_args!("<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{text}</text>"));
    }

    fn title(&mut self, (x, y): (f64, f64), text: &str) {
        let text = escape(text);
        self.element(format_args!(
            "<text x=\"{x:.1}\" y=\"{y:.1}\" font-size=\"16\" font-weight=\"bold\">{text}</text>"
        ));
    }

    fn line(&mut self, (x1, y1): (f64, f64), (x2, y2): (f64, f64), colour: &str, width: f64) {
        self.element(format_args!(
            "<line x1=\"{x1:.1}\" y1=\"{y1:.1}\" x2=\"{x2:.1}\" y2=\"{y2:.1}\" stroke=\"{colour}\" \
             stroke-width=\"{width}\"/>"
        ));
    }

    fn rect(&mut self, (x, y): (f64, f64), (width, height): (f64, f64), colour: &str) {
        self.element(format_args!(
            "<rect x=\"{x:.1}\" y=\"{y:.2}\" width=\"{width:.1}\" height=\"{height:.2}\" fill=\"{colour}\"/>"
        ));
    }

    fn dot(&mut self, (x, y): (f64, f64), radius: f64, colour: &str) {
        self.element(format_args!("<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"{radius}\" fill=\"{colour}\"/>"));
    }
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

/// Some five to ten round numbers from 0 to `most`.
fn ticks(most: f64) -> impl Iterator<Item = f64> {
    let power = libm::pow(10.0, libm::floor(libm::log10(most.max(1e-6))));
    let steps = [0.1, 0.2, 0.5, 1.0].map(|step| step * power);
    let step = steps.into_iter().find(|step| most / step <= 10.0).unwrap_or(power);
    (0u32..=10).map(move |count| f64::from(count) * step).take_while(move |tick| *tick <= most * 1.000_001)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chronicle::{Journey, Stay};
    use crate::measure::{Figures, Ratios};
    use crate::run::{Pooled, Row};

    fn row(policy: &str, load: f64, slowdown: f64) -> Row {
        let ratios = Ratios { mean_slowdown: slowdown, total_time_over_work: slowdown, ..Ratios::default() };
        Row {
            policy: policy.to_owned(),
            load: Some(load),
            mean: Figures { ratios, ..Figures::default() },
            standard_deviation: Ratios::default(),
            seeds: Vec::new(),
        }
    }

    #[test]
    fn every_policy_has_a_line_and_every_move_a_stroke() {
        let comparison = Comparison {
            nodes: 2,
            workload: "a<b".to_owned(),
            pooled: vec![Pooled { load: 0.5, mean_slowdown: 1.1 }, Pooled { load: 0.9, mean_slowdown: 1.3 }],
            policies: vec![
                row("none", 0.5, 2.0),
                row("cost", 0.5, 1.2),
                row("none", 0.9, 9.0),
                row("cost", 0.9, 2.0),
            ],
        };
        let second = 1_000_000_000;
        let mut chronicle = Chronicle::default();
        chronicle.stays.push(Stay { job: 1, node: 0, begin: 0, end: 4 * second });
        chronicle.journeys.push(Journey { job: 1, from: 0, to: 1, begin: 4 * second, end: 5 * second });
        chronicle.stays.push(Stay { job: 1, node: 1, begin: 5 * second, end: 9 * second });
        let svg = draw(&comparison, Some(("cost at load 0.5, seed 1", &chronicle)));
        // Two panels: each policy and the ideal, where there is one.
        assert_eq!(svg.matches("<polyline").count(), 5, "{svg}");
        assert_eq!(svg.matches("class=\"stay\"").count(), 2, "{svg}");
        assert_eq!(svg.matches("class=\"move\"").count(), 1, "{svg}");
        assert!(svg.contains("a&lt;b") && svg.starts_with("<svg") && svg.ends_with("</svg>\n"));
    }

    #[test]
    fn ticks_are_round_and_few() {
        assert_eq!(ticks(53.0).collect::<Vec<_>>(), vec![0.0, 10.0, 20.0, 30.0, 40.0, 50.0]);
        assert_eq!(ticks(1.0).count(), 11);
        assert!((5..=11).contains(&ticks(1799.0).count()));
    }
}
