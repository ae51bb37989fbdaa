use super::*;

const TCP: u8 = 6;
const CLIENT: Be32 = Be32::from_host(0xcb00_7107);
const NETWORK: Be32 = Be32::from_host(0xcb00_7100);
const DESTINATION: Be32 = Be32::from_host(0xc000_020a);
const NETMASK: u32 = 0xffff_ff00;

const fn port(number: u16) -> Be16 {
    Be16::from_host(number)
}

const fn service(number: u16, fwmark: u32) -> PersistentService {
    PersistentService {
        port: port(number),
        fwmark,
        netmask: NETMASK,
    }
}

fn key(service: PersistentService, number: u16) -> FlowKey<Be32> {
    service.template_key(TCP, CLIENT, DESTINATION, port(number))
}

#[test]
fn the_template_key_of_every_case() {
    let mark = Be32::from_host(7);
    // Service port, fwmark, packet port; virtual address, virtual port, protocol.
    let table = [
        (80, 0, 80, DESTINATION, 80, TCP),
        (21, 0, 21, DESTINATION, 0, TCP),
        (21, 0, 20, DESTINATION, 0, TCP),
        (21, 0, 40_000, DESTINATION, 0, TCP),
        (0, 0, 443, DESTINATION, 0, TCP),
        (0, 7, 443, mark, 0, 0),
        (0, 7, 21, mark, 0, 0),
        (0, 7, 0, DESTINATION, 0, TCP),
    ];
    for (own, fwmark, packet, vaddr, vport, protocol) in table {
        let expected = FlowKey::template(NETWORK, vaddr, port(vport), protocol);
        assert_eq!(
            key(service(own, fwmark), packet),
            expected,
            "{own} {fwmark} {packet}"
        );
    }
}

#[test]
fn a_mark_stands_in_the_first_word_of_an_ipv6_key() {
    let service = PersistentService {
        port: Be16(0),
        fwmark: 0x0102_0304,
        netmask: 64,
    };
    let word = Be32::from_host;
    let client = [word(0x2001_0db8), word(1), word(2), word(3)];
    let key = service.template_key(TCP, client, [word(9); 4], port(80));
    let network = [word(0x2001_0db8), word(1), word(0), word(0)];
    let mark = [word(0x0102_0304), word(0), word(0), word(0)];
    assert_eq!(key, FlowKey::template(network, mark, Be16(0), 0));
}

#[test]
fn the_server_port_of_template_and_connection() {
    // Service port, packet port, server port; port in the template, in the connection.
    let table = [
        (80, 80, 8080, 8080, 8080),
        (80, 80, 0, 0, 80),
        (21, 21, 21, 0, 21),
        (21, 21, 2121, 0, 2121),
        (21, 40_000, 21, 0, 40_000),
        (0, 443, 0, 0, 443),
        (0, 443, 8443, 0, 443),
        (0, 0, 8443, 8443, 8443),
    ];
    for (own, packet, server, template, connection) in table {
        let service = service(own, 0);
        let (packet, server) = (port(packet), port(server));
        let ports = (
            service.template_dport(packet, server),
            service.connection_dport(packet, server),
        );
        let expected = (port(template), port(connection));
        assert_eq!(ports, expected, "{own} {packet:?} {server:?}");
    }
}

#[test]
fn a_client_is_cut_to_its_network() {
    assert_eq!(network(CLIENT, NETMASK), NETWORK);
    assert_eq!(network(CLIENT, u32::MAX), CLIENT);
    // A mask need not be a prefix.
    let odd = network(Be32::from_host(0x0a01_0203), 0xff00_00ff);
    assert_eq!(odd, Be32::from_host(0x0a00_0003));
    let addr = [Be32(u32::MAX); 4];
    for prefix_len in 0..=140u32 {
        let kept = prefix_len.min(128);
        let expected = u128::MAX.checked_shl(128 - kept).unwrap_or(0);
        let found = network(addr, prefix_len)
            .iter()
            .fold(0, |sum, word| sum << 32 | u128::from(word.to_host()));
        assert_eq!(found, expected, "/{prefix_len}");
    }
}
