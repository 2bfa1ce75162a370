//! The ground that a host stands on: the service device, the rules, the settings, the shared device and its
//! addresses. One function makes all of it as it is wanted, whatever it finds: at the start, when the definition
//! changes, and whenever somebody else has changed something.
//!
//! The order keeps the switch ignorant of the cluster MAC and strangers' clients out: the shared device comes up
//! last, when the rules stand, and is made down.

use std::collections::VecDeque;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use onemac_rules::sysctl::Sysctl;
use onemac_rules::{MacAddr, Wanted};
use tokio::sync::watch;
use tokio::time::MissedTickBehavior;

use super::link::{Device, Events, ServiceDevice};
use super::{Kernel, SHARED_DEVICE, sysctl};
use crate::failure::{Failure, Result};

/// How often everything is looked at, whatever the kernel has told: settings are changed without a word, and
/// words may be lost.
const LOOK: Duration = Duration::from_secs(1);

/// Who has to put things right so often within this time has an opponent, until for as long nothing was to be
/// put right.
const FIGHT: (usize, Duration) = (20, Duration::from_secs(10));

/// What is wanted, and on what it was last made.
pub(super) struct Ground {
    /// For the device as it was last seen.
    pub wanted: Wanted,
    /// The service device as the definition names it.
    pub named: String,
    /// The service device as it was last seen.
    pub service: ServiceDevice,
    /// What the rules were last made for: the service device and the shared one.
    pub based: Option<Base>,
    /// Everything was removed; nothing is to be made any more.
    pub ended: bool,
    fight: Fight,
}

/// What the rules depend on: index, name and address of the service device, and index of the shared one.
type Base = (u32, String, MacAddr, u32);

/// What the daemon needs to know of the ground.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Footing {
    /// Whether clients reach this host and are judged as wanted: there is a carrier, and everything stands.
    pub up: bool,
    /// The index of the service device.
    pub index: u32,
    /// Its own MAC address.
    pub mac: [u8; 6],
    /// Its name, which may be another than in the definition.
    pub name: String,
}

impl Ground {
    pub fn new(wanted: Wanted, named: String, service: ServiceDevice) -> Self {
        Ground { wanted, named, service, based: None, ended: false, fight: Fight::default() }
    }

    fn footing(&self, up: bool) -> Footing {
        let ServiceDevice { index, mac, name, .. } = &self.service;
        Footing { up, index: *index, mac: mac.0, name: name.clone() }
    }
}

impl Kernel {
    /// Makes everything as it is wanted; says what was not.
    pub(super) async fn ensure(&self, ground: &mut Ground) -> Result<Vec<String>> {
        let mut repairs = Vec::new();
        let service = self.follow(ground).await?;
        let shared = self.shared_device(ground, &service, &mut repairs).await?;
        let base = (service.index, service.name.clone(), service.mac, shared.index);
        if ground.based.as_ref() != Some(&base) {
            self.rename_settings(ground, &service.name)?;
            (ground.wanted.device, ground.wanted.device_mac) = (service.name.clone(), service.mac);
            // Until they stand anew, nobody knows for what they stand.
            ground.based = None;
            ground.service = service.clone();
            self.outside.send_if_modified(|outside| {
                let before = (outside.service, outside.name.clone());
                (outside.service, outside.name) = (service.index, service.name.clone());
                before != (outside.service, outside.name.clone())
            });
            self.netfilter.rebase(ground.wanted.clone()).await?;
            ground.based = Some(base);
        } else if let Some(why) = self.netfilter.look().await?.refused {
            return Err(Failure::failed(format_args!("the rules do not stand: {why}")));
        }
        ground.service = service;
        let (index, mtu) = (shared.index, ground.service.mtu);
        if !shared.arp || shared.mtu != mtu {
            repairs.push(format!("{SHARED_DEVICE} had MTU {} and ARP {}", shared.mtu, on_or_off(shared.arp)));
            // First of all: where packets of IPv6 have no room, the device has no settings of IPv6 either.
            self.links.fit(SHARED_DEVICE, index, mtu).await?;
        }
        let (of_shared, of_service) = settings(&ground.wanted);
        {
            let mut sysctls = self.sysctls.lock().unwrap_or_else(PoisonError::into_inner);
            repairs.extend(sysctls.make_way(&of_shared)?);
            repairs.extend(sysctls.apply(&of_service)?);
        }
        // The settings of the shared device vanish with it: nothing to remember.
        repairs.extend(sysctl::apply_unremembered(&of_shared)?);
        if !shared.up {
            repairs.push(format!("{SHARED_DEVICE} was down"));
            self.netfilter.open().await?;
        }
        repairs.extend(self.links.set_addresses(SHARED_DEVICE, index, &ground.wanted.vips).await?);
        Ok(repairs)
    }

