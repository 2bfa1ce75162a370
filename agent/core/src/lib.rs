#![no_std]
//! Decisions.
extern crate alloc;
