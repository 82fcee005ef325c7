//! A task's figures: containerd's protobuf messages, as a table or as JSON.

mod schema;
mod value;

use crate::output::{json::indent, table::Padding, table::Table, time::long};
use value::Message;
use wharf_messages::{Answer, Refusal, task::TaskMetrics};

/// Figures that were understood.
#[derive(Debug)]
pub struct Figures<'a> {
    metrics: &'a TaskMetrics,
    message: Message,
    rows: &'static [schema::Row],
}

impl<'a> Figures<'a> {
    /// Reads the figures that a shim reported.
    ///
    /// # Errors
    /// `NotImplemented` for a type that is not known, `InvalidArgument` for damaged bytes.
    pub fn read(metrics: &'a TaskMetrics) -> Answer<Self> {
        let (schema, rows) = match metrics.data.type_url.rsplit('/').next() {
            Some("io.containerd.cgroups.v1.Metrics") => (&schema::V1_METRICS, schema::V1_ROWS),
            Some("io.containerd.cgroups.v2.Metrics") => (&schema::V2_METRICS, schema::V2_ROWS),
            _ => {
                let url = &metrics.data.type_url;
                return Err(Refusal::not_implemented(format!("metrics of type {url:?} cannot be shown")));
            }
        };
        Ok(Self { metrics, message: Message::decode(schema, &metrics.data.value)?, rows })
    }

    /// The table that `ctr` prints: a choice of the figures.
    #[must_use]
    pub fn table(&self) -> Table {
        let mut table = Table::new(1, Padding::Spaces(4));
        table.row(["ID", "TIMESTAMP"]);
        table.row([self.metrics.container_id.as_str(), &long(self.metrics.at)]);
        table.line([""]);
        table.row(["METRIC", "VALUE"]);
        for row in self.rows {
            if let Some(value) = self.message.figure(row.path) {
                table.row([row.name, &value]);
            }
        }
        table
    }

    /// All figures.
    ///
    /// # Errors
    /// Never, unless the encoder here is wrong.
    pub fn json(&self) -> Answer<String> {
        indent(self.message.json().as_bytes(), "  ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use wharf_messages::{Any, ContainerId, Timestamp};

    fn varint(mut value: u64) -> Vec<u8> {
        let mut out = Vec::new();
        while value >= 0x80 {
            out.push(u8::try_from(value & 0x7f).unwrap() | 0x80);
            value >>= 7;
        }
        out.push(u8::try_from(value).unwrap());
        out
    }

    fn number(field: u64, value: u64) -> Vec<u8> {
        [varint(field << 3), varint(value)].concat()
    }

    fn bytes(field: u64, value: &[u8]) -> Vec<u8> {
        [varint(field << 3 | 2), varint(value.len() as u64), value.to_vec()].concat()
    }

    fn metrics(data: Vec<u8>) -> TaskMetrics {
        TaskMetrics {
            container_id: ContainerId::new("d1").unwrap(),
            at: Timestamp::from_parts(1_795_469_076, 274_363_347),
            data: Any::new("io.containerd.cgroups.v1.Metrics", data),
        }
    }

    /// The figures behind both golden files, which `ctr` 1.6.20 printed.
    fn sample() -> TaskMetrics {
        let percpu = [varint(9_088_164), varint(6_283_228)].concat();
        let usage = [number(1, 15_371_392), number(2, 10_000_000), bytes(4, &percpu)].concat();
        let entry = |usage, max| [number(1, 9_223_372_036_854_771_712), number(2, usage), number(3, max)].concat();
        let memory = [
            number(1, 503_808),
            number(2, 53_248),
            number(18, 503_808),
            bytes(33, &entry(1_261_568, 2_523_136)),
            bytes(36, &number(1, 9_223_372_036_854_771_712)),
        ]
        .concat();
        let data = [
            bytes(2, &number(1, 1)),
            bytes(3, &[bytes(1, &usage), bytes(2, &[])].concat()),
            bytes(4, &memory),
            bytes(5, &[]),
            bytes(9, &[]),
        ]
        .concat();
        metrics(data)
    }

    #[test]
    fn the_table_is_that_of_ctr() {
        let sample = sample();
        let mut out = Vec::new();
        Figures::read(&sample).unwrap().table().write(&mut out).unwrap();
        assert_eq!(String::from_utf8(out).unwrap(), include_str!("../../tests/golden/metrics.txt"));
    }

    #[test]
    fn the_json_is_that_of_ctr() {
        let sample = sample();
        let json = Figures::read(&sample).unwrap().json().unwrap();
        assert_eq!(format!("{json}\n"), include_str!("../../tests/golden/metrics.json"));
    }

    #[test]
    fn damaged_figures_are_refused() {
        for data in [vec![0x1a, 0xff], vec![0x80; 12], bytes(3, &[0x0a, 0x05, 0x01]), vec![0x1b]] {
            assert!(Figures::read(&metrics(data)).is_err());
        }
    }
}
