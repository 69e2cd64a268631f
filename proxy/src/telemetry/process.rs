//! What the kernel knows about this process.

use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::gauge::ConstGauge;
use rustix::process::{Resource, getrlimit};

use crate::socket;

/// Open and allowed file descriptors, looked up at each scrape.
#[derive(Debug)]
pub(super) struct ProcessCollector;

impl Collector for ProcessCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut gauge = |name, help, value: Option<u64>| {
            let Some(value) = value.map(|value| i64::try_from(value).unwrap_or(i64::MAX)) else {
                return Ok(());
            };
            let gauge = ConstGauge::new(value);
            gauge.encode(encoder.encode_descriptor(name, help, None, gauge.metric_type())?)
        };
        gauge("process_open_fds", "Number of open file descriptors", open_descriptors())?;
        gauge("process_max_fds", "Maximum number of file descriptors", getrlimit(Resource::Nofile).current)
    }
}

fn open_descriptors() -> Option<u64> {
    u64::try_from(socket::open_files().ok()?).ok()
}
