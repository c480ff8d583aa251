"""Selection, crossover and mutation of the genetic algorithm, each on a whole population at once.

Selection: Goldberg and Deb (1991), doi:10.1016/B978-0-08-050684-5.50008-2; linear ranking: Baker (1985);
truncation: Muehlenbein and Schlierkamp-Voosen (1993), doi:10.1162/evco.1993.1.1.25. Crossover: one and
multi-point: De Jong (1975); uniform: Syswerda (1989); blend: Eshelman and Schaffer (1993),
doi:10.1016/B978-0-08-094832-4.50018-0; simulated binary: Deb and Agrawal (1995), Complex Systems 9:115-148.
Polynomial mutation: Deb and Goyal (1996), Computer Science and Informatics 26:30-45; both in a box: Deb and
Agrawal (1999), doi:10.1007/978-3-7091-6384-9_40.

N parents with loss [N] (inf for a failed one), n draws, d genes.
"""

from __future__ import annotations

from hashlib import blake2b

import numpy as np
from scipy.stats import rankdata

from gfo.core.domain import Array, Domain

Rng = np.random.Generator
TRIES = 8
"""Mutations more of an offspring that was evaluated before."""


def tournament(rng: Rng, loss: Array, n: int, *, size: int) -> Array:
    """The best of `size` parents drawn with replacement, n times: indices [n]."""
    drawn = rng.integers(0, len(loss), (n, size))
    return np.asarray(drawn[np.arange(n), loss[drawn].argmin(axis=1)])


def roulette(rng: Rng, loss: Array, n: int) -> Array:
    """Parents in proportion to worst loss - loss, equal if all are equal: indices [n]."""
    known = np.isfinite(loss)
    fitness = np.where(known, np.max(loss[known], initial=0.0) - np.where(known, loss, 0.0), 0.0)
    fitness = fitness if fitness.sum() > 0 else known.astype(float)
    return np.asarray(rng.choice(len(loss), n, p=fitness / fitness.sum()))


def linear_rank(rng: Rng, loss: Array, n: int) -> Array:
    """Parents in proportion to N + 1 - rank, the best with rank 1: indices [n]."""
    weight = len(loss) + 1 - rankdata(loss)
    return np.asarray(rng.choice(len(loss), n, p=weight / weight.sum()))


def truncation(rng: Rng, loss: Array, n: int, *, share: float) -> Array:
    """Parents drawn evenly from the best `share` of all: indices [n]."""
    best = np.argsort(loss, kind="stable")[: max(1, round(share * len(loss)))]
    return np.asarray(rng.choice(best, n))


def multi_point(rng: Rng, a: Array, b: Array, *, points: int) -> Array:
    """Genes from a and b [n, d] in turn, changing over at `points` random places: [n, d]."""
    n, d = a.shape
    cuts = rng.integers(1, d, (n, points)) if d > 1 else np.ones((n, points), dtype=int)
    crossed = (np.arange(d) >= cuts[:, :, None]).sum(axis=1)  # (n, d), places passed so far
    return np.where(crossed % 2 == 0, a, b)


