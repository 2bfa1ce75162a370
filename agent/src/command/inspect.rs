//! The commands that look: status, slices, owner.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::Path;

use onemac_core::jhash;
use serde::de::DeserializeOwned;

use super::{orders, print_json, run};
use crate::control::client;
use crate::control::model::{Host, Owner, Slice, Slices, Status};
use crate::failure::{Failure, Result};
use crate::secret::Secrets;
use crate::{plan, setup};

fn ask<T: DeserializeOwned>(run_dir: &Path, question: &str) -> Result<T> {
    run::runtime()?.block_on(client::ask(run_dir, question))
}

/// `onemac status`.
pub fn status(run_dir: &Path, json: bool) -> Result<()> {
    let status: Status = ask(run_dir, "/status")?;
    if json {
        return print_json(&status);
    }
    print!("{}", status_text(&status));
    Ok(())
}

/// What a tired person needs: who owns what, why, what to do.
fn status_text(s: &Status) -> String {
    let view = match (&s.view.id, s.view.agreed) {
        (None, _) => "no view yet".into(),
        (Some(id), true) => format!("view {id}, agreed"),
        (Some(id), false) => format!("view {id}, NOT agreed"),
    };
    let vips: Vec<String> = s.vips.iter().map(ToString::to_string).collect();
    let mut text = format!(
        "cluster {}  {}  at {}\nhost    {}  {}  {view}  lease {} ms\n\n",
        s.cluster,
        vips.join(" "),
        s.mac,
        s.host,
        s.state,
        s.lease_ms
    );
    if let Some(table) = s.conntrack.filter(|table| table.count > 0) {
        let advice = "; services of UDP alone or with `track: never` need none";
        text += &format!("conntrack {} of {} for the whole host{advice}\n\n", table.count, table.max);
    }
    let width = s.hosts.iter().map(|h| h.name.len()).max().unwrap_or(0).max(4);
    text +=
        &format!("  {:width$}  {:8}  {:>6}  {:>9}  {:>13}\n", "HOST", "STATE", "WEIGHT", "HEARD", "SLICES");
    for host in &s.hosts {
        let mark = if host.name == s.host { '*' } else { ' ' };
        text += &format!(
            "{mark} {:width$}  {:8}  {:>6}  {:>9}  ",
            host.name,
            host.state,
            host.weight,
            heard(host, &s.host)
        );
        for (service, count) in &host.slices {
            let share = f64::from(*count) * 100.0 / f64::from(s.slices.max(1));
            let label = if host.slices.len() > 1 { format!(" {service}") } else { String::new() };
            text += &format!("{count:>5} {share:5.1} %{label}");
        }
        text += "\n";
    }
    for service in s.services.iter().filter(|v| v.unsettled > 0) {
        text += &format!("\n{} slices of {} are changing hands here\n", service.unsettled, service.name);
    }
    for host in s.hosts.iter().filter(|h| !h.drained.is_empty()) {
        text += &format!("\n{} is drained of {}\n", host.name, host.drained.join(", "));
    }
    for host in s.hosts.iter().filter(|h| h.connections > 0) {
        let of = format!("{} slices that have moved on", host.moving);
        text += &format!(
            "\n{}: {}\n",
            host.name,
            orders::left(host.connections, &of, Some(host.oldest_s.into()))
        );
    }
    for warning in &s.warnings {
        text += &format!("\n! {}\n  -> {}\n", warning.what, warning.advice);
    }
    for note in &s.notes {
        text += &format!("\nnote: {}\n  -> {}\n", note.what, note.advice);
    }
    text
}

fn heard(host: &Host, me: &str) -> String {
    match host.heard_ms {
        _ if host.name == me => "-".into(),
        None => "never".into(),
        Some(ms) if ms < 10_000 => format!("{ms} ms"),
        Some(ms) => format!("{} s", ms / 1000),
    }
}

/// `onemac slices`.
pub fn slices(run_dir: &Path, json: bool) -> Result<()> {
    let slices: Slices = ask(run_dir, "/slices")?;
    if json {
        return print_json(&slices);
    }
    for (service, slices) in &slices {
        print!("{}", slices_text(service, slices));
    }
    Ok(())
}

/// A line an owner: how many slices, and which, as ranges. Slices on their way are named one by one.
fn slices_text(service: &str, slices: &[Slice]) -> String {
    let mut of: BTreeMap<&str, Vec<u32>> = BTreeMap::new();
    for slice in slices {
        of.entry(slice.owner.as_deref().unwrap_or("nobody")).or_default().push(slice.slice);
    }
    let mut text = format!("service {service}, {} slices\n", slices.len());
    for (host, mine) in of {
        text += &format!("{host}: {} slices: {}\n", mine.len(), ranges(&mine));
    }
    for slice in slices {
        let settled = slice.claimed_by.len() == 1 && slice.claimed_by.first() == slice.owner.as_ref();
        if !settled && slice.owner.is_some() {
            let by = if slice.claimed_by.is_empty() { "nobody".into() } else { slice.claimed_by.join(", ") };
            text += &format!("slice {}: accepted by {by} now\n", slice.slice);
        }
    }
    text
}

/// `1 2 3 7` as `1-3 7`.
fn ranges(numbers: &[u32]) -> String {
    let mut parts: Vec<(u32, u32)> = Vec::new();
    for &n in numbers {
        match parts.last_mut() {
            Some((_, last)) if *last + 1 == n => *last = n,
            _ => parts.push((n, n)),
        }
    }
    let part = |(a, b): &(u32, u32)| if a == b { a.to_string() } else { format!("{a}-{b}") };
    parts.iter().map(part).collect::<Vec<_>>().join(" ")
}

/// `onemac owner`, asking the agent.
pub fn owner_by_agent(client: IpAddr, service: Option<&str>, run_dir: &Path, json: bool) -> Result<()> {
    let service = service.map(|s| format!("&service={s}")).unwrap_or_default();
    // Colons are fine in a query (RFC 3986, 3.4).
    print_owner(&ask::<Owner>(run_dir, &format!("/owner?client={client}{service}"))?, json)
}

/// `onemac owner --config`, computing.
pub fn owner_by_file(
    client: IpAddr,
    service: Option<String>,
    file: &Path,
    alive: Option<&[String]>,
    json: bool,
) -> Result<()> {
    let definition = setup::load_definition(file)?;
    let secrets = Secrets::load(&setup::secret_path(file, &definition))?;
    let alive = setup::alive_hosts(&definition, alive)?;
    let known = setup::services(&definition);
    let service = service.unwrap_or_else(|| known.first().cloned().unwrap_or_default());
    if !known.contains(&service) {
        return Err(Failure::usage(format_args!(
            "no service `{service}` in the definition; its services are {}",
            known.join(", ")
        )));
    }
    let slice = jhash::slice_of(client, definition.slices, secrets.hash_seed());
    let owner = plan::table(&definition, &service, &alive).owner(slice).map(String::from);
    print_owner(&Owner { client, service, slice, owner, claimed_by: None }, json)
}

fn print_owner(owner: &Owner, json: bool) -> Result<()> {
    if json {
        return print_json(owner);
    }
    let name = owner.owner.as_deref().unwrap_or("nobody");
    println!("{} is in slice {} of {}, which {name} owns", owner.client, owner.slice, owner.service);
    if let Some(by) = owner.claimed_by.as_ref().filter(|by| Some(*by) != owner.owner.as_ref()) {
        println!("at this moment {by} still accepts it");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_become_ranges() {
        assert_eq!(ranges(&[]), "");
        assert_eq!(ranges(&[0, 1, 2, 5, 7, 8]), "0-2 5 7-8");
    }
}
