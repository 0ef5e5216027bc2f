"""Seeded grade-school word problems with worked answers, and the checker of a reply.

Why: the demo pair is trained on these and measured on others of the same kind (another seed), so anyone can redo
the measurement with the standard library alone. Pure: random numbers come from a generator that is passed in.

A problem is drawn from a family: wordings (`questions`), a worked answer (`steps`, one line each, one calculation
a line) and a sampler of small numbers. Every reply ends in `The answer is N.`, which `final_answer` reads.
"""

import random
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

Numbers = dict[str, int]
Sampler = Callable[[random.Random], Numbers]

_FINAL = re.compile(r"answer is\D{0,3}?(-?\d[\d,]*)", re.IGNORECASE)


@dataclass(frozen=True)
class Problem:
    """One word problem: what is asked, the worked answer in the form the models learn, the number that is right."""

    question: str
    answer: str
    result: int
    family: str


@dataclass(frozen=True)
class _Family:
    name: str
    sample: Sampler
    questions: tuple[str, ...]
    steps: tuple[str, ...]
    result: str
    things: str = "items"


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


NAMES = _words(
    "Ben Mia Tom Anna Leo Sara Jack Emma Noah Lily Sam Zoe Max Ella Omar Nina Luke Ruby Ivan Maya Adam Rosa Paul Julia "
    "Dan Kate Eric Tara Hugo Alice Carl Lucy Felix Grace Ravi Priya Yuki Chen Amir Leila Peter Nora Oscar Ida"
)
_ITEMS = _words(
    "stickers marbles books coins shells stamps cards pencils beads buttons toys balloons crayons ribbons stones "
    "flowers photos puzzles badges keys"
)
_FOODS = _words("apples cookies candies oranges grapes muffins cherries plums nuts pears peaches eggs pies")
_BOXES = ("box boxes", "bag bags", "basket baskets", "jar jars", "tray trays", "crate crates", "pack packs")
_WARES = _words("book toy pen hat ticket cake ball kite mug lamp scarf plant card game doll puzzle notebook")
_COLOURS = _words("red blue green yellow white black pink orange")


def _add(rng: random.Random) -> Numbers:
    x, y = rng.randint(3, 90), rng.randint(2, 60)
    return {"x": x, "y": y, "p": x + y}


def _subtract(rng: random.Random) -> Numbers:
    x = rng.randint(8, 99)
    y = rng.randint(2, x - 2)
    return {"x": x, "y": y, "p": x - y}


def _multiply(rng: random.Random) -> Numbers:
    x, y = rng.randint(2, 12), rng.randint(2, 12)
    return {"x": x, "y": y, "p": x * y}


def _divide(rng: random.Random) -> Numbers:
    y, p = rng.randint(2, 10), rng.randint(2, 12)
    return {"x": y * p, "y": y, "p": p}


def _times(rng: random.Random) -> Numbers:
    x, k = rng.randint(2, 20), rng.choice((2, 2, 3, 4, 5))
    return {"x": x, "k": k, "p": k * x, "q": k * x + x}


def _half(rng: random.Random) -> Numbers:
    p = rng.randint(2, 40)
    return {"x": 2 * p, "p": p, "q": 3 * p}


def _add_subtract(rng: random.Random) -> Numbers:
    n = _add(rng)
    z = rng.randint(2, min(n["p"] - 2, 60))
    return n | {"z": z, "q": n["p"] - z}


def _subtract_add(rng: random.Random) -> Numbers:
    n = _subtract(rng)
    z = rng.randint(2, 50)
    return n | {"z": z, "q": n["p"] + z}


def _more_than(rng: random.Random) -> Numbers:
    x, y = rng.randint(3, 50), rng.randint(2, 30)
    return {"x": x, "y": y, "p": x + y, "q": x + x + y}


def _fewer_than(rng: random.Random) -> Numbers:
    n = _subtract(rng)
    return n | {"q": n["x"] + n["p"]}


def _multiply_add(rng: random.Random) -> Numbers:
    n = _multiply(rng)
    z = rng.randint(2, 50)
    return n | {"z": z, "q": n["p"] + z}


def _multiply_subtract(rng: random.Random) -> Numbers:
    n = _multiply(rng)
    z = rng.randint(1, n["p"] - 1)
    return n | {"z": z, "q": n["p"] - z}


