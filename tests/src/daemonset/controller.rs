//! What the DaemonSet controller decides about the pods of one node. A function of what it sees, without a clock.

/// How an update replaces pods.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Strategy {
    /// The new pod first, the old one goes when the new one is Ready (maxSurge 1, maxUnavailable 0: the chart's).
    Surge,
    /// The old pod first; the new one comes when it is gone (maxSurge 0).
    InPlace,
}

/// A pod as the controller sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Status {
    /// The template that it was made from.
    pub revision: u32,
    /// As its readiness probe says.
    pub ready: bool,
    /// It has been deleted, and is not gone yet.
    pub terminating: bool,
}

/// What is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// A pod of the template is made.
    Create,
    /// The pod at this place of the list is deleted.
    Delete(usize),
}

/// Decides about `pods`, the oldest first. Without a template the DaemonSet itself was deleted.
pub fn decide(strategy: Strategy, template: Option<u32>, pods: &[Status]) -> Vec<Decision> {
    let active = || pods.iter().enumerate().filter(|(_, pod)| !pod.terminating);
    let all_of = |wanted: bool| active().filter(move |(_, pod)| (Some(pod.revision) == template) == wanted);
    if template.is_none() {
        return active().map(|(place, _)| Decision::Delete(place)).collect();
    }
    // Of those from one side of an update the oldest stays; whatever else there is to do waits until the others are deleted.
    let surplus: Vec<_> =
        [true, false].into_iter().flat_map(|side| all_of(side).skip(1)).map(|(place, _)| place).collect();
    if !surplus.is_empty() {
        return surplus.into_iter().map(Decision::Delete).collect();
    }
    match (strategy, all_of(true).next(), all_of(false).next()) {
        // Also if the new one is not Ready either: an outdated pod that does not work is no loss.
        (Strategy::Surge, Some((_, new)), Some((old, status))) if new.ready || !status.ready => {
            vec![Decision::Delete(old)]
        }
        (Strategy::Surge, None, _) => vec![Decision::Create],
        (Strategy::InPlace, _, Some((old, _))) => vec![Decision::Delete(old)],
        (Strategy::InPlace, None, None) if pods.is_empty() => vec![Decision::Create],
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::Decision::{Create, Delete};
    use super::*;

    /// `2R` is a pod of revision 2 that is Ready, `1.` one that isn't, `1x` one that was deleted.
    fn surge(template: u32, pods: &str) -> Vec<Decision> {
        decide(Strategy::Surge, Some(template), &statuses(pods))
    }

    fn statuses(pods: &str) -> Vec<Status> {
        let status = |pod: &str| {
            let (revision, state) = pod.split_at(1);
            let revision = revision.parse().expect("a digit");
            Status { revision, ready: state == "R", terminating: state == "x" }
        };
        pods.split_whitespace().map(status).collect()
    }

    #[test]
    fn an_update_surges_and_waits_for_readiness() {
        assert_eq!(surge(1, ""), [Create]);
        assert_eq!(surge(1, "1."), []);
        assert_eq!(surge(1, "1R"), []);
        assert_eq!(surge(2, "1R"), [Create]);
        assert_eq!(surge(2, "1R 2."), []);
        assert_eq!(surge(2, "1R 2R"), [Delete(0)]);
        assert_eq!(surge(2, "1x 2R"), []);
    }

    #[test]
    fn an_outdated_pod_that_is_not_ready_goes_at_once() {
        assert_eq!(surge(2, "1. 2."), [Delete(0)]);
        assert_eq!(surge(2, "1."), [Create]);
    }

    #[test]
    fn undo_makes_the_old_pod_the_new_one() {
        assert_eq!(surge(1, "1R 2."), [Delete(1)]);
        assert_eq!(surge(1, "1R 2R"), [Delete(1)]);
        assert_eq!(surge(1, "1. 2R"), []);
        assert_eq!(surge(1, "1. 2."), [Delete(1)]);
    }

    #[test]
    fn of_two_outdated_pods_the_older_is_kept() {
        assert_eq!(surge(3, "1R 2R"), [Delete(1)]);
        assert_eq!(surge(3, "1. 2R"), [Delete(1)]);
        assert_eq!(surge(3, "1R 2x"), [Create]);
    }

    #[test]
    fn a_deleted_pod_has_its_replacement_beside_it_with_surge_only() {
        assert_eq!(surge(1, "1x"), [Create]);
        let in_place = |pods| decide(Strategy::InPlace, Some(2), &statuses(pods));
        assert_eq!(in_place("1R"), [Delete(0)]);
        assert_eq!(in_place("1x"), []);
        assert_eq!(in_place(""), [Create]);
        assert_eq!(in_place("2R"), []);
    }

    #[test]
    fn without_a_template_all_go() {
        assert_eq!(decide(Strategy::Surge, None, &statuses("1x 1R 2.")), [Delete(1), Delete(2)]);
    }
}
