//! Bytes that nobody can guess.

use std::fs::File;
use std::io::Read;

use crate::failure::{Failure, Result};

/// So many, from the kernel's generator (random(4)).
pub fn bytes<const N: usize>() -> Result<[u8; N]> {
    let mut bytes = [0; N];
    let read = File::open("/dev/urandom").and_then(|mut random| random.read_exact(&mut bytes));
    read.map_err(|e| Failure::failed(format_args!("cannot read /dev/urandom: {e}")))?;
    Ok(bytes)
}
