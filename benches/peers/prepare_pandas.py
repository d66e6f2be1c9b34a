"""The job of prepare_polars.py, written in pandas: same input, same rules, same five tables.

Lines are decoded one by one (orjson where it is installed, else the standard library), by one process a core: `read_json` and
pyarrow's reader end at the first malformed line. Everything after that is pandas on one core. Needs pandas and pyarrow.

    python prepare_pandas.py WORLD OUT --processes 2
"""

import argparse
import hashlib
import hmac
import os
import resource
import time
from concurrent.futures import ProcessPoolExecutor
from datetime import date, timedelta
from pathlib import Path

import numpy
import pandas as pd

try:
    from orjson import loads
except ImportError:
    from json import loads

REQUIRED = ["event_id", "type", "user_id", "item_kind", "item_id", "ts"]
OPTIONAL = ["request_id", "position", "ms_played"]
TYPES = ["impression", "click", "listen", "follow", "unfollow", "skip"]
KINDS = ["artist", "song"]
AGE_EDGES = [-1, 18, 25, 35, 45, 55, 200]
AGE_LABELS = ["<18", "18-24", "25-34", "35-44", "45-54", "55+"]
HEARD_MS = 30_000
RATE_PRIOR, PLAY_PRIOR, FIRST_DAY_RATIO = 20.0, 20.0, 0.5


def read_file(path):
    """The valid events of a file, and how many lines it has."""
    rows, lines = [], path.read_bytes().splitlines()
    for line in lines:
        try:
            event = loads(line)
            row = [event[name] for name in REQUIRED]
        except (ValueError, KeyError, TypeError):
            continue
        if all(type(value) is str for value in row):
            rows.append(row + [event.get(name) for name in OPTIONAL])
    events = pd.DataFrame(rows, columns=REQUIRED + OPTIONAL)
    events["type"] = pd.Categorical(events["type"], TYPES)
    events["item_kind"] = pd.Categorical(events["item_kind"], KINDS)
    events["ts"] = pd.to_datetime(events["ts"], utc=True, format="ISO8601", errors="coerce").astype("datetime64[ms, UTC]")
    for name in ["position", "ms_played"]:
        events[name] = pd.to_numeric(events[name], errors="coerce")
    # Ids that are compared and never shown: 64 bits of each.
    for name in ["event_id", "request_id"]:
        events[name] = pd.util.hash_array(events[name].to_numpy(dtype=object, na_value=""), categorize=False)
    return events.dropna(subset=["type", "item_kind", "ts"]), len(lines)


def read_users(world, key, reference):
    """Accounts in the order of their pseudonyms."""
    columns = ["user_id", "birth_date", "gender", "country", "created_at"]
    users = pd.read_csv(world / "accounts.csv", usecols=columns, dtype="str", keep_default_na=False, na_values=[""])
    users["id"] = [hmac.digest(key, user.encode(), hashlib.sha256)[:16].hex() for user in users["user_id"]]
    born = pd.to_datetime(users["birth_date"])
    had_birthday = born.dt.month * 100 + born.dt.day <= reference.month * 100 + reference.day
    age = reference.year - born.dt.year - (~had_birthday).astype(int)
    users["age_bucket"] = pd.cut(age, AGE_EDGES, right=False, labels=AGE_LABELS)
    users["gender"] = users["gender"].str.lower()
    users["country"] = users["country"].str.upper()
    created = pd.to_datetime(users["created_at"], utc=True, format="ISO8601").dt.tz_localize(None)
    users["tenure_days"] = (pd.Timestamp(reference) - created.dt.normalize()).dt.days.clip(lower=0)
    return users.drop(columns=["birth_date", "created_at"]).sort_values("id", ignore_index=True)


