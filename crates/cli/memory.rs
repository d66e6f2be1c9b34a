//! What the kernel says of memory, in bytes; nothing where it keeps no such account.

use std::fs;

/// A line of the account of a process (its number, or `self`): `VmRSS:` is what it has now, `VmHWM:` the most it had.
pub(crate) fn of_process(process: &str, key: &str) -> Option<usize> {
    kilobytes(&format!("/proc/{process}/status"), key)
}

/// What a new process could have.
pub(crate) fn available() -> Option<usize> {
    kilobytes("/proc/meminfo", "MemAvailable:")
}

fn kilobytes(file: &str, key: &str) -> Option<usize> {
    let text = fs::read_to_string(file).ok()?;
    let line = text.lines().find(|line| line.starts_with(key))?;
    line.split_whitespace().nth(1)?.parse::<usize>().ok().map(|kilobytes| kilobytes * 1024)
}
