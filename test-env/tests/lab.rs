//! The lab itself: what it builds works without any agent, and nothing of it stays.

use std::path::Path;
use std::time::Duration;

use anyhow::Result;
use onemac_test_env::{Capture, Lab, Plan, addr, client_v4, client_v6, fetch_tcp, ping_all};

const PATIENCE: Duration = Duration::from_secs(10);

#[test]
fn clients_reach_a_host_at_its_own_addresses_and_the_switch_learns_it() -> Result<()> {
    let lab = Lab::build(&Plan::hosts(2))?;
    let host = lab.host(2);
    let _server = host.start_server(9000)?;
    let tap = Capture::start(lab.clients(), "eth0")?;
    for (client, server) in [(client_v4(1)[0], host.v4().into()), (client_v6(1)[0], host.v6().into())] {
        let replies = ping_all(lab.clients(), &[client], server, PATIENCE)?;
        assert_eq!(replies[&client], 1, "{client} pinging {server}");
        assert_eq!(fetch_tcp(lab.clients(), client, (server, 9000).into(), 200_000, PATIENCE)?, "h2");
    }
    assert!(!tap.stop()?.is_empty());
    assert_eq!(lab.switch().learned(&host.mac())?, Some(host.port()));
    assert_eq!(lab.switch().learned(addr::CLUSTER_MAC)?, None);
    Ok(())
}

#[test]
fn the_watch_on_the_switch_sees_a_mac_that_was_there_for_a_moment() -> Result<()> {
    let lab = Lab::build(&Plan::hosts(1))?;
    let mut watch = lab.switch().watch(lab.dir())?;
    let stranger = "02:00:00:00:99:99";
    assert!(watch.sightings(stranger)?.is_empty());
    let frame = onemac_test_env::frames::arp_request(
        onemac_test_env::frames::mac(stranger),
        "192.0.2.99".parse()?,
        addr::VIP4,
    );
    onemac_test_env::frames::Injector::open(lab.neighbour(), "eth0")?.send(&frame)?;
    lab.wait_until("the switch learns the stranger", PATIENCE, || {
        Ok(lab.switch().learned(stranger)?.is_some())
    })?;
    lab.switch().netns().ip("link set lan down")?;
    assert_eq!(lab.switch().learned(stranger)?, None);
    assert!(!watch.sightings(stranger)?.is_empty());
    Ok(())
}

#[test]
fn nothing_stays() -> Result<()> {
    let lab = Lab::build(&Plan::hosts(2))?;
    lab.start_nameservers()?;
    let (prefix, dir) = (lab.prefix().to_owned(), lab.dir().to_owned());
    assert!(dir.exists() && Path::new(&format!("/run/netns/{prefix}h1")).exists());
    drop(lab);
    let left: Vec<_> = std::fs::read_dir("/run/netns")?
        .flatten()
        .filter(|entry| entry.file_name().to_string_lossy().starts_with(&prefix))
        .collect();
    assert!(left.is_empty() && !dir.exists(), "{left:?}");
    Ok(())
}

#[test]
fn a_host_that_lost_its_power_comes_back_blank() -> Result<()> {
    let lab = Lab::build(&Plan::hosts(1))?;
    let host = lab.host(1);
    let client = client_v4(1)[0];
    host.netns().run("nft", &["add", "table", "ip", "left"])?;
    host.power_off()?;
    assert_eq!(ping_all(lab.clients(), &[client], host.v4().into(), Duration::from_millis(300))?[&client], 0);
    // Without a program under test it fails after the boot, at the agent: the boot is what is tried here.
    let _ = host.power_on();
    assert!(!host.netns().run("nft", &["list", "tables"])?.contains("left"));
    lab.wait_until("the host answers again", PATIENCE, || {
        Ok(ping_all(lab.clients(), &[client], host.v4().into(), Duration::from_millis(300))?[&client] == 1)
    })?;
    Ok(())
}
