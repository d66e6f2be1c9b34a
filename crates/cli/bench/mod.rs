//! `duet bench`.

mod parts;
mod peer;
mod result;
mod work;
mod workload;

use std::{
    env, fs,
    io::Write,
    path::PathBuf,
    process::{Command, Stdio},
    time::Instant,
};

use anyhow::{Context, Result};
use clap::{Args, ValueEnum};
use duet_core::Error;
use duet_model::device::DeviceChoice;

use self::{
    parts::{Part, Request, read_ceilings},
    peer::Peer,
    result::{Ceilings, Measurement, Results},
    workload::median,
};
use crate::{
    Outcome,
    values::{positive, setting},
};

/// Measure speed and memory on made-up data, beside the machine's ceilings and, where it is at hand, PyTorch.
///
/// "Of floor" is the share of what the machine could do at best: every phase's floating-point operations at the rate of a large
/// matrix product, or its bytes at the rate of a copy, both measured in the same run. Everything runs in processes of its own.
#[derive(Debug, Clone, Args)]
pub(crate) struct BenchArgs {
    /// What to measure; all of it if not given.
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    section: Vec<Section>,
    /// Numbers of threads.
    #[arg(long, value_name = "N", value_delimiter = ',', value_parser = positive, default_value = "1,2")]
    threads: Vec<usize>,
    /// auto, cpu, ndarray, wgpu or wgpu:INDEX. Searches run on the CPU.
    #[arg(long, value_name = "DEVICE", default_value = "cpu")]
    device: DeviceChoice,
    /// Seconds of training for each figure.
    #[arg(long, value_name = "S", default_value_t = 5.0)]
    seconds: f64,
    /// A few steps of everything, on little data: does it run?
    #[arg(long)]
    quick: bool,
    /// Change a setting of the step (configs/bench.toml).
    #[arg(long, value_name = "KEY=VALUE", value_parser = setting)]
    set: Vec<String>,
    /// A Python with torch and numpy: PyTorch does the same work, in turns with duet.
    #[arg(long, value_name = "PATH")]
    python: Option<PathBuf>,
    /// Where the scripts for PyTorch lie.
    #[arg(long, value_name = "DIR", default_value = "benches/peers")]
    peers: PathBuf,
    /// Turns of duet and PyTorch; medians count.
    #[arg(long, value_name = "N", value_parser = positive, default_value = "3")]
    rounds: usize,
    /// Write everything measured here, too.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Measure this one thing and print it as JSON: what the processes are told.
    #[arg(long, hide = true)]
    part: Option<Part>,
}

/// A part of the standard set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Section {
    /// Steps by encoder, phase by phase; `mean` beside PyTorch.
    Training,
    /// Steps over tables of 10,000 to 10,000,000 rows.
    Tables,
    /// The loss by rows and columns, and its memory at 16,384 of each.
    Loss,
    /// Vectors and lists for all users.
    Evaluation,
    /// Searches among 200,000 vectors.
    Retrieval,
    /// From a process's start to its end.
    ColdStart,
}

impl Section {
    fn name(self) -> String {
        self.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned())
    }
}

pub(crate) fn run(args: &BenchArgs, out: &mut dyn Write) -> Result<Outcome> {
    let request = Request { device: args.device, settings: args.set.clone(), seconds: args.seconds, quick: args.quick };
    if let Some(part) = args.part {
        serde_json::to_writer(&mut *out, &part.measure(&request)?)?;
        return Ok(Outcome::Done);
    }
    // Before anything slow: a wrong setting or a Python without torch is a mistake in the command.
    workload::config(&args.set)?;
    let peer = args.python.clone().map(|python| Peer { python, scripts: args.peers.clone() });
    if let Some(peer) = &peer {
        eprintln!("PyTorch {}", peer.check()?);
    }
    let bench = Bench { args, peer };
    let before = load();
    let (ceilings, measurements) = bench.all()?;
    let results = Results {
        device: args.device.open()?.description,
        processor: processor(),
        revision: revision(),
        version: env!("CARGO_PKG_VERSION"),
        load: [before, load()],
        ceilings,
        measurements,
    };
    let load = results.load.map(|load| load.map_or_else(|| "unknown".to_owned(), |load| format!("{load:.1}")));
    writeln!(
        out,
        "{}, {}, revision {}, load {} to {}\n",
        results.device, results.processor, results.revision, load[0], load[1]
    )?;
    write!(out, "{}", results.table())?;
    if let Some(path) = &args.json {
        fs::write(path, serde_json::to_vec_pretty(&results)?).map_err(Error::io(path))?;
    }
    Ok(Outcome::Done)
}

struct Bench<'a> {
    args: &'a BenchArgs,
    peer: Option<Peer>,
}

