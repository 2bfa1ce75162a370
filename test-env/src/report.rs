//! The state of a lab in text, for the moment in which a test gives up.

use std::fmt::Write;

use crate::host::Host;
use crate::lab::Lab;
use crate::netns::Netns;

impl Lab {
    /// Rules, links, routes, status and log of every host, and what the switch has learned.
    #[must_use]
    pub fn report(&self) -> String {
        let mut text = String::new();
        for host in self.hosts() {
            host_report(&mut text, host);
        }
        section(&mut text, "switch: bridge fdb", &tool(self.switch().netns(), "bridge", &["fdb", "show"]));
        for (what, netns) in
            [("router", self.router()), ("neighbour", self.neighbour()), ("clients", self.clients())]
        {
            section(&mut text, &format!("{what}: ip neigh"), &tool(netns, "ip", &["neigh"]));
        }
        text
    }
}

fn host_report(text: &mut String, host: &Host) {
    let name = host.name();
    let netns = host.netns();
    let living = if host.agent_is_living() { "agent living" } else { "no living agent" };
    section(
        text,
        &format!("{name}: nft list ruleset ({living})"),
        &without_slices(&tool(netns, "nft", &["list", "ruleset"])),
    );
    section(text, &format!("{name}: ip -d addr"), &tool(netns, "ip", &["-d", "addr"]));
    section(text, &format!("{name}: routes"), &tool(netns, "ip", &["route", "show", "table", "all"]));
    section(text, &format!("{name}: routes of IPv6"), &tool(netns, "ip", &["-6", "route"]));
    let status = host.onemac(&["status"]).map_or_else(
        |error| format!("{error:#}"),
        |ended| format!("{}{}(exit code {})", ended.stdout, ended.stderr, ended.code),
    );
    section(text, &format!("{name}: onemac status"), &status);
    section(text, &format!("{name}: end of the agent's log"), &host.agent_log(60));
}

/// The map of slices fills 200 lines; the status has their number.
fn without_slices(rules: &str) -> String {
    rules
        .lines()
        .filter(|line| !(line.contains(": drop,") || line.contains(": goto")))
        .collect::<Vec<_>>()
        .join("\n")
}

fn section(text: &mut String, title: &str, body: &str) {
    // Writing to a String does not fail.
    let _ = writeln!(text, "---- {title}\n{}", body.trim_end());
}

fn tool(netns: &Netns, program: &str, arguments: &[&str]) -> String {
    netns.run(program, arguments).unwrap_or_else(|error| format!("({error:#})"))
}
