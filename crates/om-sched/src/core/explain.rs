//! What the core knows and thinks at this moment, for people: `om why` and `om nodes` read it.
//!
//! Computed when asked for, from the same functions that decide, so that it cannot tell another story.

use std::net::IpAddr;

use serde::Serialize;

use super::Core;
use super::viewing::target_view;
use crate::Time;
use crate::figures::Figures;
use crate::guard;
use crate::job::{LocalJob, Place};
use crate::view::{Job, View, Weighing};

/// So many nodes are told for a job: those where it would win most.
const CANDIDATES_TOLD: usize = 16;

/// What is thought of a node.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct NodeSays {
    /// The address that names it.
    pub address: IpAddr,
    /// Milliseconds since it was heard.
    pub heard_ms_ago: u64,
    /// Its best known figures; `null` if it tells too little.
    pub figures: Option<Figures>,
    /// Why no job can go there now; `null` if one could.
    pub refusal: Option<String>,
}

/// What is thought of a job.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct JobSays {
    /// Its entry in the om files.
    pub pid: u32,
    /// Its command.
    pub command: String,
    /// Runnable tasks, averaged.
    pub tasks: f64,
    /// Why it cannot move now; `null` if it could.
    pub refusal: Option<String>,
    /// The nodes that it could go to, the best first.
    pub candidates: Vec<CandidateSays>,
}

/// What is thought of a job on a node.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct CandidateSays {
    /// The address that names the node.
    pub address: IpAddr,
    /// What the policy computes; `null` if it does not compute.
    pub weighing: Option<Weighing>,
    /// Why the job cannot go there; `null` if it could.
    pub refusal: Option<String>,
}

impl Core {
    /// Why nothing at all can be decided; `None` if it can.
    #[must_use]
    pub fn explain_here(&self, now: Time) -> Option<String> {
        if self.jobs.read_at().is_none() {
            return Some("nobody serves the om files of this node; is om-migd running?".to_owned());
        }
        self.own(now).err().map(|refusal| refusal.to_string())
    }

    /// All nodes, by address.
    #[must_use]
    pub fn explain_nodes(&self, now: Time) -> Vec<NodeSays> {
        let own = self.own(now);
        self.nodes
            .iter()
            .map(|node| {
                let checked =
                    own.as_ref().map_err(Clone::clone).and_then(|own| guard::check_node(now, own, &node));
                let checked = checked.and_then(|()| self.is_free(now, node.address));
                NodeSays {
                    address: node.address,
                    heard_ms_ago: guard::millis(node.unheard(now)),
                    figures: match own.as_ref() {
                        Ok(own) if own.node.address == node.address => {
                            self.own_figures(&node, |pid| self.moves.contains_key(&pid), None)
                        }
                        _ => node.figures(now),
                    },
                    refusal: checked.err().map(|refusal| refusal.to_string()),
                }
            })
            .collect()
    }

    /// All jobs of this node, by entry, with what the policy would say now. About those that are not here, or are being asked
    /// for, it says nothing.
    #[must_use]
    pub fn explain_jobs(&self, now: Time) -> Vec<JobSays> {
        let mut view = self.view_here(now, None).ok();
        let price = self.price.line();
        let mut jobs: Vec<JobSays> = self
            .jobs
            .iter()
            .map(|job| {
                let shown = self.job_view(now, job, price);
                JobSays {
                    pid: job.pid,
                    command: job.command.clone(),
                    tasks: shown.tasks,
                    refusal: self.check_job(now, job, false).err().map(|refusal| refusal.to_string()),
                    candidates: view
                        .as_mut()
                        .filter(|_| job.place == Place::Here && !self.is_under_way(job.pid))
                        .map(|view| self.candidates(now, view, job, &shown))
                        .unwrap_or_default(),
                }
            })
            .collect();
        jobs.sort_by_key(|job| job.pid);
        jobs
    }

    fn candidates(&self, now: Time, view: &mut View, listed: &LocalJob, job: &Job) -> Vec<CandidateSays> {
        let Ok(own) = self.own(now) else { return Vec::new() };
        let Some(figures) = self.figures_with(&own.node, listed) else { return Vec::new() };
        view.here.figures = figures;
        let view = &*view;
        let mut candidates: Vec<CandidateSays> = self
            .nodes
            .iter()
            .filter(|node| node.address != view.here.address)
            .map(|node| {
                let target = target_view(now, &node);
                let checked = guard::check_node(now, &own, &node)
                    .and_then(|()| self.is_free(now, node.address))
                    .and_then(|()| target.as_ref().map_or(Ok(()), |target| view.allows(job, target)));
                CandidateSays {
                    address: node.address,
                    weighing: target.as_ref().and_then(|target| self.policy.weigh(view, job, target)),
                    refusal: checked.err().map(|refusal| refusal.to_string()),
                }
            })
            .collect();
        candidates.sort_by(|one, other| {
            let gain = |it: &CandidateSays| it.weighing.map_or(f64::MIN, |weighing| weighing.gain_s);
            gain(other).total_cmp(&gain(one))
        });
        candidates.truncate(CANDIDATES_TOLD);
        candidates
    }
}
