//! What conntrack knows, read from the running kernel. Needs root.

#![allow(clippy::unwrap_used)] // clippy takes only functions marked #[test] for tests

mod common;

use std::{
    io::Read,
    net::{IpAddr, Shutdown, SocketAddr, TcpStream},
    time::Duration,
};

use common::{frame::*, lab::*, *};
use onemac_rules::netlink::{Connection, Netfilter, TcpState};

fn known(host: &Host, vips: &'static [IpAddr]) -> Vec<Connection> {
    let mut found = host.netns.run(|| Netfilter::open().unwrap().connections(vips).unwrap());
    found.sort_by_key(|c| c.client);
    found
}

const VIPS: &[IpAddr] = &[IpAddr::V4(VIP4), IpAddr::V6(VIP6)];

#[test]
fn connections_are_seen_with_state_and_age() {
    let lab = Lab::new(true);
    assert_eq!(known(&lab.a, VIPS), []);
    let clients = [client4(1), client6(1)];
    let streams = lab.client.run(move || {
        clients.map(|from| {
            let mut stream = connect(SocketAddr::new(from, 0)).unwrap();
            // The host has said its number: the handshake is over on both sides.
            stream.read_exact(&mut [0]).unwrap();
            stream
        })
    });
    // Not to a shared address.
    let own: SocketAddr = "192.0.2.10:22".parse().unwrap();
    let listener = lab.a.netns.run(move || std::net::TcpListener::bind(own).unwrap());
    let other = lab.client.run(move || TcpStream::connect(own).unwrap());

    let found = known(&lab.a, VIPS);
    assert_eq!(found.len(), 2, "{found:?}");
    for (connection, stream) in found.iter().zip(&streams) {
        let (client, vip) = (stream.local_addr().unwrap(), stream.peer_addr().unwrap());
        assert_eq!((connection.client, connection.client_port), (client.ip(), client.port()));
        assert_eq!((connection.vip, connection.port), (vip.ip(), vip.port()));
        assert_eq!(connection.state, TcpState::Established);
        assert!(connection.replied && connection.is_live());
        assert!(connection.age.unwrap() < Duration::from_secs(600), "{connection:?}");
    }
    let of_v4: Vec<IpAddr> = known(&lab.a, &VIPS[..1]).iter().map(|c| c.client).collect();
    assert_eq!(of_v4, [client4(1)]);
    assert_eq!(known(&lab.b, VIPS), [], "they do not live on B");

    // The client closes, then the server: what is left waits for stragglers only.
    streams.iter().for_each(|stream| stream.shutdown(Shutdown::Write).unwrap());
    wait_until(|| known(&lab.a, VIPS).iter().all(|c| !c.is_live()));
    assert_eq!(known(&lab.a, VIPS).len(), 2);
    drop((listener, other));
}

/// Thousands fill many messages.
#[test]
fn many_connections_are_all_seen() {
    in_namespace(|| {
        let command: String = (0..3000)
            .map(|n| {
                let (a, b) = (n / 250, n % 250 + 1);
                format!(
                    "-I -p tcp --state ESTABLISHED --timeout 600 -u SEEN_REPLY,ASSURED -s 198.51.{a}.{b} \
                     -d 192.0.2.53 --sport 4000 --dport 80\n"
                )
            })
            .collect();
        let file = std::env::temp_dir().join(format!("onemac-conntrack-{}", std::process::id()));
        std::fs::write(&file, command).unwrap();
        run("conntrack", &["--load-file", file.to_str().unwrap()]);
        std::fs::remove_file(&file).unwrap();
        let found = Netfilter::open().unwrap().connections(VIPS).unwrap();
        let clients: std::collections::BTreeSet<IpAddr> = found.iter().map(|c| c.client).collect();
        assert_eq!((found.len(), clients.len()), (3000, 3000));
        assert!(found.iter().all(|c| c.is_live() && c.age.is_none()), "nobody asked for the time");
    });
}
