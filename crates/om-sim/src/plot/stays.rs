//! Who ran where: a row a node, a box for each job while it was there, a stroke for each move.

use std::collections::BTreeMap;

use super::{Anchor, Canvas, MARGIN, WIDTH, ticks};
use crate::chronicle::{Chronicle, Stay};
use crate::clock::seconds;

const LEFT: f64 = 96.0;
/// As high as the rows of few, and of many nodes get together.
const HEIGHT: f64 = 640.0;
const ROW: f64 = 26.0;
const LEAST_ROW: f64 = 1.0;
/// A row is cut into lanes for jobs that are there at the same time as long as those are so high.
const LEAST_LANE: f64 = 2.0;
/// So many boxes, and so many for each node, can be told apart; the rest of the run is left out.
const BOXES: f64 = 30_000.0;
const BOXES_A_NODE: (f64, f64) = (25.0, 100.0);

/// Draws it below `top`. Where it ends.
pub(super) fn draw(canvas: &mut Canvas, top: f64, nodes: u32, name: &str, chronicle: &Chronicle) -> f64 {
    let until_s = window_s(nodes, chronicle);
    let (row, width) = ((HEIGHT / f64::from(nodes)).clamp(LEAST_ROW, ROW), WIDTH - LEFT - MARGIN);
    let (first, height) = (top + 50.0, row * f64::from(nodes));
    let x = |at_s: f64| LEFT + width * (at_s.min(until_s) / until_s);
    canvas.title((MARGIN, top + 8.0), &format!("Who ran where: {name}, the first {until_s:.0} s"));
    let legend = "A colour is a job. A black stroke is a move, from the node that the job leaves to the one where it goes on.";
    canvas.text((MARGIN, top + 28.0), Anchor::Start, legend);
    axes(canvas, nodes, until_s, (first, row));

    let mut rows: BTreeMap<u32, Vec<Stay>> = BTreeMap::new();
    for stay in chronicle.stays.iter().filter(|stay| seconds(stay.begin) < until_s) {
        rows.entry(stay.node).or_default().push(*stay);
    }
    for (node, stays) in &mut rows {
        let (lanes, count) = lanes(stays);
        let lane = row / count.max(1) as f64;
        for (stay, number) in stays.iter().zip(lanes) {
            let (lane, number) = if lane < LEAST_LANE { (row, 0) } else { (lane, number) };
            let y = first + row * f64::from(*node) + lane * number as f64;
            let (left, right) = (x(seconds(stay.begin)), x(seconds(stay.end)));
            // Neighbours in colour are not neighbours in time.
            let hue = stay.job.wrapping_mul(137) % 360;
            canvas.element(format_args!(
                "<path class=\"stay\" d=\"M{left:.1} {y:.2}h{:.1}v{:.2}h-{0:.1}z\" fill=\"hsl({hue},65%,{}%)\"/>",
                (right - left).max(0.3),
                0.9 * lane,
                50 + stay.job % 3 * 8
            ));
        }
    }
    let centre = |node: u32| first + row * (f64::from(node) + 0.5);
    let stroke = (row / 10.0).clamp(0.7, 2.0);
    for journey in chronicle.journeys.iter().filter(|journey| seconds(journey.end) < until_s) {
        let from = (x(seconds(journey.begin)), centre(journey.from));
        let to = (x(seconds(journey.end)), centre(journey.to));
        canvas.element(format_args!(
            "<path class=\"move\" d=\"M{:.1} {:.1}L{:.1} {:.1}\" stroke=\"#000\" stroke-width=\"{stroke:.1}\"/>",
            from.0, from.1, to.0, to.1
        ));
        canvas.dot(to, 1.8 * stroke, "#000");
    }
    first + height + 50.0
}

/// How much of the run is drawn.
fn window_s(nodes: u32, chronicle: &Chronicle) -> f64 {
    let nodes = f64::from(nodes);
    let end_s = chronicle.stays.iter().map(|stay| seconds(stay.end)).fold(0.0, f64::max);
    let most = nodes * (BOXES / nodes).clamp(BOXES_A_NODE.0, BOXES_A_NODE.1);
    let mut begins: Vec<u64> = chronicle.stays.iter().map(|stay| stay.begin).collect();
    begins.sort_unstable();
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "at most some hundred thousand"
    )]
    let last = begins.get(most as usize).map_or(end_s, |begin| seconds(*begin));
    last.min(end_s).max(0.001)
}

/// For each stay, which are sorted by their beginning for that, a lane where nobody else is; and how many lanes there are.
fn lanes(stays: &mut [Stay]) -> (Vec<usize>, usize) {
    stays.sort_by_key(|stay| (stay.begin, stay.job));
    let mut ends: Vec<u64> = Vec::new();
    let lanes = stays.iter().map(|stay| {
        let free = ends.iter().position(|end| *end <= stay.begin).unwrap_or(ends.len());
        if free == ends.len() {
            ends.push(0);
        }
        ends[free] = stay.end;
        free
    });
    let lanes = lanes.collect();
    (lanes, ends.len())
}

fn axes(canvas: &mut Canvas, nodes: u32, until_s: f64, (first, row): (f64, f64)) {
    let (right, bottom) = (WIDTH - MARGIN, first + row * f64::from(nodes));
    let width = right - LEFT;
    // A label needs 16 pixels.
    let every = [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096]
        .into_iter()
        .find(|every| row * f64::from(*every) >= 16.0)
        .unwrap_or(nodes);
    for node in (0..nodes).step_by(every as usize) {
        let y = first + row * (f64::from(node) + 0.5);
        canvas.text((LEFT - 10.0, y + 4.5), Anchor::End, &format!("node {node}"));
        canvas.line((LEFT - 5.0, y), (LEFT, y), "#333", 1.0);
    }
    for tick in ticks(until_s) {
        let x = LEFT + width * tick / until_s;
        canvas.line((x, first), (x, bottom + 5.0), "#e4e4e4", 1.0);
        canvas.text((x, bottom + 20.0), Anchor::Middle, &format!("{}", (tick * 1000.0).round() / 1000.0));
    }
    canvas.text((LEFT + width / 2.0, bottom + 38.0), Anchor::Middle, "seconds");
    canvas.line((LEFT, first), (LEFT, bottom), "#333", 1.0);
    canvas.line((LEFT, bottom), (right, bottom), "#333", 1.0);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jobs_that_are_there_at_the_same_time_have_lanes_of_their_own() {
        let stay = |job, begin, end| Stay { job, node: 0, begin, end };
        let (lanes, count) = lanes(&mut [stay(3, 10, 20), stay(1, 0, 10), stay(2, 5, 15), stay(4, 15, 30)]);
        assert_eq!((lanes, count), (vec![0, 1, 0, 1], 2));
    }

    #[test]
    fn a_run_of_many_jobs_is_cut() {
        let mut chronicle = Chronicle::default();
        let second = 1_000_000_000;
        let stays =
            (0..1000).map(|job| Stay { job, node: 0, begin: u64::from(job) * second, end: 2000 * second });
        chronicle.stays.extend(stays);
        assert_eq!(window_s(1, &chronicle).round(), 100.0);
        assert_eq!(window_s(1000, &chronicle).round(), 2000.0);
    }
}
