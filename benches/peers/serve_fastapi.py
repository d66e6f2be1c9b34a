"""The job of `duet serve` in FastAPI, PyTorch and faiss, over the same bundle: a user's last items are embedded, pooled with decay,
put through a tower of the bundle's sizes, searched for among the item vectors, seen items left out, and named.

The tower's weights are made up (its cost does not depend on them), and it leaves out what is known of a user beside the history; its
sizes, vectors, histories, ids and names are the bundle's, whose encoder must be `mean`. faiss' IVF is given the fewest lists to probe
with which it finds 99 % of the exact ten best for the bundle's user vectors. Needs fastapi, orjson, uvicorn, uvloop, httptools, torch,
faiss-cpu, numpy, pyarrow.

    python serve_fastapi.py BUNDLE --port 8090 --workers 2     # then: duet load --url http://127.0.0.1:8090 --users @ids --rate 500
"""

import argparse
import os
import tomllib
import uuid
from pathlib import Path

import faiss
import numpy as np
import pyarrow.parquet as pq
import torch
import uvicorn
from fastapi import FastAPI
from fastapi.responses import ORJSONResponse

def vectors(path):
    table = pq.read_table(path)
    rows = table["vector"].combine_chunks()
    return table["id"].to_pylist(), rows.flatten().to_numpy().reshape(len(rows), -1).astype(np.float32)


class Tower(torch.nn.Module):
    def __init__(self, items, dim, hidden, normalise):
        super().__init__()
        self.table = torch.nn.Embedding(items, dim)
        self.residual = None
        if hidden > 0:
            self.residual = torch.nn.Sequential(torch.nn.Linear(dim, hidden), torch.nn.GELU(), torch.nn.Linear(hidden, dim))
        self.normalise = normalise

    def forward(self, history, weights):
        vector = (self.table(history) * weights.unsqueeze(1)).sum(0)
        if self.residual is not None:
            vector = vector + self.residual(vector)
        return torch.nn.functional.normalize(vector, dim=0) if self.normalise else vector


class Service:
    def __init__(self, bundle):
        bundle = Path(bundle)
        config = tomllib.loads((bundle / "config.toml").read_text())
        model = config["model"]
        if model["encoder"] != "mean":
            raise SystemExit(f"{bundle}: its encoder is {model['encoder']!r}; expected 'mean'")
        self.window, self.half_life = config["data"]["window"], model["half_life"]
        self.item_ids, items = vectors(bundle / "items.parquet")
        user_ids, users = vectors(bundle / "users.parquet")
        self.users = {user: row for row, user in enumerate(user_ids)}
        catalogue = pq.read_table(bundle / "data" / "items.parquet")
        self.names = catalogue["name"].to_pylist() if "name" in catalogue.column_names else self.item_ids
        timeline = pq.read_table(bundle / "data" / "timeline.parquet", columns=["user", "item"])
        owners, self.played = timeline["user"].to_numpy(), timeline["item"].to_numpy().astype(np.int64)
        self.offsets = np.searchsorted(owners, np.arange(len(user_ids) + 1))
        # The bias, where there is one, is the last component on both sides; inner product as duet's.
        self.dim = items.shape[1]
        self.index = self.tuned(items, users)
        self.tower = Tower(len(items), self.dim, model["hidden"], model["normalise"]).eval()

    @staticmethod
    def tuned(items, users):
        lists = int(2 * np.sqrt(len(items)))
        index = faiss.IndexIVFFlat(faiss.IndexFlatIP(items.shape[1]), items.shape[1], lists, faiss.METRIC_INNER_PRODUCT)
        index.train(items)
        index.add(items)
        sample = users[np.random.default_rng(0).permutation(len(users))[:500]]
        _, exact = faiss.knn(sample, items, 10, metric=faiss.METRIC_INNER_PRODUCT)
        for index.nprobe in range(1, lists + 1):
            _, found = index.search(sample, 10)
            if np.mean([len(np.intersect1d(a, b)) for a, b in zip(exact, found)]) >= 9.9:
                break
        return index

    @torch.inference_mode()
    def recommend(self, user_id, k):
        row = self.users.get(user_id)
        played = self.played[self.offsets[row] : self.offsets[row + 1]] if row is not None else self.played[:0]
        history = torch.from_numpy(played[-self.window :])
        age = torch.arange(len(history) - 1, -1, -1, dtype=torch.float32)
        weights = torch.exp2(-age / self.half_life) if self.half_life > 0 else torch.ones(len(history))
        vector = self.tower(history, weights / weights.sum().clamp(min=1e-9)).numpy()
        seen = set(played.tolist())
        scores, found = self.index.search(vector[None, :], k + len(seen))
        items = [(float(score), int(item)) for score, item in zip(scores[0], found[0]) if item >= 0 and item not in seen][:k]
        return [
            {"position": at, "item_id": self.item_ids[item], "name": self.names[item], "score": score, "reasons": []}
            for at, (score, item) in enumerate(items)
        ]


def application():
    torch.set_num_threads(1)
    faiss.omp_set_num_threads(1)
    service = Service(os.environ["BUNDLE"])
    app = FastAPI(default_response_class=ORJSONResponse)

    @app.get("/v1/users/{user_id}/recommendations")
    def recommendations(user_id: str, k: int = 10):
        return ORJSONResponse(
            {
                "request_id": str(uuid.uuid4()),
                "user_id": user_id,
                "kind": "artist",
                "bundle": "peer",
                "variant": "control",
                "source": "personal",
                "degraded": [],
                "items": service.recommend(user_id, k),
            }
        )

    return app


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("bundle")
    parser.add_argument("--port", type=int, default=8090)
    parser.add_argument("--workers", type=int, default=2)
    arguments = parser.parse_args()
    os.environ["BUNDLE"] = arguments.bundle
    uvicorn.run(
        "serve_fastapi:application", factory=True, host="127.0.0.1", port=arguments.port, workers=arguments.workers,
        log_level="warning", access_log=False, http="httptools", loop="uvloop",
    )
