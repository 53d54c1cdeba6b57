//! The figures of all rooms in the OpenMetrics text format, read when they are asked for.
//!
//! Rooms count for themselves and name their figures as OpenTelemetry does; here dots become underscores.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;

/// One figure: its name, its `error.type` (empty where nothing failed) and its value.
pub type Figure = (&'static str, &'static str, f64);

/// What a figure means is said in docs/reference, once.
const HELP: &str = "see docs/reference/metrics.md";

/// Where figures come from.
pub trait Source: Send + Sync + 'static {
    /// What only rises.
    fn counters(&self) -> Vec<Figure>;
    /// What rises and falls.
    fn gauges(&self) -> Vec<Figure>;
}

/// All figures. Cheap to clone.
#[derive(Clone)]
pub struct Metrics(Arc<Registry>);

impl Metrics {
    /// Reads from these sources.
    pub fn new(sources: Vec<Box<dyn Source>>) -> Self {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(All(sources)));
        Self(Arc::new(registry))
    }

    /// The figures as they are now.
    ///
    /// # Errors
    /// If a name is none.
    pub fn to_text(&self) -> Result<String, fmt::Error> {
        let mut text = String::new();
        encode(&mut text, &self.0)?;
        Ok(text)
    }
}

struct All(Vec<Box<dyn Source>>);

impl fmt::Debug for All {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} sources", self.0.len())
    }
}

impl Collector for All {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let counters = group(self.0.iter().flat_map(|source| source.counters()));
        for (name, figures) in counters {
            let mut family = encoder.encode_descriptor(&name, HELP, None, MetricType::Counter)?;
            for (error, value) in figures {
                ConstCounter::new(value).encode(family.encode_family(&labels(error))?)?;
            }
        }
        let gauges = group(self.0.iter().flat_map(|source| source.gauges()));
        for (name, figures) in gauges {
            let mut family = encoder.encode_descriptor(&name, HELP, None, MetricType::Gauge)?;
            for (error, value) in figures {
                ConstGauge::new(value).encode(family.encode_family(&labels(error))?)?;
            }
        }
        Ok(())
    }
}

fn labels(error: &str) -> Vec<(&str, &str)> {
    if error.is_empty() { Vec::new() } else { vec![("error_type", error)] }
}

/// Figures of one name stand together.
fn group(figures: impl Iterator<Item = Figure>) -> BTreeMap<String, Vec<(&'static str, f64)>> {
    let mut named: BTreeMap<String, Vec<_>> = BTreeMap::new();
    for (name, error, value) in figures {
        named.entry(name.replace('.', "_")).or_default().push((error, value));
    }
    named
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Links;

    impl Source for Links {
        fn counters(&self) -> Vec<Figure> {
            vec![("sagemesh.mesh.links", "", 3.0), ("sagemesh.mesh.links", "refused", 1.0)]
        }

        fn gauges(&self) -> Vec<Figure> {
            vec![("sagemesh.peer.count", "", 4.0)]
        }
    }

    #[test]
    fn figures_are_shown_as_open_metrics() {
        let text = Metrics::new(vec![Box::new(Links)]).to_text().expect("names are valid");
        for line in [
            "# TYPE sagemesh_mesh_links counter",
            "sagemesh_mesh_links_total 3.0",
            "sagemesh_mesh_links_total{error_type=\"refused\"} 1.0",
            "# TYPE sagemesh_peer_count gauge",
            "sagemesh_peer_count 4.0",
            "# EOF",
        ] {
            assert!(text.lines().any(|it| it == line), "{line} in\n{text}");
        }
    }
}
