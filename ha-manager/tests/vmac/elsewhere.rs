//! What a director with a virtual MAC says is heard on other interfaces of its node as well, and its threads.

use std::fs;

use nix::unistd::gettid;
use serde_json::json;

use crate::lan::{Lan, ip, wait_for};

#[test]
fn what_a_node_says_itself_is_no_split_brain_where_it_hears_it() {
    let lan = Lan::new();
    let tid = lan.a.run(gettid);
    ip(&format!(
        "link add dira2 type veth peer name eth1 netns {tid}"
    ));
    ip("link set dira2 master br0 up");
    lan.a.ip("addr add 198.51.100.1/24 dev eth1");
    lan.a.ip("link set eth1 up");
    // With announcements all the time, so that some come after it counts as settled.
    let _director = lan.a.direct(
        "[[vrrp]]\nname = \"VI_1\"\ninterface = \"eth0\"\nvrid = 51\nadvert_ms = 100\npriority = 150\n\
         vmac = true\nvips = [\"192.0.2.100/24\"]\ngarp_refresh_ms = 1000",
    );
    lan.a.becomes("active");
    let counter = |name: &str| {
        let status = lan.a.status();
        status["vrrp"][0]["counters"][name].as_u64().unwrap()
    };
    wait_for("its own announcements on eth1", || {
        counter("claims_elsewhere") > 20
    });
    assert_eq!(counter("claims_heard"), 0);
    assert_eq!(lan.a.status()["split_brain"], json!([]));
}

/// Also those that wait for the kernel while macvlans are made, which is before privileges are given up.
#[test]
fn no_thread_keeps_privileges_that_the_director_does_not_need() {
    let lan = Lan::new();
    let director = lan.a.direct(
        "[[vrrp]]\nname = \"VI_1\"\ninterface = \"eth0\"\nvrid = 51\nadvert_ms = 100\npriority = 150\n\
         vmac = true\nvips = [\"192.0.2.100/24\"]",
    );
    let pid = director.pid();
    let privileges = |task: &str| {
        // A thread may end while it is looked at.
        let status = fs::read_to_string(format!("/proc/{pid}/task/{task}/status")).ok()?;
        let line = status.lines().find(|line| line.starts_with("CapPrm:"))?;
        u64::from_str_radix(line.split_whitespace().nth(1)?, 16).ok()
    };
    let needed = privileges(&pid.to_string()).unwrap();
    assert_ne!(needed, 0);
    // CAP_NET_RAW, which the election's threads have.
    let needed = needed | 1 << 13;
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    for task in tasks.map(|task| task.unwrap().file_name().into_string().unwrap()) {
        let kept = privileges(&task).unwrap_or_default();
        assert_eq!(
            kept & !needed,
            0,
            "thread {task}: {kept:x}, needed {needed:x}"
        );
    }
}
