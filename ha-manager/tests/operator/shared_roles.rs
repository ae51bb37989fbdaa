//! Two virtual routers on each director, one active on either: both sync daemons on both.

use std::time::Duration;

use crate::host::{Host, wait_for};
use crate::lan::{Lan, SERVICES, VIPS, configs, daemons, instance, states};
use crate::node::{MOVED, problems};

fn sections(first: u8, second: u8) -> String {
    format!("{}{}", instance(0, first), instance(1, second))
}

#[test]
fn each_director_backs_the_other_and_takes_over_when_it_dies() {
    let host = Host::new();
    let lan = Lan::new();
    let (own, others, other) = configs(&host, [&sections(100, 90), &sections(90, 100)]);
    let first = host.start(&own);
    let second = host.start_at(&lan.second, &others);
    for line in SERVICES {
        host.admin(line);
        host.admin_at(&other, line);
    }
    wait_for("one each", || {
        states(&host.status()) == ["master", "backup"]
            && states(&host.status_at(&other)) == ["backup", "master"]
    });
    // Both roles at once, on both.
    for status in [host.status(), host.status_at(&other)] {
        assert_eq!(status["role"], "active");
        assert_eq!(daemons(&status), ["master/role", "backup/role"]);
        assert_eq!(status["problems"], serde_json::json!([]));
        assert_eq!(status["directing"], "yes");
    }
    let conversations = VIPS.map(|vip| lan.connect(vip));
    let [of_first, of_second] = conversations.each_ref().map(|it| it.client());
    wait_for("copies both ways", || {
        host.admin("-L -n -c").contains(&of_second)
            && host.admin_at(&other, "-L -n -c").contains(&of_first)
    });

    second.kill();
    wait_for("the first has both", || {
        states(&host.status()) == ["master", "master"]
    });
    wait_for("nobody is left to hear", || {
        daemons(&host.status()) == ["master/role"]
    });
    for conversation in &conversations {
        conversation.goes_on();
    }
    // What the killed one left behind goes when it comes back, and then its own role does.
    let second = host.start_at(&lan.second, &others);
    wait_for("one each again", || {
        states(&host.status()) == ["master", "backup"]
            && states(&host.status_at(&other)) == ["backup", "master"]
    });
    assert_eq!(daemons(&host.status()), ["master/role", "backup/role"]);
    for conversation in conversations {
        conversation.goes_on();
        let longest = conversation.end();
        println!("longest exchange {longest:?}");
        assert!(longest < Duration::from_secs(5), "{longest:?}");
    }
    let (ended, log) = first.stop();
    assert!(ended.success());
    // The whole node leaves in step: no address goes before priority 0 of all has been sent.
    assert!(log.contains("takes no part"), "{log}");
    wait_for("the second has both", || {
        states(&host.status_at(&other)) == ["master", "master"]
    });
    drop(second);
}

/// As in the kernel `backup_only` gates a node while its sync backup runs, active or not: an operator
/// has to know.
#[test]
fn backup_only_on_an_active_node_is_a_problem() {
    let host = Host::new();
    let vrrp = [
        &format!("[sysctl]\nbackup_only = 1\n{}", sections(100, 90)),
        &sections(90, 100),
    ];
    let lan = Lan::new();
    let (own, others, _) = configs(&host, [vrrp[0], vrrp[1]]);
    let first = host.start(&own);
    let second = host.start_at(&lan.second, &others);
    wait_for("one each", || {
        states(&host.status()) == ["master", "backup"]
    });
    let problem = "backup_only = 1 keeps this node from directing requests although it is active: a \
                   sync backup runs too";
    wait_for(problem, || problems(&host).contains(&problem.to_owned()));
    assert_eq!(host.status()["directing"], "replies-only");
    second.kill();
    wait_for("both roles", || {
        states(&host.status()) == ["master", "master"]
    });
    wait_for("it directs", || {
        host.status()["directing"] == "yes" && problems(&host).is_empty()
    });
    drop(first);
}

/// It is carried out, said to be manual, and ends with the next change of role.
#[test]
fn a_sync_daemon_started_by_hand_lasts_until_the_role_changes() {
    let host = Host::new();
    let lan = Lan::new();
    let (own, others, other) = configs(&host, [&instance(0, 100), &instance(0, 90)]);
    let first = host.start(&own);
    wait_for("active", || host.status()["role"] == "active");
    let second = host.start_at(&lan.second, &others);
    let of_other = || daemons(&host.status_at(&other));
    wait_for("its role's", || of_other() == ["backup/role"]);
    host.admin_at(
        &other,
        "--start-daemon master --mcast-interface lan1 --syncid 7",
    );
    assert_eq!(of_other(), ["master/manual", "backup/role"]);
    host.admin_at(&other, "--stop-daemon backup");
    assert_eq!(of_other(), ["master/manual"]);
    second.logs(&["sync daemon stopped by hand, until the next change of role"]);
    first.kill();
    wait_for("the role's own", || of_other() == ["master/role"]);
    let status = host.status_at(&other);
    assert_eq!(status["role"], "active");
    assert_eq!(status["sync"][0]["sync_id"], 51);
    assert_eq!(
        status["vrrp"][0]["vips"][0]["address"],
        format!("{MOVED}/32")
    );
    drop(second);
}
