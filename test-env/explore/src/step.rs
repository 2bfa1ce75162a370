//! What can happen next.

use std::fmt;

/// One of the two hosts: 0 is a, 1 is b.
pub type Who = u8;

/// Something that happens. Reports on their way are told apart by their place: 0 is the older one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Half a heartbeat passes.
    Tick,
    /// A host hears a report; what was said before it is overtaken.
    Hear(Who, u8),
    /// An agent's timer fires.
    Wake(Who),
    /// A kernel does what it was asked for first.
    Commit(Who),
    /// An agent that was stopped reads what its kernel has answered.
    Answer(Who),
    /// The operator takes everything from host a.
    Drain,
    /// The operator gives it back.
    Resume,
    /// Fault: a report to this host is lost.
    Lose(Who, u8),
    /// Fault: a report to this host stays on its way for as long as it likes, besides arriving in time.
    Double(Who, u8),
    /// It arrives.
    Late(Who),
    /// Fault: what the other says does not reach this host any more.
    Cut(Who),
    /// Fault: nothing at all reaches this host any more.
    Deafen(Who),
    /// It does again.
    Mend(Who),
    /// Fault: an agent is stopped.
    Pause(Who),
    /// It goes on.
    Continue(Who),
    /// Fault: an agent dies; what its kernel has begun it finishes, or not.
    Crash(Who, bool),
    /// It is started again.
    Restart(Who),
    /// Fault: a kernel says that it refuses what it was asked for, and has done it all the same, or not.
    Refuse(Who, bool),
}

/// A kind of fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// A report is lost.
    Loss,
    /// A report comes a second time, however late.
    Double,
    /// One way is cut for some time.
    Cut,
    /// A host receives nothing at all for some time.
    Deaf,
    /// An agent is stopped for some time.
    Pause,
    /// An agent dies and is started again.
    Crash,
    /// A kernel refuses a change.
    Refusal,
}

impl Kind {
    /// All of them.
    pub const ALL: [Kind; 7] =
        [Kind::Loss, Kind::Double, Kind::Cut, Kind::Deaf, Kind::Pause, Kind::Crash, Kind::Refusal];
}

impl Step {
    /// Which fault this is the beginning of.
    pub fn fault(self) -> Option<Kind> {
        match self {
            Step::Lose(..) => Some(Kind::Loss),
            Step::Double(..) => Some(Kind::Double),
            Step::Cut(_) => Some(Kind::Cut),
            Step::Deafen(_) => Some(Kind::Deaf),
            Step::Pause(_) => Some(Kind::Pause),
            Step::Crash(..) => Some(Kind::Crash),
            Step::Refuse(..) => Some(Kind::Refusal),
            _ => None,
        }
    }
}

/// The name of a host.
pub fn name(who: Who) -> &'static str {
    ["a", "b"][usize::from(who)]
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let which = |n: u8| ["older", "newer"][usize::from(n.min(1))];
        match *self {
            Step::Tick => write!(f, "half a heartbeat passes"),
            Step::Hear(to, n) => write!(f, "{} hears the {} report", name(to), which(n)),
            Step::Wake(who) => write!(f, "{} wakes", name(who)),
            Step::Commit(who) => write!(f, "the kernel of {} does what it was asked for", name(who)),
            Step::Answer(who) => write!(f, "{} reads its kernel's answer", name(who)),
            Step::Drain => write!(f, "the operator drains a"),
            Step::Resume => write!(f, "the operator resumes a"),
            Step::Lose(to, n) => write!(f, "FAULT: the {} report to {} is lost", which(n), name(to)),
            Step::Double(to, n) => write!(f, "FAULT: the {} report to {} is doubled", which(n), name(to)),
            Step::Late(to) => write!(f, "{} hears the double", name(to)),
            Step::Cut(to) => write!(f, "FAULT: reports do not reach {} any more", name(to)),
            Step::Deafen(to) => write!(f, "FAULT: nothing reaches {} any more", name(to)),
            Step::Mend(to) => write!(f, "{} is reached again", name(to)),
            Step::Pause(who) => write!(f, "FAULT: the agent of {} is stopped", name(who)),
            Step::Continue(who) => write!(f, "the agent of {} goes on", name(who)),
            Step::Crash(who, goes_on) => {
                let kernel = if goes_on { "; its kernel finishes what it began" } else { "" };
                write!(f, "FAULT: the agent of {} dies{kernel}", name(who))
            }
            Step::Restart(who) => write!(f, "the agent of {} is started", name(who)),
            Step::Refuse(who, done) => {
                let done = if done { ", but has done it" } else { "" };
                write!(f, "FAULT: the kernel of {} says that it refuses{done}", name(who))
            }
        }
    }
}
