"""Write answers.csv: questions of arithmetic, what is true, and what three models that don't exist say to each.

    python arithmetic.py                # the same 360 questions each time
    python arithmetic.py --seed 2       # others, of the same kind

A question takes one to eight steps, mostly few. How often a model is right is programmed below: the more steps, the less, and the
small one least. A wrong answer has a working that looks like any other: somewhere in it a result is off, or a step is
left out. How sure a model says it is goes with being right, but not always.
"""

import argparse
import csv
import math
import random
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).absolute().parent
STEPS = range(1, 9)
OFTEN = (8, 7, 6, 5, 4, 3, 2, 1)  # how often a question takes so many steps

# By model: how likely it is right, as the logistic function of the first number less the second times the steps.
MODELS = {"small": (3.6, 0.75), "medium": (4.6, 0.55), "large": (5.6, 0.4)}

SCENES = [
    ("A bakery", "trays", "rolls"),
    ("A library", "shelves", "books"),
    ("A farm", "crates", "apples"),
    ("A school", "boxes", "pencils"),
    ("A florist", "buckets", "tulips"),
    ("A museum", "drawers", "coins"),
    ("A workshop", "bins", "screws"),
]
ASIDES = [
    "It's a rainy morning and there is nobody else about.",
    "The owner writes it all down in a blue notebook.",
    "A neighbour looks in, admires everything, and leaves without taking any.",
    "Nobody remembers who began counting, but counting has become a habit.",
]
MORE = ["A delivery brings {n} more.", "Another {n} come out of the cellar.", "A neighbour adds {n}."]
LESS = ["{n} of them are given away.", "{n} of them turn out to be broken and are thrown out.", "{n} are sold."]
TIMES = ["A good week makes that {n} times as many.", "By the end of the month there are {n} times as many."]
PARTS = ["All but one {n}th of them are sent away.", "They are shared among {n} places, of which only this one counts."]


def question(dice, steps):
    """(its text, what it is about, the steps that answer it: each a sign and a number)."""
    who, holders, things = dice.choice(SCENES)
    many, each = dice.randint(6, 40), dice.randint(4, 25)
    said = [f"{who} has {many} {holders} with {each} {things} each."]
    done, value = [("", many), ("×", each)], many * each
    for _ in range(steps - 1):
        sentence, sign, number = step(dice, value)
        if dice.random() < 0.2:
            said.append(dice.choice(ASIDES))
        said.append(sentence.format(n=number))
        done.append((sign, number))
        value = result(value, sign, number)
    said.append(f"How many {things} are there in the end?")
    return " ".join(said), things, done


def step(dice, value):
    """What happens next to so many things; the result is a whole number above 0."""
    parts = [number for number in range(4, 10) if value % number == 0 and value // number > 20]
    kinds = ["more", "less"] + (["times"] if value < 2_000 else []) + (["part"] if parts else [])
    kind = dice.choice(kinds)
    if kind == "times":
        return dice.choice(TIMES), "×", dice.randint(2, 6)
    if kind == "part":
        return dice.choice(PARTS), "÷", dice.choice(parts)
    if kind == "less" and value > 20:
        return dice.choice(LESS), "-", dice.randint(3, value // 2)
    return dice.choice(MORE), "+", dice.randint(10, 400)


def result(value, sign, number):
    return {"+": value + number, "-": value - number, "×": value * number, "÷": value // number}[sign]


def working(steps, wrong, dice):
    """(the lines of a working, where it ends; 0 where no model would go). `wrong` is the step that goes wrong."""
    lines, value = [], steps[0][1]
    left_out = wrong is not None and wrong > 1 and dice.random() < 0.4
    for at, (sign, number) in enumerate(steps[1:], 1):
        if at == wrong and left_out:
            continue
        told = result(value, sign, number)
        if at == wrong:
            told += dice.choice([-100, -10, -9, -1, 1, 9, 10, 100])
        if told <= 0:
            return [], 0
        lines.append(f"{value} {sign} {number} = {told}")
        value = told
    return lines, value


def answer(dice, model, steps, things, right):
    """What a model says, and the probability that it states for its words."""
    lines, end = true = working(steps, None, dice)
    while not right and end in (0, true[1]):
        lines, end = working(steps, dice.randrange(1, len(steps)), dice)
    sure = dice.betavariate(40, 1.5) if right else dice.betavariate(9, 2)
    if model == "small":
        text = f"{'; '.join(lines)}. The answer is {end}."
    elif model == "medium":
        text = "\n".join([*lines, f"So there are {end} {things}."])
    else:
        told = "\n".join(
            f"Step {at}: {line}, so now there are {line.split(' = ')[1]}." for at, line in enumerate(lines, 1)
        )
        text = f"Let me work through this one step at a time.\n{told}\nIn the end there are {end} {things}."
    return text, round(min(max(sure, 0.05), 0.999), 4)


def rows(count, seed):
    """A row of the file for each question; the same for the same seed."""
    dice = random.Random(seed)  # noqa: S311 nothing is kept secret by it
    seen = set()
    while len(seen) < count:
        (steps,) = dice.choices(STEPS, OFTEN)
        text, things, done = question(dice, steps)
        if text in seen:
            continue
        seen.add(text)
        row: dict[str, Any] = {"prompt": text, "label": working(done, None, dice)[1], "steps": steps}
        luck = dice.random()  # what is hard for one model is often hard for the others
        for model, (easy, slope) in MODELS.items():
            able = 1 / (1 + math.exp(slope * steps - easy))
            right = (luck if dice.random() < 0.7 else dice.random()) < able
            row[model], row[f"{model} sure"] = answer(dice, model, done, things, right)
            row[f"{model} right"] = int(right)
        yield row


def main():
    parser = argparse.ArgumentParser(description="Write answers.csv, which `servery fake-vendor --answers` says again.")
    parser.add_argument(
        "--seed", type=int, default=1, help="other questions and answers of the same kind (%(default)s)"
    )
    parser.add_argument("--count", type=int, default=360, help="how many (%(default)s)")
    parser.add_argument("--out", type=Path, default=FOLDER / "answers.csv")
    given = parser.parse_args()
    made = list(rows(given.count, given.seed))
    with given.out.open("w", newline="", encoding="utf-8") as file:
        lines = csv.DictWriter(file, list(made[0]))
        lines.writeheader()
        lines.writerows(made)
    right = ", ".join(f"{model} {sum(row[f'{model} right'] for row in made) / len(made):.1%}" for model in MODELS)
    print(f"{given.out.name}: {len(made)} questions; answered rightly by {right}")


if __name__ == "__main__":
    main()
