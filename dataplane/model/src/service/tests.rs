use alloc::vec;

use super::*;

const KEY: &str = "192.0.2.1:80";

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

fn addr(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

#[test]
fn a_new_server_goes_to_the_front() {
    let mut service = Service::new(service(KEY), rr()).unwrap();
    service.add_server(addr("10.0.0.1:80"), masq(1)).unwrap();
    service.add_server(addr("10.0.0.2:80"), masq(1)).unwrap();
    let order: Vec<_> = service.servers.iter().map(|server| server.key).collect();
    assert_eq!(order, vec![addr("10.0.0.2:80"), addr("10.0.0.1:80")]);
}

#[test]
fn a_refused_edit_changes_nothing() {
    let mut service = Service::new(service(KEY), rr()).unwrap();
    let (known, other) = (addr("10.0.0.1:80"), addr("10.0.0.9:80"));
    service.add_server(known, masq(1)).unwrap();
    let before = service.clone();
    assert_eq!(
        service.add_server(known, masq(1)),
        Err(EditError::ServerExists)
    );
    assert_eq!(
        service.edit_server(other, masq(1)),
        Err(EditError::NoSuchServer)
    );
    assert_eq!(service.delete_server(other), Err(EditError::NoSuchServer));
    let odd = ServerSpec {
        lower_threshold: 2,
        ..masq(1)
    };
    assert!(matches!(
        service.edit_server(known, odd),
        Err(EditError::OutOfRange(_))
    ));
    let engine = ServiceSpec {
        pe_name: Some(String::from("sip")),
        ..rr()
    };
    assert!(matches!(
        service.edit(engine),
        Err(EditError::Unsupported(_))
    ));
    assert_eq!(service, before);
}

#[test]
fn a_server_is_one_host_of_the_services_family() {
    let mut four = Service::new(service(KEY), rr()).unwrap();
    let spec = ServiceSpec {
        netmask: 128,
        ..rr()
    };
    let mut six = Service::new(service("[2001:db8::1]:80"), spec).unwrap();
    for text in [
        "224.0.0.5:80",
        "255.255.255.255:80",
        "0.0.0.0:80",
        "[::9]:80",
    ] {
        let refused = four.add_server(addr(text), masq(1));
        assert!(matches!(refused, Err(EditError::Invalid(_))), "{text}");
    }
    for text in [
        "[ff02::1]:80",
        "[::]:80",
        "[::ffff:10.0.0.1]:80",
        "10.0.0.1:80",
    ] {
        let refused = six.add_server(addr(text), masq(1));
        assert!(matches!(refused, Err(EditError::Invalid(_))), "{text}");
    }
    six.add_server(addr("[fe80::1]:80"), masq(1)).unwrap();
    six.add_server(addr("[::1]:80"), masq(1)).unwrap();
}

#[test]
fn thresholds_stay_within_the_kernels_numbers() {
    let mut service = Service::new(service(KEY), rr()).unwrap();
    let limits = |upper, lower| ServerSpec {
        upper_threshold: upper,
        lower_threshold: lower,
        ..masq(1)
    };
    let server = addr("10.0.0.1:80");
    let refused = service.add_server(server, limits(3, 4));
    assert!(matches!(refused, Err(EditError::OutOfRange(_))));
    let refused = service.add_server(server, limits(WEIGHT_MAX + 1, 0));
    assert!(matches!(refused, Err(EditError::Invalid(_))));
    service.add_server(server, limits(WEIGHT_MAX, 3)).unwrap();
}

#[test]
fn every_kind_of_service_is_taken() {
    for scheduler in Scheduler::ALL {
        let spec = ServiceSpec {
            scheduler: Some(*scheduler),
            flags: ServiceFlags(ServiceFlags::PERSISTENT | ServiceFlags::ONEPACKET),
            timeout_secs: 360,
            netmask: 64,
            pe_name: None,
        };
        let marks = [false, true].map(|ipv6| ServiceKey::Fwmark { mark: 7, ipv6 });
        let addresses = [KEY, "192.0.2.1:0", "[2001:db8::1]:0"].map(service);
        for key in marks.into_iter().chain(addresses) {
            Service::new(key, spec.clone()).unwrap();
        }
    }
}

#[test]
fn what_no_director_knows_is_refused_as_in_the_kernel() {
    let engine = ServiceSpec {
        pe_name: Some(String::from("h323")),
        ..rr()
    };
    let refused = Service::new(service(KEY), engine);
    assert_eq!(refused, Err(EditError::NoSuchScheduler));
    let refused = Service::new(service("[2001:db8::1]:80"), rr());
    assert!(matches!(refused, Err(EditError::Invalid(_))));
    let mark = ServiceKey::Fwmark {
        mark: 0,
        ipv6: false,
    };
    assert!(matches!(
        Service::new(mark, rr()),
        Err(EditError::Invalid(_))
    ));
}

#[test]
fn what_is_not_there_yet_is_refused_by_name() {
    let mut service = Service::new(service(KEY), rr()).unwrap();
    let tunnel = ServerSpec {
        method: ForwardMethod::Tunnelling,
        ..masq(1)
    };
    assert_eq!(
        service.add_server(addr("10.0.0.1:80"), tunnel),
        Err(EditError::Unsupported(String::from("tunnelling")))
    );
}
