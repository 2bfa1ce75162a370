//! Heartbeat, lease, drain.

use std::time::Duration;

use crate::duration::print;
use crate::fields::Fields;
use crate::model::Timing;
use crate::problem::Sink;
use crate::read::optional;
use crate::schema;
use crate::slot::Slot;

const HEARTBEAT_MIN: Duration = Duration::from_millis(10);
const HEARTBEAT_MAX: Duration = Duration::from_secs(10);
const LEASE_MAX: Duration = Duration::from_secs(60);
/// So many heartbeats a lease has at least: four lost words in a row, not one, must be needed to mistake a living host
/// for a dead one.
const LEASE_HEARTBEATS: u32 = 5;
const DRAIN_MAX: Duration = Duration::from_secs(24 * 3600);

/// Reads `timing`; every value has a default.
pub(super) fn read(slot: Option<&Slot<'_>>, sink: &mut Sink) -> Option<Timing> {
    let default = Timing::default();
    let Some(slot) = slot else { return Some(default) };
    let timing = Fields::open(slot, &schema::TIMING, sink)?;
    let heartbeat = timing.get("heartbeat");
    let lease = timing.get("lease");
    let heartbeat_value =
        optional(heartbeat, default.heartbeat, |slot| slot.duration(HEARTBEAT_MIN..=HEARTBEAT_MAX, sink));
    // The lower bound follows from the heartbeat and is told with its reason.
    let lease_value = optional(lease, default.lease, |slot| slot.duration(Duration::ZERO..=LEASE_MAX, sink));
    let drain_timeout = optional(timing.get("drain_timeout"), default.drain_timeout, |slot| {
        slot.duration(Duration::ZERO..=DRAIN_MAX, sink)
    });
    let (heartbeat_value, lease_value) = (heartbeat_value?, lease_value?);
    let least = heartbeat_value * LEASE_HEARTBEATS;
    if lease_value < least {
        let expected = format!(
            "at least {}, five heartbeats: four lost words in a row, not one, must be needed to mistake a living host \
             for a dead one",
            print(least)
        );
        match (lease, heartbeat) {
            (Some(lease), _) => {
                lease.wrong(sink, format_args!("is {}", print(lease_value))).expected(expected);
            }
            (None, Some(heartbeat)) => {
                let (is, then) = (print(heartbeat_value), print(lease_value));
                let usual = (heartbeat_value * 8).min(LEASE_MAX);
                heartbeat
                    .wrong(sink, format_args!("is {is}, and `lease`, which is not given, is then {then}"))
                    .expected(format!("a lease of {expected}"))
                    .hint(format!("add `lease: {}`", print(usual)));
            }
            (None, None) => {}
        }
    }
    Some(Timing { heartbeat: heartbeat_value, lease: lease_value, drain_timeout: drain_timeout? })
}
