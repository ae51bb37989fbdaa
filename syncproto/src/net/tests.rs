use super::*;

#[test]
fn what_is_no_interface_or_no_group_is_named() {
    let missing = NetConfig {
        interface: "nowhere0".to_owned(),
        ..config()
    };
    let message = "interface nowhere0 does not exist";
    assert_eq!(master_sockets(&missing).unwrap_err().to_string(), message);
    assert_eq!(backup_socket(&missing).unwrap_err().to_string(), message);
    assert_eq!(interface_mtu("nowhere0").unwrap_err().to_string(), message);
    let unicast = NetConfig {
        group: "10.0.0.1".parse().unwrap(),
        ..config()
    };
    let message = "10.0.0.1 is not a multicast group";
    assert_eq!(master_sockets(&unicast).unwrap_err().to_string(), message);
    assert_eq!(backup_socket(&unicast).unwrap_err().to_string(), message);
}

#[test]
fn what_can_be_no_peer_is_named() {
    let many: Vec<String> = (1..18).map(|last| format!("192.0.2.{last}")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    let cases: [(&[&str], &str); 7] = [
        (
            &["192.0.2.1", "2001:db8::1"],
            "peers are of two families: 192.0.2.1 and 2001:db8::1",
        ),
        (
            &["224.0.0.1"],
            "peer 224.0.0.1 is not the address of another host",
        ),
        (
            &["255.255.255.255"],
            "peer 255.255.255.255 is not the address of another host",
        ),
        (&["::"], "peer :: is not the address of another host"),
        (
            &["::ffff:192.0.2.1"],
            "peer ::ffff:192.0.2.1 is not the address of another host",
        ),
        (
            &["127.0.0.1"],
            "peer 127.0.0.1 is not the address of another host",
        ),
        (&many, "17 peers are more than 16"),
    ];
    for (peers, message) in cases {
        let config = NetConfig {
            peers: peers.iter().map(|peer| peer.parse().unwrap()).collect(),
            ..config()
        };
        assert_eq!(master_sockets(&config).unwrap_err().to_string(), message);
        assert_eq!(backup_socket(&config).unwrap_err().to_string(), message);
    }
}

#[test]
fn a_failed_step_says_what_was_tried() {
    let error = step("bind", "10.0.0.1:8848")(io::Error::from_raw_os_error(libc::EADDRINUSE));
    let said = error.to_string();
    assert!(said.starts_with("cannot bind (10.0.0.1:8848): "), "{said}");
}

#[test]
fn the_mtu_of_an_interface_is_what_the_kernel_says() {
    let mtu = std::fs::read_to_string("/sys/class/net/lo/mtu").unwrap();
    let mtu: u32 = mtu.trim().parse().unwrap();
    assert_eq!(interface_mtu("lo").unwrap(), mtu);
}

fn config() -> NetConfig {
    NetConfig {
        interface: "lo".to_owned(),
        group: crate::limits::DEFAULT_GROUP.into(),
        peers: Vec::new(),
        port: crate::limits::DEFAULT_PORT,
        ttl: crate::limits::DEFAULT_TTL,
        sock_size: 0,
    }
}
