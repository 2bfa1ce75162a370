#!/usr/bin/env python3
"""Ownership tables from docs/ownership.md, written apart from the Rust code. Needs `pip install blake3`.

    ownership.py vectors   the vectors that agent/core/tests/vectors/ownership.txt holds
    ownership.py moves     the table in docs/ownership.md: what a death moves beyond the dead host's slices
"""
import random
import struct
import sys

from blake3 import blake3


def scores(cluster, service, host, slices):
    message = b"onemac/ownership/1"
    for name in (cluster, service, host):
        message += bytes([len(name)]) + name.encode()
    return struct.unpack(f"<{slices}Q", blake3(message).digest(length=8 * slices))


def quotas(weights, held, slices):
    """weights: host -> weight > 0; held: host -> slices held at home."""
    total = sum(weights.values())
    quota = {h: slices * w // total for h, w in weights.items()}
    remainder = {h: slices * w % total for h, w in weights.items()}
    keeps = {h: held.get(h, 0) > quota[h] and remainder[h] > 0 for h in weights}
    order = sorted(weights, key=lambda h: (not keeps[h], -remainder[h], h))
    for host in order[: slices - sum(quota.values())]:
        quota[host] += 1
    return quota


def deal(owner, score, quota):
    quota = dict(quota)
    free = [s for s, o in enumerate(owner) if o is None]
    pairs = [(-score[h][s], h, s) for h in sorted(quota) if quota[h] for s in free]
    for _, host, piece in sorted(pairs):
        if owner[piece] is None and quota[host]:
            owner[piece] = host
            quota[host] -= 1
    return owner


_home = {}


def table(cluster, service, weights, eligible, slices):
    """weights: every configured host -> weight; eligible: those that may own slices now."""
    configured = {h: w for h, w in weights.items() if w}
    present = {h: w for h, w in configured.items() if h in eligible}
    key = (cluster, service, tuple(sorted(configured.items())), slices)
    if key not in _home:
        score = {h: scores(cluster, service, h, slices) for h in configured}
        empty = [None] * slices
        _home[key] = score, deal(empty, score, quotas(configured, {}, slices)) if configured else empty
    score, home = _home[key]
    if not present:
        return [None] * slices
    held = {h: [s for s, o in enumerate(home) if o == h] for h in present}
    quota = quotas(present, {h: len(held[h]) for h in present}, slices)
    owner = [None] * slices
    for host, pieces in held.items():
        kept = sorted(pieces, key=lambda s: (-score[host][s], s))[: quota[host]]
        for piece in kept:
            owner[piece] = host
        quota[host] -= len(kept)
    return deal(owner, {h: score[h] for h in present}, quota)


def digest(owner):
    text = ",".join(o or "-" for o in owner)
    return blake3(text.encode()).hexdigest()[:32]


def vectors():
    print("# cluster service slices hosts(name=weight, * not eligible) first-16-owners digest-of-all-owners")
    print("# Made by test-env/vectors/ownership.py, apart from the Rust code.")
    cases = [
        ("ns-ams", "default", 1024, "ns1=1 ns2=1 ns3=1 ns4=1"),
        ("ns-ams", "default", 1024, "ns1=1 ns2=1 ns3=1* ns4=1"),
        ("ns-ams", "default", 1024, "ns1=1 ns2=1* ns3=1* ns4=1"),
        ("ns-ams", "dns", 1024, "ns1=1 ns2=1 ns3=1 ns4=1"),
        ("a", "default", 16, "x=1"),
        ("a", "default", 16, "x=1 y=0"),
        ("a", "default", 16, "x=0 y=0"),
        ("a", "default", 16, "x=1* y=1*"),
        ("mail", "default", 256, "mx1=100 mx2=50 mx3=1"),
        ("mail", "default", 256, "mx1=100* mx2=50 mx3=1"),
        ("mail", "default", 4096, "mx1=3 mx2=2 mx3=2 mx4=7* mx5=11"),
        ("big", "web", 1024, " ".join(f"h{i:02}={1 + i % 4}{'*' if i % 7 == 3 else ''}" for i in range(32))),
    ]
    for cluster, service, slices, text in cases:
        hosts = [h.split("=") for h in text.split()]
        weights = {h: int(w.rstrip("*")) for h, w in hosts}
        owner = table(cluster, service, weights, {h for h, w in hosts if "*" not in w}, slices)
        first = ",".join(o or "-" for o in owner[:16])
        print(cluster, service, slices, ";".join(text.split()), first, digest(owner))


def moves(slices=1024, clusters=3):
    print("| hosts | weights | first death, most | later deaths, mean | later deaths, most | furthest from the exact share |")
    print("|---|---|---|---|---|---|")
    random.seed(1)
    for count in (2, 3, 4, 6, 8, 12, 16, 24, 32):
        for kind in ("equal", "random 1..100"):
            first, later, distance = [], [], 0.0
            for c in range(clusters):
                weights = {f"ns{i}": 1 if kind == "equal" else random.randint(1, 100) for i in range(1, count + 1)}
                for trial in range(5):
                    size = count if trial == 0 else random.randint(2, count)
                    alive = set(random.sample(sorted(weights), size))
                    before = table(f"c{c}", "default", weights, alive, slices)
                    total = sum(weights[h] for h in alive)
                    distance = max([distance] + [abs(before.count(h) - slices * weights[h] / total) for h in alive])
                    for dead in sorted(alive):
                        after = table(f"c{c}", "default", weights, alive - {dead}, slices)
                        extra = sum(b != a and b != dead for b, a in zip(before, after)) if size > 1 else 0
                        (first if size == count else later).append(100 * extra / slices)
            mean = sum(later) / len(later) if later else 0
            most = max(later, default=0)
            print(f"| {count} | {kind} | {max(first):.2f} % | {mean:.2f} % | {most:.2f} % | {distance:.2f} slices |")


if __name__ == "__main__":
    {"vectors": vectors, "moves": moves}[sys.argv[1] if len(sys.argv) > 1 else "vectors"]()
