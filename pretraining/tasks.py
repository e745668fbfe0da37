"""Questions about a message and their answers, in many wordings.

None of them is the four-step form of triage, and none uses a reference category as a label.
The point is that the model learns to gather what a text is about when its turn comes.
"""

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from pretraining.grammar import ATTRIBUTES, Grammar
from pretraining.messages import Composed, compose, lay_out

SYSTEMS = (
    "You are a helpful assistant.",
    "You are a careful reader.",
    "You read messages and answer briefly.",
    "You work in an office and sort the mail.",
    "Answer in a few words.",
    "You are an assistant that knows all kinds of text.",
    "You help a busy person with a full inbox.",
    "Be short and exact.",
    "You are an expert in reading e-mail.",
    "Follow the instructions.",
)

QUESTIONS: Mapping[str, tuple[str, ...]] = {
    "tag": (
        "Give a tag for this text.",
        "One word: what is this?",
        "Which tag fits the message?",
        "Label this with one or two words.",
        "Tag the following email.",
    ),
    "gist": (
        "What is this text about?",
        "What is the topic of the message?",
        "Summarize the email in a few words.",
        "In short, what is it about?",
        "Name the subject matter.",
        "Analyze the text and give its gist.",
    ),
    "says": (
        "Summarize the message in one sentence.",
        "What does the message say?",
        "Explain the text to a friend.",
        "Write one sentence about this email.",
        "What happens here?",
    ),
    "from": (
        "Who sends a message like this?",
        "What kind of sender wrote this email?",
        "Where does this text come from?",
        "Who is the sender?",
        "Name the kind of sender.",
        "Classify the sender.",
    ),
    "field": (
        "Which area of life does the text belong to?",
        "Which field is this?",
        "Name the area.",
        "Classify the topic area of this message.",
    ),
    "speed": (
        "How urgent is it: low, medium or high?",
        "How soon must someone act?",
        "Rate the urgency.",
        "What is the priority of this message?",
        "Low, medium or high?",
    ),
    "next": (
        "What should the reader do?",
        "Suggest an action.",
        "What is the next step?",
        "What to do with this email?",
        "Recommend what to do now.",
    ),
    "by": (
        "Was this written by a person or a machine?",
        "Person or machine?",
        "Did a human write this for one reader?",
    ),
    "honest": (
        "Is this message honest?",
        "Can one trust the sender?",
        "Is it a trick? If so, answer no; if it is honest, answer yes.",
        "Trustworthy, yes or no?",
    ),
}

FIELD_NAMES: Mapping[str, tuple[str, ...]] = {
    "tag": ("Tag", "Label", "Class", "Type", "Kind"),
    "gist": ("Topic", "Gist", "About", "Summary", "Content"),
    "says": ("Message", "Summary", "In one sentence", "Report"),
    "from": ("Sender", "From", "Source", "Origin", "Writer"),
    "field": ("Area", "Field", "Domain", "Classification", "Category"),
    "speed": ("Urgency", "Priority", "Importance", "Speed"),
    "next": ("Action", "Suggested actions", "Next", "To do", "Advice", "Response"),
    "by": ("Written by", "Author", "Hand"),
    "honest": ("Honest", "Trust", "Genuine"),
}

EXTRACTIONS: Mapping[str, tuple[str, ...]] = {
    "code": ("Which code is in the text?", "Copy the code.", "Find the code."),
    "amount": ("Which amount is named first?", "Find the amount of money.", "How much money?"),
    "url": ("Copy the link.", "Which link is in the message?", "Where does the link lead?"),
    "person": ("Which person is named?", "Find the name."),
    "date": ("Which date is named?", "When? Copy the date."),
    "brand": ("Which company is named?", "Find the company."),
    "thing": ("Which thing is it about?", "Find the object."),
    "percent": ("How many percent?", "Copy the percentage."),
    "hobby": ("Which pastime is named?", "Find the pastime."),
    "city": ("Which city is named?", "Find the city."),
}

QUOTES = (
    "{task}\n\n{text}",
    "{text}\n\n{task}",
    "{task}\n{text}",
    "{task}\n\nText:\n{text}",
    '{task}\n\n"""\n{text}\n"""',
    "{task}\n\nEmail:\n{text}",
    "{task}\n---\n{text}\n---",
    "Read this:\n{text}\n\n{task}",
    "{task}\n\n<message>\n{text}\n</message>",
    "{task}\n```\n{text}\n```",
    "Here is a message.\n\n{text}\n\n{task}",
)