def uniform(rng: Rng, a: Array, b: Array) -> Array:
    """Each gene from a or b [n, d] with equal chance: [n, d], written over b."""
    n, d = a.shape
    bits = np.frombuffer(rng.bytes(n * -(-d // 8)), dtype=np.uint8).reshape(n, -1)
    child = b.view(np.int64)  # whose numbers are not needed any more; np.where takes twice as long
    child ^= a.view(np.int64)
    child *= np.unpackbits(bits, axis=1, count=d)
    child ^= a.view(np.int64)
    return child.view(np.float64)


def blend(rng: Rng, a: Array, b: Array, *, alpha: float) -> Array:
    """BLX-alpha: uniform between a and b [n, d], beyond each by alpha of their distance: [n, d]."""
    return np.asarray(a + (b - a) * rng.uniform(-alpha, 1 + alpha, a.shape))


def simulated_binary(rng: Rng, a: Array, b: Array, *, eta: float, domain: Domain) -> Array:
    """SBX: (a + b) / 2 +- beta (b - a) / 2, beta spread as by one-point crossover of bits: [n, d].

    Towards a bound, the part of beta's distribution that lies behind it is left out.
    """
    u = rng.random(a.shape)
    side = np.where(rng.random(a.shape) < 0.5, -1.0, 1.0)
    low, high, up = np.minimum(a, b), np.maximum(a, b), side * (b - a) > 0
    with np.errstate(divide="ignore", invalid="ignore"):
        room = 1 + 2 * np.where(up, domain.high - high, low - domain.low) / (high - low)  # the largest beta
        u = u * (2 - np.nan_to_num(room, nan=1.0) ** -(eta + 1))
        beta = np.where(u <= 1, u, 1 / (2 - u)) ** (1 / (eta + 1))
    return np.asarray((a + b) / 2 + side * beta * (b - a) / 2)


def polynomial(rng: Rng, z: Array, *, width: Array, domain: Domain, eta: float, rate: float) -> Array:
    """Each gene of z [n, d] moved by a share of `width` [d] with chance `rate`, mostly a small one: [n, d].

    The share's density is (eta + 1) (1 - |share|)^eta / 2, cut at the bounds.
    """
    u = rng.random(z.shape)
    down = u < 0.5
    with np.errstate(invalid="ignore"):
        room = np.minimum(np.where(down, z - domain.low, domain.high - z) / width, 1.0)
    tail = (1 - room) ** (eta + 1)
    u = np.where(down, 2 * u, 2 - 2 * u)
    share = 1 - (u + (1 - u) * tail) ** (1 / (eta + 1))
    changes = rng.random(z.shape) < rate
    return np.asarray(np.where(changes, z + np.where(down, -share, share) * width, z))


def mutate_real(rng: Rng, z: Array, *, step: Array, rate: float) -> Array:
    """N(0, step^2) added to each gene of z [n, d] with chance `rate`: [n, d], written over z."""
    for row in z:  # one at a time, which stays in the cache
        noise = rng.standard_normal(len(row))
        noise *= step
        if rate < 1:
            noise *= rng.random(len(row)) < rate
        row += noise
    return z


def mutate_integer(rng: Rng, z: Array, *, domain: Domain, rate: float) -> Array:
    """Each integer gene of z [n, d] set anew with chance `rate`: [n, d].

    A random other value of its range, which for a binary gene is the flip of the bit.
    """
    genes = np.flatnonzero(domain.integer)
    low, high = domain.low[genes], domain.high[genes]
    old = z[:, genes]
    other = rng.integers(low, high, old.shape).astype(np.float64)  # one value fewer than the range has
    other += other >= old
    z = z.copy()
    z[:, genes] = np.where(rng.random(old.shape) < rate, other, old)
    return z


def change_one(rng: Rng, z: Array, *, domain: Domain) -> Array:
    """One random integer gene of each of z [n, d] set anew: [n, d]."""
    genes = np.flatnonzero(domain.integer)
    gene = rng.choice(genes, len(z))
    other = mutate_integer(rng, z, domain=domain, rate=1.0)
    z, rows = z.copy(), np.arange(len(z))
    z[rows, gene] = other[rows, gene]
    return z


def exchange(rng: Rng, z: Array, *, domain: Domain) -> Array:
    """Random genes of z [n, d] set anew where `domain.exactly` says what the sum of a group is: [n, d].

    Behind a mutation of one binary gene it is an exchange of two; other genes go a step at a time.
    """
    if not domain.exactly:
        return z
    z = z.copy()
    for start, stop, number in domain.exactly:
        genes, high = z[:, start:stop], domain.high[start:stop]
        if (high > 1).any():
            _step_to_sum(rng, genes, high, number)
            continue
        chosen = np.argsort(-genes - rng.random(genes.shape), axis=1)[:, :number]
        genes[:] = 0.0
        np.put_along_axis(genes, chosen, 1.0, axis=1)
    return z


def _step_to_sum(rng: Rng, genes: Array, high: Array, number: int) -> None:
    """Random genes of each row [n, g] moved by single steps until their sum is the number, in place."""
    for row in genes:
        while (lacks := number - row.sum()) != 0:
            way = np.sign(lacks)
            row[rng.choice(np.flatnonzero(row < high if way > 0 else row > 0))] += way


def unseen(rng: Rng, z: Array, seen: Array, *, domain: Domain) -> Array:
    """z [n, d] of whole numbers, where points that were seen or come twice are changed by a gene or more."""
    for _ in range(TRIES):
        known = repeats(z, seen)
        if not known.any():
            break
        z[known] = exchange(rng, change_one(rng, z[known], domain=domain), domain=domain)
    return z


def hashes(z: Array) -> Array:
    """A number of 64 bits for each point of z [n, d], equal for equal points: uint64 [n]."""
    digests = (blake2b(row.tobytes(), digest_size=8).digest() for row in z + 0.0)  # -0.0 is 0.0
    return np.frombuffer(b"".join(digests), dtype=np.uint64)


def repeats(z: Array, seen: Array) -> Array:
    """bool [n]: which points of z [n, d] were seen, by their hashes, or stand in z before."""
    own = hashes(z)
    again = np.ones(len(z), dtype=bool)
    again[np.unique(own, return_index=True)[1]] = False
    return np.asarray(again | np.isin(own, seen))
