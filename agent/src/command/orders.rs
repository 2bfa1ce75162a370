//! The commands that change something: drain, resume, weight, reload, restart.

use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

use super::run;
use crate::control::client;
use crate::control::model::{Done, Moving, Status, Wish};
use crate::failure::{Failure, Result};
use crate::gossip::letter::Order;

/// From one look at the agent to the next.
const LOOK: Duration = Duration::from_millis(500);

/// A program that is started anew answers within this time, or something is wrong.
const RESTART: Duration = Duration::from_secs(15);

/// How many slices are named one by one.
const SLICES_TOLD: usize = 5;

/// `onemac resume`, `onemac weight`.
pub fn tell(run_dir: &Path, host: Option<String>, order: Order) -> Result<()> {
    post(run_dir, "/order", &Wish { host, order })
}

/// `onemac drain`.
pub fn drain(run_dir: &Path, host: Option<String>, service: Option<String>, wait: bool) -> Result<()> {
    let wish = Wish { host: host.clone(), order: Order::Drain { service: service.clone() } };
    post(run_dir, "/order", &wish)?;
    if wait {
        wait_until_empty(run_dir, host, service.as_deref())?;
    }
    Ok(())
}

/// `onemac reload`.
pub fn reload(run_dir: &Path) -> Result<()> {
    post(run_dir, "/reload", &())
}

/// `onemac restart`.
pub fn restart(run_dir: &Path) -> Result<()> {
    let before = status(run_dir)?;
    post(run_dir, "/restart", &())?;
    let until = Instant::now() + RESTART;
    loop {
        sleep(Duration::from_millis(50));
        match status(run_dir) {
            Ok(after) if after.run != before.run => {
                match after.incarnation == before.incarnation {
                    true => println!("{} runs anew, in the same life", after.host),
                    false => println!("{} runs anew, as a newcomer: it was not back in time", after.host),
                }
                return Ok(());
            }
            Err(error) if Instant::now() >= until => return Err(error),
            Ok(_) if Instant::now() >= until => {
                return Err(Failure::failed("the agent has not started anew; its log says why"));
            }
            _ => {}
        }
    }
}

fn post(run_dir: &Path, what: &str, body: &impl serde::Serialize) -> Result<()> {
    let done: Done = run::runtime()?.block_on(client::tell(run_dir, what, body))?;
    println!("{}", done.said);
    Ok(())
}

fn status(run_dir: &Path) -> Result<Status> {
    run::runtime()?.block_on(client::ask(run_dir, "/status"))
}

/// Waits until a host accepts nothing of a service and no connection of it is left there.
fn wait_until_empty(run_dir: &Path, host: Option<String>, service: Option<&str>) -> Result<()> {
    let mut told = String::new();
    loop {
        sleep(LOOK);
        let status = status(run_dir)?;
        let name = host.as_deref().unwrap_or(&status.host);
        let row = status.hosts.iter().find(|h| h.name.eq_ignore_ascii_case(name));
        let Some(row) = row.filter(|h| h.alive) else {
            return Err(Failure::failed(format_args!("{name} is gone: nothing is left there to wait for")));
        };
        if !(service.is_none() || row.drained.iter().any(|s| Some(s.as_str()) == service))
            || service.is_none() && row.drained.is_empty()
        {
            return Err(Failure::failed(format_args!("somebody has resumed {name}; no longer waiting")));
        }
        let owned: u32 = row
            .slices
            .iter()
            .filter(|(s, _)| service.is_none_or(|wanted| wanted == *s))
            .map(|(_, n)| n)
            .sum();
        let text = match owned {
            0 if row.moving == 0 => {
                println!("{name} has no connections left");
                return Ok(());
            }
            0 if row.name == status.host && !status.moving.is_empty() => here(&status.moving),
            0 => left(row.connections, &format!("{} slices", row.moving), Some(u64::from(row.oldest_s))),
            n => format!("{n} slices are still to be handed over"),
        };
        if text != told {
            println!("{text}");
            told = text;
        }
    }
}

/// What is left on this host, slice by slice while they are few.
fn here(moving: &[Moving]) -> String {
    let found: Vec<&Moving> = moving.iter().filter(|m| m.connections.is_some_and(|n| n > 0)).collect();
    if moving.iter().any(|m| m.connections.is_none()) {
        return format!("looking for connections on {} slices", moving.len());
    }
    if found.len() > SLICES_TOLD {
        let connections = found.iter().filter_map(|m| m.connections).sum();
        let oldest = found.iter().filter_map(|m| m.oldest_s).max();
        return left(connections, &format!("{} slices", found.len()), oldest);
    }
    let line = |m: &&Moving| left(m.connections.unwrap_or(0), &format!("slice {}", m.slice), m.oldest_s);
    match found.is_empty() {
        true => "no connections left, closing".into(),
        false => found.iter().map(line).collect::<Vec<_>>().join("\n"),
    }
}

/// `3 connections left on slice 17, oldest 4 min`; an age of 0 is not known.
pub fn left(connections: u32, of: &str, oldest_s: Option<u64>) -> String {
    let what = if connections == 1 { "connection" } else { "connections" };
    let oldest = match oldest_s.filter(|&s| s > 0) {
        Some(seconds) => format!(", oldest {}", age(seconds)),
        None => String::new(),
    };
    format!("{connections} {what} left on {of}{oldest}")
}

/// A time in its largest unit.
fn age(seconds: u64) -> String {
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7200 => format!("{} min", seconds / 60),
        _ => format!("{} h", seconds / 3600),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_is_told_slice_by_slice_while_they_are_few() {
        let moving = |slice, connections, oldest_s| Moving {
            service: "default".into(),
            slice,
            connections: Some(connections),
            oldest_s,
            closes_in_s: 300,
        };
        let few = [moving(17, 3, Some(250)), moving(18, 0, None), moving(19, 1, None)];
        assert_eq!(here(&few), "3 connections left on slice 17, oldest 4 min\n1 connection left on slice 19");
        let many: Vec<Moving> = (0..9).map(|s| moving(s, 2, Some(u64::from(s)))).collect();
        assert_eq!(here(&many), "18 connections left on 9 slices, oldest 8 s");
        assert_eq!(
            here(&[Moving { connections: None, ..moving(1, 0, None) }]),
            "looking for connections on 1 slices"
        );
    }
}
