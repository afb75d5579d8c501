//! The samples of one row that share a unit, and the ratios between them.
//!
//! A table knows in which round and at which processor distance each sample was taken, so that ratios pair what belongs
//! together, and from its unit whether more or less is better. It is printed, and it goes to JSON and back: the
//! summary and the plots are made from what is on disk, whichever run measured it.

use serde_json::{Value, json};

use crate::stats::{Sample, classes, fair, largest, median, paired, smallest};

/// Whether more of a unit is better.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Better {
    /// Rates.
    More,
    /// Times, memory, processor time, loss.
    Less,
}

impl Better {
    /// What a unit means: per-second units are rates, everything else is a price.
    pub(crate) fn of_unit(unit: &str) -> Self {
        if unit.ends_with("/s") || unit.ends_with("pps") { Self::More } else { Self::Less }
    }
}

/// One measured thing, at most one sample per round.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Series {
    /// What it is called.
    pub(crate) name: String,
    /// Its samples in the order they were taken.
    pub(crate) samples: Vec<Sample>,
    /// Where the series is a point of a line: the line's name and the position along the table's axis.
    pub(crate) point: Option<(String, f64)>,
}

impl Series {
    /// The bare values.
    pub(crate) fn values(&self) -> Vec<f64> {
        self.samples.iter().map(|s| s.value).collect()
    }
}

/// See the module.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Table {
    /// What was measured, for a reader.
    pub(crate) title: String,
    /// Unit of all samples.
    pub(crate) unit: String,
    /// What the points of lines lie along, for example `flows`.
    pub(crate) axis: Option<String>,
    /// The measured things.
    pub(crate) series: Vec<Series>,
    /// Pairs of series whose ratio is of interest.
    pub(crate) ratios: Vec<(String, String)>,
    /// Circumstances.
    pub(crate) remarks: Vec<String>,
    /// Contestants that could not be measured, and why.
    pub(crate) failures: Vec<String>,
    round: Option<usize>,
    distance: Option<f64>,
}

impl Table {
    /// An empty table.
    pub(crate) fn new(title: impl Into<String>, unit: &str) -> Self {
        Self {
            title: title.into(),
            unit: unit.to_owned(),
            axis: None,
            series: Vec::new(),
            ratios: Vec::new(),
            remarks: Vec::new(),
            failures: Vec::new(),
            round: None,
            distance: None,
        }
    }

    /// The same table with points along `axis` (a plural: flows, masks).
    pub(crate) fn along(mut self, axis: &str) -> Self {
        self.axis = Some(axis.to_owned());
        self
    }

    /// Samples that follow belong to `round`. Without this a series' first sample is of round 0, its second of round 1.
    pub(crate) fn begin_round(&mut self, round: usize) {
        self.round = Some(round);
    }

    /// Samples that follow are taken at this core-to-core round trip, nanoseconds.
    pub(crate) fn at_distance(&mut self, nanoseconds: f64) {
        self.distance = Some(nanoseconds);
    }

    /// Adds a sample to the series `name`.
    pub(crate) fn add(&mut self, name: &str, sample: f64) {
        self.put(name.to_owned(), None, sample);
    }

    /// Adds a sample to the point `x` of the line `line`.
    pub(crate) fn add_at(&mut self, line: &str, x: f64, sample: f64) {
        let name = point_name(line, x, self.axis.as_deref().unwrap_or("x"));
        self.put(name, Some((line.to_owned(), x)), sample);
    }

    fn put(&mut self, name: String, point: Option<(String, f64)>, value: f64) {
        let (round, distance) = (self.round, self.distance);
        let found = self.series.iter().position(|s| s.name == name);
        let at = found.unwrap_or_else(|| {
            self.series.push(Series { name, samples: Vec::new(), point });
            self.series.len() - 1
        });
        if let Some(series) = self.series.get_mut(at) {
            let round = round.unwrap_or(series.samples.len());
            series.samples.push(Sample { round, value, distance });
        }
    }

    /// Asks for the ratio of two series, paired by round.
    pub(crate) fn compare(&mut self, first: &str, second: &str) {
        self.ratios.push((first.to_owned(), second.to_owned()));
    }

