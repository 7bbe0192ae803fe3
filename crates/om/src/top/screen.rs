//! The picture of `om top`: lines of text from what is known of nodes and jobs.

use crate::job::Job;
use crate::node::NodeSeen;
use crate::{nodes, ps};

/// Width of a bar, brackets not counted.
const BAR: usize = 10;
/// At least so many lines are kept for jobs, if there are any.
const JOB_LINES: usize = 4;

/// At most `rows` lines of at most `columns` characters; `jobs` is an error's text where they cannot be read.
pub fn lines(
    nodes: &[NodeSeen],
    jobs: &Result<Vec<Job>, String>,
    rows: usize,
    columns: usize,
) -> Vec<String> {
    let mut lines = vec![cut(&summary(nodes, jobs.as_deref().unwrap_or_default()), columns), String::new()];
    let wanted_for_jobs = jobs.as_ref().map_or(1, |jobs| jobs.len() + 1);
    let room = rows.saturating_sub(lines.len() + 1);
    let for_nodes = room.saturating_sub(wanted_for_jobs.min(JOB_LINES.max(room / 2)));
    lines.extend(shorten(node_lines(nodes, columns), for_nodes, "nodes"));
    lines.push(String::new());
    let left = rows.saturating_sub(lines.len());
    match jobs {
        Ok(jobs) if jobs.is_empty() => lines.push(cut("no jobs on this node", columns)),
        Ok(jobs) => {
            let job_lines = ps::table(jobs).cut_at(columns).lines();
            lines.extend(shorten(with_head(job_lines), left, "jobs"));
        }
        Err(error) => lines.push(cut(error, columns)),
    }
    lines.truncate(rows);
    lines
}

fn summary(nodes: &[NodeSeen], jobs: &[Job]) -> String {
    let cpus: f64 = nodes.iter().filter_map(|node| node.effective_cpus).sum();
    let load: f64 = nodes.iter().filter_map(|node| node.load).sum();
    let guests = jobs.iter().filter(|job| job.guest).count();
    let away = jobs.iter().filter(|job| !job.guest && job.place != "home").count();
    format!(
        "{} nodes, {cpus:.0} CPUs, load {load:.1}; here: {} own jobs, {away} of them away, {guests} guests   (q quits)",
        nodes.len(),
        jobs.len() - guests
    )
}

fn node_lines(nodes: &[NodeSeen], columns: usize) -> Vec<String> {
    if nodes.is_empty() {
        return vec![cut("no node is heard; omd tells what a node is like", columns)];
    }
    let bars = nodes.iter().map(|node| {
        let load = node.load.zip(node.effective_cpus).map(|(load, cpus)| load / cpus.max(0.01));
        let free = node.mem_available_bytes.zip(node.mem_total_bytes);
        #[expect(clippy::cast_precision_loss, reason = "a bar has ten steps")]
        let memory = free.map(|(free, total)| 1.0 - free as f64 / total.max(1) as f64);
        format!("{} {} ", bar(load), bar(memory))
    });
    let head = format!("{:w$} {:w$} ", "LOAD", "MEMORY", w = BAR + 2);
    let table = nodes::table(nodes).lines();
    let lines = std::iter::once(head).chain(bars).zip(table);
    with_head(lines.map(|(bar, line)| cut(&format!("{bar}{line}"), columns)).collect())
}

/// A share as a bar; more than the whole ends in a `+`.
fn bar(share: Option<f64>) -> String {
    let Some(share) = share else { return format!("[{:^BAR$}]", "?") };
    let mut filled = 0;
    // Counted up instead of cast down: a share may be any number.
    while filled < BAR && share * 20.0 >= f64::from(u32::try_from(filled).unwrap_or(u32::MAX)) * 2.0 + 1.0 {
        filled += 1;
    }
    let end = if share > 1.05 { "+" } else { "" };
    format!("[{:<BAR$}]", format!("{}{end}", "|".repeat(filled - end.len().min(filled))))
}

/// Cuts a list under its head off where there is no room, and says how much is missing.
fn shorten(mut lines: Vec<String>, room: usize, what: &str) -> Vec<String> {
    if lines.len() <= room {
        return lines;
    }
    if room < 2 {
        return vec![format!("… {} {what}", lines.len().saturating_sub(1))];
    }
    let missing = lines.len() - (room - 1);
    lines.truncate(room - 1);
    lines.push(format!("… {missing} more {what}"));
    lines
}

/// The first line in reverse video.
fn with_head(mut lines: Vec<String>) -> Vec<String> {
    if let Some(head) = lines.first_mut() {
        *head = format!("\x1b[7m{head}\x1b[m");
    }
    lines
}

fn cut(text: &str, columns: usize) -> String {
    text.chars().take(columns).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bar_shows_a_share() {
        assert_eq!(bar(Some(0.0)), "[          ]");
        assert_eq!(bar(Some(0.5)), "[|||||     ]");
        assert_eq!(bar(Some(1.0)), "[||||||||||]");
        assert_eq!(bar(Some(7.0)), "[|||||||||+]");
        assert_eq!(bar(None), "[    ?     ]");
    }

    #[test]
    fn a_picture_never_exceeds_the_screen() {
        for rows in 1..12 {
            let picture = lines(&[], &Err("nobody serves the om files".into()), rows, 20);
            assert!(picture.len() <= rows, "{rows}: {picture:?}");
            assert!(picture.iter().all(|line| line.chars().count() <= 20));
        }
        let list = |count: u32| (0..count).map(|n| n.to_string()).collect::<Vec<_>>();
        assert_eq!(shorten(list(5), 5, "jobs").len(), 5);
        assert_eq!(shorten(list(5), 3, "jobs"), ["0", "1", "… 3 more jobs"]);
        assert_eq!(shorten(list(5), 1, "jobs"), ["… 4 jobs"]);
    }
}
