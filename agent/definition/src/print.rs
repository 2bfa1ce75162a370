//! The definition printed canonically: every value, defaults and derived ones included, in the order
//! of the documentation.

use std::fmt::Write as _;
use std::net::IpAddr;

use crate::duration;
use crate::model::{Backends, Check, CheckKind, Definition, Host, Service};
use crate::read::print_range;
use crate::words::Track;

impl Definition {
    /// Prints the definition as YAML that [`crate::parse`] reads back to an equal value. Two files that
    /// mean the same print the same. The text is what hosts compare, those of older versions too: what came later
    /// is left out where it has its default.
    #[must_use]
    pub fn to_yaml(&self) -> String {
        let mut out = Out::default();
        out.line(0, "cluster", text(&self.cluster));
        out.line(0, "secret_file", text(&self.secret_file.to_string_lossy()));
        out.line(0, "vips", list(self.vips.iter().map(|vip| address(*vip))));
        out.line(0, "mac", format!("\"{}\"", self.mac));
        out.line(0, "link", self.link);
        out.line(0, "slices", self.slices);
        out.line(0, "affinity", self.affinity);
        out.line(0, "partition", self.partition);
        out.open(0, "timing");
        out.line(2, "heartbeat", duration::print(self.timing.heartbeat));
        out.line(2, "lease", duration::print(self.timing.lease));
        out.line(2, "drain_timeout", duration::print(self.timing.drain_timeout));
        out.open(0, "hosts");
        for host in &self.hosts {
            out.host(host);
        }
        if !self.services.is_empty() {
            out.open(0, "services");
            for service in &self.services {
                out.service(service);
            }
        }
        out.0
    }
}

#[derive(Default)]
struct Out(String);

impl Out {
    fn line(&mut self, indent: usize, key: &str, value: impl std::fmt::Display) {
        // Writing to a String does not fail.
        let _ = writeln!(self.0, "{:indent$}{key}: {value}", "");
    }

    fn open(&mut self, indent: usize, key: &str) {
        let _ = writeln!(self.0, "{:indent$}{key}:", "");
    }

    /// The first line of a list's entry.
    fn entry(&mut self, indent: usize, key: &str, value: &str) {
        let _ = writeln!(self.0, "{:indent$}- {key}: {value}", "");
    }

    fn host(&mut self, host: &Host) {
        self.entry(2, "name", &text(&host.name));
        self.line(4, "gossip", format_args!("\"{}\"", host.gossip));
        self.line(4, "interface", text(&host.interface));
        self.line(4, "weight", host.weight);
    }

    fn service(&mut self, service: &Service) {
        self.entry(2, "name", &text(&service.name));
        if !service.ports.is_empty() {
            self.line(4, "ports", list(service.ports.iter().map(|range| print_range(*range))));
        }
        if !service.protocols.is_empty() {
            self.line(4, "protocols", list(service.protocols.iter().map(ToString::to_string)));
        }
        self.line(4, "mode", service.mode);
        if service.track != Track::Auto {
            self.line(4, "track", service.track);
        }
        if let Some(check) = &service.check {
            self.line(4, "check", inline(check));
        }
        if let Some(backends) = &service.backends {
            self.backends(backends);
        }
    }

    fn backends(&mut self, backends: &Backends) {
        self.open(4, "backends");
        self.line(6, "method", backends.method);
        self.line(6, "engine", backends.engine);
        self.line(6, "scheduler", backends.scheduler);
        if let Some(persistence) = backends.persistence {
            self.line(6, "persistence", duration::print(persistence));
        }
        self.open(6, "servers");
        for server in &backends.servers {
            let port = server.port.map(|port| format!(", port: {port}")).unwrap_or_default();
            let address = address(server.address);
            let _ = writeln!(self.0, "        - {{ address: {address}{port}, weight: {} }}", server.weight);
        }
        if let Some(check) = &backends.check {
            self.line(6, "check", inline(check));
        }
    }
}

fn inline(check: &Check) -> String {
    let mut out = match &check.kind {
        CheckKind::Tcp => "{ type: tcp".to_owned(),
        CheckKind::Http { path, host, status } => {
            let mut out = format!("{{ type: http, path: {}", quoted(path));
            if let Some(host) = host {
                let _ = write!(out, ", host: {}", quoted(host));
            }
            if let Some(status) = status {
                let _ = write!(out, ", status: {status}");
            }
            out
        }
        CheckKind::Dns { query } => format!("{{ type: dns, query: {}", quoted(query)),
    };
    if let Some(port) = check.port {
        let _ = write!(out, ", port: {port}");
    }
    let (interval, timeout) = (duration::print(check.interval), duration::print(check.timeout));
    let _ = write!(
        out,
        ", interval: {interval}, timeout: {timeout}, fall: {}, rise: {} }}",
        check.fall, check.rise
    );
    out
}

fn list(items: impl Iterator<Item = String>) -> String {
    format!("[{}]", items.collect::<Vec<_>>().join(", "))
}

fn address(address: IpAddr) -> String {
    if address.is_ipv6() { format!("\"{address}\"") } else { address.to_string() }
}

/// A text, in quotes unless every YAML reader takes it for the same text without.
fn text(text: &str) -> String {
    const RESERVED: [&str; 9] = ["null", "true", "false", "yes", "no", "on", "off", "y", "n"];
    let starts = |c: char| c.is_ascii_alphabetic() || c == '/';
    let goes_on = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '/');
    let plain = text.starts_with(starts)
        && text.chars().all(goes_on)
        && !RESERVED.iter().any(|word| word.eq_ignore_ascii_case(text));
    if plain { text.to_owned() } else { quoted(text) }
}

/// A double-quoted text. Validated texts hold no control characters; what Unicode beyond that YAML does
/// not take as it is, is escaped.
fn quoted(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            ' '..='~' => out.push(c),
            c => {
                let _ = write!(out, "\\U{:08x}", u32::from(c));
            }
        }
    }
    out.push('"');
    out
}
