//! The kernel's side of a host: the shared device, its addresses, the rules, the settings.
//!
//! The order is what keeps the switch ignorant of the cluster MAC: the rules stand before the device comes
//! up and fall after it is gone. [`netfilter`] has a thread of its own for the rules; [`link`] makes the
//! device; [`sysctl`] the settings; [`conflict`] asks the wire whether somebody else has the addresses. What is
//! wanted is made, and kept, by one function (`ground`).

pub mod conflict;
pub mod conntrack;
pub mod ears;
mod gate;
mod ground;
pub mod inside;
pub mod link;
pub mod netfilter;
pub mod packet;
mod standings;
pub mod sysctl;

use std::net::IpAddr;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use onemac_rules::Wanted;
use tokio::sync::{mpsc, watch};

use self::gate::Gate;
pub use self::ground::Footing;
use self::ground::Ground;
use self::link::Links;
use self::netfilter::{Netfilter, Said};
pub use self::standings::Found;
pub(crate) use self::standings::services;
use crate::failure::{Failure, Result};
use crate::warnings::Warnings;
pub use onemac_definition::SHARED_DEVICE;

/// What an agent has made in the kernel.
pub struct Kernel {
    links: Links,
    /// The rules and their thread.
    pub netfilter: Netfilter,
    sysctls: Mutex<sysctl::Changed>,
    gate: Gate,
    ground: tokio::sync::Mutex<Ground>,
    /// What other devices of this host are to have nothing to do with.
    outside: watch::Sender<inside::Outside>,
    /// Where to say what is wrong with this machine.
    pub warnings: Warnings,
}

impl Kernel {
    /// Makes everything that `wanted` needs. With `take_over`, what the kernel does with slices stays as an
    /// earlier run left it, and as long as its lease lasts; else nothing is accepted yet.
    ///
    /// `hosts` are the addresses at which the hosts of the cluster are. The queue has what the kernel did of what it is
    /// asked for later. On an error whatever was made is removed again.
    pub async fn bring_up(
        wanted: Wanted,
        run_dir: &Path,
        take_over: bool,
        hosts: &[IpAddr],
        warnings: Warnings,
    ) -> Result<(Self, Found, mpsc::UnboundedReceiver<Said>)> {
        let links = Links::open()?;
        let named = wanted.device.clone();
        let service = links.service_device(&named).await;
        // Renamed while an earlier run served: it is still the one that the shared device stands on.
        let service = match (service, links.below(SHARED_DEVICE).await?) {
            (Err(_), Some(device)) => device.service(),
            (service, _) => service,
        }?;
        let wanted = Wanted { device: service.name.clone(), device_mac: service.mac, ..wanted };
        links.refuse_foreign_device(SHARED_DEVICE).await?;
        links.refuse_foreign_holders(&wanted.vips).await?;
        // Whoever holds the addresses already was asked before it did.
        if !take_over || !links.exists(SHARED_DEVICE).await? {
            conflict::refuse_strangers(&wanted).await?;
        }

        let sysctls = sysctl::Changed::load(run_dir, &warnings)?;
        let addresses = wanted.vips.iter().chain(hosts).copied().collect();
        let outside = inside::Outside { service: service.index, name: wanted.device.clone(), addresses };
        let wanted = Wanted { inside: inside::devices(&outside).await?, ..wanted };

        // The rules name the shared device, so it is there before them, and down.
        let (shared, new) = links.shared_device(SHARED_DEVICE, &service, wanted.cluster_mac.0).await?;
        let gate = Gate::default();
        gate.stand_on(shared.index);
        let part = netfilter::Shared::new(gate.clone(), warnings.clone());
        let (netfilter, found, said) = match Netfilter::install(wanted.clone(), take_over, part).await {
            Ok(installed) => installed,
            Err(error) => {
                // What was installed and did not read back as wanted goes again, unless an earlier run's
                // device stands under it and needs the mask: that is taken down.
                if new {
                    let _ = links.remove(SHARED_DEVICE).await;
                    let _ = netfilter::remove_left_over().await;
                } else if let Err(error) = gate.close(&wanted.vips) {
                    tracing::error!("cannot take {SHARED_DEVICE} down: {error}");
                }
                return Err(error);
            }
        };
        let outside = watch::Sender::new(outside);
        let inside = wanted.inside.clone();
        let ground = tokio::sync::Mutex::new(Ground::new(wanted, named, service));
        let kernel =
            Kernel { links, netfilter, sysctls: Mutex::new(sysctls), gate, ground, outside, warnings };
        let made = kernel.ensure(&mut *kernel.ground.lock().await).await;
        match made {
            Ok(_) => {
                let _inside = kernel.links.runtime.enter();
                let outside = kernel.outside.subscribe();
                let followed = inside::follow(outside, inside, &kernel.netfilter, kernel.warnings.clone());
                if let Err(error) = followed {
                    tracing::warn!("{error}: later devices of containers stay closed");
                }
                Ok((kernel, found, said))
            }
            Err(error) => {
                for undone in kernel.tear_down().await {
                    tracing::error!("while cleaning up: {undone}");
                }
                Err(error)
            }
        }
    }

    /// The addresses of the cluster are these: the shared ones and its hosts'.
    pub fn keep_apart_from(&self, addresses: Vec<IpAddr>) {
        self.outside.send_modify(|outside| outside.addresses = addresses);
    }

    /// Other shared addresses and other services, while everything goes on. An address is covered by the
    /// rules for as long as the device has it.
    pub async fn change(&self, before: &[IpAddr], wanted: Wanted) -> Result<()> {
        let mut ground = self.ground.lock().await;
        ground.named = wanted.device.clone();
        let Wanted { device, device_mac, .. } = &ground.wanted;
        let wanted = Wanted { device: device.clone(), device_mac: *device_mac, ..wanted };
        let mut both = wanted.clone();
        both.vips.extend(before);
        // Whatever fails is tried again: by these rules, until all is as wanted.
        ground.wanted = wanted.clone();
        let based = ground.based.take();
        self.netfilter.rebase(both).await?;
        ground.based = based;
        self.ensure(&mut ground).await?;
        let based = ground.based.take();
        self.netfilter.rebase(wanted).await?;
        ground.based = based;
        Ok(())
    }

    /// Removes everything, the device before the rules; says what could not be removed.
    pub async fn tear_down(&self) -> Vec<Failure> {
        self.ground.lock().await.ended = true;
        let device = self.links.remove(SHARED_DEVICE).await.map(drop);
        // While the device stands, the rules that mask it must stand too.
        let rules = match &device {
            Ok(()) => self.netfilter.remove().await,
            Err(_) => Ok(()),
        };
        let sysctls = self.sysctls.lock().unwrap_or_else(PoisonError::into_inner).restore();
        [device, rules, sysctls].into_iter().filter_map(std::result::Result::err).collect()
    }
}

/// What [`clean`] found and removed.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Cleaned {
    /// The shared device, with its addresses.
    pub device: bool,
    /// The rules.
    pub rules: bool,
    /// Settings that are back to what they were, by path.
    pub settings: Vec<String>,
}

/// Removes what an agent left.
pub async fn clean(run_dir: &Path, warnings: &Warnings) -> Result<Cleaned> {
    let mut sysctls = sysctl::Changed::load(run_dir, warnings)?;
    let device = Links::open()?.remove(SHARED_DEVICE).await?;
    let rules = netfilter::remove_left_over().await?;
    let settings = sysctls.paths();
    sysctls.restore()?;
    Ok(Cleaned { device, rules, settings })
}

/// The prefix length of a single address.
fn host_prefix(address: &IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}
