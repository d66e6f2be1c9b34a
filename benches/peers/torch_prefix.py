"""One training step of duet's bench configuration (configs/bench.toml), written in PyTorch, to time the two side by side.

The same work in the same shapes: windows of 64 items, the decayed mean of every prefix as one [L, L] matrix product, user
features and history length added, a residual network of 256 hidden units on each tower, dropout, vectors of length 1, a learned
temperature, sampled softmax over the distinct items of the batch and uniform negatives with the refined logQ correction,
own-history masks, row-wise Adagrad by hand on the touched rows alone, AdamW with clipped gradients for the rest. Batches are
drawn before the clock starts. Needs torch and numpy, nothing else.

    python torch_prefix.py --threads 2 --seconds 10
    python torch_prefix.py --threads 2 --tile-rows 256     # logits in tiles instead of all 2,048 rows at once
"""

import argparse
import math
import time

import numpy
import torch
from torch import nn
from torch.nn import functional

USERS, WINDOW, BATCH_WINDOWS = 20_000, 64, 32
DIM, HIDDEN, DROPOUT, HALF_LIFE = 64, 256, 0.1, 16.0
FEATURE_VALUES = (10, 3000, 200)
UNIFORM_NEGATIVES = 2860
TOWER_RATE, TABLE_RATE, WEIGHT_DECAY, CLIP_NORM = 0.002, 0.1, 0.01, 1.0
LENGTH_BUCKETS = 16


def power_law_events(items, generator):
    """Ranks n^u (Zipf's law with exponent 1), popular ranks scattered over the table: [users, window]."""
    ranks = (items + 1.0) ** generator.random((USERS, WINDOW))
    ranks = numpy.clip(ranks.astype(numpy.int64), 1, items) - 1
    return ranks * 2_147_483_647 % items


class World:
    def __init__(self, items):
        self.generator = numpy.random.default_rng(20_261_124)
        self.events = power_law_events(items, self.generator)
        counts = numpy.bincount(self.events.ravel(), minlength=items)
        self.trained = numpy.flatnonzero(counts)
        self.frequency = counts / counts.sum()
        starts = numpy.cumsum((0,) + FEATURE_VALUES[:-1])
        self.features = numpy.stack(
            [start + self.generator.integers(0, values, USERS) for start, values in zip(starts, FEATURE_VALUES)], 1
        )

    def batch(self):
        users = self.generator.integers(0, USERS, BATCH_WINDOWS)
        events = self.events[users]  # [windows, window]
        negatives = self.generator.choice(self.trained, UNIFORM_NEGATIVES)
        # The candidates: every target and every negative, once. Every item of a window is a target, so these are all rows.
        candidates, places = numpy.unique(numpy.concatenate([events.ravel(), negatives]), return_inverse=True)
        tokens = places[: events.size].reshape(events.shape)
        uniform = 1.0 / len(self.trained)
        log_absent = events.size * numpy.log1p(-self.frequency[candidates]) + UNIFORM_NEGATIVES * math.log1p(-uniform)
        log_inclusion = numpy.log(-numpy.expm1(log_absent))
        # Row (window, position) must not count what the window holds before the position as a negative.
        rows, columns = [], []
        for window in range(BATCH_WINDOWS):
            row, place = numpy.tril_indices(WINDOW, -1)
            rows.append(row + window * WINDOW)
            columns.append(tokens[window][place])
        features, feature_places = numpy.unique(self.features[users], return_inverse=True)
        return {
            "candidates": torch.from_numpy(candidates),
            "tokens": torch.from_numpy(tokens),
            "log_inclusion": torch.from_numpy(log_inclusion.astype(numpy.float32)),
            "masked": torch.from_numpy(numpy.concatenate(rows) * len(candidates) + numpy.concatenate(columns)),
            "features": torch.from_numpy(features),
            "feature_places": torch.from_numpy(feature_places.reshape(BATCH_WINDOWS, -1)),
        }


