//! What a load does to the memory of the service.

use std::{fmt, time::Duration};

use duet_core::{Error, Result};
use serde::Serialize;
use tokio::task::JoinHandle;

use crate::memory;

/// What the process has in memory, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(super) struct Memory {
    /// Before the first request.
    start: usize,
    /// After a tenth of the time: what is made at the first use is there.
    warm: usize,
    /// After the last answer.
    end: usize,
}

impl Memory {
    /// Bytes more at the end than after the first tenth.
    fn growth(&self) -> i64 {
        self.end as i64 - self.warm as i64
    }
}

impl fmt::Display for Memory {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mebibytes = |bytes: f64| bytes / f64::from(1 << 20);
        let [start, warm, end] = [self.start, self.warm, self.end].map(|bytes| mebibytes(bytes as f64));
        let growth = self.growth() as f64;
        write!(
            formatter,
            "memory of the service: {start:.1} MiB before, {warm:.1} MiB after a tenth of the time, {end:.1} MiB at the end: {:+.1} MiB \
             ({:+.1} %) since then",
            mebibytes(growth),
            100.0 * growth / self.warm.max(1) as f64
        )
    }
}

/// A process whose memory is looked at while a load runs.
#[derive(Debug)]
pub(super) struct Soak {
    pid: u32,
    start: usize,
    warm: JoinHandle<Option<usize>>,
}

impl Soak {
    /// Looks for the first time, and again after a tenth of `time`; within a runtime.
    ///
    /// # Errors
    /// [`Error::Input`] where there is no such process, or no account of it.
    pub(super) fn start(pid: u32, time: Duration) -> Result<Self> {
        let start = resident(pid).ok_or_else(|| gone(pid))?;
        let warm = tokio::spawn(async move {
            tokio::time::sleep(time / 10).await;
            resident(pid)
        });
        Ok(Self { pid, start, warm })
    }

    /// Looks for the last time.
    ///
    /// # Errors
    /// [`Error::Input`] if the process is not there any more.
    pub(super) async fn end(self) -> Result<Memory> {
        let end = resident(self.pid).ok_or_else(|| gone(self.pid))?;
        // A load may end before its time.
        let warm = if self.warm.is_finished() { self.warm.await.ok().flatten() } else { None };
        Ok(Memory { start: self.start, warm: warm.unwrap_or(end), end })
    }
}

/// The id of a process; whether there is one is for the system to say.
pub(super) fn process(text: &str) -> Result<u32, String> {
    text.parse().map_err(|_| "expected the id of a process: a whole number, as ps tells it".to_owned())
}

fn resident(pid: u32) -> Option<usize> {
    memory::of_process(&pid.to_string(), "VmRSS:")
}

fn gone(pid: u32) -> Error {
    Error::input(format!(
        "--pid {pid}: expected the number of a process on this machine; the system has no account of its memory"
    ))
}

#[cfg(all(test, target_os = "linux"))]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[tokio::test]
    async fn growth_is_told_from_after_the_first_tenth() {
        let soak = Soak::start(std::process::id(), Duration::from_millis(100)).unwrap();
        tokio::time::sleep(Duration::from_millis(300)).await;
        let ballast = vec![1_u8; 64 << 20];
        let memory = soak.end().await.unwrap();
        assert!(memory.start > 0 && memory.growth() >= 32 << 20, "{memory:?} with {} bytes more", ballast.len());
        let error = Soak::start(u32::MAX, Duration::from_secs(1)).unwrap_err().to_string();
        assert!(error.contains("--pid 4294967295"), "{error}");
    }

    #[test]
    fn a_process_has_a_number() {
        assert_eq!(process("4711"), Ok(4711));
        for bad in ["abc", "", "-1", "1.5", "4294967296"] {
            assert!(process(bad).unwrap_err().contains("id of a process"), "{bad}");
        }
    }

    #[tokio::test]
    async fn a_load_that_ends_early_has_no_growth() {
        let soak = Soak::start(std::process::id(), Duration::from_secs(3600)).unwrap();
        assert_eq!(soak.end().await.unwrap().growth(), 0);
    }

    #[test]
    fn memory_is_told_in_a_line() {
        let memory = Memory { start: 100 << 20, warm: 200 << 20, end: 190 << 20 };
        let expected = "memory of the service: 100.0 MiB before, 200.0 MiB after a tenth of the time, 190.0 MiB at the end: -10.0 MiB \
                        (-5.0 %) since then";
        assert_eq!(memory.to_string(), expected);
    }
}