def read_catalogue(world):
    """Artists and songs in the order of their ids."""
    artists = pd.read_csv(world / "catalogue/artists.csv", parse_dates=["first_release_date"])
    artists = artists.sort_values("artist_id", ignore_index=True)
    songs = pd.read_csv(world / "catalogue/songs.csv", usecols=["song_id", "artist_id", "duration_ms"])
    songs = songs.sort_values("song_id", ignore_index=True)
    songs["artist"] = pd.Index(artists["artist_id"]).get_indexer(songs["artist_id"])
    return artists, songs


def join(events, users, artists, songs):
    """Events of known users and items, with the rows of both."""
    events["user"] = pd.Index(users["user_id"]).get_indexer(events["user_id"])
    is_song = (events["item_kind"] == "song").to_numpy()
    as_artist = pd.Index(artists["artist_id"]).get_indexer(events["item_id"])
    as_song = pd.Index(songs["song_id"]).get_indexer(events["item_id"])
    events["item"] = numpy.where(is_song, as_song, as_artist)
    events["artist"] = numpy.where(is_song, songs["artist"].to_numpy()[as_song], as_artist)
    events["duration_ms"] = numpy.where(is_song, songs["duration_ms"].to_numpy()[as_song], numpy.nan)
    events["day"] = events["ts"].dt.floor("D")
    known = (events["user"] >= 0) & (events["item"] >= 0)
    return events.loc[known].drop(columns=["event_id", "user_id", "item_id"])


def is_heard(events):
    long_enough = (events["ms_played"] >= HEARD_MS) | (events["ms_played"] * 2 >= events["duration_ms"])
    return (events["type"] == "listen") & long_enough


def milliseconds(times):
    return times.astype("int64")


def timeline(events):
    """Positive events: one row per user, artist and UTC day."""
    is_artist = events["item_kind"] == "artist"
    weight = numpy.select(
        [(events["type"] == "click") & is_artist, is_heard(events), (events["type"] == "follow") & is_artist], [0.5, 1.0, 2.0]
    )
    rows = events.loc[weight > 0, ["user", "artist", "day", "ts"]].assign(weight=weight[weight > 0].astype("float32"))
    rows = rows.groupby(["user", "artist", "day"], sort=False, as_index=False).agg({"ts": "min", "weight": "max"})
    rows = rows.assign(timestamp_ms=milliseconds(rows["ts"])).rename(columns={"artist": "item"})
    rows = rows[["user", "item", "timestamp_ms", "weight"]].astype({"user": "uint32", "item": "uint32"})
    return rows.sort_values(["user", "timestamp_ms", "item"], ignore_index=True)


def plays(events):
    """Plays with the ratio over the song's mean ratio of earlier days."""
    rows = events.loc[events["type"].isin(["listen", "skip"]) & (events["item_kind"] == "song")]
    rows = rows.assign(listen_ratio=(rows["ms_played"] / rows["duration_ms"]).clip(0.0, 1.0).fillna(0.0))
    days = rows.groupby(["item", "day"], as_index=False)["listen_ratio"].agg(["sum", "count"])
    all_songs = days.groupby("day")[["sum", "count"]].sum().cumsum().shift()
    prior = (all_songs["sum"] / all_songs["count"]).fillna(FIRST_DAY_RATIO)
    before = days.groupby("item")[["sum", "count"]].cumsum() - days[["sum", "count"]]
    days["mean"] = (before["sum"] + PLAY_PRIOR * days["day"].map(prior)) / (before["count"] + PLAY_PRIOR)
    rows = rows.merge(days[["item", "day", "mean"]], on=["item", "day"])
    rows = pd.DataFrame(
        {
            "user": rows["user"].astype("uint32"),
            "song": rows["item"].astype("uint32"),
            "timestamp_ms": milliseconds(rows["ts"]),
            "ms_played": rows["ms_played"].astype("Int64"),
            "listen_ratio": rows["listen_ratio"].astype("float32"),
            "listen_delta": (rows["listen_ratio"] / rows["mean"]).astype("float32"),
            "skipped": rows["type"] == "skip",
        }
    )
    return rows.sort_values(["user", "timestamp_ms", "song"], ignore_index=True)


