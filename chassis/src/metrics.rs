//! Metrics declared in one block per service, where the doc comment is the HELP text.
//!
//! Label values come from enums, so a series can never be made from input, and every series exists
//! from the start, at 0: a rate over a counter that appears with its first error misses that error.

use std::fmt;
use std::marker::PhantomData;

use prometheus::core::Collector;
use prometheus::{
    Encoder, HistogramOpts, HistogramVec, IntCounterVec, IntGaugeVec, Opts, Registry, TextEncoder,
};

pub use prometheus::{Histogram, IntCounter as Counter, IntGauge as Gauge};

/// A label whose values are the variants of an enum; made by [`label!`](crate::label).
pub trait Label: Copy + 'static {
    /// The label's name.
    const NAME: &'static str;
    /// Every value.
    const ALL: &'static [Self];
    /// The value as it is exported.
    fn value(self) -> &'static str;
    /// Its place in [`Label::ALL`].
    fn index(self) -> usize;
}

/// One metric per value of a label.
pub struct Family<L, M> {
    members: Vec<M>,
    label: PhantomData<fn(L)>,
}

impl<L: Label, M> Family<L, M> {
    /// The metric of one value; costs an index.
    #[must_use]
    pub fn get(&self, label: L) -> &M {
        &self.members[label.index()]
    }
}

impl<L, M: Clone> Clone for Family<L, M> {
    fn clone(&self) -> Self {
        Self {
            members: self.members.clone(),
            label: PhantomData,
        }
    }
}

impl<L: Label, M> fmt::Debug for Family<L, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Family[{}; {}]", L::NAME, self.members.len())
    }
}

/// What is fixed about a metric.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Definition {
    /// The full name.
    pub name: &'static str,
    /// Its kind.
    pub kind: Kind,
    /// Its label, if it has one.
    pub label: Option<&'static str>,
    /// The HELP text.
    pub help: &'static str,
    /// Upper bounds of the buckets of a histogram.
    pub buckets: &'static [f64],
}

/// The kinds of metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Goes up only.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Counts values by size.
    Histogram,
}

/// Buckets for waits of one process on another, in seconds: resolve 2 ms at the median and 20 ms at
/// the 99th percentile, the objectives for an acknowledgement.
pub const LATENCY_SECONDS: &[f64] = &[
    0.000_5, 0.001, 0.002, 0.003, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0,
];

/// Buckets for numbers of things in a batch or queue, in powers of four.
pub const COUNT: &[f64] = &[1.0, 4.0, 16.0, 64.0, 256.0, 1_024.0, 4_096.0, 16_384.0];

/// A metric or family that a definition can make and register.
pub trait Instrument: Sized {
    /// Its kind.
    const KIND: Kind;
    /// Its label, if it has one.
    const LABEL: Option<&'static str>;
    /// Makes it and adds it to `registry`.
    ///
    /// # Errors
    /// If the name is malformed or taken.
    fn register(definition: &Definition, registry: &Registry) -> prometheus::Result<Self>;
}

fn added<C: Collector + Clone + 'static>(metric: C, registry: &Registry) -> prometheus::Result<C> {
    registry.register(Box::new(metric.clone()))?;
    Ok(metric)
}

fn family<L: Label, M>(member: impl Fn(&[&str; 1]) -> M) -> Family<L, M> {
    let members = L::ALL
        .iter()
        .map(|label| member(&[label.value()]))
        .collect();
    Family {
        members,
        label: PhantomData,
    }
}

impl Instrument for Counter {
    const KIND: Kind = Kind::Counter;
    const LABEL: Option<&'static str> = None;
    fn register(definition: &Definition, registry: &Registry) -> prometheus::Result<Self> {
        added(Self::new(definition.name, definition.help)?, registry)
    }
}

impl Instrument for Gauge {
    const KIND: Kind = Kind::Gauge;
    const LABEL: Option<&'static str> = None;
    fn register(definition: &Definition, registry: &Registry) -> prometheus::Result<Self> {
        added(Self::new(definition.name, definition.help)?, registry)
    }
}

impl Instrument for Histogram {
    const KIND: Kind = Kind::Histogram;
    const LABEL: Option<&'static str> = None;
    fn register(definition: &Definition, registry: &Registry) -> prometheus::Result<Self> {
        added(Self::with_opts(histogram_opts(definition))?, registry)
    }
}

impl<L: Label> Instrument for Family<L, Counter> {
    const KIND: Kind = Kind::Counter;
    const LABEL: Option<&'static str> = Some(L::NAME);
    fn register(definition: &Definition, registry: &Registry) -> prometheus::Result<Self> {
        let options = Opts::new(definition.name, definition.help);
        let all = added(IntCounterVec::new(options, &[L::NAME])?, registry)?;
        Ok(family(|label| all.with_label_values(label)))
    }
}

