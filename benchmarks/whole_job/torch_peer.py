#!/usr/bin/env python3
"""The same models in PyTorch, one process: prints one JSON line.

  python3 torch_peer.py STREAM.bin lr|deepfm|dlrm [threads=2] [seed=1] [device=cpu|cuda]

Needs torch and numpy. Reads the 264-byte records of the stream: label f32, 13 f32,
26 global ids int64. Sparse gradients (sparse=True) with Adagrad for the tables, Adam for
the dense part, batch 2,048, the first 999,424 rows in order, test on the last 200,000.
Weights start as Shoal's do: Glorot uniform, biases and first-order weights at zero. The rate
leaves out the first tenth of the steps.
"""
import json
import sys
import time

import numpy as np
import torch
from torch import nn

RECORD = np.dtype([("y", "<f4"), ("x", "<f4", 13), ("c", "<i8", 26)])
TRAIN, TEST, BATCH, DIM = 999_424, 200_000, 2048, 16


def mlp(widths):
    layers = []
    for i in range(len(widths) - 2):
        layers += [nn.Linear(widths[i], widths[i + 1]), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(widths[-2], widths[-1]))


class Model(nn.Module):
    def __init__(self, kind, vocabulary):
        super().__init__()
        self.kind = kind
        self.numeric = nn.Linear(13, 1)
        if kind != "dlrm":
            self.linear = nn.Embedding(vocabulary, 1, sparse=True)
            nn.init.zeros_(self.linear.weight)
        if kind != "lr":
            self.table = nn.Embedding(vocabulary, DIM, sparse=True)
            nn.init.normal_(self.table.weight, std=0.01)
        if kind == "deepfm":
            self.deep = mlp([26 * DIM + 13, 400, 400, 400, 1])
        if kind == "dlrm":
            self.bottom = nn.Sequential(mlp([13, 512, 256, DIM]), nn.ReLU())
            self.top = mlp([DIM + 27 * 26 // 2, 512, 256, 1])
            rows, columns = torch.tril_indices(27, 27, -1)
            self.register_buffer("pairs", rows * 27 + columns)
        for layer in self.modules():
            if isinstance(layer, nn.Linear):
                nn.init.xavier_uniform_(layer.weight)
                nn.init.zeros_(layer.bias)
        nn.init.zeros_(self.numeric.weight)

    def forward(self, x, c):
        if self.kind == "dlrm":
            dense = self.bottom(x)
            all_ = torch.cat([dense.unsqueeze(1), self.table(c)], 1)
            dots = torch.bmm(all_, all_.transpose(1, 2)).flatten(1).index_select(1, self.pairs)
            return self.top(torch.cat([dense, dots], 1))
        out = self.numeric(x) + self.linear(c).sum(1)
        if self.kind == "deepfm":
            v = self.table(c)
            out = out + 0.5 * (v.sum(1).square() - v.square().sum(1)).sum(1, keepdim=True)
            out = out + self.deep(torch.cat([v.flatten(1), x], 1))
        return out


def auc(y, s):
    rank = np.empty(len(s))
    rank[np.argsort(s, kind="stable")] = np.arange(1, len(s) + 1)
    p = y.sum()
    return (rank[y > 0.5].sum() - p * (p + 1) / 2) / (p * (len(y) - p))


def main():
    path, kind = sys.argv[1:3]
    torch.set_num_threads(int(sys.argv[3]) if len(sys.argv) > 3 else 2)
    torch.manual_seed(int(sys.argv[4]) if len(sys.argv) > 4 else 1)
    device = sys.argv[5] if len(sys.argv) > 5 else "cpu"
    data = np.memmap(path, RECORD, "r")
    model = Model(kind, int(data["c"][:, :].max()) + 1).to(device)
    sparse = [p for n, p in model.named_parameters() if n.split(".")[0] in ("linear", "table")]
    dense = [p for n, p in model.named_parameters() if n.split(".")[0] not in ("linear", "table")]
    optimizers = [torch.optim.Adagrad(sparse, lr=0.05), torch.optim.Adam(dense, lr=1e-3)]
    loss_of = nn.BCEWithLogitsLoss()

    def batch(begin, end):
        rows = data[begin:end]
        return (torch.from_numpy(rows["x"].copy()).to(device),
                torch.from_numpy(rows["c"].copy()).to(device),
                torch.from_numpy(rows["y"].copy()).unsqueeze(1).to(device))

    steps = TRAIN // BATCH
    warm, start = steps // 10, 0.0
    for step in range(steps):
        if step == warm:
            start = time.perf_counter()
        x, c, y = batch(step * BATCH, (step + 1) * BATCH)
        for optimizer in optimizers:
            optimizer.zero_grad(set_to_none=True)
        loss_of(model(x, c), y).backward()
        for optimizer in optimizers:
            optimizer.step()
    if device != "cpu":
        torch.cuda.synchronize()
    rate = (steps - warm) * BATCH / (time.perf_counter() - start)
    with torch.no_grad():
        scores = [model(*batch(b, min(b + 8192, len(data)))[:2]).squeeze(1).cpu().numpy()
                  for b in range(len(data) - TEST, len(data), 8192)]
    print(json.dumps({"system": "torch" if device == "cpu" else f"torch {device}", "model": kind, "examples_per_second": round(rate),
                      "auc": round(float(auc(data["y"][-TEST:], np.concatenate(scores))), 4)}))


if __name__ == "__main__":
    main()
