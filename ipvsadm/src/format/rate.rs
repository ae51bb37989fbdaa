//! The columns of `--rate`, for which directors have no numbers yet.

use super::stats::counter;

/// Estimated rates per second.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rates {
    pub conns: u64,
    pub in_pkts: u64,
    pub out_pkts: u64,
    pub in_bytes: u64,
    pub out_bytes: u64,
}

/// First title line of `--rate`.
pub fn title() -> String {
    title_of(["CPS", "InPPS", "OutPPS", "InBPS", "OutBPS"])
}

/// A title line over five counters.
pub(super) fn title_of(columns: [&str; 5]) -> String {
    let columns = columns.map(|column| format!(" {column:>8}")).concat();
    format!("{:<33}{columns}\n", "Prot LocalAddress:Port")
}

/// The five columns of a service.
pub fn service_columns(rates: &Rates, exact: bool) -> String {
    [
        rates.conns,
        rates.in_pkts,
        rates.out_pkts,
        rates.in_bytes,
        rates.out_bytes,
    ]
    .map(|value| counter(value, exact))
    .concat()
}

/// The five columns of a server; the first three are never abbreviated.
pub fn server_columns(rates: &Rates, exact: bool) -> String {
    let whole = [rates.conns, rates.in_pkts, rates.out_pkts];
    let scaled = [rates.in_bytes, rates.out_bytes];
    whole.map(|value| format!(" {value:>8}")).concat()
        + &scaled.map(|value| counter(value, exact)).concat()
}
