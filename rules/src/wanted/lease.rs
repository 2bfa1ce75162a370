//! The lease: for how long anything is accepted without another word of the agent.
//!
//! Time is cut into quanta, and a quantum in which packets are accepted stands in a set. A quantum names absolute
//! time: what is late names one that is over. Its element expires besides, by the kernel's own count: a wall clock
//! that is set back does not bring it back for longer than a lease.
//!
//! A renewal is no transaction. The agent sends tiny frames that never leave: a rule at egress knows them by a token
//! and puts the quantum that they carry into the set. Transactions would keep everybody else from reading nftables.

use std::{fmt, ops::Range, time::Duration};

use super::{LEASE, Plan, drop, rule};
use crate::model::*;

/// A lease has at least so many quanta; one of them is lost by rounding.
const QUANTA: u128 = 16;
/// For so long the set has room for quanta that have expired: they count until the kernel has swept them out, which
/// it does once a second if nothing keeps it.
const SWEPT_WITHIN: Duration = Duration::from_secs(8);
/// So much earlier than asked for an element may expire: a tick of the kernel's clock, at most 10 ms, and rounding.
pub(crate) const TICK: Duration = Duration::from_millis(20);

/// Permission to accept, for a limited time. Both limits hold: the first to come ends it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lease {
    /// Counted by the kernel from the moment at which it is told, whole milliseconds.
    pub timeout: Duration,
    /// The same end by the wall clock, nanoseconds since 1970: what was decided in time and told late must not count
    /// from then.
    pub deadline_unix_ns: u64,
}

impl Lease {
    /// By how much earlier than asked for it may end, where a lease lasts `longest` at most: by the quantum that is not
    /// whole, and by the kernel's own count of its last one. A renewal that was taken lasts until then for certain.
    pub fn early(self, longest: Duration) -> Duration {
        let quantum = Quantum::of(longest);
        let whole = quantum.start(quantum.all(self).end);
        // The timeout is in whole milliseconds.
        Duration::from_nanos(self.deadline_unix_ns.saturating_sub(whole)) + TICK + Duration::from_millis(1)
    }
}

/// A random number that only this host knows.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub struct Token([u8; 8]);

impl Token {
    /// With these bytes. The first four bits are always ones, since no IP packet and no ARP message begins with such.
    pub fn new(mut bytes: [u8; 8]) -> Self {
        bytes[0] |= 0xf0;
        Self(bytes)
    }

    /// As it stands in a frame.
    pub fn bytes(self) -> [u8; 8] {
        self.0
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(not shown)")
    }
}

/// How time is cut up: quanta of 2^bits nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Quantum {
    bits: u32,
}

impl Quantum {
    /// The largest power of two that a lease of that length has at least [`QUANTA`] of.
    pub(crate) fn of(longest: Duration) -> Self {
        // nft's syntax cannot say less than 2^9.
        Self { bits: (longest.as_nanos() / QUANTA).max(1 << 9).ilog2() }
    }

    /// What is left of a time when it is cut down to the beginning of its quantum.
    pub(crate) fn mask(self) -> u64 {
        u64::MAX << self.bits
    }

    /// The quanta of a lease, by number: from the one in which it was given to the last that ends before it does.
    pub(crate) fn all(self, lease: Lease) -> Range<u64> {
        // The timeout was rounded down.
        let given = lease
            .deadline_unix_ns
            .saturating_sub((lease.timeout + Duration::from_millis(1)).as_nanos() as u64);
        (given >> self.bits)..(lease.deadline_unix_ns >> self.bits)
    }

    /// How many of them the set can hold.
    fn room(self) -> u32 {
        let expired = (SWEPT_WITHIN.as_nanos() >> self.bits) as u32;
        (expired + 4 * QUANTA as u32).next_power_of_two()
    }

    /// When a quantum begins, nanoseconds since 1970: its key in the set.
    pub(crate) fn start(self, number: u64) -> u64 {
        number << self.bits
    }

    /// Which quantum begins then.
    pub(crate) fn number(self, start: u64) -> u64 {
        start >> self.bits
    }

    /// The elements that say that this lease runs.
    pub(crate) fn elements(self, lease: Option<Lease>) -> Vec<Element> {
        let Some(lease) = lease else { return Vec::new() };
        // No time at all would mean for ever to the kernel.
        let timeout = Duration::from_millis((lease.timeout.as_millis() as u64).max(1));
        let element = |n| Element { key: Key::UnixNs(self.start(n)), timeout: Some(timeout), data: None };
        self.all(lease).map(element).collect()
    }
}