impl<L: Label> Instrument for Family<L, Gauge> {
    const KIND: Kind = Kind::Gauge;
    const LABEL: Option<&'static str> = Some(L::NAME);
    fn register(definition: &Definition, registry: &Registry) -> prometheus::Result<Self> {
        let options = Opts::new(definition.name, definition.help);
        let all = added(IntGaugeVec::new(options, &[L::NAME])?, registry)?;
        Ok(family(|label| all.with_label_values(label)))
    }
}

impl<L: Label> Instrument for Family<L, Histogram> {
    const KIND: Kind = Kind::Histogram;
    const LABEL: Option<&'static str> = Some(L::NAME);
    fn register(definition: &Definition, registry: &Registry) -> prometheus::Result<Self> {
        let all = added(
            HistogramVec::new(histogram_opts(definition), &[L::NAME])?,
            registry,
        )?;
        Ok(family(|label| all.with_label_values(label)))
    }
}

fn histogram_opts(definition: &Definition) -> HistogramOpts {
    HistogramOpts::new(definition.name, definition.help).buckets(definition.buckets.to_vec())
}

/// Declares a label: an enum whose variants are the only values.
///
/// ```
/// chassis::label! {
///     /// How an append ended.
///     pub enum Outcome: "outcome" {
///         /// Stored.
///         Ok = "ok",
///         /// Somebody else was faster.
///         Conflict = "conflict",
///     }
/// }
/// ```
#[macro_export]
macro_rules! label {
    (
        $(#[$meta:meta])*
        $vis:vis enum $name:ident: $label:literal {
            $($(#[$variant_meta:meta])* $variant:ident = $value:literal),+ $(,)?
        }
    ) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        $vis enum $name {
            $($(#[$variant_meta])* $variant),+
        }

        impl $crate::metrics::Label for $name {
            const NAME: &'static str = $label;
            const ALL: &'static [Self] = &[$(Self::$variant),+];
            fn value(self) -> &'static str {
                match self {
                    $(Self::$variant => $value),+
                }
            }
            fn index(self) -> usize {
                self as usize
            }
        }
    };
}

/// Declares a service's metrics.
///
/// Types: [`Counter`], [`Gauge`], `Histogram(BUCKETS)`, each as `Counter[Label]` for a family.
/// `Metrics::register(&registry)` makes them; `Metrics::DEFINITIONS` describes them.
///
/// ```
/// use chassis::metrics::LATENCY_SECONDS;
///
/// chassis::label! {
///     /// How an append ended.
///     pub enum Outcome: "outcome" {
///         /// Stored.
///         Ok = "ok",
///     }
/// }
/// chassis::metrics! {
///     /// Metrics of messages.
///     pub struct Metrics: "natter_messages" {
///         /// Partitions owned by this process.
///         partitions: Gauge,
///         /// Appends by outcome.
///         appends_total: Counter[Outcome],
///         /// Time from a batch's publish to its acknowledgement.
///         append_seconds: Histogram(LATENCY_SECONDS),
///     }
/// }
/// let metrics = Metrics::register(&prometheus::Registry::new())?;
/// metrics.appends_total.get(Outcome::Ok).inc();
/// # Ok::<_, prometheus::Error>(())
/// ```
#[macro_export]
macro_rules! metrics {
    (
        $(#[$meta:meta])*
        $vis:vis struct $name:ident: $prefix:literal {
            $(
                $(#[doc = $help:literal])+
                $field:ident: $kind:ident $([$label:ty])? $(($buckets:expr))?
            ),+ $(,)?
        }
    ) => {
        $(#[$meta])*
        #[derive(Debug, Clone)]
        $vis struct $name {
            $(
                $(#[doc = $help])+
                pub $field: $crate::metrics!(@type $kind $([$label])?)
            ),+
        }

        impl $name {
            /// What is fixed about each metric, in the order declared.
            $vis const DEFINITIONS: &'static [$crate::metrics::Definition] = &[
                $($crate::metrics::Definition {
                    name: concat!($prefix, "_", stringify!($field)),
                    kind: <$crate::metrics!(@type $kind $([$label])?)
                        as $crate::metrics::Instrument>::KIND,
                    label: <$crate::metrics!(@type $kind $([$label])?)
                        as $crate::metrics::Instrument>::LABEL,
                    help: $crate::metrics::trimmed(concat!($($help),+)),
                    buckets: $crate::metrics!(@buckets $(($buckets))?),
                }),+
            ];

            /// Makes the metrics and adds them to `registry`.
            ///
            /// # Errors
            /// If a name is malformed or taken.
            $vis fn register(
                registry: &$crate::private::prometheus::Registry,
            ) -> $crate::private::prometheus::Result<Self> {
                let mut definitions = Self::DEFINITIONS.iter();
                Ok(Self {
                    $($field: {
                        let definition =
                            definitions.next().expect("there is a definition for each field");
                        $crate::metrics::Instrument::register(definition, registry)?
                    }),+
                })
            }
        }
    };
    (@type $kind:ident) => { $crate::metrics::$kind };
    (@type $kind:ident [$label:ty]) => {
        $crate::metrics::Family<$label, $crate::metrics::$kind>
    };
    (@buckets) => { &[] };
    (@buckets ($buckets:expr)) => { $buckets };
}

/// A doc comment without the blank that follows its slashes.
#[doc(hidden)]
#[must_use]
pub const fn trimmed(help: &'static str) -> &'static str {
    help.trim_ascii()
}

/// What a metric's definition breaks of the naming rules; empty if nothing.
///
/// `natter_<service>_<noun>_<unit>`, base units, counters end in `_total` and nothing else does,
/// histograms end in their unit, HELP is a sentence.
#[must_use]
pub fn faults(definition: &Definition) -> Vec<String> {
    let Definition {
        name,
        kind,
        label,
        help,
        buckets,
    } = definition;
    let mut faults = Vec::new();
    let mut require = |valid: bool, rule: &str| {
        if !valid {
            faults.push(format!("{name}: {rule}"));
        }
    };
    let lower = |text: &str| {
        text.bytes()
            .all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'_'))
    };
    require(lower(name), "only lower case, digits and underscores");
    require(
        name.starts_with("natter_") && name.split('_').count() >= 3,
        "natter_<service>_<noun>",
    );
    require(
        (*kind == Kind::Counter) == name.ends_with("_total"),
        "counters end in _total, nothing else does",
    );
    for unit in [
        "_ms",
        "_us",
        "_millis",
        "_milliseconds",
        "_kb",
        "_kib",
        "_mb",
        "_percent",
    ] {
        require(
            !name.trim_end_matches("_total").ends_with(unit),
            "base units only",
        );
    }
    require(
        (*kind == Kind::Histogram) != buckets.is_empty(),
        "histograms, and only they, have buckets",
    );
    require(buckets.is_sorted_by(|a, b| a < b), "buckets rise");
    require(label.is_none_or(lower), "a label is lower case");
    require(help.ends_with('.') && help.len() > 10, "HELP is a sentence");
    faults
}

/// All metrics of `registry` in Prometheus text format.
///
/// # Errors
/// If a metric cannot be encoded.
pub fn encode(registry: &Registry) -> prometheus::Result<Vec<u8>> {
    let mut text = Vec::new();
    TextEncoder::new().encode(&registry.gather(), &mut text)?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    crate::label! {
        /// How it ended.
        enum Outcome: "outcome" {
            /// Well.
            Ok = "ok",
            /// Badly.
            Conflict = "conflict",
        }
    }

    crate::metrics! {
        /// Metrics of a test.
        struct Metrics: "natter_test" {
            /// Sockets that are
            /// open now.
            sockets: Gauge,
            /// Appends by outcome.
            appends_total: Counter[Outcome],
            /// Time of an append.
            append_seconds: Histogram(LATENCY_SECONDS),
            /// Time of a read by outcome.
            read_seconds: Histogram[Outcome](&[0.1, 1.0]),
        }
    }

    #[test]
    fn every_series_exists_from_the_start() {
        let registry = Registry::new();
        let metrics = Metrics::register(&registry).unwrap();
        metrics.appends_total.get(Outcome::Conflict).inc();
        metrics.sockets.set(3);
        metrics.append_seconds.observe(0.001);
        metrics.read_seconds.get(Outcome::Conflict).observe(0.5);
        let text = String::from_utf8(encode(&registry).unwrap()).unwrap();
        for line in [
            "# HELP natter_test_sockets Sockets that are open now.",
            "natter_test_sockets 3",
            "natter_test_appends_total{outcome=\"ok\"} 0",
            "natter_test_appends_total{outcome=\"conflict\"} 1",
            "natter_test_append_seconds_count 1",
            "natter_test_read_seconds_bucket{outcome=\"ok\",le=\"0.1\"} 0",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} is not in:\n{text}");
        }
    }

    #[test]
    fn a_name_is_registered_once() {
        let registry = Registry::new();
        let _metrics = Metrics::register(&registry).unwrap();
        assert!(Metrics::register(&registry).is_err());
    }

    #[test]
    fn names_that_break_the_rules_are_found() {
        assert_eq!(Metrics::DEFINITIONS.iter().flat_map(faults).count(), 0);
        let bad = |name, kind, help| Definition {
            name,
            kind,
            label: None,
            help,
            buckets: &[],
        };
        for wrong in [
            bad("natter_x_sent", Kind::Counter, "Messages sent."),
            bad("natter_x_queue_total", Kind::Gauge, "Messages queued."),
            bad("natter_x_wait_ms", Kind::Gauge, "Time waited."),
            bad("sockets", Kind::Gauge, "Sockets open."),
            bad("natter_x_wait_seconds", Kind::Histogram, "Time waited."),
            bad("natter_x_sockets", Kind::Gauge, "no sentence"),
        ] {
            assert!(!faults(&wrong).is_empty(), "{wrong:?}");
        }
    }
}