    /// Asks for the ratio of two lines at every point both have.
    pub(crate) fn compare_lines(&mut self, first: &str, second: &str) {
        let axis = self.axis.clone().unwrap_or_default();
        let points: Vec<f64> = self
            .series
            .iter()
            .filter_map(|s| s.point.as_ref())
            .filter(|p| p.0 == first)
            .map(|p| p.1)
            .collect();
        for x in points {
            self.compare(&point_name(first, x, &axis), &point_name(second, x, &axis));
        }
    }

    /// Adds a line to be printed below.
    pub(crate) fn remark(&mut self, text: impl Into<String>) {
        self.remarks.push(text.into());
    }

    /// Notes that something could not be measured. The run goes on and ends with exit code 1.
    pub(crate) fn fail(&mut self, text: impl Into<String>) {
        let text = text.into();
        eprintln!("  FAILED {text}");
        self.failures.push(text);
    }

    /// The samples of a series; none if there is no such series.
    pub(crate) fn samples(&self, name: &str) -> &[Sample] {
        self.series.iter().find(|s| s.name == name).map_or(&[], |s| &s.samples)
    }

    /// Whether more or less is better.
    pub(crate) fn better(&self) -> Better {
        Better::of_unit(&self.unit)
    }

    /// Prints it.
    pub(crate) fn print(&self) {
        let less = if self.better() == Better::Less { ", less is better" } else { "" };
        println!("\n{} [{}{less}]", self.title, self.unit);
        let wide = self.series.iter().map(|s| s.name.chars().count()).max().unwrap_or(0).max(30);
        println!(
            "  {:<wide$} {:>9} {:>9} {:>9}  {:<8} samples",
            "", "median", "smallest", "largest", "distance"
        );
        for series in &self.series {
            let values = series.values();
            let (middle, low, high) = (median(&values), smallest(&values), largest(&values));
            let class = classes(&series.samples);
            println!(
                "  {:<wide$} {middle:>9.2} {low:>9.2} {high:>9.2}  {class:<8} {}",
                series.name,
                list(&values)
            );
        }
        for (first, second) in &self.ratios {
            self.print_ratio(first, second);
        }
        for remark in &self.remarks {
            println!("  {remark}");
        }
        for failure in &self.failures {
            println!("  FAILED {failure}");
        }
    }

    fn print_ratio(&self, first: &str, second: &str) {
        let pairs = paired(self.samples(first), self.samples(second));
        if pairs.is_empty() {
            return;
        }
        let middle = median(&fair(&pairs));
        let ahead = match self.better() {
            Better::More => middle >= 1.0,
            Better::Less => middle <= 1.0,
        };
        let mixed = pairs.iter().filter(|p| p.class.is_none()).count();
        let all: Vec<f64> = pairs.iter().map(|p| p.ratio).collect();
        let name = format!("{first} / {second}");
        let side = if ahead { "ahead" } else { "behind" };
        println!("  {name:<68} {middle:>6.2} x {side:<6}  {}", list(&all));
        if mixed > 0 && self.distance.is_some() {
            println!(
                "    ({mixed} of these across distance classes: left out of the median if others remain)"
            );
        }
    }

    /// As JSON; [`Self::from_json`] reads it back.
    pub(crate) fn to_json(&self) -> Value {
        let ratios: Vec<Value> = self
            .ratios
            .iter()
            .map(|(first, second)| {
                let pairs = paired(self.samples(first), self.samples(second));
                let all: Vec<f64> = pairs.iter().map(|p| p.ratio).collect();
                json!({ "of": first, "to": second, "samples": all, "median": median(&fair(&pairs)) })
            })
            .collect();
        json!({
            "title": self.title, "unit": self.unit, "axis": self.axis,
            "series": self.series.iter().map(series_to_json).collect::<Vec<_>>(),
            "ratios": ratios, "remarks": self.remarks, "failures": self.failures,
        })
    }

    /// From JSON; `None` if it is not a table.
    pub(crate) fn from_json(value: &Value) -> Option<Self> {
        let mut table = Self::new(value["title"].as_str()?, value["unit"].as_str()?);
        table.axis = value["axis"].as_str().map(str::to_owned);
        table.series = value["series"].as_array()?.iter().map(series_from_json).collect::<Option<_>>()?;
        let ratio = |r: &Value| Some((r["of"].as_str()?.to_owned(), r["to"].as_str()?.to_owned()));
        table.ratios = value["ratios"].as_array()?.iter().map(ratio).collect::<Option<_>>()?;
        table.remarks = texts(&value["remarks"]);
        table.failures = texts(&value["failures"]);
        Some(table)
    }
}

