//! Who is measured: the rules, where their frames go, and how they are loaded and taken away.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use onemac_rules::{Lease, Protocol, Service, Standing, Wanted, ruleset};

use crate::lab::{self, CLUSTER_MAC, DEVICE, DEVICE_MAC, MULTICAST_MAC, VIP4, VIP6};
use crate::product::{Product, Shape};

/// Names that the promises refer to.
pub const BARE: &str = "bare ingress drop";
pub const OURS: &str = "onemac";
pub const OURS_FEW_SLICES: &str = "onemac, 16 slices";
pub const OURS_MANY_SLICES: &str = "onemac, 4096 slices";
pub const OURS_MANY_VIPS: &str = "onemac, 32 VIPs";
pub const XT_CLUSTER: &str = "xt_cluster recipe";
pub const XT_CLUSTER_EMULATED: &str = "xt_cluster recipe, EMULATED";

/// Clients that are tried to find those that a contender rejects.
pub const TRIED: u32 = 1024;
/// Rejected clients whose packets are timed, mixed at random: a power of two for the injector. Enough that
/// no look-up is always the same one.
pub const CLIENTS: usize = 256;

/// How rules get into the kernel.
#[derive(Debug)]
enum Rules {
    /// No rule: the XDP program itself drops.
    Xdp,
    /// Text for `nft -f`.
    Nft(String),
    /// Text for `iptables-restore`, of the flavour named.
    Iptables { flavour: String, text: String },
}

/// Where a frame that the rules let pass is seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Witness {
    /// Behind all other chains of the device's ingress.
    Ingress,
    /// Behind all other chains of local delivery.
    Input,
}

/// How it is known whom a contender rejects.
#[derive(Debug)]
pub enum Share {
    /// Everybody: it has no share of its own.
    None,
    /// Those whom the witness does not see; it must see some.
    Seen,
    /// These, says the product. Its rules let nobody pass without the agent that renews the lease, so the
    /// witness can not tell.
    Told(Vec<IpAddr>),
}

/// One row of the table.
#[derive(Debug)]
pub struct Contender {
    /// Its name in the table.
    pub name: String,
    /// What it is, for the JSON output and the reader.
    pub what: String,
    /// The address that its frames are sent to.
    pub vip: IpAddr,
    /// The MAC address that its frames are sent to.
    pub mac: [u8; 6],
    /// Where a rejected frame must not be seen.
    pub witness: Witness,
    /// Whom it rejects.
    pub share: Share,
    rules: Rules,
}

impl Contender {
    fn new(name: &str, what: &str, rules: Rules) -> Contender {
        Contender {
            name: name.into(),
            what: what.into(),
            vip: VIP4.into(),
            mac: CLUSTER_MAC,
            witness: Witness::Ingress,
            share: Share::Seen,
            rules,
        }
    }

    /// An nft file of the caller's.
    ///
    /// # Errors
    /// If it can not be read.
    pub fn from_file(path: &Path) -> Result<Contender> {
        let text = std::fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
        let name = path.file_stem().unwrap_or(path.as_os_str()).to_string_lossy();
        Ok(Contender::new(&name, &path.display().to_string(), Rules::Nft(text)))
    }

    /// Whether the XDP program is all there is.
    pub fn is_xdp(&self) -> bool {
        matches!(self.rules, Rules::Xdp)
    }

    /// Puts the rules into the kernel; nothing else may be there.
    ///
    /// # Errors
    /// If nft or iptables refuses.
    pub fn load(&self) -> Result<()> {
        match &self.rules {
            Rules::Xdp => Ok(()),
            Rules::Nft(text) => lab::run_with_input("nft", &["-f", "-"], text).map(drop),
            Rules::Iptables { flavour, text } => {
                lab::run_with_input(&format!("iptables-{flavour}-restore"), &[], text).map(drop)
            }
        }
        .with_context(|| format!("loading the rules of \"{}\"", self.name))
    }

    /// Takes all rules out of the kernel.
    ///
    /// # Errors
    /// If nft or iptables refuses.
    pub fn unload(&self) -> Result<()> {
        if let Rules::Iptables { flavour, text } = &self.rules
            && flavour == "legacy"
        {
            for table in text.lines().filter_map(|line| line.strip_prefix('*')) {
                lab::run("iptables-legacy", &["-t", table, "-F"])?;
            }
        }
        lab::run("nft", &["flush", "ruleset"]).map(drop)
    }
}