def impressions(events):
    """Impressions and whether the same item of the same list was clicked."""
    key = ["user", "request_id", "item_kind", "item"]
    clicks = events.loc[events["type"] == "click", key].drop_duplicates().assign(clicked=True)
    shown = events.loc[events["type"] == "impression"].merge(clicks, on=key, how="left")
    shown = pd.DataFrame(
        {
            "user": shown["user"].astype("uint32"),
            "item_kind": shown["item_kind"],
            "item": shown["item"].astype("uint32"),
            "timestamp_ms": milliseconds(shown["ts"]),
            "position": shown["position"].astype("Int64"),
            "clicked": shown["clicked"].notna(),
        }
    )
    return shown.sort_values(["user", "timestamp_ms", "position"], ignore_index=True)


def click_rates(users, events):
    """Clicks per 100 impressions, shrunk towards everybody's rate."""
    clicks = numpy.bincount(events["user"], events["type"] == "click", len(users))
    shown = numpy.bincount(events["user"], events["type"] == "impression", len(users))
    overall = clicks.sum() / shown.sum()
    return users.drop(columns="user_id").assign(click_rate=100.0 * (clicks + RATE_PRIOR * overall) / (shown + RATE_PRIOR))


def play_counts(artists, events, end):
    """Songs heard of each artist in the last 7 and 28 days."""
    heard = events.loc[is_heard(events)]
    back = (pd.Timestamp(end, tz="UTC") - heard["day"]).dt.days
    items = artists.rename(columns={"artist_id": "id"})[["id", "name", "genres", "first_release_date"]]
    items["genres"] = items["genres"].str.split("|")
    for days in [7, 28]:
        items[f"plays_{days}d"] = numpy.bincount(heard["artist"], back.between(1, days), len(artists)).astype("uint32")
    return items


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("world", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--processes", type=int, default=os.cpu_count())
    parser.add_argument("--key", default="a key of the benchmark, no secret")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    started, cpu_before = time.perf_counter(), time.process_time()

    files = sorted(options.world.glob("events/date=*/part-*.jsonl"))
    last_day = date.fromisoformat(files[-1].parent.name.removeprefix("date="))
    with ProcessPoolExecutor(options.processes) as pool:
        parts = list(pool.map(read_file, files))
    valid = pd.concat([events for events, _ in parts], ignore_index=True)
    lines = sum(count for _, count in parts)
    del parts
    read = time.perf_counter() - started
    first = valid.drop_duplicates("event_id")
    counts = len(valid) - len(first), lines - len(valid), len(first)
    del valid
    users = read_users(options.world, options.key.encode(), last_day)
    artists, songs = read_catalogue(options.world)
    events = join(first.copy(), users, artists, songs)

    outputs = {
        "timeline": timeline(events),
        "plays": plays(events),
        "impressions": impressions(events),
        "users": click_rates(users, events),
        "items": play_counts(artists, events, last_day + timedelta(days=1)),
    }
    for name, frame in outputs.items():
        frame.to_parquet(options.out / f"{name}.parquet", compression="zstd", index=False)

    seconds = time.perf_counter() - started
    json_bytes = sum(file.stat().st_size for file in files)
    usage = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    cpu = sum(used.ru_utime + used.ru_stime for used in usage) - cpu_before
    peak = [used.ru_maxrss / 2**10 for used in usage]
    print(
        f"pandas {pd.__version__} ({loads.__module__}, {options.processes} processes): {lines} lines = {len(events)} kept + "
        f"{counts[0]} duplicates + {counts[1]} malformed + {counts[2] - len(events)} of unknown ids"
    )
    print(
        f"{seconds:.2f} s ({read:.2f} s to read, {cpu:.2f} s of CPU), {json_bytes / seconds / 1e6:.0f} MB/s of JSON, "
        f"{peak[0]:.0f} MiB at most, and {peak[1]:.0f} MiB in a reading process"
    )


if __name__ == "__main__":
    main()
