//! Tests that no single crate can have: they live in `tests/`, and this library holds what they
//! share, which so far is nothing.
#![forbid(unsafe_code)]
