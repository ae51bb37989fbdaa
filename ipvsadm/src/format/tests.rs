use ipvs_control::Info;
use ipvs_model::entry::ConnEntry;
use ipvs_model::flags::ConnFlags;
use ipvs_model::forward::ForwardMethod;
use ipvs_model::scheduler::Scheduler;
use ipvs_model::service::ServerSpec;
use ipvs_model::stats::{Rates, Stats};
use ipvs_model::sync::{SyncRole, SyncSpec};

use super::list::{View, head, table};
use super::rate::{server_columns, service_columns};
use super::save::{rules, tunnel_info, tunnel_options};
use super::*;
use crate::args::{Tunnel, TunnelChecksum, TunnelType};
use crate::command::Columns;
use crate::names::{FixedNames, Services};

fn service(protocol: Protocol, addr: &str, scheduler: Scheduler) -> ServiceEntry {
    let addr: SocketAddr = addr.parse().unwrap();
    let netmask = if addr.is_ipv6() {
        PREFIX_V6_DEFAULT
    } else {
        NETMASK_V4_DEFAULT
    };
    ServiceEntry {
        key: ServiceKey::Address { protocol, addr },
        spec: ServiceSpec {
            scheduler: Some(scheduler),
            flags: ServiceFlags::default(),
            timeout_secs: 0,
            netmask,
            pe_name: None,
        },
        stats: Stats::default(),
        rates: Rates::default(),
        servers: Vec::new(),
    }
}

fn persistent(mut service: ServiceEntry, secs: u32, flags: u32) -> ServiceEntry {
    service.spec.flags.0 |= ServiceFlags::PERSISTENT | flags;
    service.spec.timeout_secs = secs;
    service
}

fn server(
    addr: &str,
    method: ForwardMethod,
    weight: u32,
    active: u32,
    inactive: u32,
) -> ServerEntry {
    ServerEntry {
        key: addr.parse().unwrap(),
        spec: ServerSpec {
            method,
            weight,
            upper_threshold: 0,
            lower_threshold: 0,
        },
        active,
        inactive,
        persistent: 0,
        stats: Stats::default(),
        rates: Rates::default(),
        local: false,
    }
}

fn body(services: &[ServiceEntry], columns: Columns, names: NamesOrNumbers<'_>) -> String {
    let text = table(
        services,
        &View {
            columns,
            names,
            exact: false,
        },
    );
    text.splitn(3, '\n').nth(2).unwrap().into()
}

#[test]
fn service_lines_show_what_is_not_the_default() {
    let mut tcp = persistent(
        service(Protocol::Tcp, "192.0.2.100:443", Scheduler::Wrr),
        300,
        0,
    );
    tcp.servers.push(server(
        "10.0.0.1:443",
        ForwardMethod::DirectRouting,
        100,
        100_000_000,
        3,
    ));
    let sh = service(Protocol::Udp, "192.0.2.100:5060", Scheduler::Sh);
    let mut sh = persistent(sh, 360, ServiceFlags::SCHED1 | ServiceFlags::SCHED2);
    sh.spec.netmask = 0xffff_ff00;
    sh.spec.pe_name = Some("sip".into());
    let mh = service(Protocol::Sctp, "192.0.2.100:0", Scheduler::Mh);
    let mh = persistent(mh, 60, ServiceFlags::SCHED1);
    let long = "[2001:db8:aaaa:bbbb:cccc:dddd:eeee:ffff]:443";
    let mut v6 = persistent(service(Protocol::Tcp, long, Scheduler::Rr), 60, 0);
    v6.spec.netmask = 64;
    v6.servers.push(server(
        "[2001:db8:aaaa:bbbb:cccc:dddd:eeee:1]:443",
        ForwardMethod::Masquerading,
        1,
        9,
        3,
    ));
    let mut fwmark = persistent(service(Protocol::Tcp, "[::]:0", Scheduler::Lc), 360, 0);
    fwmark.key = ServiceKey::Fwmark {
        mark: 2,
        ipv6: true,
    };
    let expected = "\
TCP  192.0.2.100:443 wrr persistent 300
  -> 10.0.0.1:443                 Route   100    100000000  3         
UDP  192.0.2.100:5060 sh (sh-fallback,sh-port) persistent 360 mask 255.255.255.0 pe sip
SCTP 192.0.2.100:0 mh (mh-fallback) persistent 60
TCP  [2001:db8:aaaa:bbbb:cccc:dddd:eeee:ffff]:443 rr persistent 60 mask 64
  -> [2001:db8:aaaa:bbbb:cccc:dddd:eeee:1]:443 Masq    1      9          3         
FWM  2 IPv6 lc persistent 360
";
    let services = [tcp, sh, mh, v6, fwmark];
    assert_eq!(body(&services, Columns::Plain, None), expected);
    let saved = "\
-A -t 192.0.2.100:443 -s wrr -p 300
-a -t 192.0.2.100:443 -r 10.0.0.1:443 -g -w 100
-A -u 192.0.2.100:5060 -s sh -p 360 -M 255.255.255.0 --pe sip -b sh-fallback,sh-port
-A --sctp-service 192.0.2.100:0 -s mh -p 60 -b mh-fallback
-A -t [2001:db8:aaaa:bbbb:cccc:dddd:eeee:ffff]:443 -s rr -p 60 -M 64
-a -t [2001:db8:aaaa:bbbb:cccc:dddd:eeee:ffff]:443 -r [2001:db8:aaaa:bbbb:cccc:dddd:eeee:1]:443 -m -w 1
-A -f 2 -6 -s lc -p 360
";
    assert_eq!(rules(&services, None), saved);
}