/// The name of the series that is the point `x` of `line`.
pub(crate) fn point_name(line: &str, x: f64, axis: &str) -> String {
    let axis = if x > 1.0 { axis } else { axis.strip_suffix('s').unwrap_or(axis) };
    format!("{line}, {} {axis}", thousands(x))
}

/// A whole number with blanks between thousands.
pub(crate) fn thousands(x: f64) -> String {
    let digits = format!("{x:.0}");
    let mut out = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(' ');
        }
        out.push(digit);
    }
    out
}

fn series_to_json(series: &Series) -> Value {
    let values = series.values();
    let rounds: Vec<usize> = series.samples.iter().map(|s| s.round).collect();
    let distances: Vec<Option<f64>> = series.samples.iter().map(|s| s.distance).collect();
    json!({
        "name": series.name, "line": series.point.as_ref().map(|p| &p.0), "x": series.point.as_ref().map(|p| p.1),
        "samples": values, "rounds": rounds, "distance_ns": distances,
        "median": median(&values), "smallest": smallest(&values), "largest": largest(&values),
        "distance": classes(&series.samples),
    })
}

fn series_from_json(value: &Value) -> Option<Series> {
    let number = |v: &Value| v.as_u64().and_then(|n| usize::try_from(n).ok());
    let samples = value["samples"].as_array()?;
    let sample = |(i, v): (usize, &Value)| {
        let round = number(&value["rounds"][i]).unwrap_or(i);
        Some(Sample { round, value: v.as_f64()?, distance: value["distance_ns"][i].as_f64() })
    };
    let point = value["line"].as_str().map(str::to_owned).zip(value["x"].as_f64());
    Some(Series {
        name: value["name"].as_str()?.to_owned(),
        samples: samples.iter().enumerate().map(sample).collect::<Option<_>>()?,
        point,
    })
}

fn texts(value: &Value) -> Vec<String> {
    value.as_array().into_iter().flatten().filter_map(|v| v.as_str().map(str::to_owned)).collect()
}

fn list(samples: &[f64]) -> String {
    samples.iter().map(|s| format!("{s:.2}")).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::{Better, Table, point_name};

    #[test]
    fn units_tell_what_is_better() {
        for unit in ["Mpps", "Gbit/s", "Mbit/s", "thousand flows/s", "kpps"] {
            assert_eq!(Better::of_unit(unit), Better::More, "{unit}");
        }
        for unit in ["µs", "ms", "MiB", "% of a core", "frames lost"] {
            assert_eq!(Better::of_unit(unit), Better::Less, "{unit}");
        }
    }

    #[test]
    fn a_table_survives_json() {
        let mut table = Table::new("loop", "Mpps").along("flows");
        table.begin_round(3);
        table.at_distance(77.0);
        table.add("plain", 1.5);
        table.add_at("vswitchd", 1000.0, 2.5);
        table.add_at("OVS-DPDK", 1000.0, 1.25);
        table.compare_lines("vswitchd", "OVS-DPDK");
        table.remark("quiet");
        table.fail("someone did not start");
        let back = Table::from_json(&table.to_json()).unwrap();
        assert_eq!((&back.series, &back.ratios), (&table.series, &table.ratios));
        assert_eq!((back.remarks, back.failures), (table.remarks, table.failures));
        assert_eq!(back.ratios, [("vswitchd, 1 000 flows".to_owned(), "OVS-DPDK, 1 000 flows".to_owned())]);
    }

    #[test]
    fn without_rounds_the_order_counts() {
        let mut table = Table::new("start", "ms");
        table.add("a", 1.0);
        table.add("a", 2.0);
        assert_eq!(table.samples("a").iter().map(|s| s.round).collect::<Vec<_>>(), [0, 1]);
    }

    #[test]
    fn points_have_readable_names() {
        assert_eq!(point_name("vswitchd", 1.0, "flows"), "vswitchd, 1 flow");
        assert_eq!(point_name("vswitchd", 1_000_000.0, "flows"), "vswitchd, 1 000 000 flows");
    }
}
