//! `duet simulate`: the whole system in a closed loop, on a world whose truth is known.
//!
//! ```text
//! OUT/world/            the world with its history
//! OUT/zone/             raw zone: the history, and every night the day's events
//! OUT/dataset/, runs/, bundles/, champion
//! OUT/service/          journal and served lists, as the service writes them
//! OUT/intake/           the same by day, shipped
//! OUT/monitor/          what the monitor made of them
//! OUT/simulation.json, simulation.md
//! ```
//!
//! * [`listeners`]: a day of logins over HTTP. What listeners do is `duet_data::world::Visitors`, beside the truth.
//! * [`night`]: ingest, prepare, train, embed. [`plant`]: a regression to be found. [`watch`]: the monitor.
//! * [`result`]: figures, intervals, verdicts.
//!
//! The service runs in this process, on a port of the loopback, with a clock that the simulation sets. Two runs with the same
//! seed write the same `simulation.json`: requests follow one another, all draws are keyed, and no deadline of the service is
//! short enough to be missed.

mod client;
mod listeners;
mod night;
mod plant;
mod result;
mod ship;
mod watch;

use std::{
    collections::BTreeMap,
    io::Write,
    path::{Path, PathBuf},
    sync::atomic::Ordering,
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use chrono::{Days, NaiveDate};
use clap::Args;
use duet_core::{Error, artifact, artifact::IfExists};
use duet_data::{
    accounts::UserKey,
    world::{Habits, Visitors, WorldOptions, generate},
};
use duet_model::device::DeviceChoice;
use duet_serve::{
    clock::Clock,
    config::{ServeConfig, VariantConfig},
    server::{self, ServerHandle},
};
use duet_train::champion::{self, CHAMPION};
use fs_err as fs;

use self::{
    client::Client,
    listeners::Crowd,
    night::Night,
    plant::Plant,
    result::{ARMS, Day, Setting, Simulation},
    ship::Shipper,
    watch::Watch,
};
use crate::{Outcome, interrupt, user_key, values, world};

/// Prove the whole system in a closed loop: synthetic listeners log in to a real server, click by their true taste, leave when bored;
/// every night trains on the day's events and swaps the bundle in.
///
/// Listeners are divided among two-tower, trending and random. With --plant, a regression is served from a day on: the monitor must
/// find it, the challenger is promoted, and the clicks recover. Same seed, same result. Exit code 3 if a verdict fails.
#[derive(Debug, Clone, Args)]
pub(crate) struct SimulateArgs {
    /// Where everything goes.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Replace a simulation that is there.
    #[arg(long)]
    overwrite: bool,
    /// Listeners [default: 3000; with --quick 800].
    #[arg(long, value_name = "N")]
    users: Option<u64>,
    /// Artists [default: 1000; with --quick 300].
    #[arg(long, value_name = "N")]
    artists: Option<u32>,
    /// Micro-genres of the true taste.
    #[arg(long, default_value_t = 16, value_name = "N")]
    genres: u32,
    /// Days of history before the first login [default: 30; with --quick 21].
    #[arg(long, value_name = "N")]
    history_days: Option<u32>,
    /// Simulated days [default: 14; with --quick 6].
    #[arg(long, value_name = "N")]
    days: Option<u32>,
    /// Mean logins of a listener on a day.
    #[arg(long, default_value_t = 0.7, value_name = "X")]
    logins_per_user_day: f64,
    /// Seed of the world, the listeners and the trainings.
    #[arg(long, default_value_t = 1, value_name = "N")]
    seed: u64,
    /// A small simulation: about a minute on two cores.
    #[arg(long)]
    quick: bool,
    /// Shares of two-tower, trending and random.
    #[arg(long, default_value = "0.5,0.25,0.25", value_name = "A,B,C", value_parser = shares)]
    shares: Shares,
    /// Serve a regression from --plant-day on.
    #[arg(long, value_name = "WHAT", requires = "plant_day", help_heading = "Regression")]
    plant: Option<Plant>,
    /// The first day on which it is served, from 2.
    #[arg(long, value_name = "N", requires = "plant", help_heading = "Regression")]
    plant_day: Option<u32>,
    /// Days in which it must be found, its first one counted.
    #[arg(long, default_value_t = 3, value_name = "N", value_parser = clap::value_parser!(u32).range(1..), help_heading = "Regression")]
    within: u32,
    /// Probability of any alarm in a simulation without a regression.
    #[arg(long, default_value_t = 0.05, value_name = "P", help_heading = "Regression")]
    false_alarm_rate: f64,
    /// Change a setting of the trainings, as in --set model.dim=64.
    #[arg(long = "set", value_name = "KEY=VALUE", value_parser = values::setting, help_heading = "Training")]
    settings: Vec<String>,
    /// auto, cpu, ndarray, wgpu or wgpu:INDEX. Only on a CPU are two runs the same to the last digit.
    #[arg(long, default_value = "cpu", value_name = "DEVICE", help_heading = "Training")]
    device: DeviceChoice,
}

/// Shares of the arms, in the order of [`ARMS`].
type Shares = [f64; 3];

fn shares(text: &str) -> Result<Shares, String> {
    let numbers: Option<Vec<f64>> = text.split(',').map(|part| part.trim().parse().ok()).collect();
    let valid = |shares: &Shares| {
        shares.iter().all(|share| (0.0..=1.0).contains(share)) && (shares.iter().sum::<f64>() - 1.0).abs() < 1e-9
    };
    numbers
        .and_then(|numbers| Shares::try_from(numbers).ok())
        .filter(valid)
        .ok_or_else(|| "expected three shares that sum to 1, as in 0.5,0.25,0.25".to_owned())
}

/// Length of the lists.
const LIST: usize = 10;
/// The people are invented, so their key is no secret; that of a seed is always the same, so that all ids are.
const KEY: &str = "the people of this simulation are invented";
/// Where the service looks for the key of its served-list log, beside the log.
const LOG_KEY: &str = ".key";
/// Says that a directory may be replaced.
const MARK: &str = "simulation.seed";
/// How long the service may take to swap a bundle in.
const PATIENCE: Duration = Duration::from_secs(120);
/// A deadline that nothing misses: how fast this machine is must not show in the result.
const NO_DEADLINE_MS: u64 = 300_000;

impl SimulateArgs {
    fn world(&self) -> WorldOptions {
        let history_days = self.history_days.unwrap_or(if self.quick { 21 } else { 30 });
        WorldOptions {
            users: self.users.unwrap_or(if self.quick { 800 } else { 3_000 }),
            artists: self.artists.unwrap_or(if self.quick { 300 } else { 1_000 }),
            genres: self.genres,
            days: history_days,
            truth_days: history_days.min(7),
            seed: self.seed,
            ..WorldOptions::default()
        }
    }

    fn setting(&self, world: &WorldOptions) -> Result<Setting> {
        let days = self.days.unwrap_or(if self.quick { 6 } else { 14 });
        if days == 0 {
            return Err(Error::input("--days must be at least 1").into());
        }
        if let Some(day) = self.plant_day.filter(|day| !(2..=days).contains(day)) {
            return Err(
                Error::input(format!("--plant-day is {day}; valid: 2 to {days}, the days of the simulation")).into()
            );
        }
        if !(self.false_alarm_rate > 0.0 && self.false_alarm_rate < 1.0) {
            return Err(Error::input("--false-alarm-rate must be above 0 and below 1").into());
        }
        Ok(Setting {
            seed: self.seed,
            users: world.users,
            artists: world.artists,
            genres: world.genres,
            history_days: world.days,
            days,
            list: LIST,
            habits: Habits { logins_per_user_day: self.logins_per_user_day, ..Habits::default() },
            shares: ARMS.iter().map(|arm| (*arm).to_owned()).zip(self.shares).collect::<BTreeMap<_, _>>(),
            plant: self.plant,
            plant_day: self.plant_day,
            within: self.within,
            false_alarm_rate: self.false_alarm_rate,
        })
    }
}

/// An empty directory for the simulation; an earlier simulation in it goes only if that was asked for.
fn make_room(dir: &Path, overwrite: bool, seed: u64) -> Result<()> {
    let is_taken = dir.exists() && fs::read_dir(dir)?.next().is_some();
    if is_taken {
        let shown = dir.display();
        if !dir.join(MARK).is_file() {
            bail!(Error::input(format!("{shown} holds something that is no simulation; give another place")));
        }
        if !overwrite {
            bail!(Error::input(format!("{shown} exists already; give another place or --overwrite")));
        }
        fs::remove_dir_all(dir)?;
    }
    for name in ["bundles", "runs", "service"] {
        fs::create_dir_all(dir.join(name))?;
    }
    Ok(artifact::write_file(&dir.join(MARK), format!("{seed}\n").as_bytes())?)
}

/// The service's configuration: the arms, journal and served lists, and nothing that depends on how fast this machine is.
fn service(dir: &Path, setting: &Setting) -> Result<ServeConfig> {
    let text = |path: PathBuf| path.to_string_lossy().into_owned();
    let (shares, users) = (&setting.shares, setting.users);
    let mut config = ServeConfig::resolve(&[], &["bundle=champion".to_owned(), "listen=127.0.0.1:0".to_owned()])?;
    config.bundle = text(dir.join(CHAMPION));
    config.user_key = Some(dir.join("user.key"));
    config.events.dir = text(dir.join("service/events"));
    config.served_log.dir = text(dir.join("service/served"));
    // An arm without a share is none.
    config.variants = ARMS
        .iter()
        .filter(|arm| shares[**arm] > 0.0)
        .map(|arm| VariantConfig {
            name: (*arm).to_owned(),
            share: shares[*arm],
            recommender: (*arm).to_owned(),
            rerank: false,
        })
        .collect();
    config.limits.deadline_ms = NO_DEADLINE_MS;
    config.limits.notice_s = 0;
    // Which live history is dropped first is no matter of the seed: none is.
    config.events.users = config.events.users.max(4 * users as usize);
    config.engine.workers = 1;
    config.swap.poll_ms = 50;
    Ok(config)
}

/// A service that runs, and what is known about it.
struct Service {
    handle: ServerHandle,
    client: Client,
    clock: Clock,
}

impl Service {
    fn start(dir: &Path, setting: &Setting, now_ms: i64) -> Result<Self> {
        let clock = Clock::manual(now_ms);
        let handle = server::spawn(service(dir, setting)?, clock.clone())?;
        let client = Client::new(handle.address())?;
        Ok(Self { handle, client, clock })
    }

    fn bundle(&self) -> Result<String> {
        let status = self.client.status()?;
        let bundle = status["bundle"].as_str();
        Ok(bundle.context("GET /v1/status names no bundle")?.to_owned())
    }

    /// Changes the champion, and waits until the service serves from it.
    fn swap(&self, change: impl FnOnce() -> duet_core::Result<champion::Change>) -> Result<()> {
        let before = self.bundle()?;
        let change = change()?;
        let begun = Instant::now();
        loop {
            let status = self.client.status()?;
            if status["bundle"] != before.as_str() {
                return Ok(());
            }
            let last = status["swaps"].as_array().and_then(|swaps| swaps.last());
            let is_refused = last.is_some_and(|swap| {
                let of = |field: &str| swap[field].as_str().unwrap_or_default();
                let directory = Path::new(&change.bundle).file_name().unwrap_or_default().to_string_lossy();
                of("outcome").starts_with("refused") && of("bundle").contains(&*directory)
            });
            if is_refused || begun.elapsed() > PATIENCE {
                bail!(Error::Internal(format!("{} was not swapped in: {}", change.bundle, status["swaps"])));
            }
            sleep(Duration::from_millis(20));
        }
    }
}

/// The champion, as the simulation knows it.
struct Champion {
    /// Its directory below `bundles`.
    name: String,
    planted: Option<Plant>,
    /// Whom a rollback leads to.
    before: String,
}

pub(crate) fn run(args: &SimulateArgs, out: &mut dyn Write) -> Result<Outcome> {
    let options = args.world();
    let setting = args.setting(&options)?;
    let visitors = Visitors::new(&options, setting.habits, setting.days)?;
    make_room(&args.out, args.overwrite, args.seed)?;
    let dir = fs::canonicalize(&args.out)?;
    let begun = Instant::now();
    let stop = interrupt::stop_flag();

    let summary = generate(&options, &dir.join("world"), IfExists::Fail)?;
    user_key::write_new(&dir.join("user.key"), &format!("{KEY}, seed {}\n", args.seed))?;
    let key = UserKey::from_file(&dir.join("user.key"))?;
    // The service divides listeners by the key of its log, and draws one where there is none.
    let log = dir.join("service/served");
    fs::create_dir_all(&log)?;
    user_key::write_new(&log.join(LOG_KEY), &format!("{KEY}: arms, seed {}\n", args.seed))?;
    writeln!(out, "history: {}", world::describe(&summary))?;

    let mut night = Night::new(&dir, key.clone(), args.seed, &args.settings, args.device, stop.clone())?;
    night.ingest(&dir.join("world/events"))?;
    let date = |day: u32| options.start + Days::new(u64::from(options.days + day - 1));
    let first = night.build(&name(1), date(1))?;
    champion::promote(&first, &dir)?;
    let mut champion = Champion { name: name(1), planted: None, before: name(1) };

    let mut crowd = Crowd::new(visitors, options.days, setting.list);
    let service = Service::start(&dir, &setting, crowd.midnight_ms(1))?;
    let mut served = Shipper::new(&dir.join("service/served"), &dir.join("intake/served"))?;
    let mut events = Shipper::new(&dir.join("service/events"), &dir.join("intake/events"))?;
    let mut watch = Watch::new(&dir, key, setting.false_alarm_rate)?;
    let mut days: Vec<Day> = Vec::new();
    for day in 1..=setting.days {
        crowd.wake(day);
        crowd.live(crowd.midnight_ms(day + 1), &service.client, &service.clock)?;
        if day == setting.days
            && let Some(end_ms) = crowd.end_ms()
        {
            crowd.live(end_ms, &service.client, &service.clock)?;
        }
        served.ship(&name(day), crowd.lists)?;
        events.ship(&name(day), crowd.events)?;
        let look = watch.look(served.place(), events.place())?;
        days.push(Day {
            day,
            date: date(day).to_string(),
            bundle: champion.name.clone(),
            planted: champion.planted,
            arms: result::of_day(day, &crowd.shares, &crowd.arms),
            monitor: look,
        });
        say(days.last(), out)?;
        if stop.load(Ordering::SeqCst) {
            return Ok(Outcome::Interrupted);
        }
        if day < setting.days {
            night.ingest(events.place())?;
            let alarm = days.last().is_some_and(|day| day.monitor.alarm);
            champion = turn(&dir, &mut night, &service, &setting, champion, day + 1, date(day + 1), alarm)?;
        }
    }
    service.handle.stop()?;

    let mut verdicts = result::of_arms(&days, &crowd.shares, &crowd.arms);
    verdicts.extend(result::of_counts(&days));
    verdicts.extend(result::of_alarms(&setting, &days, &crowd.shares, &crowd.arms));
    let simulation = Simulation {
        arms: result::totals(&days, &crowd.shares, &crowd.arms),
        setting,
        days,
        verdicts,
        lists: crowd.lists,
        events: crowd.events,
        events_fingerprint: format!("{:016x}", crowd.fingerprint),
    };
    let json = serde_json::to_string_pretty(&simulation)? + "\n";
    artifact::write_file(&dir.join("simulation.json"), json.as_bytes())?;
    artifact::write_file(&dir.join("simulation.md"), simulation.to_markdown().as_bytes())?;
    writeln!(out, "\n{}", simulation.to_text())?;
    writeln!(out, "{:.0} s in all; {}", begun.elapsed().as_secs_f64(), args.out.join("simulation.md").display())?;
    Ok(if simulation.fails() { Outcome::Worse } else { Outcome::Done })
}

/// The bundle that is served from a day (from 1) on.
fn name(day: u32) -> String {
    format!("day-{day:03}")
}

/// A night: a sound bundle is built in any case. It is published, unless the regression is served and nobody has noticed: then it
/// waits as the challenger. An alarm during the regression first brings the champion before it back.
#[expect(clippy::too_many_arguments, reason = "all that a night touches")]
fn turn(
    dir: &Path,
    night: &mut Night,
    service: &Service,
    setting: &Setting,
    champion: Champion,
    next: u32,
    today: NaiveDate,
    alarm: bool,
) -> Result<Champion> {
    let bundles = dir.join("bundles");
    let sound = name(next);
    night.build(&sound, today)?;
    if let (Some(plant), true) = (setting.plant, setting.plant_day == Some(next)) {
        let planted = format!("{sound}-{}", plant.as_str());
        let source = if plant == Plant::Stale { name(1) } else { sound };
        plant.write(&bundles.join(source), &bundles.join(&planted), setting.seed)?;
        service.swap(|| champion::promote(&bundles.join(&planted), dir))?;
        return Ok(Champion { name: planted, planted: Some(plant), before: champion.name });
    }
    if champion.planted.is_some() && !alarm {
        return Ok(champion);
    }
    if champion.planted.is_some() {
        service.swap(|| champion::rollback(dir))?;
        tracing::info!(champion = champion.before, "rolled back after the alarm");
    }
    service.swap(|| champion::promote(&bundles.join(&sound), dir))?;
    Ok(Champion { name: sound, planted: None, before: champion.name })
}

/// A day in one line, as it ends.
fn say(day: Option<&Day>, out: &mut dyn Write) -> Result<()> {
    let Some(day) = day else { return Ok(()) };
    let arm = |arm: &result::ArmDay| {
        let rate = arm.clicks_per_100_impressions.map_or_else(|| "-".to_owned(), |rate| format!("{rate:.2}"));
        format!("{} {rate}", arm.arm)
    };
    let arms: Vec<String> = day.arms.iter().map(arm).collect();
    let alarm = if day.monitor.alarm { format!("; ALARM: {}", day.monitor.alerts.join("; ")) } else { String::new() };
    let logins: u64 = day.arms.iter().map(|arm| arm.logins).sum();
    writeln!(
        out,
        "day {:>3}: {:>7} logins on {}; clicks per 100 impressions: {}{alarm}",
        day.day,
        values::grouped(logins),
        day.bundle,
        arms.join(", ")
    )?;
    Ok(out.flush()?)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn shares_are_three_and_whole() {
        assert_eq!(shares("0.5, 0.25,0.25").unwrap(), [0.5, 0.25, 0.25]);
        for bad in ["1", "0.5,0.5", "0.5,0.5,0.5", "2,-0.5,-0.5", "a,b,c", "0.2,0.2,0.2,0.4"] {
            assert!(shares(bad).unwrap_err().contains("three shares"), "{bad}");
        }
    }

    #[test]
    fn only_a_simulation_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let place = dir.path().join("out");
        make_room(&place, false, 1).unwrap();
        assert!(make_room(&place, false, 1).unwrap_err().to_string().contains("--overwrite"));
        make_room(&place, true, 2).unwrap();
        fs::remove_file(place.join(MARK)).unwrap();
        fs::write(place.join("thesis.txt"), "years of work").unwrap();
        assert!(make_room(&place, true, 1).unwrap_err().to_string().contains("no simulation"));
        assert!(place.join("thesis.txt").exists());
    }
}
