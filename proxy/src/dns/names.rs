//! What a client may mean by a name.
//!
//! A client's resolver tries short names with each of its search domains (with Kubernetes' `ndots:5` even names such as
//! `api.example.com`). So a name that comes may be one that the user wrote, or one with a search domain behind it; and a
//! short name may stand for a service of Kubernetes.
//!
//! Names are text here: in lower case, without a final dot.

use std::sync::Arc;

use hickory_proto::rr::Name;

/// One of the names that a client may mean.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Alias {
    /// The name.
    pub(super) name: String,
    /// How many labels of the asked name were left when a search domain was taken off, if one was.
    pub(super) stripped: Option<usize>,
}

/// The text of a name, unless it is the root or has bytes that no hostname has.
pub(super) fn text(name: &Name) -> Option<String> {
    let mut text = String::with_capacity(name.len());
    for label in name.iter() {
        let is_plain = |byte: &u8| byte.is_ascii_graphic() && *byte != b'.';
        let label =
            std::str::from_utf8(label).ok().filter(|label| label.bytes().all(|byte| is_plain(&byte)))?;
        if !text.is_empty() {
            text.push('.');
        }
        text.extend(label.chars().map(|letter| letter.to_ascii_lowercase()));
    }
    (!text.is_empty()).then_some(text)
}

/// A domain that was configured, in the form of this module.
pub(super) fn domain(configured: &str) -> Arc<str> {
    configured.trim_matches('.').to_ascii_lowercase().into()
}

/// Kubernetes' search domains for a pod in `namespace`.
pub(super) fn kubernetes_search(namespace: &str, cluster_domain: &str) -> [Arc<str>; 3] {
    [
        format!("{namespace}.svc.{cluster_domain}").into(),
        format!("svc.{cluster_domain}").into(),
        cluster_domain.into(),
    ]
}

/// The names that a client in `namespace` may mean by `asked`, the likeliest first: itself; the service of Kubernetes
/// that it stands for; the same without each of the client's search domains.
pub(super) fn aliases(asked: &str, namespace: &str, cluster_domain: &str, search: &[Arc<str>]) -> Vec<Alias> {
    let mut aliases: Vec<Alias> = Vec::new();
    let mut add = |name: String, stripped| {
        if aliases.iter().all(|alias| alias.name != name) {
            aliases.push(Alias { name, stripped });
        }
    };
    add(asked.to_owned(), None);
    for name in kubernetes_names(asked, namespace, cluster_domain) {
        add(name, None);
    }
    for domain in search {
        let Some(rest) = asked.strip_suffix(&**domain).and_then(|rest| rest.strip_suffix('.')) else {
            continue;
        };
        let stripped = Some(rest.split('.').count());
        add(rest.to_owned(), stripped);
        for name in kubernetes_names(rest, namespace, cluster_domain) {
            add(name, stripped);
        }
    }
    aliases
}

/// A name and the wildcards that it matches, the narrowest first.
pub(super) fn wildcards(name: &str) -> impl Iterator<Item = String> {
    name.match_indices('.').map(move |(dot, _)| format!("*{}", &name[dot..]))
}

/// The full names of the services, and of the pods of headless services, that a short name may stand for.
fn kubernetes_names(name: &str, namespace: &str, cluster_domain: &str) -> Vec<String> {
    let labels: Vec<&str> = name.split('.').collect();
    match *labels.as_slice() {
        [_service] => vec![format!("{name}.{namespace}.svc.{cluster_domain}")],
        // service.namespace, or pod.service
        [_, _] => {
            vec![format!("{name}.svc.{cluster_domain}"), format!("{name}.{namespace}.svc.{cluster_domain}")]
        }
        // service.namespace.svc, or pod.service.namespace
        [_, _, "svc"] => vec![format!("{name}.{cluster_domain}"), format!("{name}.svc.{cluster_domain}")],
        [_pod, _service, _namespace] => vec![format!("{name}.svc.{cluster_domain}")],
        [_pod, _service, _namespace, "svc"] => vec![format!("{name}.{cluster_domain}")],
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(asked: &str) -> Vec<(String, Option<usize>)> {
        let search = kubernetes_search("shop", "cluster.local");
        let aliases = aliases(asked, "shop", "cluster.local", &search);
        aliases.into_iter().map(|alias| (alias.name, alias.stripped)).collect()
    }

    #[test]
    fn what_a_name_may_stand_for() {
        for (asked, expected) in [
            ("web", &[("web", None), ("web.shop.svc.cluster.local", None)][..]),
            (
                "web.bank",
                &[
                    ("web.bank", None),
                    ("web.bank.svc.cluster.local", None),
                    ("web.bank.shop.svc.cluster.local", None),
                ],
            ),
            (
                "web.bank.svc",
                &[
                    ("web.bank.svc", None),
                    ("web.bank.svc.cluster.local", None),
                    ("web.bank.svc.svc.cluster.local", None),
                ],
            ),
            ("db-0.db.bank", &[("db-0.db.bank", None), ("db-0.db.bank.svc.cluster.local", None)]),
            ("db-0.db.bank.svc", &[("db-0.db.bank.svc", None), ("db-0.db.bank.svc.cluster.local", None)]),
            ("a.b.example.com", &[("a.b.example.com", None)]),
            (
                "cluster.local",
                &[
                    ("cluster.local", None),
                    ("cluster.local.svc.cluster.local", None),
                    ("cluster.local.shop.svc.cluster.local", None),
                ],
            ),
            (
                "api.example.com.cluster.local",
                &[
                    ("api.example.com.cluster.local", None),
                    ("api.example.com", Some(3)),
                    ("api.example.com.svc.cluster.local", Some(3)),
                ],
            ),
            (
                "web.shop.svc.cluster.local",
                &[
                    ("web.shop.svc.cluster.local", None),
                    ("web", Some(1)),
                    ("web.shop", Some(2)),
                    ("web.shop.shop.svc.cluster.local", Some(2)),
                    ("web.shop.svc", Some(3)),
                    ("web.shop.svc.svc.cluster.local", Some(3)),
                ],
            ),
        ] {
            let expected: Vec<_> =
                expected.iter().map(|(name, stripped)| (String::from(*name), *stripped)).collect();
            assert_eq!(names(asked), expected, "{asked}");
        }
    }

    #[test]
    fn wildcards_from_the_narrowest() {
        assert_eq!(wildcards("www.example.com").collect::<Vec<_>>(), ["*.example.com", "*.com"]);
        assert_eq!(wildcards("com").count(), 0);
    }

    #[test]
    fn only_names_that_hosts_can_have_are_looked_up() {
        let name = |labels: &[&[u8]]| Name::from_labels(labels.iter().copied()).unwrap();
        assert_eq!(text(&name(&[b"Web", b"EXAMPLE", b"com"])).as_deref(), Some("web.example.com"));
        assert_eq!(text(&name(&[b"*", b"_tcp"])).as_deref(), Some("*._tcp"));
        assert_eq!(text(&Name::root()), None);
        for label in [&b"a.b"[..], b"a b", b"\xff\xfe", "é".as_bytes(), b"\0"] {
            assert_eq!(text(&name(&[label, b"com"])), None, "{label:?}");
        }
        assert_eq!(&*domain(".Cluster.LOCAL."), "cluster.local");
    }
}
