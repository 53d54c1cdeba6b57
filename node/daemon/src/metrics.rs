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

/// One figure.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Figure {
    /// Its name as OpenTelemetry writes it.
    pub name: &'static str,
    /// What failed; empty where nothing did.
    pub error: &'static str,
    /// Of what there is too much, or would be; empty where it is no flood.
    pub flood: &'static str,
    /// What it is, for people.
    pub help: &'static str,
    /// How much.
    pub value: f64,
}

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
        for (name, figures) in group(self.0.iter().flat_map(|source| source.counters())) {
            let mut family = encoder.encode_descriptor(&name, figures[0].help, None, MetricType::Counter)?;
            for figure in figures {
                ConstCounter::new(figure.value).encode(family.encode_family(&labels(figure))?)?;
            }
        }
        for (name, figures) in group(self.0.iter().flat_map(|source| source.gauges())) {
            let mut family = encoder.encode_descriptor(&name, figures[0].help, None, MetricType::Gauge)?;
            for figure in figures {
                ConstGauge::new(figure.value).encode(family.encode_family(&labels(figure))?)?;
            }
        }
        Ok(())
    }
}

fn labels(figure: Figure) -> Vec<(&'static str, &'static str)> {
    let labels = [("error_type", figure.error), ("flood", figure.flood)];
    labels.into_iter().filter(|(_, value)| !value.is_empty()).collect()
}

/// Figures of one name stand together, at least one for each.
fn group(figures: impl Iterator<Item = Figure>) -> BTreeMap<String, Vec<Figure>> {
    let mut named: BTreeMap<String, Vec<_>> = BTreeMap::new();
    for figure in figures {
        named.entry(figure.name.replace('.', "_")).or_default().push(figure);
    }
    named
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Links;

    impl Source for Links {
        fn counters(&self) -> Vec<Figure> {
            let links = |error, flood, value| Figure {
                name: "sagemesh.mesh.links",
                error,
                flood,
                help: "Links.",
                value,
            };
            vec![links("", "", 3.0), links("refused", "", 1.0), links("flood", "pings", 2.0)]
        }

        fn gauges(&self) -> Vec<Figure> {
            vec![Figure { name: "sagemesh.mesh.peers", error: "", flood: "", help: "Nodes.", value: 4.0 }]
        }
    }

    #[test]
    fn figures_are_shown_as_open_metrics() {
        let text = Metrics::new(vec![Box::new(Links)]).to_text().expect("names are valid");
        for line in [
            "# HELP sagemesh_mesh_links Links.",
            "# TYPE sagemesh_mesh_links counter",
            "sagemesh_mesh_links_total{} 3.0",
            "sagemesh_mesh_links_total{error_type=\"refused\"} 1.0",
            "sagemesh_mesh_links_total{error_type=\"flood\",flood=\"pings\"} 2.0",
            "# TYPE sagemesh_mesh_peers gauge",
            "sagemesh_mesh_peers{} 4.0",
            "# EOF",
        ] {
            assert!(text.lines().any(|it| it == line), "{line} in\n{text}");
        }
    }
}