@dataclass(frozen=True, slots=True)
class Turn:
    """One exchange; an empty system text means that there is no system turn."""

    system: str
    user: str
    assistant: str


def _ask(task: str, text: str, answer: str, rng: random.Random) -> Turn:
    system = rng.choice(SYSTEMS) if rng.random() < 0.6 else ""
    if rng.random() < 0.15:
        system, task = f"{system} {task}".strip(), ""
        return Turn(system, text, answer)
    user = rng.choice(QUOTES).format(task=task, text=text)
    return Turn(system, user, answer)


def _case(value: str, rng: random.Random) -> str:
    return value[0].upper() + value[1:] if rng.random() < 0.7 else value


def attribute(message: Composed, text: str, grammar: Grammar, rng: random.Random) -> Turn:
    """One thing that is true of the message."""
    name = rng.choice(ATTRIBUTES)
    task = rng.choice(QUESTIONS[name])
    value = message.kind.attributes[name]
    upper = value[0].upper() + value[1:]
    answer = rng.choice((upper, upper, value, f"{upper}.", f"It is this: {value}"))
    return _ask(task, text, answer.replace("..", "."), rng)


def fields(message: Composed, text: str, grammar: Grammar, rng: random.Random) -> Turn:
    """Several things, each on a line of its own, as the instruction lists them."""
    names = rng.sample(ATTRIBUTES, k=rng.randint(2, 4))
    titles = [rng.choice(FIELD_NAMES[name]) for name in names]
    mark = rng.choice((": ", ": ", " - ", " = ", " is ", ":\n", " | "))
    start = rng.choice(("", "", "- ", "* ", "{i}. ", "{i}) ", "({i}) "))
    joint = rng.choice(("\n", "\n", "\n", "; ", " / "))
    lead = rng.choice(
        (
            "Analyze this email and fill in: ",
            "Fill in: ",
            "Give ",
            "Note for this text: ",
            "Answer with these lines: ",
            "Report ",
            "Write down ",
        )
    )
    answer = joint.join(
        start.format(i=i) + title + mark + _case(message.kind.attributes[name], rng)
        for i, (title, name) in enumerate(zip(titles, names, strict=True), 1)
    )
    return _ask(lead + ", ".join(titles) + ".", text, answer, rng)


def choose(message: Composed, text: str, grammar: Grammar, rng: random.Random) -> Turn:
    """The right one of several values."""
    name = rng.choice(("tag", "gist", "from", "field", "next"))
    right = message.kind.attributes[name]
    values = sorted({kind.attributes[name] for kind in grammar.kinds} - {right})
    options = [right, *rng.sample(values, k=min(len(values), rng.randint(1, 5)))]
    rng.shuffle(options)
    task = rng.choice(("Choose one: ", "Which fits best: ", "Pick the right one: ", "Classify: "))
    return _ask(task + ", ".join(options) + ".", text, right, rng)


def yes_or_no(message: Composed, text: str, grammar: Grammar, rng: random.Random) -> Turn:
    """Whether a statement holds."""
    name = rng.choice(("gist", "from", "field", "tag"))
    truth = rng.random() < 0.5
    own = message.kind.attributes[name]
    others = sorted({kind.attributes[name] for kind in grammar.kinds} - {own})
    value = own if truth else rng.choice(others)
    start = {
        "gist": "Is it about ",
        "from": "Is the sender ",
        "field": "Is the area ",
        "tag": "Tag: ",
    }[name]
    return _ask(f"{start}{value}? Yes or no.", text, "Yes" if truth else "No", rng)


def bind(message: Composed, text: str, grammar: Grammar, rng: random.Random) -> Turn:
    """Answer with words that the instruction ties to senders or areas just now."""
    name = rng.choice(("from", "field"))
    own = message.kind.attributes[name]
    others = sorted({kind.attributes[name] for kind in grammar.kinds} - {own})
    values = [own, *rng.sample(others, k=rng.randint(1, 3))]
    words = rng.sample(grammar.lexicon["noun"], k=len(values))
    pairs = list(zip(values, words, strict=True))
    rng.shuffle(pairs)
    task = "Answer " + ", ".join(f"{word} for {value}" for value, word in pairs) + "."
    return _ask(task, text, words[0], rng)


