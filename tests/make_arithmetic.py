"""Writes the rows of the arithmetic benchmark: `python tests/make_arithmetic.py > themis/data/arithmetic.jsonl`."""

from __future__ import annotations

import json
import random
from decimal import Decimal

SEED = 20261122
ROWS = 300
NAMES = ["Ada", "Ben", "Chidi", "Dana", "Emil", "Fatou", "Goro", "Hana", "Ivan", "Juno", "Kofi", "Lena"]
THINGS = ["apples", "bolts", "candles", "dice", "eggs", "flutes", "maps", "nails", "pens", "stamps"]


def _addition(r):
    a, b, c = (r.randint(11, 499) for _ in range(3))
    name, thing = r.choice(NAMES), r.choice(THINGS)
    question = f"{name} buys {a} {thing} on Monday, {b} on Tuesday and {c} on Friday."
    return f"{question} How many {thing} does {name} buy in all?", a + b + c


def _subtraction(r):
    a, b = r.randint(500, 1999), r.randint(100, 499)
    name, thing = r.choice(NAMES), r.choice(THINGS)
    return f"{name} has {a} {thing} and gives away {b}. How many {thing} are left?", a - b


def _multiplication(r):
    a, b, c = r.randint(6, 48), r.randint(12, 144), r.randint(2, 40)
    name, thing = r.choice(NAMES), r.choice(THINGS)
    question = f"{name} fills {a} boxes with {b} {thing} each and finds {c} more. How many {thing} are there?"
    return question, a * b + c


def _division(r):
    each, people = r.randint(7, 60), r.randint(3, 24)
    thing = r.choice(THINGS)
    question = f"{people} friends share {each * people} {thing} equally. How many {thing} does each of them get?"
    return question, each


def _money(r):
    price, count = Decimal(r.randint(105, 2495)) / 100, r.randint(3, 30)
    name, thing = r.choice(NAMES), r.choice(THINGS)
    question = f"{name} buys {count} {thing} at ${price:.2f} each. What does {name} pay, in dollars?"
    return question, price * count


def _change(r):
    price = Decimal(r.randint(1101, 4899)) / 100
    name = r.choice(NAMES)
    return f"{name} pays a bill of ${price:.2f} with a $50 note. What is the change, in dollars?", 50 - price


def _temperature(r):
    start, fall = r.randint(-5, 9), r.randint(11, 30)
    question = f"At noon it is {start} degrees, and by midnight {fall} degrees colder. What is it then?"
    return question, start - fall


def _debt(r):
    has, pays = r.randint(100, 1400), r.randint(1500, 3200)
    name = r.choice(NAMES)
    question = f"{name} has ${has:,} in an account and writes a cheque of ${pays:,}. What is the balance?"
    return question, has - pays


def _length(r):
    whole, parts = Decimal(r.randint(120, 980)) / 10, r.randint(2, 9)
    question = f"{parts} planks of {whole} metres each are laid end to end. How long are they, in metres?"
    return question, whole * parts


def _percentage(r):
    share, total = r.choice([5, 10, 20, 25, 40, 75]), r.randint(6, 90) * 20
    thing = r.choice(THINGS)
    question = f"Of {total} {thing}, {share}% are broken. How many {thing} are broken?"
    return question, Decimal(total * share) / 100


TEMPLATES = [
    _addition,
    _subtraction,
    _multiplication,
    _division,
    _money,
    _change,
    _temperature,
    _debt,
    _length,
    _percentage,
]


def rows():
    """The rows, the templates in turn; no question comes twice."""
    r = random.Random(SEED)
    made = {}
    while len(made) < ROWS:
        template = TEMPLATES[len(made) % len(TEMPLATES)]
        question, answer = template(r)
        made.setdefault(question, {"question": question, "answer": _plain(answer), "kind": template.__name__[1:]})
    return list(made.values())


def _plain(number):
    """A number as text without an exponent and without zeros at its end: 12.5, -3."""
    text = f"{number:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


if __name__ == "__main__":
    for row in rows():
        print(json.dumps(row))