#[test]
fn the_head_names_version_and_table_size() {
    let info = Info {
        version: 0x01_02_01,
        conn_table_size: 4096,
    };
    assert_eq!(head(&info), "IP Virtual Server version 1.2.1 (size=4096)\n");
}

#[test]
fn fwmarks_are_printed_as_signed_numbers_and_a_missing_scheduler_as_none() {
    let mut entry = service(Protocol::Tcp, "0.0.0.0:0", Scheduler::Rr);
    entry.key = ServiceKey::Fwmark {
        mark: u32::MAX,
        ipv6: false,
    };
    entry.spec.scheduler = None;
    assert_eq!(body(&[entry], Columns::Plain, None), "FWM  -1 none\n");
}

#[test]
fn long_ipv4_names_are_cut_to_their_column() {
    let name = "a-host-with-a-very-long-name.example.org";
    let names = FixedNames {
        hosts: vec![("192.0.2.1".parse().unwrap(), vec![name.into()])],
        services: Services::parse("http 80/tcp\n"),
    };
    let mut entry = service(Protocol::Tcp, "192.0.2.1:80", Scheduler::Rr);
    entry
        .servers
        .push(server("192.0.2.1:80", ForwardMethod::Masquerading, 1, 0, 0));
    assert_eq!(
        body(&[entry.clone()], Columns::Stats, Some(&names)),
        "TCP  a-host-with-a-very-long-name        0        0        0        0        0\n  \
           -> a-host-with-a-very-long-name        0        0        0        0        0\n"
    );
    assert_eq!(
        rules(&[entry], Some(&names)).lines().next().unwrap(),
        format!("-A -t {name}:http -s rr")
    );
}

#[test]
fn a_local_server_is_shown_as_local() {
    let mut entry = service(Protocol::Tcp, "192.0.2.1:80", Scheduler::Rr);
    let mut local = server("192.0.2.1:80", ForwardMethod::DirectRouting, 1, 0, 0);
    local.local = true;
    entry.servers.push(local);
    let text = body(&[entry], Columns::Plain, None);
    assert!(
        text.ends_with("  -> 192.0.2.1:80                 Local   1      0          0         \n")
    );
}

#[test]
fn services_and_servers_sort_by_number() {
    let mut services: Vec<ServiceEntry> = [
        (Protocol::Udp, "10.0.0.1:53"),
        (Protocol::Tcp, "255.255.255.255:1"),
        (Protocol::Tcp, "[::1]:1"),
        (Protocol::Tcp, "10.0.0.1:443"),
        (Protocol::Tcp, "10.0.0.1:80"),
        (Protocol::Tcp, "9.0.0.1:80"),
        (Protocol::Sctp, "1.0.0.1:1"),
    ]
    .into_iter()
    .map(|(protocol, addr)| service(protocol, addr, Scheduler::Rr))
    .collect();
    for (mark, ipv6) in [(12, false), (3, true), (3, false)] {
        let mut fwmark = service(Protocol::Tcp, "0.0.0.0:0", Scheduler::Rr);
        fwmark.key = ServiceKey::Fwmark { mark, ipv6 };
        services.push(fwmark);
    }
    for addr in [
        "[::1]:1",
        "200.0.0.1:80",
        "10.0.0.10:80",
        "10.0.0.9:81",
        "10.0.0.9:80",
    ] {
        services[4]
            .servers
            .push(server(addr, ForwardMethod::Tunnelling, 1, 0, 0));
    }
    let text = rules(&sorted(&services), None);
    let order: Vec<&str> = text
        .lines()
        .filter_map(|line| line.split(' ').nth(2))
        .collect();
    let servers: Vec<&str> = text
        .lines()
        .filter(|line| line.starts_with("-a"))
        .filter_map(|line| line.split(' ').nth(4))
        .collect();
    assert_eq!(
        order,
        [
            "9.0.0.1:80",
            "10.0.0.1:80",
            "10.0.0.1:80",
            "10.0.0.1:80",
            "10.0.0.1:80",
            "10.0.0.1:80",
            "10.0.0.1:80",
            "10.0.0.1:443",
            "255.255.255.255:1",
            "10.0.0.1:53",
            "1.0.0.1:1",
            "[::1]:1",
            "3",
            "3",
            "12",
        ]
    );
    assert_eq!(
        servers,
        [
            "10.0.0.9:80",
            "10.0.0.9:81",
            "10.0.0.10:80",
            "200.0.0.1:80",
            "[::1]:1"
        ]
    );
}

