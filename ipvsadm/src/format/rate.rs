//! The columns of `--rate`.

use ipvs_model::stats::Rates;

use super::stats::counter;

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
        rates.cps,
        rates.pps_in,
        rates.pps_out,
        rates.bps_in,
        rates.bps_out,
    ]
    .map(|value| counter(value, exact))
    .concat()
}

/// The five columns of a server; the first three are never abbreviated.
pub fn server_columns(rates: &Rates, exact: bool) -> String {
    let whole = [rates.cps, rates.pps_in, rates.pps_out];
    let scaled = [rates.bps_in, rates.bps_out];
    whole.map(|value| format!(" {value:>8}")).concat()
        + &scaled.map(|value| counter(value, exact)).concat()
}
