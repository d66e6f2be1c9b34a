"""Implicit ALS by the Python package `implicit` on the pairs of a folder: fit time and quality, beside duet's.

The same job as `cargo bench -p duet-retrieval --bench baselines -- DIR als`: reads DIR/interactions_train.csv and DIR/test.csv (columns
user_id, item_id), fits on the distinct pairs, ranks the whole catalogue for every user with test items, leaves training items
out. Only the fit is timed. `implicit`'s alpha multiplies the confidence itself: its 10 is duet's 9. Needs implicit, numpy, pandas,
scipy.

    python als_implicit.py make DIR --users 60000 --items 20000 --pairs 3000000     # a made-up set, for size
    python als_implicit.py fit DIR --factors 64 --alpha 10 --regularization 0.05 --iterations 15 --threads 2
"""

import argparse
import os
import time
from pathlib import Path

# The package asks for this: its own threads work on users and items.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np
import pandas as pd
import scipy.sparse as sp


def make(arguments):
    """Users of 50 tastes, items of a power law within each; a tenth of the pairs is held out."""
    draw = np.random.default_rng(1)
    tastes = 50
    users = draw.integers(0, arguments.users, arguments.pairs)
    rank = (draw.pareto(0.8, arguments.pairs) * 8).astype(np.int64) % (arguments.items // tastes)
    taste = np.where(draw.random(arguments.pairs) < 0.8, users % tastes, draw.integers(0, tastes, arguments.pairs))
    pairs = pd.DataFrame({"user_id": users, "item_id": rank * tastes + taste}).drop_duplicates()
    test = draw.random(len(pairs)) < 0.1
    arguments.dir.mkdir(parents=True, exist_ok=True)
    pairs[~test].to_csv(arguments.dir / "interactions_train.csv", index=False)
    pairs[test].to_csv(arguments.dir / "test.csv", index=False)


def fit(arguments):
    import implicit

    train = pd.read_csv(arguments.dir / "interactions_train.csv", dtype=str)[["user_id", "item_id"]]
    test = pd.read_csv(arguments.dir / "test.csv", dtype=str)[["user_id", "item_id"]]
    both = pd.concat([train, test])
    users, user_ids = pd.factorize(both.user_id)
    items, item_ids = pd.factorize(both.item_id)
    shape, n = (len(user_ids), len(item_ids)), len(train)
    matrix = sp.csr_matrix((np.ones(n, np.float32), (users[:n], items[:n])), shape=shape)
    matrix.data[:] = 1
    wanted = sp.csr_matrix((np.ones(len(test), np.float32), (users[n:], items[n:])), shape=shape)
    wanted.data[:] = 1
    wanted = (wanted - wanted.multiply(matrix)).tocsr()
    wanted.eliminate_zeros()
    model = implicit.als.AlternatingLeastSquares(
        factors=arguments.factors,
        alpha=arguments.alpha,
        regularization=arguments.regularization,
        iterations=arguments.iterations,
        num_threads=arguments.threads,
        random_state=arguments.seed,
    )
    started = time.perf_counter()
    model.fit(matrix, show_progress=False)
    seconds = time.perf_counter() - started
    rows = np.flatnonzero(np.diff(wanted.indptr))
    lists, _ = model.recommend(rows, matrix[rows], N=10, filter_already_liked_items=True)
    discount = 1 / np.log2(np.arange(2, 12))
    ndcg, recall = [], []
    for row, found in zip(rows, lists):
        truth = wanted.indices[wanted.indptr[row] : wanted.indptr[row + 1]]
        hits = np.isin(found, truth)
        ndcg.append((hits * discount[: len(found)]).sum() / discount[: min(10, len(truth))].sum())
        recall.append(hits.sum() / len(truth))
    print(
        f"implicit {implicit.__version__} als users {shape[0]} items {shape[1]} pairs {matrix.nnz} threads {arguments.threads} "
        f"fit {seconds:.3f} s NDCG@10 {np.mean(ndcg):.4f} Recall@10 {np.mean(recall):.4f}"
    )


parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
commands = parser.add_subparsers(required=True)
command = commands.add_parser("make")
command.add_argument("dir", type=Path)
command.add_argument("--users", type=int, default=60_000)
command.add_argument("--items", type=int, default=20_000)
command.add_argument("--pairs", type=int, default=3_000_000)
command.set_defaults(run=make)
command = commands.add_parser("fit")
command.add_argument("dir", type=Path)
command.add_argument("--factors", type=int, default=100)
command.add_argument("--alpha", type=float, default=10)
command.add_argument("--regularization", type=float, default=0.01)
command.add_argument("--iterations", type=int, default=15)
command.add_argument("--threads", type=int, default=2)
command.add_argument("--seed", type=int, default=1)
command.set_defaults(run=fit)
arguments = parser.parse_args()
arguments.run(arguments)