#[test]
fn tunnels_are_named_by_type_port_and_checksum() {
    for (kind, checksum, info, options) in [
        (
            TunnelType::Ipip,
            TunnelChecksum::None,
            "ipip",
            " --tun-type ipip",
        ),
        (
            TunnelType::Gue,
            TunnelChecksum::Full,
            "gue:6080:+c",
            " --tun-type gue --tun-port 6080 --tun-csum",
        ),
        (
            TunnelType::Gue,
            TunnelChecksum::Remote,
            "gue:6080:r+c",
            " --tun-type gue --tun-port 6080 --tun-remcsum",
        ),
        (
            TunnelType::Gre,
            TunnelChecksum::None,
            "gre:-c",
            " --tun-type gre --tun-nocsum",
        ),
    ] {
        let tunnel = Tunnel {
            kind,
            port: 6080,
            checksum,
        };
        assert_eq!(tunnel_info(&tunnel), info);
        assert_eq!(tunnel_options(&tunnel), options);
    }
}

#[test]
fn the_rates_of_a_server_are_abbreviated_only_in_bytes() {
    let rates = Rates {
        cps: 200_000_000,
        pps_in: 1,
        pps_out: 2,
        bps_in: 200_000_000,
        bps_out: 4,
    };
    assert_eq!(
        service_columns(&rates, false),
        "  200000K        1        2  200000K        4"
    );
    assert_eq!(
        server_columns(&rates, false),
        " 200000000        1        2  200000K        4"
    );
    assert_eq!(
        rate::title(),
        "Prot LocalAddress:Port                 CPS    InPPS   OutPPS    InBPS   OutBPS\n"
    );
}

#[test]
fn a_sync_daemon_shows_what_the_director_reports() {
    let mut spec = SyncSpec {
        interface: "eth0".into(),
        sync_id: 51,
        maxlen: 1472,
        group: Some("224.0.0.81".parse().unwrap()),
        port: 8848,
        ttl: 1,
    };
    assert_eq!(
        daemon::line(SyncRole::Master, &spec),
        "master sync daemon (mcast=eth0, syncid=51, maxlen=1472, group=224.0.0.81, port=8848, ttl=1)\n"
    );
    spec.group = Some("ff05::81".parse().unwrap());
    (spec.maxlen, spec.port, spec.ttl) = (0, 0, 0);
    assert_eq!(
        daemon::line(SyncRole::Backup, &spec),
        "backup sync daemon (mcast=eth0, syncid=51, group=ff05::81)\n"
    );
}

#[test]
fn connections_and_templates_have_their_rows() {
    let mut entry = ConnEntry {
        protocol: 6,
        client: "192.0.2.3:40000".parse().unwrap(),
        virt: "192.0.2.100:80".parse().unwrap(),
        dest: "10.0.0.1:80".parse().unwrap(),
        flags: ConnFlags::default(),
        state: 1,
        expires_secs: 899,
        in_pkts: 1,
        controls: 0,
        fwmark: 0,
        bound: true,
        pe: None,
    };
    assert_eq!(
        connections::row(&entry, None),
        "TCP 14:59  ESTABLISHED 192.0.2.3:40000    192.0.2.100:80     10.0.0.1:80\n"
    );
    entry.protocol = 0;
    entry.flags.0 |= ConnFlags::TEMPLATE;
    entry.virt = "0.0.0.7:0".parse().unwrap();
    entry.expires_secs = 6005;
    assert_eq!(
        connections::row(&entry, None),
        "IP  100:05  ASSURED     192.0.2.3:40000    0.0.0.7:0          10.0.0.1:80\n"
    );
    // As recorded: a template of an IPv6 service by mark 9, and an SCTP association.
    entry.client = "[fd00:100::]:0".parse().unwrap();
    entry.virt = "[0:9::]:0".parse().unwrap();
    entry.dest = "[fd00:200::19]:0".parse().unwrap();
    (entry.state, entry.expires_secs) = (0, 296);
    assert_eq!(
        connections::row(&entry, None),
        "IP  04:56  NONE        [fd00:100::]:0     [0:9::]:0          [fd00:200::19]:0\n"
    );
    entry.flags = ConnFlags::default();
    entry.protocol = 132;
    entry.client = "10.100.0.10:40161".parse().unwrap();
    entry.virt = "10.50.0.1:9".parse().unwrap();
    entry.dest = "10.200.0.16:9".parse().unwrap();
    (entry.state, entry.expires_secs) = (8, 895);
    assert_eq!(
        connections::row(&entry, None),
        "SCTP 14:55  ESTABLISHED 10.100.0.10:40161  10.50.0.1:9        10.200.0.16:9\n"
    );
    assert_eq!(
        connections::title(true),
        "IPVS connection entries\npro expire state       source             virtual            \
         destination        pe name          pe_data\n"
    );
}

#[test]
fn ipv6_addresses_are_written_as_inet_ntop_does() {
    for text in [
        "::",
        "::1",
        "::0.1.0.2",
        "::ffff:192.0.2.7",
        "2001:db8::1:0:0:1",
        "1:0:2:3:4:5:6:7",
    ] {
        assert_eq!(address(text.parse().unwrap()), text);
    }
}
