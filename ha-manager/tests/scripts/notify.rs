//! Who is told of changes, in which order, and what does not hold up anything.

use std::fs::{File, OpenOptions};
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::time::{Duration, Instant};

use ha_manager::notify::{Notifier, NotifyState};
use nix::fcntl::OFlag;

use crate::support::{Dir, configured, instance, runner_pid, until_async};

const APPEND: &str = "echo \"${0##*/} $*\" >> @/told";

fn notifier(sections: &str) -> Notifier {
    let (config, runner) = configured(sections);
    Notifier::start(&config, runner).unwrap()
}

fn reader(dir: &Dir) -> File {
    let mut options = OpenOptions::new();
    options.read(true).custom_flags(OFlag::O_NONBLOCK.bits());
    options.open(dir.path("fifo")).unwrap()
}

fn text_of(mut fifo: &File) -> String {
    let mut text = vec![0; 1 << 20];
    let mut read = 0;
    while let Ok(length @ 1..) = fifo.read(&mut text[read..]) {
        read += length;
    }
    text.truncate(read);
    String::from_utf8(text).unwrap()
}

#[tokio::test]
async fn scripts_and_fifo_are_told_with_keepalived_s_words() {
    let dir = Dir::new();
    let scripts = |name: &str| {
        let keys = [
            "notify_master",
            "notify_backup",
            "notify_fault",
            "notify_stop",
            "notify",
        ];
        let lines = keys.map(|key| {
            let script = dir.script(&format!("{name}-{key}"), APPEND);
            format!("{key} = [\"{script}\", \"{name}\"]\n")
        });
        lines.concat()
    };
    let fifo = dir.path("fifo");
    let lower = dir.script("a-notify_master_rx_lower_pri", APPEND);
    let lower = format!("notify_master_rx_lower_pri = [\"{lower}\", \"a\"]\n");
    let sections = instance("VI_1", 1, &(scripts("a") + &lower))
        + &instance("VI_2", 2, "priority = 255")
        + &format!(
            "[[vrrp_group]]\nname = \"G1\"\nmembers = [\"VI_1\"]\n{}",
            scripts("g")
        )
        + &format!(
            "[notify]\nfifo = \"{}\"\npriority_changes = true\n",
            fifo.display()
        );
    let notifier = notifier(&sections);
    let reader = reader(&dir);
    notifier.instance(0, NotifyState::Master, 150);
    notifier.rx_lower_prio(0, 150);
    notifier.priority_changed(0, NotifyState::Master, 140);
    notifier.instance(0, NotifyState::Backup, 140);
    notifier.priority_changed(0, NotifyState::Backup, 130);
    notifier.priority_changed(0, NotifyState::Fault, 130);
    notifier.instance(0, NotifyState::Fault, 130);
    let count = || dir.read("told").lines().count();
    until_async("the scripts of the instance", || count() == 7).await;
    notifier.group(0, NotifyState::Fault);
    notifier.instance(7, NotifyState::Master, 1);
    until_async("the scripts of the group", || count() == 9).await;
    notifier.stop().await;
    let told = dir.read("told");
    // It comes when it may.
    let told = told.replacen("a-notify_master_rx_lower_pri a\n", "", 1);
    let (told, stops) = told.split_at(told.match_indices('\n').nth(7).unwrap().0 + 1);
    assert_eq!(
        told,
        "a-notify_master a\n\
         a-notify a INSTANCE VI_1 MASTER 150\n\
         a-notify_backup a\n\
         a-notify a INSTANCE VI_1 BACKUP 140\n\
         a-notify_fault a\n\
         a-notify a INSTANCE VI_1 FAULT 130\n\
         g-notify_fault g\n\
         g-notify g GROUP G1 FAULT 0\n"
    );
    // Instance and group stop side by side.
    let mut stops: Vec<&str> = stops.lines().collect();
    stops.sort_unstable();
    assert_eq!(
        stops,
        [
            "a-notify a INSTANCE VI_1 STOP 130",
            "a-notify_stop a",
            "g-notify g GROUP G1 STOP 0",
            "g-notify_stop g",
        ]
    );
    assert_eq!(
        text_of(&reader),
        "INSTANCE \"VI_1\" MASTER 150\n\
         INSTANCE \"VI_1\" MASTER_RX_LOWER_PRI 150\n\
         INSTANCE \"VI_1\" MASTER_PRIORITY 140\n\
         INSTANCE \"VI_1\" BACKUP 140\n\
         INSTANCE \"VI_1\" BACKUP_PRIORITY 130\n\
         INSTANCE \"VI_1\" FAULT 130\n\
         GROUP \"G1\" FAULT 0\n\
         INSTANCE \"VI_1\" STOP 130\n\
         INSTANCE \"VI_2\" STOP 255\n\
         GROUP \"G1\" STOP 0\n"
    );
}

