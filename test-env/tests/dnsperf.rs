//! Queries at a high rate, counted by another program than ours: that it asks from many addresses, and that what
//! is lost is counted.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Result, ensure};
use onemac_test_env::dns::Dnsperf;
use onemac_test_env::{Capture, Lab, Plan, addr, frames};

#[test]
fn dnsperf_asks_from_many_addresses_and_counts_what_is_lost() -> Result<()> {
    let lab = Lab::build(&Plan::hosts(1))?;
    let host = lab.host(1);
    // No agent: the host simply has the shared addresses.
    let (v4, v6) = (addr::VIP4, addr::VIP6);
    host.netns().ip(&format!("addr add {v4}/32 dev eth0\naddr add {v6}/128 dev eth0 nodad"))?;
    lab.start_nameservers()?;
    // Machines that do not know each other yet lose a burst of first packets.
    Dnsperf::start(&lab, 1000)?.stop()?;

    let tap = Capture::start(host.netns(), "eth0")?;
    let perf = Dnsperf::start(&lab, 1000)?;
    sleep(Duration::from_secs(1));
    let calm = perf.stop()?;
    eprintln!("undisturbed: {calm}");
    ensure!(calm.lost == 0 && calm.good == calm.completed && calm.completed > 500, "{calm}");
    let asked = tap.stop()?;
    let clients: BTreeSet<IpAddr> = asked
        .iter()
        .filter(|frame| !frame.outgoing)
        .filter_map(|frame| frames::addresses(&frame.data))
        .filter(|(_, to)| *to == v4 || *to == v6)
        .map(|(from, _)| from)
        .collect();
    assert_eq!(clients.iter().filter(|client| client.is_ipv4()).count(), 250);
    assert_eq!(clients.iter().filter(|client| client.is_ipv6()).count(), 250);

    let perf = Dnsperf::start(&lab, 1000)?;
    host.set_cable(false)?;
    sleep(Duration::from_secs(2));
    host.set_cable(true)?;
    let cut = perf.stop()?;
    eprintln!("without a cable for 2 s: {cut}");
    ensure!(cut.lost > 500, "{cut}");
    Ok(())
}