def _change(rng: random.Random) -> Numbers:
    x, y = rng.randint(2, 9), rng.randint(2, 10)
    z = x * y + rng.randint(1, 40)
    return {"x": x, "y": y, "z": z, "p": x * y, "q": z - x * y}


def _share_sum(rng: random.Random) -> Numbers:
    k, q = rng.randint(2, 10), rng.randint(2, 12)
    x = rng.randint(1, k * q - 1)
    return {"x": x, "y": k * q - x, "k": k, "p": k * q, "q": q}


def _two_products(rng: random.Random) -> Numbers:
    n, m = _multiply(rng), _multiply(rng)
    return {"x": n["x"], "y": n["y"], "u": m["x"], "v": m["y"], "p": n["p"], "q": m["p"], "r": n["p"] + m["p"]}


def _three_friends(rng: random.Random) -> Numbers:
    x, k, z = rng.randint(2, 15), rng.choice((2, 2, 3)), rng.randint(2, 20)
    return {"x": x, "k": k, "z": z, "p": k * x, "q": k * x + z}


def _two_gifts(rng: random.Random) -> Numbers:
    n = _add_subtract(rng)
    w = rng.randint(2, 40)
    return n | {"w": w, "r": n["q"] + w}


_FAMILIES = (
    _Family("gift", _add, (
        "{a} has {x} {items}. {b} gives {a} {y} more. How many {items} does {a} have now?",
        "{b} gives {y} {items} to {a}. {a} already had {x} {items}. How many {items} does {a} have now?",
        "{a} had {x} {items} and then found {y} more. How many {items} does {a} have now?",
        "{a} has {x} {items} and buys {y} more at the shop. How many {items} does {a} have in all?",
        "On Monday {a} collected {x} {items}. On Tuesday {a} collected {y} {items}. How many is that in total?",
    ), ("Now there are {x} + {y} = {p} {items}.",), "p"),
    _Family("together", _add, (
        "{a} has {x} {items} and {b} has {y} {items}. How many {items} do they have together?",
        "{a} found {x} {items}. {b} found {y} {items}. How many {items} did they find in total?",
        "There are {x} {items} on the table and {y} on the floor. How many {items} are there?",
    ), ("There are {x} + {y} = {p} {items} together.",), "p"),
    _Family("giving", _subtract, (
        "{a} has {x} {items}. {a} gives {y} {items} to {b}. How many {items} does {a} have left?",
        "{a} had {x} {items} but lost {y} of them. How many {items} does {a} have left?",
        "{a} has {x} {items} and sells {y} of them. How many {items} are left?",
        "There were {x} {items} in the shop. {a} bought {y} of them. How many {items} are left?",
    ), ("There are {x} - {y} = {p} {items} left.",), "p"),
    _Family("eating", _subtract, (
        "{a} has {x} {items}. {a} and {b} eat {y} of them. How many {items} are left?",
        "{a} picked {x} {items} and ate {y}. How many {items} does {a} have left?",
    ), ("There are {x} - {y} = {p} {items} left.",), "p", "foods"),
    _Family("difference", _subtract, (
        "{a} has {x} {items} and {b} has {y} {items}. How many more {items} does {a} have than {b}?",
        "{b} has {y} {items}. {a} has {x} {items}. How many fewer {items} does {b} have than {a}?",
        "{a} wants {x} {items} and has {y}. How many more {items} does {a} need?",
    ), ("The difference is {x} - {y} = {p} {items}.",), "p"),
    _Family("groups", _multiply, (
        "There are {x} {boxes} with {y} {items} in each {box}. How many {items} are there in all?",
        "{a} buys {x} {boxes} of {items}. Each {box} holds {y} {items}. How many {items} does {a} buy?",
        "{a} puts {y} {items} in each of {x} {boxes}. How many {items} is that in total?",
    ), ("There are {x} * {y} = {p} {items}.",), "p"),
    _Family("price", _multiply, (
        "A {ware} costs ${y}. {a} buys {x} of them. How many dollars does {a} pay?",
        "{a} sells {x} {ware}s for ${y} each. How many dollars does {a} get?",
    ), ("The {ware}s cost {x} * {y} = {p} dollars.",), "p"),
    _Family("sharing", _divide, (
        "{a} shares {x} {items} equally among {y} friends. How many {items} does each friend get?",
        "{x} {items} are split equally into {y} {boxes}. How many {items} are in each {box}?",
    ), ("Each gets {x} / {y} = {p} {items}.",), "p"),
    _Family("packing", _divide, (
        "{a} has {x} {items} and puts {y} in each {box}. How many {boxes} does {a} need?",
        "A {box} holds {y} {items}. How many {boxes} does {a} need for {x} {items}?",
    ), ("That takes {x} / {y} = {p} {boxes}.",), "p"),
    _Family("times", _times, (
        "{a} has {x} {items}. {b} has {k} times as many. How many {items} does {b} have?",
        "{a} made {x} {items} and {b} made {k} times as many as {a}. How many {items} did {b} make?",
    ), ("That is {k} * {x} = {p} {items}.",), "p"),
    _Family("times total", _times, (
        "{a} has {x} {items}. {b} has {k} times as many. How many {items} do they have together?",
        "{a} found {x} {items} and {b} found {k} times as many as {a}. How many did they find in total?",
    ), ("The other has {k} * {x} = {p} {items}.", "Together they have {x} + {p} = {q} {items}."), "q"),
    _Family("half", _half, (
        "{a} has {x} {items}. {b} has half as many. How many {items} does {b} have?",
        "{a} had {x} {items} and gave half of them to {b}. How many {items} did {b} get?",
    ), ("Half of that is {x} / 2 = {p} {items}.",), "p"),
    _Family("half total", _half, (
        "{a} has {x} {items}. {b} has half as many. How many {items} do they have together?",
        "{a} sold {x} {items} in April and half as many in May. How many {items} did {a} sell in total?",
    ), ("Half of that is {x} / 2 = {p} {items}.", "In total there are {x} + {p} = {q} {items}."), "q"),
    _Family("gift and giving", _add_subtract, (
        "{a} has {x} {items}. {b} gives {a} {y} more. Then {a} loses {z}. How many {items} does {a} have now?",
        "{a} had {x} {items}, bought {y} more and gave {z} to {b}. How many {items} does {a} have left?",
        "{a} has {x} {items} and {b} has {y}. Together they use {z} of them. How many {items} are left?",
    ), ("First there are {x} + {y} = {p} {items}.", "Then there are {p} - {z} = {q} {items}."), "q"),
    _Family("giving and gift", _subtract_add, (
        "{a} has {x} {items}. {a} gives {y} to {b} and then finds {z}. How many {items} does {a} have now?",
        "{a} had {x} {items}, lost {y} and bought {z} new ones. How many {items} does {a} have now?",
    ), ("First there are {x} - {y} = {p} {items}.", "Then there are {p} + {z} = {q} {items}."), "q"),
    _Family("more than", _more_than, (
        "{a} has {x} {items}. {b} has {y} more {items} than {a}. How many {items} do they have together?",
        "{a} picked {x} {items}. {b} picked {y} more than {a}. How many {items} did they pick in total?",
    ), ("The other has {x} + {y} = {p} {items}.", "Together they have {x} + {p} = {q} {items}."), "q"),
    _Family("fewer than", _fewer_than, (
        "{a} has {x} {items}. {b} has {y} fewer {items} than {a}. How many {items} do they have together?",
        "{a} sold {x} {items}. {b} sold {y} fewer than {a}. How many {items} did they sell in total?",
    ), ("The other has {x} - {y} = {p} {items}.", "Together they have {x} + {p} = {q} {items}."), "q"),
    _Family("groups and more", _multiply_add, (
        "{a} has {x} {boxes} with {y} {items} in each, and {z} more {items}. How many {items} does {a} have?",
        "{a} buys {x} {boxes} of {y} {items}. {b} gives {a} {z} more. How many {items} does {a} have now?",
    ), ("The {boxes} hold {x} * {y} = {p} {items}.", "In all there are {p} + {z} = {q} {items}."), "q"),
    _Family("groups and fewer", _multiply_subtract, (
        "{a} has {x} {boxes} with {y} {items} in each. {a} gives {z} {items} to {b}. How many {items} are left?",
        "{a} baked {x} trays of {y} {items}. {b} ate {z} of them. How many {items} are left?",
    ), ("First there are {x} * {y} = {p} {items}.", "Then there are {p} - {z} = {q} {items}."), "q", "foods"),
    _Family("change", _change, (
        "{a} has ${z}. {a} buys {x} {ware}s for ${y} each. How many dollars does {a} have left?",
        "A {ware} costs ${y}. {a} buys {x} of them and pays with ${z}. How many dollars does {a} get back?",
    ), ("The {ware}s cost {x} * {y} = {p} dollars.", "There are {z} - {p} = {q} dollars left."), "q"),
    _Family("wages", _multiply_add, (
        "{a} earns ${y} an hour and works {x} hours. {b} gives {a} ${z} more. How many dollars does {a} have?",
        "{a} saves ${y} a week for {x} weeks and already had ${z}. How many dollars does {a} have now?",
    ), ("First there are {x} * {y} = {p} dollars.", "In all there are {p} + {z} = {q} dollars."), "q"),
    _Family("pages", _change, (
        "A book has {z} pages. {a} reads {y} pages a day for {x} days. How many pages are left?",
        "{a} reads {y} pages each day. After {x} days, how many of the {z} pages are left to read?",
    ), ("So far that is {x} * {y} = {p} pages.", "There are {z} - {p} = {q} pages left."), "q"),
    _Family("pool and share", _share_sum, (
        "{a} has {x} {items} and {b} has {y}. They share all of them among {k} friends. How many does each get?",
        "{a} picks {x} {items} and {b} picks {y}. They put them in {k} {boxes}. How many are in each {box}?",
    ), ("Together there are {x} + {y} = {p} {items}.", "Each gets {p} / {k} = {q} {items}."), "q"),
    _Family("two kinds", _two_products, (
        "{a} has {x} {boxes} of {y} {c} {items} and {u} {boxes} of {v} {d} {items}. How many {items} is that?",
        "There are {x} {boxes} with {y} {c} {items} each and {u} with {v} {d} {items} each. How many {items} in all?",
    ), ("There are {x} * {y} = {p} {c} {items}.", "There are {u} * {v} = {q} {d} {items}.",
        "In all there are {p} + {q} = {r} {items}."), "r"),
    _Family("two gifts", _two_gifts, (
        "{a} has {x} {items}, gets {y} from {b}, loses {z} and finds {w}. How many {items} does {a} have now?",
        "{a} had {x} {items}. {b} gave {a} {y}. {a} sold {z} and then bought {w}. How many {items} are there now?",
    ), ("First there are {x} + {y} = {p} {items}.", "Then there are {p} - {z} = {q} {items}.",
        "In the end there are {q} + {w} = {r} {items}."), "r"),
    _Family("three friends", _three_friends, (
        "{a} has {x} {items}. {b} has {k} times as many as {a}. {e} has {z} more than {b}. How many does {e} have?",
        "{b} has {k} times as many {items} as {a}, who has {x}. {e} has {z} more than {b}. How many does {e} have?",
    ), ("The second has {k} * {x} = {p} {items}.", "The third has {p} + {z} = {q} {items}."), "q"),
)  # fmt: skip