impl Bench<'_> {
    fn all(&self) -> Result<(Vec<Ceilings>, Vec<Measurement>)> {
        let sections: &[Section] =
            if self.args.section.is_empty() { Section::value_variants() } else { &self.args.section };
        let (mut ceilings, mut measurements) = (Vec::new(), Vec::new());
        for &threads in &self.args.threads {
            let ceiling = read_ceilings(&self.child(Part::Ceilings, threads, &[])?, threads)?;
            ceilings.push(ceiling);
            for &section in sections {
                eprintln!("{}, threads {threads}", section.name());
                let found = self.section(section, threads).with_context(|| section.name())?;
                measurements.extend(
                    found
                        .into_iter()
                        .map(|found| Measurement { section: section.name(), threads, ..found }.against(&ceiling)),
                );
            }
        }
        Ok((ceilings, measurements))
    }

    fn section(&self, section: Section, threads: usize) -> Result<Vec<Measurement>> {
        match section {
            Section::Training => self.training(threads),
            Section::Tables => self.child(Part::Tables, threads, &[]),
            Section::Loss => {
                let mut found = self.child(Part::Loss, threads, &[])?;
                found.extend(self.child(Part::LossMemory, threads, &[])?);
                Ok(found)
            }
            Section::Evaluation => self.child(Part::Evaluation, threads, &[]),
            Section::Retrieval => self.child(Part::Retrieval, threads, &[]),
            Section::ColdStart => self.cold_start(threads),
        }
    }

    fn training(&self, threads: usize) -> Result<Vec<Measurement>> {
        let mut found = self.beside_torch(threads)?;
        for encoder in ["attention", "transformer"] {
            found.extend(self.child(Part::Pace, threads, &[&format!("model.encoder={encoder}")])?);
        }
        Ok(found)
    }

    /// The mean encoder, in turns with PyTorch's two forms of the same model.
    fn beside_torch(&self, threads: usize) -> Result<Vec<Measurement>> {
        let Some(peer) = &self.peer else { return self.child(Part::Pace, threads, &["model.encoder=mean"]) };
        let seconds = if self.args.quick { 0.5 } else { self.args.seconds };
        let (mut own, mut prefix, mut bags) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..self.args.rounds {
            own.extend(self.child(Part::Pace, threads, &["model.encoder=mean"])?);
            prefix.push(peer.rate("torch_prefix.py", threads, seconds, &["--tile-rows", "256"])?);
            bags.push(peer.rate("torch_two_tower.py", threads, seconds, &["--tile-rows", "256"])?);
        }
        own.sort_by(|left, right| left.value.total_cmp(&right.value));
        let mut middle = own.swap_remove(own.len() / 2);
        let (prefix, bags) = (median(&prefix), median(&bags));
        let ratio = |torch: f64| Some(middle.value / torch);
        let forms =
            [("  PyTorch, prefix form", prefix, "positions/s"), ("  PyTorch, a bag an example", bags, "examples/s")];
        let rows = forms.map(|(case, rate, unit)| Measurement {
            of_torch: ratio(rate),
            note: "duet's rate over this".to_owned(),
            ..Measurement::new(case, rate, unit)
        });
        middle.of_torch = ratio(prefix);
        Ok([middle].into_iter().chain(rows).collect())
    }

    fn cold_start(&self, threads: usize) -> Result<Vec<Measurement>> {
        let rounds = if self.args.quick { 1 } else { 7 };
        let timed = |case: &str, run: &dyn Fn() -> Result<()>| -> Result<Measurement> {
            let mut seconds = Vec::new();
            for _ in 0..rounds {
                let started = Instant::now();
                run()?;
                seconds.push(started.elapsed().as_secs_f64());
            }
            Ok(Measurement::new(case, median(&seconds) * 1e3, "ms"))
        };
        let program = env::current_exe().map_err(Error::io("the program itself"))?;
        let version = || -> Result<()> {
            let status = Command::new(&program).arg("--version").stdout(Stdio::null()).status();
            status.map_err(Error::io(&program))?;
            Ok(())
        };
        Ok(vec![
            timed("duet --version", &version)?,
            timed("to the end of a first step, 10,000 items", &|| self.child(Part::FirstStep, threads, &[]).map(drop))?,
        ])
    }

    /// What a process of its own measures, with so many threads.
    fn child(&self, part: Part, threads: usize, settings: &[&str]) -> Result<Vec<Measurement>> {
        let program = env::current_exe().map_err(Error::io("the program itself"))?;
        let name = part.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned());
        let mut command = Command::new(&program);
        command.args(["bench", "--part", &name, "--seconds", &self.args.seconds.to_string()]);
        command.args(["--device", &self.args.device.to_string()]);
        command.env("RAYON_NUM_THREADS", threads.to_string()).stderr(Stdio::piped());
        if self.args.quick {
            command.arg("--quick");
        }
        let all = self.args.set.iter().map(String::as_str).chain(settings.iter().copied());
        for setting in all {
            command.args(["--set", setting]);
        }
        let output = command.output().map_err(Error::io(&program))?;
        if !output.status.success() {
            let message = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            return Err(Error::Internal(format!("{name}: {message}")).into());
        }
        Ok(serde_json::from_slice(&output.stdout)?)
    }
}

/// Load over the last minute; nothing where the system doesn't say.
fn load() -> Option<f64> {
    fs::read_to_string("/proc/loadavg").ok()?.split(' ').next()?.parse().ok()
}

fn processor() -> String {
    let text = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = text.lines().find_map(|line| line.strip_prefix("model name")?.split(": ").nth(1));
    let sets = [("AVX-512", "avx512f"), ("AVX2", "avx2")];
    let flags = text.lines().find(|line| line.starts_with("flags")).unwrap_or_default();
    let widest = sets.iter().find(|(_, flag)| flags.split(' ').any(|known| known == *flag)).map(|(name, _)| *name);
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    format!("{} with {cores} threads, {}", model.unwrap_or(env::consts::ARCH), widest.unwrap_or("no AVX2"))
}

/// The commit of the working tree the command runs in, where that is one of duet's.
fn revision() -> String {
    let output = Command::new("git").args(["describe", "--always", "--dirty"]).output();
    let text = output.ok().filter(|output| output.status.success()).map(|output| output.stdout);
    text.map_or_else(|| "unknown".to_owned(), |text| String::from_utf8_lossy(&text).trim().to_owned())
}
