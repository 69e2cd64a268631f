use std::io::Write as _;
use std::process::Command;

use super::*;

/// What the chart's container has: exactly the three.
const THREE: &str = "Name:\tztunnel\nCapPrm:\t0000000000203000\nCapEff:\t0000000000203000\nCapAmb:\t0\n";

#[test]
fn capabilities_are_read_and_named() {
    let missing = |status: &str| Capabilities::effective(status).map(|set| set.missing().to_string());
    let everything = THREE.replace("CapEff:\t0000000000203000", "CapEff:\t000001ffffffffff");
    for status in [THREE, &everything] {
        assert_eq!(missing(status).as_deref(), Some(""));
    }
    for (without, named) in [
        ("0000000000202000", "NET_ADMIN (to mark sockets)"),
        ("0000000000201000", "NET_RAW (to keep original source addresses)"),
        ("0000000000003000", "SYS_ADMIN (to enter the pods' network namespaces)"),
        (
            "00000000a80425fb",
            "NET_ADMIN (to mark sockets), SYS_ADMIN (to enter the pods' network namespaces)",
        ),
    ] {
        let status = THREE.replace("CapEff:\t0000000000203000", &format!("CapEff:\t{without}"));
        assert_eq!(missing(&status).as_deref(), Some(named), "{without}");
    }
    for nonsense in ["", "CapPrm:\t0000000000203000\n", "CapEff:\t\n", "CapEff:\tall\n", "CapEff:\t-1\n"] {
        assert_eq!(Capabilities::effective(nonsense), None, "{nonsense:?}");
    }
}

#[test]
fn only_the_machines_own_user_namespace_is_initial() {
    assert!(is_initial("         0          0 4294967295\n"));
    for map in [
        "",
        "         0       1000          1\n",
        "         0     100000      65536\n",
        "         0          0      65536\n",
        "         0          0 4294967295\n         1 1 1\n",
    ] {
        assert!(!is_initial(map), "{map:?}");
    }
}

#[test]
fn the_memory_is_private_and_the_process_still_knows_itself() {
    keep_memory_private();
    let limit = rustix::process::getrlimit(Resource::Core);
    assert_eq!((limit.current, limit.maximum), (Some(0), Some(0)));
    let undumpable = rustix::process::dumpable_behavior().unwrap() == DumpableBehavior::NotDumpable;
    assert_eq!(undumpable, rustix::process::geteuid().is_root());
    assert!(std::fs::read_dir("/proc/self/fd").unwrap().count() > 0);
    Namespace::current().unwrap();
    for file in [UID_MAP, STATUS] {
        read(file).unwrap();
    }
}

/// Started by the tests below with other privileges than theirs: says what the check says.
#[test]
#[ignore = "a part of other tests"]
fn checked_by_another_process() {
    let said = check().map_or_else(|error| error.to_string(), |()| "all is well".to_owned());
    println!("checked: {said}");
}

/// What [`check`] says when this very program is started through another one that takes privileges away.
fn checked_through(wrapper: &[&str]) -> String {
    let [program, arguments @ ..] = wrapper else { panic!("no program") };
    let output = Command::new(program)
        .args(arguments)
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "privileges::tests::checked_by_another_process", "--ignored", "--nocapture"])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    let line = said.lines().find_map(|line| line.split_once("checked: "));
    line.unwrap_or_else(|| panic!("{wrapper:?}: {output:?}")).1.to_owned()
}

/// Whether privileges can be taken away here. Says so if not, and fails in CI, where nothing may be left out.
fn may_drop_privileges() -> bool {
    let tools = ["setpriv", "unshare"].iter().all(|tool| Command::new(tool).arg("--help").output().is_ok());
    let status = read(STATUS).unwrap();
    let whole = is_initial(&read(UID_MAP).unwrap())
        && Capabilities::effective(&status).is_some_and(|set| set.missing() == Capabilities(0));
    if !(tools && whole) {
        // Not by `eprintln`, which the test harness keeps to itself when a test passes.
        let what = "root with all capabilities, setpriv and unshare";
        assert!(std::env::var("CI").as_deref() != Ok("true"), "CI must have {what}");
        writeln!(io::stderr(), "\n*** SKIPPED: taking privileges away needs {what} ***\n").ok();
    }
    tools && whole
}

fn with(capabilities: &str) -> String {
    checked_through(&["setpriv", &format!("--bounding-set=-all{capabilities}")])
}

#[test]
fn three_capabilities_are_enough_and_each_is_missed() {
    if !may_drop_privileges() {
        return;
    }
    assert_eq!(with(",+net_admin,+net_raw,+sys_admin"), "all is well");
    for (rest, missed) in [
        (",+net_raw,+sys_admin", "NET_ADMIN (to mark sockets)"),
        (",+net_admin,+sys_admin", "NET_RAW (to keep original source addresses)"),
        (",+net_admin,+net_raw", "SYS_ADMIN (to enter the pods' network namespaces)"),
    ] {
        let expected =
            format!("missing {missed}; run as root, with these under securityContext.capabilities.add");
        assert_eq!(with(rest), expected);
    }
    let none = with("");
    assert!(["NET_ADMIN", "NET_RAW", "SYS_ADMIN"].iter().all(|name| none.contains(name)), "{none}");
}

#[test]
fn a_user_namespace_is_refused_whatever_it_seems_to_allow() {
    if !may_drop_privileges() {
        return;
    }
    for wrapper in [&["unshare", "--user", "--map-root-user"][..], &["unshare", "-Urn"]] {
        let said = checked_through(wrapper);
        assert!(said.contains("user namespace") && said.contains("hostUsers"), "{said}");
    }
}
