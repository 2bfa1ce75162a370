//! The kernel's side of a host: the shared device, its addresses, the rules, the settings.
//!
//! The order is what keeps the switch ignorant of the cluster MAC: the rules stand before the device comes
//! up and fall after it is gone. [`netfilter`] has a thread of its own for the rules; [`link`] makes the
//! device; [`sysctl`] the settings; [`conflict`] asks the wire whether somebody else has the addresses.

pub mod conflict;
pub mod link;
pub mod netfilter;
pub mod packet;
mod standings;
pub mod sysctl;

use std::net::IpAddr;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use onemac_rules::Wanted;
use tokio::sync::mpsc;

use self::link::{Links, ServiceDevice};
use self::netfilter::Netfilter;
pub use self::standings::Found;
pub(crate) use self::standings::services;
use crate::failure::{Failure, Result};
use crate::warnings::Warnings;

/// The device that holds the shared addresses.
pub const SHARED_DEVICE: &str = onemac_definition::OWN_LINK;

/// What an agent has made in the kernel.
pub struct Kernel {
    links: Links,
    /// The rules and their thread.
    pub netfilter: Netfilter,
    sysctls: Mutex<sysctl::Changed>,
    service: ServiceDevice,
    /// Where to say what is wrong with this machine.
    pub warnings: Warnings,
}

impl Kernel {
    /// Makes everything that `wanted` needs. With `take_over`, what the kernel does with slices stays as an
    /// earlier run left it, and as long as its lease lasts; else nothing is accepted yet.
    ///
    /// On an error whatever was made is removed again.
    pub async fn bring_up(
        wanted: Wanted,
        run_dir: &Path,
        take_over: bool,
        warnings: Warnings,
    ) -> Result<(Self, Found)> {
        let links = Links::open()?;
        let service = links.service_device(&wanted.device).await?;
        let wanted = Wanted { device_mac: service.mac, ..wanted };
        links.refuse_foreign_device(SHARED_DEVICE).await?;
        links.refuse_foreign_holders(&wanted.vips).await?;
        // Whoever holds the addresses already was asked before it did.
        if !take_over || !links.exists(SHARED_DEVICE).await? {
            conflict::refuse_strangers(&wanted).await?;
        }

        let sysctls = sysctl::Changed::load(run_dir, &warnings)?;

        let (netfilter, found) = match Netfilter::install(wanted.clone(), take_over).await {
            Ok(installed) => installed,
            Err(error) => {
                // What was installed and did not read back as wanted goes again, unless an earlier run's
                // device stands under it and needs the mask.
                if !links.exists(SHARED_DEVICE).await.unwrap_or(true) {
                    let _ = netfilter::remove_left_over().await;
                }
                return Err(error);
            }
        };
        let kernel = Kernel { links, netfilter, sysctls: Mutex::new(sysctls), service, warnings };
        match kernel.bring_up_device(&wanted).await {
            Ok(()) => Ok((kernel, found)),
            Err(error) => {
                for undone in kernel.tear_down().await {
                    tracing::error!("while cleaning up: {undone}");
                }
                Err(error)
            }
        }
    }

    async fn bring_up_device(&self, wanted: &Wanted) -> Result<()> {
        let has = |v4: bool| wanted.vips.iter().any(|vip| vip.is_ipv4() == v4);
        let tracked = wanted.services.iter().any(|service| service.tracked);
        let settings =
            onemac_rules::sysctl::wanted(&wanted.device, SHARED_DEVICE, has(true), has(false), tracked);
        let of_shared = |path: &str| path.contains(&format!("/{SHARED_DEVICE}/"));
        let (shared, service): (Vec<_>, Vec<_>) = settings.into_iter().partition(|s| of_shared(&s.path));
        self.sysctls.lock().unwrap_or_else(PoisonError::into_inner).apply(&service)?;
        let (octets, on) = (wanted.cluster_mac.0, (wanted.device.as_str(), self.service.index));
        let index = self.links.shared_device(SHARED_DEVICE, on, octets).await?;
        // The settings of the shared device vanish with it: nothing to remember.
        sysctl::apply_unremembered(&shared)?;
        self.links.set_up(SHARED_DEVICE, index).await?;
        self.links.set_addresses(SHARED_DEVICE, index, &wanted.vips).await
    }

    /// The service device: its index and its own MAC address.
    pub fn service_device(&self) -> (u32, [u8; 6]) {
        (self.service.index, self.service.mac.0)
    }

    /// Whether the service device had a carrier, and its later changes.
    pub fn carrier(&self) -> Result<(bool, mpsc::UnboundedReceiver<bool>)> {
        Ok((self.service.carrier, link::watch_carrier(self.service.index)?))
    }

    /// Other shared addresses and other services, while everything goes on. An address is covered by the
    /// rules for as long as the device has it.
    pub async fn change(&self, before: &[IpAddr], wanted: Wanted) -> Result<()> {
        let wanted = Wanted { device_mac: self.service.mac, ..wanted };
        let index = self.links.index(SHARED_DEVICE).await?;
        let mut both = wanted.clone();
        both.vips.extend(before);
        self.netfilter.rebase(both).await?;
        self.links.set_addresses(SHARED_DEVICE, index, &wanted.vips).await?;
        self.netfilter.rebase(wanted).await
    }

    /// Removes everything, the device before the rules; says what could not be removed.
    pub async fn tear_down(&self) -> Vec<Failure> {
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
