//! Integration tests: the real binaries, on data the tests make themselves.
//!
//! One binary, so that burn is linked once. What needs something this machine may lack (a GPU driver, Python with pandas, the
//! public data) prints `skipped: ...`.

mod ablate;
mod agreement;
mod bench;
mod compare;
mod faults;
mod forged;
mod fuzz;
mod help;
mod interruption;
#[cfg(feature = "kafka")]
mod kafka;
mod measures;
mod monitor;
mod page;
mod path;
mod personal;
mod recommend;
mod regressions;
mod reproduce;
mod rerank;
mod schedule;
mod serve;
mod service;
mod simulate;
mod stream;
mod tables;
mod workshop;