#[tokio::test]
async fn a_hundred_quick_transitions_are_told_in_their_order() {
    let dir = Dir::new();
    let lines = ["notify_master", "notify_backup", "notify"].map(|key| {
        let script = dir.script(key, APPEND);
        format!("{key} = [\"{script}\"]\n")
    });
    let notifier = notifier(&instance("VI_1", 1, &lines.concat()));
    let begun = Instant::now();
    let mut expected = String::new();
    for number in 0..100 {
        let (state, word) = match number % 2 {
            0 => (NotifyState::Master, "MASTER"),
            _ => (NotifyState::Backup, "BACKUP"),
        };
        notifier.instance(0, state, 100 + number);
        let args = format!("INSTANCE VI_1 {word} {}", 100 + number);
        let specific = word.to_lowercase();
        expected += &format!("notify_{specific} \nnotify {args}\n");
    }
    let taken = begun.elapsed();
    assert!(taken < Duration::from_millis(100), "{taken:?}");
    until_async("all to be told", || dir.read("told").lines().count() == 200).await;
    assert_eq!(dir.read("told"), expected);
}

#[tokio::test]
async fn a_script_that_hangs_ends_in_time_and_holds_up_nobody_else() {
    let dir = Dir::new();
    let hang = dir.script("hang", "trap '' TERM; while :; do sleep 0.1; done");
    let fine = dir.script("fine", APPEND);
    let sections = "[notify]\ntimeout_ms = 100\n".to_owned()
        + &instance(
            "a",
            1,
            &format!("notify_master = [\"{hang}\"]\nnotify = [\"{fine}\"]"),
        )
        + &instance("b", 2, &format!("notify = [\"{fine}\"]"));
    let notifier = notifier(&sections);
    let begun = Instant::now();
    notifier.instance(0, NotifyState::Master, 150);
    notifier.instance(1, NotifyState::Master, 100);
    until_async("the other instance", || dir.read("told").contains(" b ")).await;
    assert_eq!(dir.read("told"), "fine INSTANCE b MASTER 100\n");
    until_async("what comes after", || dir.read("told").contains(" a ")).await;
    // Not only when it has been killed.
    assert!(begun.elapsed() < Duration::from_secs(2));
    let problems: Vec<String> = notifier.problems().into_values().collect();
    let text = format!("notify script {hang} of INSTANCE a: did not end in time");
    assert_eq!(problems, [text]);
}

#[tokio::test]
async fn a_script_that_cannot_be_run_is_a_problem_until_it_can() {
    let dir = Dir::new();
    let path = dir.path("later").to_str().unwrap().to_owned();
    let notifier = notifier(&instance("a", 1, &format!("notify = [\"{path}\"]")));
    notifier.instance(0, NotifyState::Backup, 100);
    until_async("the problem", || !notifier.problems().is_empty()).await;
    let problems: Vec<String> = notifier.problems().into_values().collect();
    let text = format!(
        "notify script {path} of INSTANCE a: {path}: No such file or directory (os error 2)"
    );
    assert_eq!(problems, [text]);
    dir.script("later", "exit 0");
    notifier.instance(0, NotifyState::Master, 100);
    until_async("the problem to be solved", || {
        notifier.problems().is_empty()
    })
    .await;
}

#[tokio::test]
async fn too_many_changes_leave_out_the_oldest() {
    let dir = Dir::new();
    let wait = "until [ -e @/go ]; do sleep 0.05; done\n";
    let script = dir.script("slow", &format!("{wait}{APPEND}"));
    let notifier = notifier(&instance("a", 1, &format!("notify = [\"{script}\"]")));
    for number in 0..1000_u32 {
        notifier.instance(0, NotifyState::Backup, u8::try_from(number % 200).unwrap());
        if number == 0 {
            tokio::task::yield_now().await;
        }
    }
    notifier.instance(0, NotifyState::Master, 201);
    let problems: Vec<String> = notifier.problems().into_values().collect();
    assert!(problems[0].contains("are too slow"), "{problems:?}");
    File::create(dir.path("go")).unwrap();
    until_async("the newest", || dir.read("told").contains("MASTER")).await;
    let told = dir.read("told");
    assert!(told.ends_with("slow INSTANCE a MASTER 201\n"), "{told}");
    let count = told.lines().count();
    assert!((256..=257).contains(&count), "{count}");
}

