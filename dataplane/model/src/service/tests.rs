use super::*;

fn service(text: &str) -> ServiceKey {
    ServiceKey::Address {
        protocol: Protocol::Tcp,
        addr: text.parse().unwrap(),
    }
}

fn rr() -> ServiceSpec {
    ServiceSpec {
        scheduler: Some(Scheduler::Rr),
        flags: ServiceFlags::default(),
        timeout_secs: 0,
        netmask: u32::MAX,
        pe_name: None,
    }
}

fn masq(weight: u32) -> ServerSpec {
    ServerSpec {
        method: ForwardMethod::Masquerading,
        weight,
        upper_threshold: 0,
        lower_threshold: 0,
    }
}

#[test]
fn a_new_server_goes_to_the_front() {
    let mut table = ServiceTable::default();
    let key = service("192.0.2.1:80");
    table.add_service(key, rr()).unwrap();
    table
        .add_server(&key, "10.0.0.1:80".parse().unwrap(), masq(1))
        .unwrap();
    table
        .add_server(&key, "10.0.0.2:80".parse().unwrap(), masq(1))
        .unwrap();
    let order: Vec<_> = table
        .get(&key)
        .unwrap()
        .servers
        .iter()
        .map(|s| s.key.ip())
        .collect();
    assert_eq!(
        order,
        [
            "10.0.0.2".parse::<IpAddr>().unwrap(),
            "10.0.0.1".parse().unwrap()
        ]
    );
}

#[test]
fn a_refused_edit_changes_nothing() {
    let mut table = ServiceTable::default();
    let key = service("192.0.2.1:80");
    table.add_service(key, rr()).unwrap();
    table
        .add_server(&key, "10.0.0.1:80".parse().unwrap(), masq(1))
        .unwrap();
    let before = table.clone();
    let missing = service("192.0.2.9:80");
    let known: SocketAddr = "10.0.0.1:80".parse().unwrap();
    let other: SocketAddr = "10.0.0.9:80".parse().unwrap();
    assert_eq!(table.add_service(key, rr()), Err(EditError::ServiceExists));
    assert_eq!(
        table.edit_service(&missing, rr()),
        Err(EditError::NoSuchService)
    );
    assert_eq!(
        table.delete_service(&missing),
        Err(EditError::NoSuchService)
    );
    assert_eq!(
        table.add_server(&missing, known, masq(1)),
        Err(EditError::NoSuchService)
    );
    assert_eq!(
        table.add_server(&key, known, masq(1)),
        Err(EditError::ServerExists)
    );
    assert_eq!(
        table.edit_server(&key, other, masq(1)),
        Err(EditError::NoSuchServer)
    );
    assert_eq!(
        table.delete_server(&key, other),
        Err(EditError::NoSuchServer)
    );
    let odd = ServerSpec {
        lower_threshold: 2,
        ..masq(1)
    };
    assert!(matches!(
        table.edit_server(&key, known, odd),
        Err(EditError::OutOfRange(_))
    ));
    for addr in ["224.0.0.5:80", "255.255.255.255:80", "0.0.0.0:80"] {
        let refused = table.add_server(&key, addr.parse().unwrap(), masq(1));
        assert!(matches!(refused, Err(EditError::Invalid(_))), "{addr}");
    }
    assert_eq!(table, before);
}

#[test]
fn what_is_not_there_yet_is_refused_by_name() {
    let persistent = ServiceSpec {
        flags: ServiceFlags(ServiceFlags::PERSISTENT),
        ..rr()
    };
    let mut table = ServiceTable::default();
    let refused = table.add_service(service("192.0.2.1:80"), persistent);
    assert_eq!(
        refused,
        Err(EditError::Unsupported(String::from("persistent services")))
    );
    let mh = ServiceSpec {
        scheduler: Some(Scheduler::Mh),
        ..rr()
    };
    let refused = table.add_service(service("192.0.2.1:80"), mh);
    assert_eq!(
        refused,
        Err(EditError::Unsupported(String::from("scheduler mh")))
    );
    assert!(table.services().is_empty());
}