impl Plan<'_> {
    /// The set of the quanta in which packets are accepted.
    pub(super) fn lease(&self) -> Set {
        let longest = self.wanted.longest_lease;
        Set {
            name: LEASE.into(),
            key: KeyType::Time,
            size: Some(Quantum::of(longest).room()),
            timeout: Timeout::All(longest),
            data: None,
            filled: Filled::ByBoth,
            comment: "empty: this host answers nobody; the agent renews it".into(),
            why: "Times at which this host accepts packets, for as long as the agent goes on renewing them."
                .into(),
            elements: Quantum::of(longest).elements(self.wanted.lease),
        }
    }

    /// What goes on under the lease, and is dropped without.
    pub(super) fn under_lease(&self, verdict: Verdict) -> Vec<Rule> {
        let (why, comment) = match verdict {
            Verdict::Goto(_) => (
                "Accept under the lease: what is left of the time without its lowest bits is in the set.",
                "ours, and the lease runs",
            ),
            _ => ("The same for those who come back from here.", "the lease runs"),
        };
        let now = Expr::TimeBits(Quantum::of(self.wanted.longest_lease).mask());
        vec![
            rule(why, comment, vec![Statement::In(now, LEASE.into()), Statement::Verdict(verdict)]),
            rule(
                "An agent that is dead, hung or stopped renews nothing: its kernel falls silent by itself.",
                "no lease: silent",
                vec![drop()],
            ),
        ]
    }

    /// Frames of the agent's own, with a token and a time. They never leave.
    pub(super) fn renewal(&self) -> Rule {
        let (token, quantum) = RENEWAL;
        rule(
            "The agent renews the lease: by the token its own frame, which brings a time and goes no further.",
            "the agent renews the lease",
            vec![
                Statement::Compare(Expr::Raw(token), Op::Eq, Value::Raw(self.wanted.token.0.to_vec())),
                Statement::Add(LEASE.into(), Expr::Raw(quantum)),
                drop(),
            ],
        )
    }
}

/// Where the token and the time are in such a frame.
const RENEWAL: (RawField, RawField) = (
    RawField { base: Base::Network, offset: 0, len: 8 },
    RawField { base: Base::Network, offset: 8, len: 8 },
);

/// What follows the Ethernet header of a renewal by this quantum.
pub(crate) fn frame(token: Token, start: u64) -> [u8; 16] {
    let mut frame = [0; 16];
    frame[..8].copy_from_slice(&token.0);
    frame[8..].copy_from_slice(&start.to_ne_bytes());
    frame
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    #[test]
    fn a_lease_lasts_for_certain_until_its_last_whole_quantum_less_a_tick() {
        for longest in [250, 800, 3_000].map(Duration::from_millis) {
            for end in (0..100).map(|n| (1 << 50) + n * 7_777_777) {
                let lease = Lease { timeout: longest, deadline_unix_ns: end };
                let early = lease.early(longest);
                assert!(early < longest / 16 + TICK + Duration::from_millis(2), "{early:?} of {longest:?}");
                let last = Quantum::of(longest).all(lease).end;
                let certain = Duration::from_nanos(end) - early + TICK;
                assert!(certain < Duration::from_nanos(Quantum::of(longest).start(last)));
            }
        }
    }

    #[test]
    fn a_quantum_is_a_sixteenth_or_less() {
        for (longest, bits) in [(20, 20), (250, 23), (800, 25), (3_000, 27), (60_000, 31)] {
            let quantum = Quantum::of(Duration::from_millis(longest));
            assert_eq!(quantum.bits, bits, "{longest} ms");
            assert_eq!(quantum.mask(), !0 << bits);
        }
    }

    #[test]
    fn a_lease_is_cut_down_to_whole_quanta() {
        let quantum = Quantum::of(Duration::from_millis(800));
        let length = 1u64 << 25;
        for end in [1_000 * length, 1_000 * length + 1, 1_001 * length - 1] {
            let lease = Lease { timeout: Duration::from_millis(800), deadline_unix_ns: end };
            let all = quantum.all(lease);
            assert_eq!(all.end, 1_000, "no quantum that ends after the lease");
            let given = end - 800 * MS;
            assert!(quantum.start(all.start) <= given, "the moment at which it is given is part of it");
            assert!(quantum.start(all.start + 1) > given - 2 * MS, "and hardly what was before");
        }
    }

    #[test]
    fn a_lease_of_no_time_is_not_one_for_ever() {
        for timeout in [Duration::ZERO, Duration::from_micros(999)] {
            let lease = Lease { timeout, deadline_unix_ns: 1 << 40 };
            let elements = Quantum::of(Duration::from_millis(800)).elements(Some(lease));
            assert_eq!(elements[0].timeout, Some(Duration::from_millis(1)));
        }
    }

    #[test]
    fn a_lease_that_is_over_by_the_clock_has_no_time_to_come() {
        let quantum = Quantum::of(Duration::from_millis(800));
        assert_eq!(quantum.elements(None), []);
        let over = Lease { timeout: Duration::from_millis(800), deadline_unix_ns: 1 };
        assert_eq!(quantum.elements(Some(over)), []);
    }

    /// IP packets and ARP messages cannot be taken for renewals.
    #[test]
    fn no_token_is_the_beginning_of_a_packet() {
        for byte in 0..=255 {
            assert_eq!(Token::new([byte; 8]).bytes()[0] >> 4, 0xf);
        }
    }
}
