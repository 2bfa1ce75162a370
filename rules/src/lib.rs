//! What onemac wants of nftables and of the sysctls, and how it gets there.
//!
//! [`ruleset`] turns a [`Wanted`] into a [`model::Ruleset`]: plain ordered data, no kernel in sight.
//! [`model::Ruleset::to_nft`] prints it as people type it; [`netlink::Netfilter`] installs the same data in
//! one transaction and reads it back. [`sysctl::wanted`] is the table of kernel settings, data only.
//!
//! What is not here: who owns which slice and when (onemac-core decides), the hash itself (the kernel's;
//! onemac-core has a copy), links and addresses, and the writing of sysctls (the agent's).

mod bytecode;
pub mod model;
pub mod netlink;
pub mod sysctl;
mod text;
mod userdata;
mod wanted;

pub use model::{MacAddr, Protocol};
pub use wanted::{
    ELSEWHERE_MAX, INSIDE_MAX, Lease, RELAYED_FOR, Service, Standing, TABLE, Token, Wanted, ruleset,
};
