"""A two-tower training step in PyTorch the way most write it: an example is a user's last 50 items and the item that follows.

Every example gathers and pools a history of its own (one embedding_bag of 2,048 x 50 rows), where torch_prefix.py and duet encode a
window once for all of its positions. Towers, loss, negatives, optimisers and data are those of torch_prefix.py, which this imports:
2,048 examples a step, about 4,060 candidate columns. Needs torch and numpy, nothing else.

    python torch_two_tower.py --threads 2 --seconds 10 --tile-rows 256
"""

import math

import numpy
import torch
from torch.nn import functional

from torch_prefix import (
    HALF_LIFE,
    LENGTH_BUCKETS,
    UNIFORM_NEGATIVES,
    USERS,
    WINDOW,
    Learner,
    Towers,
    World,
    arguments,
    prepare,
    report,
)

EXAMPLES, HISTORY = 2048, 50


class Bags(World):
    """The same events as separate examples: a user and a position, with the 50 items before it."""

    def batch(self):
        users = self.generator.integers(0, USERS, EXAMPLES)
        # Positions with a whole history before them: the case that bags are made for.
        positions = self.generator.integers(HISTORY, WINDOW, EXAMPLES)
        history = self.events[users[:, None], positions[:, None] + numpy.arange(-HISTORY, 0)]  # [examples, history]
        targets = self.events[users, positions]
        negatives = self.generator.choice(self.trained, UNIFORM_NEGATIVES)
        candidates, columns = numpy.unique(numpy.concatenate([targets, negatives]), return_inverse=True)
        uniform = 1.0 / len(self.trained)
        log_absent = EXAMPLES * numpy.log1p(-self.frequency[candidates]) + UNIFORM_NEGATIVES * math.log1p(-uniform)
        log_inclusion = numpy.log(-numpy.expm1(log_absent))
        # What an example has in its history is no negative of it.
        place = numpy.searchsorted(candidates, history).clip(max=len(candidates) - 1)
        rows, slots = numpy.nonzero(candidates[place] == history)
        masked = numpy.unique(rows * len(candidates) + place[rows, slots])
        # Rows of the table that the step needs: candidates first, then what only histories hold.
        others = numpy.setdiff1d(history, candidates)
        rows_needed = numpy.concatenate([candidates, others])
        order = numpy.argsort(rows_needed)
        tokens = order[numpy.searchsorted(rows_needed, history, sorter=order)]
        features, feature_places = numpy.unique(self.features[users], return_inverse=True)
        return {
            "rows": torch.from_numpy(rows_needed),
            "candidates": len(candidates),
            "bags": torch.from_numpy(tokens),
            "tokens": torch.from_numpy(columns[:EXAMPLES]),
            "log_inclusion": torch.from_numpy(log_inclusion.astype(numpy.float32)),
            "masked": torch.from_numpy(masked),
            "features": torch.from_numpy(features),
            "feature_places": torch.from_numpy(feature_places.reshape(EXAMPLES, -1)),
            "lengths": torch.from_numpy(numpy.array([min(int(p).bit_length(), LENGTH_BUCKETS - 1) for p in positions])),
        }


class BagTowers(Towers):
    def __init__(self):
        super().__init__()
        ages = torch.arange(HISTORY - 1, -1, -1)
        weights = torch.exp2(-ages / HALF_LIFE)
        self.register_buffer("weights", (weights / weights.sum()).expand(EXAMPLES, HISTORY).contiguous())

    def forward(self, rows, features, batch):
        """rows: [needed, dim], features: [features, dim]; gives [examples, dim] and [candidates, dim]."""
        known = self.start + functional.embedding(batch["feature_places"], features).sum(1)  # [examples, dim]
        history = functional.embedding_bag(batch["bags"], rows, mode="sum", per_sample_weights=self.weights)
        users = history + known + self.length[batch["lengths"]]
        users = self.dropout(users + self.user_residual(users))
        users = functional.normalize(users, dim=1) * self.log_scale.exp()
        items = rows[: batch["candidates"]]
        items = functional.normalize(items + self.item_residual(items), dim=1)
        return users, items


class BagLearner(Learner):
    make_towers = BagTowers
    row_key = "rows"


def main():
    options = arguments(__doc__.splitlines()[0]).parse_args()
    batches, learner = prepare(options, Bags, BagLearner)
    rows = numpy.mean([len(batch["rows"]) for batch in batches])
    columns = numpy.mean([batch["candidates"] for batch in batches])
    report(options, batches, learner, EXAMPLES, "examples", f"{rows:.0f} rows, {columns:.0f} columns")


if __name__ == "__main__":
    main()