    /// The service device, by whatever name it goes now; if it is gone, whichever bears the definition's name.
    async fn follow(&self, ground: &Ground) -> Result<ServiceDevice> {
        let before = &ground.service;
        let mut device = self.links.by_index(before.index).await?;
        for name in [&ground.named, &before.name] {
            if device.is_none() {
                device = self.links.by_name(name).await?;
            }
        }
        let Some(device) = device else {
            return Err(Failure::failed(format_args!(
                "the service device {} is gone; put it back: this host joins again by itself",
                before.name
            )));
        };
        if device.name == ground.named {
            self.warnings.clear("service-device");
        } else {
            self.warnings.raise(
                "service-device",
                format!("the service device {} is now called {}", ground.named, device.name),
                format!(
                    "write `interface: {}` for this host in the definition, or rename it back",
                    device.name
                ),
            );
        }
        device.service()
    }

    async fn shared_device(
        &self,
        ground: &Ground,
        service: &ServiceDevice,
        repairs: &mut Vec<String>,
    ) -> Result<Device> {
        let mac = ground.wanted.cluster_mac;
        if let Some((.., index)) = ground.based
            && let Some(found) = self.links.by_index(index).await?
            && found.macvlan_on.is_some()
            && found.mac == Some(mac)
        {
            if found.macvlan_on == Some(service.index) && found.name == SHARED_DEVICE {
                return Ok(found);
            }
            self.links.remove(&found.name).await?;
        }
        let (device, new) = self.links.shared_device(SHARED_DEVICE, service, mac.0).await?;
        self.gate.stand_on(device.index);
        if new {
            repairs.push(format!("{SHARED_DEVICE} was gone"));
        }
        Ok(device)
    }

    fn rename_settings(&self, ground: &Ground, name: &str) -> Result<()> {
        let before = &ground.wanted.device;
        if before == name {
            return Ok(());
        }
        self.sysctls.lock().unwrap_or_else(PoisonError::into_inner).rename(before, name)
    }

    /// Watches over the ground until everything is removed, or nobody wants to know any more.
    pub fn guard(self: &Arc<Self>, first: Footing) -> watch::Receiver<Footing> {
        let (tell, footing) = watch::channel(first);
        let kernel = Arc::clone(self);
        self.links.runtime.spawn(async move {
            let mut events = None;
            let mut tick = tokio::time::interval(LOOK);
            tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
            loop {
                let interest = {
                    let ground = kernel.ground.lock().await;
                    let shared = ground.based.as_ref().map_or(0, |base| base.3);
                    (!ground.fight.is_on()).then(|| ([ground.service.index, shared], ground.named.clone()))
                };
                if interest.is_none() {
                    // What nobody takes out of the queue would fill the memory.
                    events = None;
                }
                let (of, named) = interest.clone().unwrap_or_default();
                let names = [named.as_str(), SHARED_DEVICE];
                tokio::select! {
                    _ = tick.tick() => {}
                    goes_on = news(&mut events, &of, &names), if interest.is_some() => {
                        if !goes_on {
                            // Lost what watches, and perhaps news: heard again from the next look on.
                            events = None;
                            tick.tick().await;
                        }
                    }
                    () = kernel.netfilter.turned() => {}
                }
                if events.is_none() && interest.is_some() {
                    events = Events::open().inspect_err(|error| tracing::warn!("{error}")).ok();
                }
                let Some(now) = kernel.look_after().await else { return };
                tell.send_if_modified(|before| {
                    let differs = *before != now;
                    *before = now;
                    differs
                });
                if tell.is_closed() {
                    return;
                }
            }
        });
        footing
    }

