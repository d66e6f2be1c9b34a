"""The job of `duet prepare` on the files of a world (`duet world`), written in polars, to time the two side by side.

JSON lines to Parquet: malformed lines dropped and counted, RFC 3339 with any offset to UTC, duplicates by event_id, unknown ids
filtered, users as keyed hashes (HMAC-SHA-256), ages as buckets; positive events as one row per user, artist and UTC day (earliest
time, largest strength), plays with the listener's ratio over the song's mean ratio of earlier days (shrunk with 20 plays at the
mean of all songs), impressions with whether they were clicked, click rates of users, plays of artists in 7 and 28 days.

What `duet prepare` does beyond this and these scripts do not: a line's file, number and reason in the quarantine, places from
coordinates, the held-out part, daily as-of tables, checksums, the report.

Lines are decoded by `scan_lines` and `str.json_decode`, in the streaming engine: `scan_ndjson` ends at the first malformed line,
`ignore_errors` or not, and is slower. Needs polars alone.

    python prepare_polars.py WORLD OUT
"""

import argparse
import hashlib
import hmac
import resource
import time
from datetime import date, timedelta
from pathlib import Path

import polars as pl

EVENT = {
    "event_id": pl.String,
    "type": pl.String,
    "user_id": pl.String,
    "item_kind": pl.String,
    "item_id": pl.String,
    "ts": pl.String,
    "request_id": pl.String,
    "position": pl.Int64,
    "ms_played": pl.Int64,
}
REQUIRED = ["event_id", "type", "user_id", "item_kind", "item_id", "ts"]
TYPES = pl.Enum(["impression", "click", "listen", "follow", "unfollow", "skip"])
KINDS = pl.Enum(["artist", "song"])
AGES = {18: "<18", 25: "18-24", 35: "25-34", 45: "35-44", 55: "45-54", 200: "55+"}
HEARD_MS = 30_000
RATE_PRIOR, PLAY_PRIOR, FIRST_DAY_RATIO = 20.0, 20.0, 0.5


def decode(lines):
    """Lines to columns. A line cut short is the common flaw: it is left out before it can make a whole batch fail."""
    whole = lines.filter(pl.col("line").str.starts_with("{") & pl.col("line").str.ends_with("}"))
    return whole.select(pl.col("line").str.json_decode(pl.Struct(EVENT)).alias("event")).unnest("event")


def decode_each(lines):
    """The same for batches with another line that is no JSON: halved until that line stands alone. A third slower."""
    try:
        return decode(lines)
    except pl.exceptions.ComputeError:
        half = len(lines) // 2
        return pl.concat([decode_each(lines[:half]), decode_each(lines[half:])]) if half else pl.DataFrame(schema=EVENT)


def read_events(files):
    """Valid events, duplicates included, and how many lines there were."""
    lines = pl.scan_lines(files)
    for parsed in decode(lines), lines.map_batches(decode_each, schema=EVENT, streamable=True):
        typed = parsed.with_columns(
            pl.col("type").cast(TYPES, strict=False),
            pl.col("item_kind").cast(KINDS, strict=False),
            pl.col("ts").str.to_datetime("%+", time_unit="ms", time_zone="UTC", strict=False),
        )
        valid = typed.filter(pl.all_horizontal(pl.col(REQUIRED).is_not_null()))
        # Ids that are compared and never shown: 64 bits of each.
        valid = valid.with_columns(pl.col("event_id", "request_id").hash())
        try:
            events, counts = pl.collect_all([valid, lines.select(pl.len())], engine="streaming")
            return events, counts.item()
        except pl.exceptions.ComputeError:
            pass


def age_bucket(age):
    bucket = pl.when(pl.lit(False)).then(None)
    for edge, label in AGES.items():
        bucket = bucket.when(age < edge).then(pl.lit(label))
    return bucket


