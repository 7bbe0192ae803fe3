//! Slowdown over load, a line a policy; bars if there is one load only.

use super::{Anchor, Canvas, MARGIN, WIDTH};
use crate::run::{Comparison, Row};

const HEIGHT: f64 = 300.0;
const TOP: f64 = 70.0;
const LEFT: f64 = 70.0;
const GAP: f64 = 80.0;
const LEGEND: f64 = 170.0;
/// Told apart by people who see colours differently, too (Okabe and Ito, 2008).
const COLOURS: [&str; 8] =
    ["#000000", "#d55e00", "#0072b2", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8a8a00"];
const IDEAL: &str = "#999999";
/// Where a logarithmic axis has marks.
const MARKS: [f64; 22] = [
    0.5, 0.7, 1.0, 1.2, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0, 10.0, 15.0, 20.0, 30.0, 50.0, 70.0, 100.0, 200.0,
    500.0, 1e3, 1e4, 1e5,
];

/// One of the two pictures.
struct Panel {
    title: &'static str,
    left: f64,
    width: f64,
    /// The range of each axis.
    loads: (f64, f64),
    values: (f64, f64),
}

impl Panel {
    fn x(&self, load: f64) -> f64 {
        let (least, most) = self.loads;
        self.left + self.width * (load - least) / (most - least)
    }

    fn y(&self, value: f64) -> f64 {
        let (least, most) = self.values;
        let share = libm::log(value.clamp(least, most) / least) / libm::log(most / least);
        TOP + HEIGHT * (1.0 - share)
    }
}

/// Draws it at the top. Where it ends.
pub(super) fn draw(canvas: &mut Canvas, comparison: &Comparison) -> f64 {
    let mut policies: Vec<&str> = Vec::new();
    for row in &comparison.policies {
        if !policies.contains(&row.policy.as_str()) {
            policies.push(&row.policy);
        }
    }
    let heading = format!("{} nodes, workload {}", comparison.nodes, comparison.workload);
    canvas.title((MARGIN, MARGIN + 8.0), &heading);
    let width = (WIDTH - LEFT - GAP - LEGEND - MARGIN) / 2.0;
    let slowdown: fn(&Row) -> f64 = |row| row.mean.ratios.mean_slowdown;
    let time: fn(&Row) -> f64 = |row| row.mean.ratios.total_time_over_work;
    for (index, (title, of)) in
        [("mean slowdown", slowdown), ("total time ÷ total work", time)].into_iter().enumerate()
    {
        let ideal = comparison.pooled.iter().map(|pooled| pooled.mean_slowdown).filter(|_| index == 0);
        let values: Vec<f64> = comparison.policies.iter().map(of).chain(ideal).collect();
        let left = LEFT + index as f64 * (width + GAP);
        let panel = Panel { title, left, width, loads: loads(comparison), values: range(&values) };
        axes(canvas, &panel);
        if comparison.policies.iter().any(|row| row.load != comparison.policies[0].load) {
            lines(canvas, &panel, comparison, &policies, of, index == 0);
        } else {
            bars(canvas, &panel, comparison, of);
        }
    }
    legend(canvas, &policies, !comparison.pooled.is_empty());
    TOP + HEIGHT + 50.0
}

fn loads(comparison: &Comparison) -> (f64, f64) {
    let loads = comparison.policies.iter().filter_map(|row| row.load);
    let (least, most) =
        loads.fold((f64::MAX, f64::MIN), |(least, most), load| (least.min(load), most.max(load)));
    if least < most { (least, most) } else { (0.0, 1.0) }
}

/// The marks that enclose all values.
fn range(values: &[f64]) -> (f64, f64) {
    let least = values.iter().copied().fold(1.0, f64::min);
    let most = values.iter().copied().fold(1.2, f64::max);
    let below = MARKS.iter().copied().rfind(|mark| *mark <= least).unwrap_or(MARKS[0]);
    // A label stands above its bar.
    let above = MARKS.iter().copied().find(|mark| *mark >= 1.05 * most).unwrap_or(most);
    (below, above)
}

fn axes(canvas: &mut Canvas, panel: &Panel) {
    let (left, right, bottom) = (panel.left, panel.left + panel.width, TOP + HEIGHT);
    canvas.text((left, TOP - 14.0), Anchor::Start, panel.title);
    for mark in MARKS.into_iter().filter(|mark| (panel.values.0..=panel.values.1).contains(mark)) {
        let y = panel.y(mark);
        canvas.line((left, y), (right, y), "#ddd", 1.0);
        canvas.text((left - 8.0, y + 4.0), Anchor::End, &format!("{mark}"));
    }
    canvas.line((left, TOP), (left, bottom), "#333", 1.0);
    canvas.line((left, bottom), (right, bottom), "#333", 1.0);
}

fn lines(
    canvas: &mut Canvas,
    panel: &Panel,
    comparison: &Comparison,
    policies: &[&str],
    of: fn(&Row) -> f64,
    with_ideal: bool,
) {
    let bottom = TOP + HEIGHT;
    let mut told: Vec<f64> = comparison.policies.iter().filter_map(|row| row.load).collect();
    told.sort_by(f64::total_cmp);
    told.dedup();
    for load in told {
        canvas.line((panel.x(load), bottom), (panel.x(load), bottom + 5.0), "#333", 1.0);
        canvas.text((panel.x(load), bottom + 20.0), Anchor::Middle, &format!("{load}"));
    }
    canvas.text((panel.left + panel.width / 2.0, bottom + 38.0), Anchor::Middle, "load");
    if with_ideal {
        let points = comparison.pooled.iter().map(|pooled| (pooled.load, pooled.mean_slowdown)).collect();
        line(canvas, panel, points, IDEAL);
    }
    for (policy, colour) in policies.iter().zip(COLOURS.iter().cycle()) {
        let rows = comparison.policies.iter().filter(|row| row.policy == *policy);
        let points = rows.filter_map(|row| Some((row.load?, of(row)))).collect();
        line(canvas, panel, points, colour);
    }
}

fn line(canvas: &mut Canvas, panel: &Panel, mut points: Vec<(f64, f64)>, colour: &str) {
    points.sort_by(|one, other| one.0.total_cmp(&other.0));
    let at: Vec<(f64, f64)> =
        points.into_iter().map(|(load, value)| (panel.x(load), panel.y(value))).collect();
    let list: Vec<String> = at.iter().map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
    let list = list.join(" ");
    canvas.element(format_args!(
        "<polyline points=\"{list}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"/>"
    ));
    for point in at {
        canvas.dot(point, 3.5, colour);
    }
}

fn bars(canvas: &mut Canvas, panel: &Panel, comparison: &Comparison, of: fn(&Row) -> f64) {
    let each = panel.width / comparison.policies.len().max(1) as f64;
    for ((row, colour), index) in comparison.policies.iter().zip(COLOURS.iter().cycle()).zip(0u32..) {
        let (value, x) = (of(row), panel.left + each * (f64::from(index) + 0.5));
        let (top, width) = (panel.y(value), (0.6 * each).min(60.0));
        canvas.rect((x - width / 2.0, top), (width, TOP + HEIGHT - top), colour);
        canvas.text((x, top - 6.0), Anchor::Middle, &format!("{value:.2}"));
    }
    if let Some(load) = comparison.policies.first().and_then(|row| row.load) {
        let at = (panel.left + panel.width / 2.0, TOP + HEIGHT + 22.0);
        canvas.text(at, Anchor::Middle, &format!("load {load}"));
    }
}

fn legend(canvas: &mut Canvas, policies: &[&str], with_ideal: bool) {
    let x = WIDTH - MARGIN - LEGEND + 30.0;
    let ideal = [("ideal pooled", IDEAL)].into_iter().filter(|_| with_ideal);
    let entries = policies.iter().copied().zip(COLOURS.into_iter().cycle()).chain(ideal);
    for ((name, colour), index) in entries.zip(0u32..) {
        let y = TOP + 10.0 + 22.0 * f64::from(index);
        canvas.rect((x, y - 9.0), (14.0, 10.0), colour);
        canvas.text((x + 22.0, y), Anchor::Start, name);
    }
}