/// The product, as it comes and with the figures that must not matter changed.
///
/// # Errors
/// If the product's rules can not be had.
pub fn ours() -> Result<Vec<Contender>> {
    let usual = Shape { slices: 1024, vips4: vips4(1), vips6: vec![VIP6] };
    let shapes = [
        (OURS, usual.clone()),
        (OURS_FEW_SLICES, Shape { slices: 16, ..usual.clone() }),
        (OURS_MANY_SLICES, Shape { slices: 4096, ..usual.clone() }),
        (OURS_MANY_VIPS, Shape { vips4: vips4(32), ..usual.clone() }),
    ];
    let mut ours = Vec::new();
    for (name, shape) in &shapes {
        let product = Product::new(shape)?;
        let what = format!(
            "the product's rules on one of four hosts: {} slices, {} VIPs",
            shape.slices,
            shape.vips4.len() + shape.vips6.len()
        );
        let mut row = Contender::new(name, &what, Rules::Nft(product.rules()?));
        row.share = told(&product, row.vip)?;
        ours.push(row);
    }
    let product = Product::new(&usual)?;
    let mut v6 = Contender::new("onemac, IPv6", "as onemac, by IPv6", Rules::Nft(product.rules()?));
    v6.vip = VIP6.into();
    v6.share = told(&product, v6.vip)?;
    ours.push(v6);
    Ok(ours)
}

/// Clients of other hosts, as many as are measured.
fn told(product: &Product, vip: IpAddr) -> Result<Share> {
    let mut rejected = Vec::new();
    for number in 0..TRIED {
        let client = client(vip, number);
        if product.rejects(client)? {
            rejected.push(client);
        }
        if rejected.len() == CLIENTS {
            break;
        }
    }
    Ok(Share::Told(rejected))
}

/// The rules for what `onemac plan` can not be asked for: some services, under a lease.
fn of_services(services: Vec<Service>) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let wanted = Wanted {
        device: DEVICE.into(),
        device_mac: DEVICE_MAC.into(),
        shared: "onemac0".into(),
        second_mask: false,
        cluster_mac: CLUSTER_MAC.into(),
        vips: vec![VIP4.into(), VIP6.into()],
        slices: SLICES,
        seed: 0x5eed_0dec,
        services,
        elsewhere: Default::default(),
        inside: Default::default(),
        gossip: None,
        // Each turn begins with a fresh one.
        lease: Some(Lease {
            timeout: LEASE,
            deadline_unix_ns: now.as_nanos() as u64 + LEASE.as_nanos() as u64,
        }),
        longest_lease: LEASE,
        token: Default::default(),
    };
    ruleset(&wanted).to_nft()
}

const SLICES: u32 = 1024;

const LEASE: Duration = Duration::from_secs(3600);

/// The port of the UDP frames, and that of the TCP frames, as a service of their own beside the rest.
fn by_port(name: &str) -> Service {
    let ports = Some(vec![(Protocol::Udp, 53), (Protocol::Tcp, 80)]);
    Service { ports, ..Service::everything(name, true) }
}

/// The product with a quarter of the slices of two services: the frames are for the one with a port, or for
/// the rest.
pub fn ours_by_port() -> Vec<Contender> {
    let quarter = |service: Service| service.owning((0..SLICES).step_by(4));
    let elsewhere = Some(vec![(Protocol::Tcp, 25)]);
    [
        ("onemac, two services", "frames for a service with a port", by_port("web")),
        (
            "onemac, two services, the rest",
            "frames for the service that takes the rest",
            Service { ports: elsewhere, ..Service::everything("mail", true) },
        ),
    ]
    .map(|(name, what, service)| {
        let services = vec![quarter(service), quarter(Service::everything("default", true))];
        Contender::new(name, what, Rules::Nft(of_services(services)))
    })
    .into()
}

/// What is done with packets that are accepted, all the same way: they end behind all rules of local delivery.
const SINK: &str =
    "table inet sink {\n chain input {\n  type filter hook input priority 100; policy drop;\n }\n}\n";

/// The product, accepting, with and without connections that are followed; and nobody in its place.
pub fn accepting() -> Vec<Contender> {
    let all = |standing, tracked| {
        let slices = (0..SLICES).map(|n| (n, standing)).collect();
        of_services(vec![Service { slices, ..Service::everything("default", tracked) }])
    };
    [
        ("no rules", "nothing but the end that all have", String::new()),
        ("own, untracked", "no connection is followed", all(Standing::Own, false)),
        ("own", "connections are followed", all(Standing::Own, true)),
        ("shared", "a slice that has come lately", all(Standing::Shared, true)),
    ]
    .map(|(name, what, text)| Contender {
        // The device itself has the address here.
        mac: DEVICE_MAC,
        share: Share::None,
        witness: Witness::Input,
        ..Contender::new(name, what, Rules::Nft(text + SINK))
    })
    .into()
}

/// Everybody else. Needs the namespace, to see whether the kernel has xt_cluster.
///
/// # Errors
/// If iptables is missing.
pub fn rivals(flavour: &str, emulate: bool) -> Result<Vec<Contender>> {
    let bare = format!(
        "table netdev bare {{\n chain ingress {{\n  type filter hook ingress device \"{DEVICE}\" priority 0; \
         policy accept;\n  drop\n }}\n}}\n"
    );
    let what = "one nft rule at netdev ingress: drop";
    let mut bare4 = Contender::new(BARE, what, Rules::Nft(bare.clone()));
    bare4.share = Share::None;
    let mut bare6 = Contender::new("bare ingress drop, IPv6", what, Rules::Nft(bare));
    bare6.share = Share::None;
    bare6.vip = VIP6.into();
    Ok(vec![
        bare4,
        Contender::new("XDP drop", "two BPF instructions, before the stack; for reference", Rules::Xdp),
        xt_cluster(flavour, emulate)?,
        recipe_2001(flavour),
        bare6,
    ])
}

