//! The command line from outside: exit codes, messages, and what needs neither root nor an agent.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends")]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;

const SECRET: &str = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";

/// A directory with a definition and its secret, gone when dropped.
struct Dir(PathBuf);

impl Dir {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("onemac-cli-{}-{name}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        let dir = Dir(path);
        dir.write("secret.key", SECRET, 0o600);
        dir.write("cluster.yaml", &definition(), 0o644);
        dir
    }

    fn write(&self, name: &str, text: &str, mode: u32) -> String {
        let file = self.0.join(name);
        fs::write(&file, text).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
        file.display().to_string()
    }

    fn file(&self, name: &str) -> String {
        self.0.join(name).display().to_string()
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn definition() -> String {
    let host = |i| format!("  - {{ name: ns{i}, gossip: 192.0.2.1{i}:7946, interface: eth0 }}\n");
    let hosts: String = (1..=4).map(host).collect();
    format!("cluster: t\nsecret_file: secret.key\nvips: [192.0.2.53, \"2001:db8::53\"]\nhosts:\n{hosts}")
}

fn onemac(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_onemac")).args(args).output().unwrap()
}

fn good(args: &[&str]) -> String {
    let out = onemac(args);
    assert!(out.status.success(), "{args:?}: {}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8(out.stdout).unwrap()
}

fn bad(code: i32, args: &[&str]) -> String {
    let out = onemac(args);
    let message = String::from_utf8(out.stderr).unwrap();
    assert_eq!(out.status.code(), Some(code), "{args:?}: {message}");
    message
}

fn json(args: &[&str]) -> Value {
    serde_json::from_str(&good(args)).unwrap()
}

#[test]
fn check_accepts_a_good_definition_and_names_every_error_of_a_bad_one() {
    let dir = Dir::new("check");
    assert!(good(&["check", &dir.file("cluster.yaml")]).contains("cluster t, 4 hosts"));
    let wrong = dir.write("bad.yaml", &definition().replace("cluster: t", "cluster: T!\nslises: 7"), 0o644);
    let message = bad(2, &["check", &wrong]);
    assert!(message.contains("bad.yaml:1:10") && message.contains("bad.yaml:2:1"), "{message}");
    assert!(message.contains("`slices`"), "the nearest right name: {message}");
    assert!(bad(2, &["check", &dir.file("none.yaml")]).contains("none.yaml"));
}

#[test]
fn what_is_still_to_come_is_refused_by_name_but_checks() {
    let dir = Dir::new("to-come");
    let file = dir.write("m.yaml", &definition().replace("hosts:", "link: multicast\nhosts:"), 0o644);
    good(&["check", &file]);
    for args in [vec!["plan", &file, "--host", "ns1"], vec!["run", "--config", &file, "--host", "ns1"]] {
        assert!(bad(2, &args).contains("`link`"));
    }
}

#[test]
fn plans_of_all_hosts_share_out_every_slice_once() {
    let dir = Dir::new("plan");
    let file = dir.file("cluster.yaml");
    for alive in ["ns1,ns2,ns3,ns4", "ns1,ns3,ns4", "ns3"] {
        let mut owned = Vec::new();
        for host in ["ns1", "ns2", "ns3", "ns4"] {
            let plan = json(&["plan", &file, "--host", host, "--alive", alive, "--json"]);
            let mine: Vec<u64> =
                plan["owned"].as_array().unwrap().iter().map(|s| s.as_u64().unwrap()).collect();
            assert_eq!(mine.is_empty(), !alive.contains(host), "{host} of {alive}");
            owned.extend(mine);
        }
        owned.sort_unstable();
        assert_eq!(owned, (0..1024).collect::<Vec<u64>>(), "{alive}");
    }
}

#[test]
fn owner_agrees_with_the_plan() {
    let dir = Dir::new("owner");
    let file = dir.file("cluster.yaml");
    for client in ["198.51.100.7", "203.0.113.200", "2001:db8:1::99"] {
        for alive in ["ns1,ns2,ns3,ns4", "ns2,ns4"] {
            let owner = json(&["owner", client, "--config", &file, "--alive", alive, "--json"]);
            assert_eq!((&owner["client"], &owner["service"]), (&client.into(), &"default".into()));
            let host = owner["owner"].as_str().unwrap();
            let plan = json(&["plan", &file, "--host", host, "--alive", alive, "--json"]);
            assert!(plan["owned"].as_array().unwrap().contains(&owner["slice"]), "{client} {alive}");
        }
    }
    assert!(bad(2, &["owner", "192.0.2.1", "--config", &file, "--service", "web"]).contains("default"));
    assert!(bad(2, &["owner", "not-an-address", "--config", &file]).contains("not-an-address"));
    assert!(bad(2, &["owner", "192.0.2.1", "--config", &file, "--alive", "ns9"]).contains("ns1, ns2"));
}

#[test]
fn a_plan_needs_no_secret_and_says_so() {
    let dir = Dir::new("no-secret");
    fs::remove_file(dir.file("secret.key")).unwrap();
    let out = onemac(&["plan", &dir.file("cluster.yaml"), "--host", "ns1"]);
    assert!(out.status.success());
    assert!(String::from_utf8_lossy(&out.stderr).contains("onemac keygen"));
    assert!(bad(2, &["owner", "192.0.2.1", "--config", &dir.file("cluster.yaml")]).contains("secret.key"));
}

#[test]
fn a_secret_that_others_can_read_is_refused() {
    let dir = Dir::new("mode");
    dir.write("secret.key", SECRET, 0o640);
    let message = bad(2, &["run", "--config", &dir.file("cluster.yaml"), "--host", "ns1"]);
    assert!(message.contains("chmod 600") && message.contains("0640"), "{message}");
    dir.write("secret.key", "too short", 0o600);
    let message = bad(2, &["run", "--config", &dir.file("cluster.yaml"), "--host", "ns1"]);
    assert!(message.contains("64 hex digits"), "{message}");
}

#[test]
fn keygen_writes_a_private_file_and_never_over_another() {
    let dir = Dir::new("keygen");
    let printed = good(&["keygen"]);
    assert_eq!(printed.trim().len(), 64);
    assert_ne!(printed, good(&["keygen"]));
    let file = dir.file("new.key");
    good(&["keygen", &file]);
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    let before = fs::read(&file).unwrap();
    assert!(bad(1, &["keygen", &file]).contains("not overwritten"));
    assert_eq!(fs::read(&file).unwrap(), before);
    // The way to change it.
    let one = fs::read_to_string(&file).unwrap();
    assert!(bad(1, &["keygen", "--drop", &file]).contains("one secret"));
    assert!(good(&["keygen", "--add", &file]).contains("onemac reload"));
    let two = fs::read_to_string(&file).unwrap();
    assert!(two.ends_with(&one) && two.contains("\nseed "), "{two}");
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    assert!(bad(1, &["keygen", "--add", &file]).contains("two secrets already"));
    assert!(good(&["keygen", "--drop", &file]).contains("onemac reload"));
    let after = fs::read_to_string(&file).unwrap();
    assert!(!after.contains(one.trim()) && after.contains("\nseed "), "{after}");
    bad(2, &["keygen", "--add", &file, "--drop", &file]);
    bad(2, &["keygen", &file, "--add", &file]);
}

#[test]
fn without_an_agent_the_questions_fail_with_three() {
    let dir = Dir::new("no-agent");
    let run_dir = dir.0.display().to_string();
    for question in [&["status"][..], &["status", "--json"], &["slices"], &["owner", "192.0.2.1"]] {
        let args = [question, &["--run-dir", &run_dir]].concat();
        assert!(bad(3, &args).contains("no agent"), "{args:?}");
    }
}

#[test]
fn wrong_usage_is_two() {
    for args in [&["sttus"][..], &["plan"], &["owner", "192.0.2.1", "--alive", "ns1"], &[]] {
        bad(2, args);
    }
    let dir = Dir::new("usage");
    assert!(bad(2, &["plan", &dir.file("cluster.yaml"), "--host", "ns9"]).contains("ns1, ns2, ns3, ns4"));
}

#[test]
fn help_manual_and_completions_know_every_command() {
    let help = good(&["--help"]);
    let manual = good(&["man"]);
    let bash = good(&["completions", "bash"]);
    for command in [
        "run",
        "check",
        "plan",
        "owner",
        "status",
        "slices",
        "replay",
        "clean",
        "keygen",
        "completions",
        "man",
    ] {
        for (name, text) in [("help", &help), ("manual", &manual), ("completions", &bash)] {
            assert!(text.contains(command), "{name} does not know {command}");
        }
        good(&[command, "--help"]);
    }
    assert!(help.contains("Exit codes: 0 done, 1 failed, 2 wrong usage or configuration, 3 no agent"));
}

#[test]
fn every_example_plans_for_every_host_or_is_refused_by_name() {
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples");
    let yaml = |dir: &Path| -> Vec<PathBuf> {
        let entries = fs::read_dir(dir).unwrap().map(|e| e.unwrap().path());
        entries.filter(|p| p.extension().is_some_and(|e| e == "yaml")).collect()
    };
    let ready = yaml(&examples);
    assert!(ready.len() >= 4);
    for file in ready {
        let file = file.display().to_string();
        let names = json(&["plan", &file, "--host", &first_host(&file), "--json"])["alive"].clone();
        for host in names.as_array().unwrap() {
            good(&["plan", &file, "--host", host.as_str().unwrap()]);
        }
    }
    for file in yaml(&examples.join("later")) {
        let file = file.display().to_string();
        good(&["check", &file]);
        bad(2, &["plan", &file, "--host", &first_host(&file)]);
    }
}

fn first_host(file: &str) -> String {
    let text = fs::read_to_string(file).unwrap();
    let after = text.split("\nhosts:").nth(1).unwrap().split("name:").nth(1).unwrap();
    after.split([',', '\n', '}', '#']).next().unwrap().trim().to_string()
}
