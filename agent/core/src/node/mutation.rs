//! Ways to break the protocol, for those who must show that they would notice.
//!
//! Compiled only with the feature `mutations`, which nothing but the simulator asks for.

/// A rule that is left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mutation {
    /// A silent host counts as gone when its lease ends, with no margin for clocks.
    NoMargin,
    /// A silent host counts as gone after two heartbeats, as a failure detector would have it.
    BelieveAtOnce,
    /// Slices are acquired without asking what view the others have.
    NoAgreement,
    /// A slice is released in words first and in the kernel later.
    WordsFirst,
    /// Neither a gap in one's own time nor a lease that has run out makes a newcomer.
    NoGuards,
    /// All lives of a host are one.
    NoIncarnations,
    /// The lease runs from what was sent, whether anybody has heard it or not.
    NoAcknowledgements,
    /// Who has been silent for a heartbeat does not bound the lease any more.
    SilenceIsDeath,
    /// The lease does not end earlier than was granted, whoever is heard again and does not answer.
    LeaseNeverShrinks,
    /// A renewal counts as taken without the kernel's word.
    RenewalsUnconfirmed,
    /// Who hears nothing goes on.
    DeafGoesOn,
    /// A host that says that it is deaf is waited for.
    DeafAwaited,
    /// A newcomer that misses somebody listens for one expiry.
    ShortListening,
    /// Somebody heard counts as somebody who has answered, when a newcomer asks whom it misses.
    HeardIsAnswered,
    /// A view is a vote, whoever else is heard.
    VotesAnyway,
    /// A host of another definition is not asked in agreement, whatever it holds.
    DefinitionsUnheeded,
    /// What somebody has taken by our relay is ours to send off again.
    HandedForgotten,
    /// What is claimed and relayed to us at once meets an open door.
    ChangingUnheeded,
    /// What was known of the answers is not handed over at a restart.
    RestartForgets,
    /// Time slept through counts as time listened.
    SleepListens,
    /// What was answered to an earlier entry into a view counts for a later one.
    OldAnswers,
    /// What others send on to a third host counts for nothing.
    RelaysUnheeded,
    /// Connections that live elsewhere are reset.
    ResetsAll,
    /// Whoever owns a slice of a dead host resets what it does not know, without a list of what lives elsewhere.
    NoLists,
    /// A list counts although the slice was given up since it was asked for.
    StaleLists,
    /// With [`super::Partition::Majority`]: acknowledgements count from the first one.
    NoProbation,
}
