//! Headers that ride on a CONNECT request: who calls (`baggage`), for whom (`forwarded`), and a trace (`traceparent`).
//! They are for telemetry; no decision rests on them.

use std::fmt::Write;
use std::net::SocketAddr;

use xds::Workload;
use xds::resource::WorkloadType;

/// A request or response header.
pub type Header = (String, Vec<u8>);

/// W3C baggage that names a workload, in Istio's keys.
pub fn baggage(workload: &Workload) -> Header {
    let kind = match workload.workload_type {
        WorkloadType::Deployment => "deployment",
        WorkloadType::CronJob => "cronjob",
        WorkloadType::Job => "job",
        WorkloadType::Pod => "pod",
    };
    let pairs = [
        ("k8s.cluster.name", &workload.cluster_id),
        ("k8s.namespace.name", &workload.namespace),
        (&*format!("k8s.{kind}.name"), &workload.workload_name),
        ("service.name", &workload.canonical_name),
        ("service.version", &workload.canonical_revision),
        ("cloud.region", &workload.locality.region),
        ("cloud.availability_zone", &workload.locality.zone),
    ]
    .map(|(name, value)| (name.to_owned(), value.clone()));
    let mut text = String::new();
    for (name, value) in pairs {
        let comma = if text.is_empty() { "" } else { "," };
        let _ = write!(text, "{comma}{name}={value}");
    }
    ("baggage".to_owned(), text.into_bytes())
}

/// RFC 7239: for whom the request is made, and the service that was meant, if it was one.
pub fn forwarded(source: SocketAddr, service: Option<&str>) -> Header {
    let mut text = format!("for=\"{source}\"");
    if let Some(host) = service {
        let _ = write!(text, ";host={host}");
    }
    ("forwarded".to_owned(), text.into_bytes())
}

/// W3C trace context with fresh random ids, not sampled.
pub fn traceparent(random: &mut fastrand::Rng) -> Header {
    let text = format!("00-{:032x}-{:016x}-00", random.u128(1..), random.u64(1..));
    ("traceparent".to_owned(), text.into_bytes())
}

/// The `host` of a `forwarded` header among `headers`; `None` if there is none or it isn't text.
pub fn forwarded_host(headers: &[Header]) -> Option<&str> {
    let (_, value) = headers.iter().find(|(name, _)| name == "forwarded")?;
    let value = std::str::from_utf8(value).ok().filter(|value| value.is_ascii())?;
    let pairs = value.split(';').filter_map(|pair| pair.trim().split_once('='));
    let (_, host) = pairs.into_iter().find(|(name, _)| name.eq_ignore_ascii_case("host"))?;
    Some(host.trim_matches('"')).filter(|host| !host.is_empty())
}

/// Whether the request came over a gateway from another network than ours.
pub fn is_from_other_network(headers: &[Header], network: &str) -> bool {
    headers
        .iter()
        .find(|(name, _)| name == "x-forwarded-network")
        .is_some_and(|(_, value)| value != network.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_forwarded_header_is_read_as_it_is_written() {
        let source = "10.0.0.1:1234".parse().unwrap();
        let header = forwarded(source, Some("web.shop.svc.cluster.local"));
        assert_eq!(header.1, b"for=\"10.0.0.1:1234\";host=web.shop.svc.cluster.local");
        assert_eq!(forwarded_host(&[header]), Some("web.shop.svc.cluster.local"));
        assert_eq!(forwarded_host(&[forwarded(source, None)]), None);
        assert_eq!(forwarded_host(&[("forwarded".into(), vec![0xff, b';'])]), None);
        let quoted = ("forwarded".to_owned(), b"For=\"[::1]:1\" ; Host=\"db\"".to_vec());
        assert_eq!(forwarded_host(&[quoted]), Some("db"));
    }

    #[test]
    fn a_trace_is_of_the_right_form() {
        let (_, value) = traceparent(&mut fastrand::Rng::with_seed(1));
        let lengths: Vec<usize> = std::str::from_utf8(&value).unwrap().split('-').map(str::len).collect();
        assert_eq!((value.len(), lengths), (55, vec![2, 32, 16, 2]));
    }
}
