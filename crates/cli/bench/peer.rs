//! PyTorch on the same work: `benches/peers/torch_*.py`, run by a Python that is given.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use duet_core::{Error, Result};

/// A Python with torch, and where the scripts lie.
#[derive(Debug, Clone)]
pub(super) struct Peer {
    pub(super) python: PathBuf,
    pub(super) scripts: PathBuf,
}

impl Peer {
    /// Fails early if torch is not there: a comparison that was asked for and is missing would be found only at the end.
    pub(super) fn check(&self) -> Result<String> {
        let version = self.output(&["-c", "import torch, numpy; print(torch.__version__)"], 1)?;
        for script in ["torch_prefix.py", "torch_two_tower.py"] {
            let path = self.scripts.join(script);
            if !path.is_file() {
                return Err(Error::input(format!(
                    "{} is not there; --peers says where the scripts lie",
                    path.display()
                )));
            }
        }
        Ok(version.trim().to_owned())
    }

    /// Rows of the loss a second that a script reports.
    pub(super) fn rate(&self, script: &str, threads: usize, seconds: f64, more: &[&str]) -> Result<f64> {
        let path = self.scripts.join(script);
        let (threads_text, seconds) = (threads.to_string(), seconds.to_string());
        let path = text(&path)?;
        let arguments = [&[path, "--threads", &threads_text, "--seconds", &seconds], more].concat();
        let output = self.output(&arguments, threads)?;
        rate_in(&output).ok_or_else(|| Error::input(format!("{script} reported no rate: {output:?}")))
    }

    fn output(&self, arguments: &[&str], threads: usize) -> Result<String> {
        let output = Command::new(&self.python)
            .args(arguments)
            .env("OMP_NUM_THREADS", threads.to_string())
            // PyTorch allocates through glibc too: this spares it page faults, and the fair figure is with it.
            .env("MALLOC_MMAP_THRESHOLD_", "33554432")
            .env("MALLOC_TRIM_THRESHOLD_", "67108864")
            .output()
            .map_err(Error::io(&self.python))?;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        let message = String::from_utf8_lossy(&output.stderr);
        let last = message.lines().last().unwrap_or("no message");
        Err(Error::input(format!("{} {}: {last}", self.python.display(), arguments.join(" "))))
    }
}

fn text(path: &Path) -> Result<&str> {
    path.to_str().ok_or_else(|| Error::input(format!("{} is not UTF-8", path.display())))
}

/// `... 12345 positions/s, ...` or `... examples/s`.
fn rate_in(output: &str) -> Option<f64> {
    let before = output.split(" positions/s").next().filter(|before| before.len() < output.len());
    let before = before.or_else(|| output.split(" examples/s").next().filter(|before| before.len() < output.len()))?;
    before.rsplit(' ').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_found() {
        let line = "torch 2.15.0 threads 2 tile 256: 44800 positions/s, median 45.7 ms a step";
        assert_eq!(rate_in(line), Some(44_800.0));
        assert_eq!(rate_in("torch: 1234.5 examples/s\n"), Some(1234.5));
        assert_eq!(rate_in("nothing"), None);
    }
}