def draw(rng: random.Random) -> Problem:
    """Draw one problem; the same state of `rng` gives the same problem on every machine."""
    family = rng.choice(_FAMILIES)
    numbers = family.sample(rng)
    a, b, e = rng.sample(NAMES, 3)
    (c, d), (box, boxes) = rng.sample(_COLOURS, 2), rng.choice(_BOXES).split()
    things = _FOODS if family.things == "foods" else rng.choice((_ITEMS, _ITEMS, _FOODS))
    words = {"a": a, "b": b, "e": e, "c": c, "d": d, "box": box, "boxes": boxes}
    words |= {"items": rng.choice(things), "ware": rng.choice(_WARES)}
    values: dict[str, str | int] = {**words, **numbers}
    result = numbers[family.result]
    answer = "\n".join(line.format(**values) for line in (*family.steps, f"The answer is {result}."))
    return Problem(rng.choice(family.questions).format(**values), answer, result, family.name)


def problems(seed: int, count: int) -> Iterator[Problem]:
    """Yield `count` problems of one seed. Measure with a seed that training did not use."""
    rng = random.Random(seed)
    yield from (draw(rng) for _ in range(count))


def final_answer(reply: str) -> int | None:
    """Read the number after the last `answer is`; None where a reply states none."""
    found = _FINAL.findall(reply)
    return int(found[-1].replace(",", "")) if found else None


def is_right(reply: str, problem: Problem) -> bool:
    """Judge a reply by its final answer alone, as the figures of the model card do."""
    return final_answer(reply) == problem.result