def prefix_weights():
    """[L, L]: row p is the decayed mean of the items before p."""
    position = torch.arange(WINDOW)
    age = position[:, None] - 1 - position[None, :]
    weights = torch.where(age >= 0, torch.exp2(-age / HALF_LIFE), torch.zeros(()))
    return weights / weights.sum(1, keepdim=True).clamp_min(1e-30)


def residual():
    network = nn.Sequential(nn.Linear(DIM, HIDDEN), nn.SiLU(), nn.Dropout(DROPOUT), nn.Linear(HIDDEN, DIM))
    nn.init.zeros_(network[3].weight)
    nn.init.zeros_(network[3].bias)
    return network


class Towers(nn.Module):
    def __init__(self):
        super().__init__()
        self.start = nn.Parameter(torch.zeros(1, DIM))
        self.length = nn.Parameter(torch.zeros(LENGTH_BUCKETS, DIM))
        self.user_residual = residual()
        self.item_residual = residual()
        self.log_scale = nn.Parameter(torch.tensor(math.log(1 / 0.1)))
        self.dropout = nn.Dropout(DROPOUT)
        self.register_buffer("pool", prefix_weights())
        lengths = [min(position.bit_length(), LENGTH_BUCKETS - 1) for position in range(WINDOW)]
        self.register_buffer("lengths", torch.tensor(lengths))

    def forward(self, rows, features, batch):
        """rows: [candidates, dim], features: [features, dim]; gives [windows * L, dim] and [candidates, dim]."""
        known = self.start + functional.embedding(batch["feature_places"], features).sum(1)  # [windows, dim]
        history = self.pool @ functional.embedding(batch["tokens"], rows)  # [windows, L, dim]
        users = (history + known[:, None] + self.length[self.lengths]).reshape(-1, DIM)
        users = self.dropout(users + self.user_residual(users))
        users = functional.normalize(users, dim=1) * self.log_scale.exp()
        items = functional.normalize(rows + self.item_residual(rows), dim=1)
        return users, items


def sampled_softmax(users, items, batch):
    """The mean loss; logits of all rows at once."""
    logits = users @ items.T  # [rows, candidates]
    targets = batch["tokens"].reshape(-1, 1)
    positives = logits.gather(1, targets)
    corrected = logits - batch["log_inclusion"]
    corrected.view(-1).index_fill_(0, batch["masked"], -math.inf)
    corrected.scatter_(1, targets, positives)
    return functional.cross_entropy(corrected, targets.view(-1))


def tiled_softmax(users, items, batch, tile_rows):
    """The same loss with at most `tile_rows` rows of logits alive, gradients written out by hand. Gives (loss, dU, dV)."""
    users, items = users.detach(), items.detach()
    rows, columns = len(users), len(items)
    targets = batch["tokens"].reshape(-1, 1)
    bounds = torch.searchsorted(batch["masked"], torch.arange(0, rows + 1, tile_rows) * columns)
    loss, d_items, d_users = 0.0, torch.zeros_like(items), []
    for tile, start in enumerate(range(0, rows, tile_rows)):
        end = min(start + tile_rows, rows)
        logits = users[start:end] @ items.T
        target = targets[start:end]
        positives = logits.gather(1, target)
        logits -= batch["log_inclusion"]
        masked = batch["masked"][bounds[tile] : bounds[tile + 1]] - start * columns
        logits.view(-1).index_fill_(0, masked, -math.inf)
        logits.scatter_(1, target, positives)
        log_sum = torch.logsumexp(logits, 1, keepdim=True)
        loss += float((log_sum - positives).sum()) / rows
        gradient = logits.sub_(log_sum).exp_()
        gradient.scatter_add_(1, target, torch.full_like(positives, -1.0))
        gradient /= rows
        d_items.addmm_(gradient.T, users[start:end])
        d_users.append(gradient @ items)
    return loss, torch.cat(d_users), d_items