def read_users(world, key, reference):
    """Accounts in the order of their pseudonyms."""
    columns = ["user_id", "birth_date", "gender", "country", "created_at"]
    accounts = pl.read_csv(world / "accounts.csv", columns=columns, schema_overrides=dict.fromkeys(columns, pl.String))
    digest = [hmac.digest(key, user.encode(), hashlib.sha256)[:16].hex() for user in accounts["user_id"]]
    born = pl.col("birth_date").str.to_date()
    had_birthday = (born.dt.month().cast(pl.Int32) * 100 + born.dt.day()) <= reference.month * 100 + reference.day
    age = reference.year - born.dt.year() - (~had_birthday).cast(pl.Int32)
    created = pl.col("created_at").str.to_datetime("%+", time_zone="UTC")
    users = accounts.select(
        "user_id",
        pl.Series("id", digest),
        age_bucket(age).alias("age_bucket"),
        pl.col("gender").str.to_lowercase(),
        pl.col("country").str.to_uppercase(),
        (pl.lit(reference) - created.dt.date()).dt.total_days().clip(0).alias("tenure_days"),
    )
    return users.sort("id").with_row_index("user")


def read_catalogue(world):
    """Artists and songs in the order of their ids; an item's row and, for songs, artist and length."""
    artists = pl.read_csv(world / "catalogue/artists.csv", schema_overrides={"artist_id": pl.String}, try_parse_dates=True)
    artists = artists.sort("artist_id").with_row_index("artist")
    songs = pl.read_csv(world / "catalogue/songs.csv", columns=["song_id", "artist_id", "duration_ms"])
    songs = songs.join(artists.select("artist_id", "artist"), on="artist_id").sort("song_id").with_row_index("song")
    items = pl.concat(
        [
            artists.select(
                pl.lit("artist", KINDS).alias("item_kind"),
                pl.col("artist_id").alias("item_id"),
                pl.col("artist").alias("item"),
                "artist",
                pl.lit(None, pl.Int64).alias("duration_ms"),
            ),
            songs.select(
                pl.lit("song", KINDS).alias("item_kind"),
                pl.col("song_id").alias("item_id"),
                pl.col("song").alias("item"),
                "artist",
                "duration_ms",
            ),
        ]
    )
    return artists, items


def timeline(events):
    """Positive events: one row per user, artist and UTC day."""
    is_artist = pl.col("item_kind") == "artist"
    heard = (pl.col("ms_played") >= HEARD_MS) | (pl.col("ms_played") * 2 >= pl.col("duration_ms"))
    strength = (
        pl.when((pl.col("type") == "click") & is_artist)
        .then(0.5)
        .when((pl.col("type") == "listen") & heard)
        .then(1.0)
        .when((pl.col("type") == "follow") & is_artist)
        .then(2.0)
    )
    rows = events.with_columns(strength.cast(pl.Float32).alias("weight")).filter(pl.col("weight").is_not_null())
    rows = rows.group_by("user", "artist", "day").agg(pl.col("ts").min(), pl.col("weight").max())
    rows = rows.select("user", pl.col("artist").alias("item"), pl.col("ts").dt.epoch("ms").alias("timestamp_ms"), "weight")
    return rows.sort("user", "timestamp_ms", "item")


def plays(events):
    """Plays with the ratio over the song's mean ratio of earlier days."""
    ratio = (pl.col("ms_played") / pl.col("duration_ms")).clip(0.0, 1.0)
    rows = events.filter(pl.col("type").is_in(["listen", "skip"]) & (pl.col("item_kind") == "song"))
    rows = rows.with_columns(ratio.fill_null(0.0).alias("listen_ratio"))
    days = rows.group_by("item", "day").agg(pl.col("listen_ratio").sum().alias("sum"), pl.len().alias("count"))
    all_songs = days.group_by("day").agg(pl.col("sum").sum(), pl.col("count").sum()).sort("day")
    earlier = pl.col("sum").cum_sum().shift() / pl.col("count").cum_sum().shift()
    all_songs = all_songs.select("day", earlier.fill_null(FIRST_DAY_RATIO).alias("prior"))
    before = lambda name: pl.col(name).cum_sum().over("item", order_by="day") - pl.col(name)  # noqa: E731
    mean = (before("sum") + PLAY_PRIOR * pl.col("prior")) / (before("count") + PLAY_PRIOR)
    means = days.join(all_songs, on="day").select("item", "day", mean.alias("mean"))
    rows = rows.join(means, on=["item", "day"]).select(
        "user",
        pl.col("item").alias("song"),
        pl.col("ts").dt.epoch("ms").alias("timestamp_ms"),
        "ms_played",
        pl.col("listen_ratio").cast(pl.Float32),
        (pl.col("listen_ratio") / pl.col("mean")).cast(pl.Float32).alias("listen_delta"),
        (pl.col("type") == "skip").alias("skipped"),
    )
    return rows.sort("user", "timestamp_ms", "song")