def extract(message: Composed, text: str, grammar: Grammar, rng: random.Random) -> Turn:
    """Copy something that stands in the text; what the text is about where nothing does."""
    names = [name for name in EXTRACTIONS if name in message.found]
    names = [name for name in names if message.found[name] in text]
    if not names:
        return attribute(message, text, grammar, rng)
    name = rng.choice(names)
    return _ask(rng.choice(EXTRACTIONS[name]), text, message.found[name], rng)


def first_words(message: Composed, text: str, grammar: Grammar, rng: random.Random) -> Turn:
    """Repeat the beginning."""
    count = rng.randint(3, 8)
    task = rng.choice(("Repeat the first words.", "How does it begin?", "Copy the beginning."))
    return _ask(task, text, " ".join(text.split()[:count]), rng)


def repeat_subject(message: Composed, text: str, grammar: Grammar, rng: random.Random) -> Turn:
    """Repeat the subject line."""
    user = f"Subject: {message.subject}\n\n{message.body}"
    task = rng.choice(("Repeat the subject.", "What is the subject line?", "Copy the subject."))
    return _ask(task, user, message.subject, rng)


def keywords(message: Composed, text: str, grammar: Grammar, rng: random.Random) -> Turn:
    """The longest words of the text, in its order."""
    words = [word.strip(".,!?:;\"'()").lower() for word in text.split()]
    long = sorted({word for word in words if word.isalpha()}, key=lambda w: (-len(w), w))[:4]
    picked = sorted(long, key=words.index)
    task = rng.choice(("Give keywords.", "List the keywords.", "Which words matter most?"))
    return _ask(task, text, ", ".join(picked), rng)


def write(message: Composed, text: str, grammar: Grammar, rng: random.Random) -> Turn:
    """Write a message of a given kind: the question turned round."""
    values = message.kind.attributes
    about = rng.choice(
        (
            values["gist"],
            f"{values['gist']}, sent by {values['from']}",
            f"tag {values['tag']}",
        )
    )
    task = rng.choice(("Write a message: ", "Write an email about this: ", "Draft a text: "))
    return Turn("", f"{task}{about}.", message.subject + "\n" + message.body)


def proceed(message: Composed, text: str, grammar: Grammar, rng: random.Random) -> Turn:
    """Go on from the first half."""
    words = text.split(" ")
    cut = max(1, len(words) // 2)
    task = rng.choice(("Continue the text.", "What comes next?", "Finish the message."))
    return _ask(task, " ".join(words[:cut]), " ".join(words[cut:]) or ".", rng)


def compare(message: Composed, text: str, grammar: Grammar, rng: random.Random) -> Turn:
    """Which of two texts has a property."""
    other = compose(grammar, rng, max_sentences=2)
    name = rng.choice(("tag", "from", "field"))
    if other.kind.attributes[name] == message.kind.attributes[name]:
        return attribute(message, text, grammar, rng)
    texts = [message.subject + " " + message.sentences[0], other.subject + " " + other.body]
    first = rng.random() < 0.5
    a, b = texts if first else texts[::-1]
    task = f"Which text fits: {message.kind.attributes[name]}? A or B."
    return _ask(task, f"A: {a}\nB: {b}", "A" if first else "B", rng)


Task = Callable[[Composed, str, Grammar, random.Random], Turn]

TASKS: Sequence[tuple[Task, float]] = (
    (attribute, 30),
    (fields, 24),
    (choose, 8),
    (yes_or_no, 4),
    (bind, 4),
    (extract, 6),
    (first_words, 2),
    (repeat_subject, 3),
    (keywords, 3),
    (write, 5),
    (proceed, 2),
    (compare, 3),
)
"""Each task with its share."""


def ask(grammar: Grammar, rng: random.Random, *, max_sentences: int = 6) -> Turn:
    """A random question about a random message."""
    message = compose(grammar, rng, max_sentences=max_sentences)
    text = lay_out(message, grammar, rng)
    (task,) = rng.choices([task for task, _ in TASKS], [share for _, share in TASKS])
    return task(message, text, grammar, rng)
