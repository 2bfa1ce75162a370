//! Somebody on a host who uses the shared device, at every moment.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use crate::frames::{Injector, arp_request, mac};
use crate::{Host, addr};

/// Sends by the shared device of a host whenever it is there, so often that no moment without the mask
/// goes by unseen. Dropping it ends it.
#[derive(Debug)]
pub struct Chatter {
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicUsize>,
}

impl Chatter {
    /// Begins.
    #[must_use]
    pub fn start(host: &Host) -> Self {
        let chatter = Self { stop: Arc::default(), sent: Arc::default() };
        let (stop, sent) = (Arc::clone(&chatter.stop), Arc::clone(&chatter.sent));
        let netns = host.netns().clone();
        thread::spawn(move || {
            let frame = arp_request(mac(addr::CLUSTER_MAC), addr::VIP4, addr::ROUTER4);
            netns.within(|| {
                while !stop.load(Ordering::Relaxed) {
                    // No device yet, or no longer: look again.
                    let Ok(shared) = Injector::open_here("onemac0") else {
                        thread::yield_now();
                        continue;
                    };
                    // An error is the device that is down or gone; down, it may come up again.
                    while shared.send(&frame).is_ok() && !stop.load(Ordering::Relaxed) {
                        sent.fetch_add(1, Ordering::Relaxed);
                        thread::sleep(Duration::from_micros(500));
                    }
                    thread::sleep(Duration::from_micros(100));
                }
                Ok(())
            })
        });
        chatter
    }

    /// How many frames it has sent.
    #[must_use]
    pub fn sent(&self) -> usize {
        self.sent.load(Ordering::Relaxed)
    }
}

impl Drop for Chatter {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}