/// iptables-extensions(8), section "cluster", for node 1 of 4 on one device; without its arptables part,
/// which no IPv4 packet meets.
fn xt_cluster(flavour: &str, emulate: bool) -> Result<Contender> {
    let text = format!(
        "*mangle\n\
         -A PREROUTING -i {DEVICE} -m cluster --cluster-total-nodes 4 --cluster-local-node 1 \
         --cluster-hash-seed 0xdeadbeef -j MARK --set-mark 0xffff\n\
         -A PREROUTING -i {DEVICE} -m mark ! --mark 0xffff -j DROP\n\
         COMMIT\n"
    );
    let what =
        format!("iptables-extensions(8), cluster: two rules in mangle PREROUTING (iptables-{flavour})");
    let rules = Rules::Iptables { flavour: flavour.into(), text };
    let mut cluster = Contender::new(XT_CLUSTER, &what, rules);
    // As the manual page asks for, once conntrack is there.
    let present = cluster.load().and_then(|()| lab::sysctl("net/netfilter/nf_conntrack_tcp_loose", "0"));
    cluster.unload()?;
    if emulate || present.is_err() {
        if let Err(error) = present {
            eprintln!("reject: WARNING: this kernel has no xt_cluster ({error:#}); it is EMULATED with nft");
        }
        // The same hook and order, and like the original it asks conntrack for the client.
        let text = format!(
            "table ip cluster {{\n chain prerouting {{\n  type filter hook prerouting priority mangle; policy \
             accept;\n  iifname \"{DEVICE}\" jhash ct original ip saddr mod 4 seed 0xdeadbeef == 0 meta mark \
             set 0xffff\n  iifname \"{DEVICE}\" meta mark != 0xffff drop\n }}\n}}\n"
        );
        let what = "NOT xt_cluster: two nft rules in its place that do the same (hash of conntrack's client)";
        cluster = Contender::new(XT_CLUSTER_EMULATED, what, Rules::Nft(text));
    }
    cluster.mac = MULTICAST_MAC;
    cluster.witness = Witness::Input;
    Ok(cluster)
}

/// The technique as it was published in 2001, for host 0 of 4: all hosts have the same MAC address, and
/// INPUT tells clients apart by the last bits of their address. Rebuilt from its description.
fn recipe_2001(flavour: &str) -> Contender {
    let mut text = String::from(
        "*filter\n-A INPUT -i lo -j ACCEPT\n-A INPUT -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT\n",
    );
    for residue in 0..4 {
        let target = if residue == 0 { "ACCEPT" } else { "DROP" };
        text += &format!("-A INPUT -d {VIP4} -s 0.0.0.{residue}/0.0.0.3 -j {target}\n");
    }
    text += "COMMIT\n";
    let what = format!("six rules in filter INPUT, clients by address modulo 4 (iptables-{flavour})");
    let rules = Rules::Iptables { flavour: flavour.into(), text };
    let mut recipe = Contender::new("2001 recipe", &what, rules);
    recipe.mac = DEVICE_MAC;
    recipe.witness = Witness::Input;
    recipe
}

/// `count` IPv4 VIPs, the one that is measured among them, the others strewn over a /16 so that no prefix
/// covers them.
fn vips4(count: usize) -> Vec<Ipv4Addr> {
    let strewn = (1u32..).map(|n| {
        let bytes = n.wrapping_mul(40_503).to_be_bytes();
        Ipv4Addr::new(198, 51, bytes[2], bytes[3])
    });
    std::iter::once(VIP4).chain(strewn).take(count).collect()
}

/// The `number`th client address of the family of `vip`.
pub fn client(vip: IpAddr, number: u32) -> IpAddr {
    // A step that is coprime to the range, so that no address comes twice and neighbours are far apart.
    let strewn = number.wrapping_mul(2_654_435_761);
    match vip {
        IpAddr::V4(_) => Ipv4Addr::from(0x0a00_0000 | (strewn & 0x00ff_ffff)).into(),
        IpAddr::V6(_) => {
            let bits = (0x2001_0db9_u128 << 96) | (u128::from(strewn) << 64) | 7;
            Ipv6Addr::from(bits).into()
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn clients_and_vips_are_all_different() {
        for vip in [IpAddr::V4(VIP4), IpAddr::V6(VIP6)] {
            let clients: BTreeSet<IpAddr> = (0..4096).map(|n| client(vip, n)).collect();
            assert_eq!(clients.len(), 4096);
        }
        assert_eq!(vips4(32).into_iter().collect::<BTreeSet<_>>().len(), 32);
    }
}
