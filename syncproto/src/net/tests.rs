use super::*;

#[test]
fn what_is_no_interface_or_no_group_is_named() {
    let missing = NetConfig {
        interface: "nowhere0".to_owned(),
        ..config()
    };
    let message = "interface nowhere0 does not exist";
    assert_eq!(master_socket(&missing).unwrap_err().to_string(), message);
    assert_eq!(backup_socket(&missing).unwrap_err().to_string(), message);
    assert_eq!(interface_mtu("nowhere0").unwrap_err().to_string(), message);
    let unicast = NetConfig {
        group: Ipv4Addr::new(10, 0, 0, 1),
        ..config()
    };
    let message = "10.0.0.1 is not a multicast group";
    assert_eq!(master_socket(&unicast).unwrap_err().to_string(), message);
    assert_eq!(backup_socket(&unicast).unwrap_err().to_string(), message);
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
    assert_eq!(interface_mtu("lo").unwrap(), mtu.trim().parse().unwrap());
}

fn config() -> NetConfig {
    NetConfig {
        interface: "lo".to_owned(),
        group: crate::limits::DEFAULT_GROUP,
        port: crate::limits::DEFAULT_PORT,
        ttl: crate::limits::DEFAULT_TTL,
        sock_size: 0,
    }
}
