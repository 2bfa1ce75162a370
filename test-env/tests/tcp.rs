//! The judge of connections, judged itself: on one host that simply has the shared addresses, without an agent,
//! each thing that can happen to a connection is done to it, and must be seen.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::thread::{sleep, spawn};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use onemac_test_env::tcp::{Crowd, How, Load, Newcomers, PORT, Phase};
use onemac_test_env::{Host, Lab, Plan, addr};

/// Generous: other work may hold both processors.
const PATIENCE: Duration = Duration::from_secs(60);

/// Few connections, quick to call one stalled.
fn load(connections: usize) -> Load {
    Load { addresses: 30, patience: Duration::from_millis(800), ..Load::of(connections) }
}

/// A lab whose first host has the shared addresses by hand.
fn plain() -> Result<Lab> {
    let lab = Lab::build(&Plan::hosts(1))?;
    give_addresses(lab.host(1))?;
    Ok(lab)
}

fn give_addresses(host: &Host) -> Result<()> {
    let (v4, v6) = (addr::VIP4, addr::VIP6);
    host.netns().ip(&format!("addr add {v4}/32 dev eth0\naddr add {v6}/128 dev eth0 nodad")).map(drop)
}

fn crowd(lab: &Lab, count: usize) -> Result<Crowd> {
    lab.start_echoes()?;
    Crowd::open_with(lab.clients(), load(count))
}

fn wait_answers(lab: &Lab, crowd: &Crowd, each: u64) -> Result<()> {
    let answered = || Ok(crowd.connections().iter().all(|one| one.answered >= each));
    lab.wait_until("every connection has its answers", PATIENCE, answered).map(drop)
}

#[test]
fn a_crowd_lives_and_ends_in_order() -> Result<()> {
    let lab = plain()?;
    lab.start_echoes()?;
    let load = Load { every: Duration::from_millis(20), ..load(200) };
    let crowd = Crowd::open_with(lab.clients(), load)?;
    wait_answers(&lab, &crowd, 300)?;
    let report = crowd.report();
    ensure!(report.alive == 200 && report.by_host == [(1, 200)].into(), "{report}");
    report.ensure_unbroken("undisturbed")?;
    assert_eq!(lab.host(1).echo_connections(), 200);
    let both = crowd.connections().iter().filter(|one| one.client.is_ipv4()).count();
    assert_eq!(both, 100);
    // More than the 256 numbers that a byte tells apart went by, and none was lost.
    let report = crowd.close()?;
    ensure!(report.closed == 200 && report.alive == 0 && report.sent == report.answered, "{report}");
    Ok(())
}

#[test]
fn connections_of_a_host_are_renewed() -> Result<()> {
    let lab = plain()?;
    let crowd = crowd(&lab, 40)?;
    wait_answers(&lab, &crowd, 3)?;
    assert_eq!(crowd.renew(2)?, 0);
    assert_eq!(crowd.renew(1)?, 40);
    let report = crowd.report();
    ensure!(report.alive == 40 && report.closed == 40, "{report}");
    report.ensure_unbroken("renewed")?;
    Ok(())
}

#[test]
fn a_server_that_ends_or_resets_is_seen() -> Result<()> {
    for (reset, how) in [(false, How::Eof), (true, How::Reset)] {
        let lab = plain()?;
        let crowd = crowd(&lab, 40)?;
        wait_answers(&lab, &crowd, 3)?;
        lab.host(1).cut_echo(reset);
        let ended = || Ok(crowd.connections().iter().all(|one| one.ended.is_some()));
        lab.wait_until("all connections have ended", PATIENCE, ended)?;
        for one in crowd.connections() {
            assert_eq!(one.ended.as_ref().map(|ended| ended.how), Some(how), "{one}");
        }
        assert!(crowd.report().ensure_unbroken("cut").is_err());
    }
    Ok(())
}

