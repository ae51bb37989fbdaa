use super::*;

#[test]
fn every_shipped_scenario_parses_under_its_own_name() {
    for (name, text) in SHIPPED {
        assert_eq!(Scenario::parse(text).unwrap().name, name);
    }
}

#[test]
fn unknown_keys_are_refused_at_every_level() {
    for line in [
        "titel = \"x\"",
        "[director]\nlease = 1",
        "[[loads]]\nbytes = 1",
    ] {
        let standard = include_str!("../../scenarios/balance.toml");
        let spoilt = match line.split_once('\n') {
            Some((table, key)) => standard.replacen(table, &format!("{table}\n{key}"), 1),
            None => format!("{line}\n{standard}"),
        };
        let error = format!("{:#}", Scenario::parse(&spoilt).unwrap_err());
        assert!(error.contains("unknown field"), "{line}: {error}");
    }
}

#[test]
fn an_unknown_key_of_a_step_is_refused() {
    let step: Result<Step, _> = toml::from_str("do = \"hold\"\nms = 1\nwhy = \"x\"");
    assert!(step.unwrap_err().to_string().contains("unknown field"));
}

#[test]
fn a_load_on_a_service_that_is_not_there_is_refused() {
    let standard = include_str!("../../scenarios/balance.toml");
    let spoilt = standard.replace("service = \"web\"", "service = \"wbe\"");
    assert!(
        Scenario::parse(&spoilt)
            .unwrap_err()
            .to_string()
            .contains("no service wbe")
    );
}

#[test]
fn a_bound_without_a_limit_is_refused() {
    let standard = include_str!("../../scenarios/balance.toml");
    let spoilt = format!("{standard}\n[[bounds]]\nfigure = \"x\"\nwhy = \"y\"\n");
    assert!(
        Scenario::parse(&spoilt)
            .unwrap_err()
            .to_string()
            .contains("no limit")
    );
}