def impressions(events):
    """Impressions and whether the same item of the same list was clicked."""
    key = ["user", "request_id", "item_kind", "item"]
    clicks = events.filter(pl.col("type") == "click").select(key).unique().with_columns(pl.lit(True).alias("clicked"))
    shown = events.filter(pl.col("type") == "impression").join(clicks, on=key, how="left")
    shown = shown.select(
        "user",
        "item_kind",
        "item",
        pl.col("ts").dt.epoch("ms").alias("timestamp_ms"),
        "position",
        pl.col("clicked").fill_null(False),
    )
    return shown.sort("user", "timestamp_ms", "position")


def click_rates(users, events):
    """Clicks per 100 impressions, shrunk towards everybody's rate."""
    counts = events.group_by("user").agg(
        (pl.col("type") == "click").sum().alias("clicks"), (pl.col("type") == "impression").sum().alias("shown")
    )
    overall = pl.col("clicks").sum() / pl.col("shown").sum()
    rate = 100.0 * (pl.col("clicks") + RATE_PRIOR * overall) / (pl.col("shown") + RATE_PRIOR)
    joined = users.lazy().join(counts, on="user", how="left").with_columns(pl.col("clicks", "shown").fill_null(0))
    return joined.with_columns(rate.alias("click_rate")).sort("user").drop("user", "user_id", "clicks", "shown")


def play_counts(artists, events, end):
    """Songs heard of each artist in the last 7 and 28 days."""
    heard = (pl.col("ms_played") >= HEARD_MS) | (pl.col("ms_played") * 2 >= pl.col("duration_ms"))
    back = (pl.lit(end) - pl.col("day")).dt.total_days()
    heard = events.filter((pl.col("type") == "listen") & heard).group_by("artist").agg(
        back.is_between(1, 7).sum().alias("plays_7d"), back.is_between(1, 28).sum().alias("plays_28d")
    )
    columns = ["artist", pl.col("artist_id").alias("id"), "name", pl.col("genres").str.split("|"), "first_release_date"]
    joined = artists.lazy().select(columns).join(heard, on="artist", how="left")
    return joined.with_columns(pl.col("plays_7d", "plays_28d").fill_null(0)).sort("artist").drop("artist")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("world", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--key", default="a key of the benchmark, no secret")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    started, cpu_started = time.perf_counter(), time.process_time()

    files = sorted(options.world.glob("events/date=*/part-*.jsonl"))
    last_day = date.fromisoformat(files[-1].parent.name.removeprefix("date="))
    valid, lines = read_events(files)
    read = time.perf_counter() - started
    first = valid.filter(pl.col("event_id").is_first_distinct())
    users = read_users(options.world, options.key.encode(), last_day)
    artists, items = read_catalogue(options.world)
    known = first.lazy().join(users.lazy().select("user_id", "user"), on="user_id")
    known = known.join(items.lazy(), on=["item_kind", "item_id"]).drop("event_id", "user_id", "item_id")
    events = known.with_columns(pl.col("ts").dt.date().alias("day")).collect(engine="streaming")

    lazy = events.lazy()
    outputs = {
        "timeline": timeline(lazy),
        "plays": plays(lazy),
        "impressions": impressions(lazy),
        "users": click_rates(users, lazy),
        "items": play_counts(artists, lazy, last_day + timedelta(days=1)),
    }
    sinks = [frame.sink_parquet(options.out / f"{name}.parquet", compression="zstd", lazy=True) for name, frame in outputs.items()]
    pl.collect_all(sinks, engine="streaming")

    seconds = time.perf_counter() - started
    json_bytes = sum(file.stat().st_size for file in files)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
    print(
        f"polars {pl.__version__} ({pl.thread_pool_size()} threads): {lines} lines = {len(events)} kept + "
        f"{len(valid) - len(first)} duplicates + {lines - len(valid)} malformed + {len(first) - len(events)} of unknown ids"
    )
    print(
        f"{seconds:.2f} s ({read:.2f} s to read, {time.process_time() - cpu_started:.2f} s of CPU), "
        f"{json_bytes / seconds / 1e6:.0f} MB/s of JSON, {peak:.0f} MiB at most"
    )


if __name__ == "__main__":
    main()