#[test]
fn a_silence_is_seen_and_measured_and_hurts_nobody() -> Result<()> {
    let lab = plain()?;
    let crowd = crowd(&lab, 40)?;
    wait_answers(&lab, &crowd, 3)?;
    lab.host(1).set_cable(false)?;
    let cut = Instant::now();
    lab.wait_until("all connections stand still", PATIENCE, || Ok(crowd.report().stalled == 40))?;
    assert!(crowd.report().ensure_unbroken("without a cable").is_err());
    let silent = cut.elapsed();
    lab.host(1).set_cable(true)?;
    crowd.wait_unbroken("with the cable again", PATIENCE)?;
    let report = crowd.report();
    ensure!(report.alive == 40 && report.retransmitted >= 40, "{report}");
    // The last byte that was answered may have been sent 100 ms before the cut, and not later.
    let least = silent.saturating_sub(Duration::from_millis(200));
    for one in crowd.connections() {
        ensure!(one.longest_gap >= least.min(load(1).patience), "{one}, after {silent:?} of silence");
    }
    ensure!(crowd.take_longest_gap() >= load(1).patience, "{report}");
    wait_answers(&lab, &crowd, 100)?;
    ensure!(crowd.take_longest_gap() > Duration::ZERO, "nothing was measured");
    Ok(())
}

/// Bytes are lost or doubled by no network, but by a server in whose place another one stepped.
#[test]
fn a_lost_or_doubled_byte_is_seen() -> Result<()> {
    for doubled in [false, true] {
        let lab = plain()?;
        let vips: [IpAddr; 2] = [addr::VIP4.into(), addr::VIP6.into()];
        for vip in vips {
            let listener =
                lab.host(1).netns().within(|| Ok(TcpListener::bind(SocketAddr::new(vip, PORT))?))?;
            spawn(move || {
                for stream in listener.incoming() {
                    spawn(move || cheat(stream?, doubled));
                }
            });
        }
        let crowd = Crowd::open_with(lab.clients(), load(6))?;
        let ended = || Ok(crowd.report().garbled == 6);
        lab.wait_until("all are garbled", PATIENCE, ended)?;
        assert!(crowd.report().ensure_unbroken("garbled").is_err());
    }
    Ok(())
}

/// Echoes, but for the seventh byte: that it loses or doubles.
fn cheat(mut stream: std::net::TcpStream, doubled: bool) -> std::io::Result<()> {
    stream.write_all(&[1])?;
    for turn in 1.. {
        let mut byte = [0];
        stream.read_exact(&mut byte)?;
        let times = if turn != 7 {
            1
        } else if doubled {
            2
        } else {
            0
        };
        for _ in 0..times {
            stream.write_all(&byte)?;
        }
    }
    Ok(())
}

#[test]
fn resets_are_timed_from_the_first_packet_after_healing() -> Result<()> {
    let prompt = slowest_reset(false)?;
    ensure!(prompt < Duration::from_secs(1), "a reset came after {prompt:?}");
    let late = slowest_reset(true)?;
    ensure!(late > Duration::from_secs(1), "resets were held back, but the slowest came after {late:?}");
    Ok(())
}

/// A host, whose agent alone is the whole cluster, loses its power and comes back without its connections. Resets
/// may be lost until all connections have sent something in vain.
fn slowest_reset(hold_back: bool) -> Result<Duration> {
    let lab = Lab::build(&Plan::hosts(1))?;
    lab.start_agents()?;
    lab.wait_settled()?;
    let crowd = crowd(&lab, 40)?;
    wait_answers(&lab, &crowd, 3)?;
    let host = lab.host(1);
    host.power_off()?;
    lab.wait_until("all connections stand still", PATIENCE, || Ok(crowd.report().stalled == 40))?;
    host.power_on()?;
    if hold_back {
        let table = "add table inet mute { chain out { type filter hook output priority 0; tcp flags & rst == rst drop; }; }";
        host.netns().run("nft", &[table])?;
    }
    lab.wait_settled()?;
    let healed = Instant::now();
    if hold_back {
        ensure!(crowd.report().reset == 0, "{}", crowd.report());
        // Each sends again, less and less often.
        let former = retransmitted(&crowd);
        lab.wait_until("all have sent again", PATIENCE, || {
            Ok(former.iter().zip(retransmitted(&crowd)).all(|(before, now)| now > *before))
        })?;
        sleep(Duration::from_millis(1100));
        host.netns().run("nft", &["delete table inet mute"])?;
    }
    lab.wait_until("all connections are reset", PATIENCE, || Ok(crowd.report().reset == 40))?;
    let mut slowest = Duration::ZERO;
    for one in crowd.connections() {
        let ended = one.ended.as_ref().context("it lives")?;
        ensure!(!ended.segments.is_empty() && ended.unanswered > 0, "{one}");
        slowest = slowest.max(ended.told_after(healed));
    }
    eprintln!("the slowest reset came {slowest:?} after the first segment that could bring it");
    Ok(slowest)
}