    /// Looks at everything once and puts right what can be; none if everything is removed.
    async fn look_after(&self) -> Option<Footing> {
        let mut ground = self.ground.lock().await;
        if ground.ended {
            return None;
        }
        let mut outcome = self.ensure(&mut ground).await;
        if outcome.is_err() {
            // Somebody may have changed something at this very moment, or the kernel's answer was torn by that.
            outcome = self.ensure(&mut ground).await;
        }
        let fought = ground.fight.is_on();
        match &outcome {
            Ok(repairs) => {
                self.warnings.clear("path");
                if !repairs.is_empty() && !fought {
                    tracing::warn!("put right what somebody else has changed: {}", repairs.join(", "));
                }
                let rules = self.netfilter.look().await.map_or(0, |seen| seen.repairs);
                self.note_fight(&mut ground.fight, !repairs.is_empty(), rules, repairs.first());
            }
            Err(error) => self.warnings.raise(
                "path",
                format!("the packet path of this host does not stand: {error}"),
                "this host gives its slices up, tries again every second, and joins by itself",
            ),
        }
        let up = outcome.is_ok() && ground.service.carrier && !ground.fight.is_on();
        Some(ground.footing(up))
    }

    fn note_fight(&self, fight: &mut Fight, repaired: bool, rules: u64, what: Option<&String>) {
        let before = fight.is_on();
        fight.note(Instant::now(), repaired, rules);
        match (before, fight.is_on()) {
            (false, true) => {
                let what = what.map_or("the rules were changed", String::as_str);
                self.warnings.raise(
                    "fight",
                    format!(
                        "another program changes again and again what this host's packet path is made of \
                         (last: {what})"
                    ),
                    format!(
                        "find it with `nft monitor` and `ip monitor` and stop it; this host gives its slices up \
                         until nothing was changed for {} seconds",
                        FIGHT.1.as_secs()
                    ),
                );
            }
            (true, false) => drop(self.warnings.clear("fight")),
            _ => {}
        }
    }

    /// How the ground is right after it was made.
    pub async fn footing(&self) -> Footing {
        let ground = self.ground.lock().await;
        ground.footing(ground.service.carrier)
    }
}

async fn news(events: &mut Option<Events>, of: &[u32], named: &[&str]) -> bool {
    match events {
        Some(events) => events.news(of, named).await,
        None => std::future::pending().await,
    }
}

/// The settings of the shared device, and those of the service device and of the host.
fn settings(wanted: &Wanted) -> (Vec<Sysctl>, Vec<Sysctl>) {
    let has = |v4: bool| wanted.vips.iter().any(|vip| vip.is_ipv4() == v4);
    let tracked = wanted.services.iter().any(|service| service.tracked);
    let settings =
        onemac_rules::sysctl::wanted(&wanted.device, SHARED_DEVICE, has(true), has(false), tracked);
    let of_shared = |path: &str| path.contains(&format!("/{SHARED_DEVICE}/"));
    settings.into_iter().partition(|s| of_shared(&s.path))
}

fn on_or_off(on: bool) -> &'static str {
    if on { "on" } else { "off" }
}

/// When things were put right.
#[derive(Debug, Default)]
struct Fight {
    repairs: VecDeque<Instant>,
    rules: u64,
    on: bool,
}

impl Fight {
    fn is_on(&self) -> bool {
        self.on
    }

    /// The ground was looked at. `rules` counts how often the rules were put right since the start.
    fn note(&mut self, now: Instant, repaired: bool, rules: u64) {
        let (many, span) = FIGHT;
        let rules = rules.saturating_sub(std::mem::replace(&mut self.rules, rules));
        let count = usize::from(repaired) + usize::try_from(rules).unwrap_or(many).min(many);
        self.repairs.extend(std::iter::repeat_n(now, count));
        while self.repairs.len() > many
            || self.repairs.front().is_some_and(|&at| now.duration_since(at) >= span)
        {
            self.repairs.pop_front();
        }
        self.on = self.repairs.len() >= many || self.on && !self.repairs.is_empty();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_puts_things_right_again_and_again_has_an_opponent_until_it_is_quiet() {
        let (start, mut fight) = (Instant::now(), Fight::default());
        let at = |ms| start + Duration::from_millis(ms);
        (0..19).for_each(|n| fight.note(at(n * 50), true, 0));
        assert!(!fight.is_on());
        fight.note(at(1000), false, 0);
        assert!(!fight.is_on(), "nothing was to be put right");
        fight.note(at(1100), false, 1);
        assert!(fight.is_on(), "the rules count too");
        fight.note(at(9000), true, 1);
        fight.note(at(18_900), false, 1);
        assert!(fight.is_on(), "the last one is less than ten seconds ago");
        fight.note(at(19_000), false, 1);
        assert!(!fight.is_on());
    }
}