class Table:
    """Rows outside autograd with one Adagrad scalar a row."""

    def __init__(self, rows, deviation):
        self.weights = torch.randn(rows, DIM) * deviation
        self.accumulators = torch.zeros(rows)

    def gather(self, ids):
        return self.weights.index_select(0, ids).requires_grad_()

    def update(self, ids, gradient):
        accumulators = self.accumulators.index_select(0, ids) + gradient.square().mean(1)
        self.accumulators.index_copy_(0, ids, accumulators)
        self.weights.index_add_(0, ids, gradient * (-TABLE_RATE / (accumulators.sqrt() + 1e-8))[:, None])


class Learner:
    make_towers = Towers
    # Where a batch has the rows of the table that its step needs.
    row_key = "candidates"

    def __init__(self, items, tile_rows):
        self.towers = self.make_towers()
        self.items = Table(items, 0.05)
        self.features = Table(sum(FEATURE_VALUES), 0.02)
        self.tile_rows = tile_rows
        self.optimiser = torch.optim.AdamW(
            self.towers.parameters(), lr=TOWER_RATE, betas=(0.9, 0.98), weight_decay=WEIGHT_DECAY, foreach=True
        )

    def step(self, batch):
        rows = self.items.gather(batch[self.row_key])
        features = self.features.gather(batch["features"])
        users, items = self.towers(rows, features, batch)
        if self.tile_rows:
            loss, d_users, d_items = tiled_softmax(users, items, batch, self.tile_rows)
            torch.autograd.backward([users, items], [d_users, d_items])
        else:
            loss = sampled_softmax(users, items, batch)
            loss.backward()
            loss = loss.item()
        with torch.no_grad():
            self.items.update(batch[self.row_key], rows.grad)
            self.features.update(batch["features"], features.grad)
        nn.utils.clip_grad_norm_(self.towers.parameters(), CLIP_NORM)
        self.optimiser.step()
        self.optimiser.zero_grad()
        with torch.no_grad():
            self.towers.log_scale.clamp_(-math.log(1.0), -math.log(0.02))
        return loss


def arguments(description):
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--items", type=int, default=200_000)
    parser.add_argument("--batches", type=int, default=64, help="batches drawn before the clock starts")
    parser.add_argument("--tile-rows", type=int, default=0, help="rows of logits at a time; 0: all")
    return parser


def prepare(options, make_world, make_learner):
    """Batches, drawn before the clock starts, and a learner that has seen some of them."""
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    world = make_world(options.items)
    batches = [world.batch() for _ in range(options.batches)]
    learner = make_learner(options.items, options.tile_rows)
    for batch in batches[:4]:
        learner.step(batch)
    return batches, learner


def report(options, batches, learner, per_step, unit, sizes):
    """Trains for `options.seconds` and prints the pace in `unit`, of which a step has `per_step`."""
    started, cpu_started, steps = time.perf_counter(), time.process_time(), []
    while (begin := time.perf_counter()) - started < options.seconds:
        loss = learner.step(batches[len(steps) % len(batches)])
        steps.append(time.perf_counter() - begin)
    elapsed, cpu = time.perf_counter() - started, time.process_time() - cpu_started
    print(
        f"torch {torch.__version__} threads {options.threads} tile {options.tile_rows or 'none'}: "
        f"{len(steps) * per_step / elapsed:.0f} {unit}/s, median {numpy.median(steps) * 1e3:.2f} ms a step, "
        f"CPU {cpu * 1e3 / len(steps):.2f} ms a step, {len(steps)} steps, {sizes}, last loss {loss:.3f}"
    )


def main():
    parser = arguments(__doc__.splitlines()[0])
    parser.add_argument("--profile", action="store_true", help="print where the time goes instead")
    options = parser.parse_args()
    batches, learner = prepare(options, World, Learner)
    if options.profile:
        with torch.profiler.profile() as profile:
            for batch in batches[:20]:
                learner.step(batch)
        print(profile.key_averages().table(sort_by="self_cpu_time_total", row_limit=15))
        return
    columns = numpy.mean([len(batch["candidates"]) for batch in batches])
    report(options, batches, learner, BATCH_WINDOWS * WINDOW, "positions", f"{columns:.0f} columns")


if __name__ == "__main__":
    main()