fn retransmitted(crowd: &Crowd) -> Vec<u32> {
    crowd.connections().iter().map(|one| one.retransmitted).collect()
}

#[test]
fn newcomers_are_served_and_counted() -> Result<()> {
    let lab = plain()?;
    lab.start_echoes()?;
    let newcomers = Newcomers::start(lab.clients(), 100, 1)?;
    sleep(Duration::from_secs(2));
    let half = Instant::now();
    let first = newcomers.until(half)?;
    first.ensure_served("undisturbed")?;
    sleep(Duration::from_secs(1));
    let all = newcomers.stop()?;
    all.ensure_served("undisturbed")?;
    // Nothing is lost here, so whoever waited shows how busy the machine is.
    eprintln!("{all}");
    let begun = all.between(half, Instant::now()).0.len() + first.0.len();
    ensure!(first.0.len() > 50 && all.0.len() > first.0.len() && begun >= all.0.len(), "{all}");
    ensure!(all.by_host() == [(1, all.0.len())].into(), "{all}");
    let v4 = all.0.iter().filter(|one| one.client.is_ipv4()).count();
    ensure!(v4.abs_diff(all.0.len() - v4) <= 1, "{v4} of {all}");
    for one in &all.0 {
        assert_eq!(one.took.len(), 3, "{one}");
    }
    Ok(())
}

#[test]
fn a_newcomer_that_must_send_again_is_seen_in_its_phase() -> Result<()> {
    // The first of these segments of each connection is lost. A connection is known by the client's address and
    // port: of 75 clients two often have the same port.
    let rules = [
        (Phase::Connect, "tcp flags & (syn | ack) == syn"),
        (Phase::Echo, "tcp flags & psh == psh"),
        (Phase::End, "tcp flags & fin == fin"),
    ];
    for (phase, segments) in rules {
        let lab = plain()?;
        lab.start_echoes()?;
        let mut table = String::from("table inet lossy {\n");
        for (ip, address) in [("ip", "ipv4_addr"), ("ip6", "ipv6_addr")] {
            table += &format!(
                "set seen_{ip} {{ type {address} . inet_service; size 65535; flags dynamic; timeout 60s; }}\n"
            );
        }
        table += "chain in { type filter hook prerouting priority -500;\n";
        for ip in ["ip", "ip6"] {
            table += &format!(
                "{segments} tcp dport {PORT} {ip} saddr . tcp sport != @seen_{ip} \
                 add @seen_{ip} {{ {ip} saddr . tcp sport }} drop\n"
            );
        }
        table += "}\n}\n";
        std::fs::write(lab.dir().join("lossy.nft"), table)?;
        let rules = lab.dir().join("lossy.nft");
        lab.host(1).netns().run("nft", &["-f", rules.to_str().context("a strange path")?])?;
        let newcomers = Newcomers::start(lab.clients(), 50, 2)?;
        sleep(Duration::from_millis(1500));
        let all = newcomers.stop()?;
        all.ensure_served("with loss")?;
        ensure!(all.ensure_at_once("with loss").is_err(), "{all}");
        assert_eq!(all.retransmitted(phase), all.0.len(), "{phase:?}: {all}");
        if phase == Phase::Connect {
            // A SYN is sent again after a second.
            for one in &all.0 {
                ensure!(one.took[0] >= Duration::from_millis(900), "{one}");
            }
        }
    }
    Ok(())
}

#[test]
fn a_newcomer_that_is_turned_away_is_seen() -> Result<()> {
    // Nobody listens: the host's stack says so.
    let lab = plain()?;
    let newcomers = Newcomers::start(lab.clients(), 50, 3)?;
    sleep(Duration::from_secs(1));
    let all = newcomers.stop()?;
    ensure!(!all.0.is_empty() && all.failed() == all.0.len(), "{all}");
    assert!(all.ensure_served("without a server").is_err());
    assert!(
        all.0.iter().all(|one| one.failure.as_ref().is_some_and(|failure| failure.phase == Phase::Connect))
    );
    // A crowd does not come together there either.
    assert!(Crowd::open_with(lab.clients(), load(4)).is_err());
    Ok(())
}