/// Whoever says all the time to be a lesser master has neither scripts run all the time nor the FIFO
/// filled, and is in the way of no change, also when the script for it hangs.
#[tokio::test]
async fn lesser_masters_are_told_seldom_and_are_in_the_way_of_nothing() {
    let dir = Dir::new();
    let script = dir.script("lower", &format!("{APPEND}\nexec sleep 1000"));
    let any = dir.script("any", APPEND);
    let fifo = dir.path("fifo");
    let keys = format!(
        "advert_ms = 100\nnotify_master_rx_lower_pri = [\"{script}\"]\nnotify = [\"{any}\"]"
    );
    let sections = format!(
        "[notify]\ntimeout_ms = 1500\nfifo = \"{}\"\n",
        fifo.display()
    ) + &instance("a", 1, &keys);
    let notifier = notifier(&sections);
    let reader = reader(&dir);
    let begun = Instant::now();
    notifier.instance(0, NotifyState::Master, 150);
    let lines = || dir.read("told");
    let runs = || lines().matches("lower").count();
    until_async("the first", || {
        notifier.rx_lower_prio(0, 150);
        runs() == 1
    })
    .await;
    notifier.instance(0, NotifyState::Backup, 150);
    until_async("the change, while it runs", || lines().contains("BACKUP")).await;
    assert!(begun.elapsed() < Duration::from_millis(1500));
    until_async("the second", || {
        notifier.rx_lower_prio(0, 150);
        runs() == 2
    })
    .await;
    let taken = begun.elapsed();
    assert!(taken >= Duration::from_secs(1), "{taken:?}");
    // One in half an interval.
    let text = text_of(&reader);
    let told = text.matches("MASTER_RX_LOWER_PRI 150\n").count();
    let most = usize::try_from(taken.as_millis() / 50).unwrap() + 1;
    assert!((2..=most).contains(&told), "{told} of {most}");
    let begun = Instant::now();
    notifier.stop().await;
    assert!(begun.elapsed() < Duration::from_millis(1200));
}

#[tokio::test]
async fn a_fifo_that_nobody_reads_holds_up_nothing() {
    let dir = Dir::new();
    let fifo = dir.path("fifo");
    let section = format!("[notify]\nfifo = \"{}\"\n", fifo.display());
    let notifier = notifier(&(section + &instance("a", 1, "")));
    let begun = Instant::now();
    for _ in 0..20_000 {
        notifier.instance(0, NotifyState::Master, 150);
    }
    let taken = begun.elapsed();
    assert!(taken < Duration::from_secs(2), "{taken:?}");
    let line = "INSTANCE \"a\" MASTER 150\n";
    let kept = text_of(&reader(&dir));
    assert_eq!(kept.len() % line.len(), 0);
    let kept = kept.len() / line.len();
    assert_eq!(
        notifier.lines_dropped(),
        20_000 - u64::try_from(kept).unwrap()
    );
}

#[tokio::test]
async fn a_stop_is_told_within_a_second_whatever_hangs() {
    let dir = Dir::new();
    let hang = dir.script("hang", "echo $$ >> @/pids; exec sleep 1000");
    let fine = dir.script("fine", APPEND);
    let sections = instance(
        "a",
        1,
        &format!("notify_master = [\"{hang}\"]\nnotify_stop = [\"{fine}\", \"a\"]"),
    ) + &instance(
        "b",
        2,
        &format!("notify_stop = [\"{hang}\"]\nnotify = [\"{fine}\"]"),
    ) + &instance("c", 3, &format!("notify = [\"{fine}\"]"));
    let notifier = notifier(&sections);
    notifier.instance(0, NotifyState::Master, 150);
    until_async("the first to hang", || !dir.read("pids").is_empty()).await;
    let runner = runner_pid();
    // These wait behind it, and are left out.
    notifier.instance(0, NotifyState::Master, 150);
    let begun = Instant::now();
    notifier.stop().await;
    let taken = begun.elapsed();
    assert!(taken < Duration::from_millis(1200), "{taken:?}");
    let told = dir.read("told");
    assert!(told.contains("fine a\n"), "{told}");
    assert!(told.contains("fine INSTANCE c STOP 100\n"), "{told}");
    // With the last handle the runner ends what still runs.
    let scripts = dir.pids("pids", 2);
    until_async("all to be gone", || {
        !scripts
            .iter()
            .chain([&runner])
            .any(|pid| crate::support::runs(*pid))
    })
    .await;
}
