"""Chats about a message: questions and their answers, in many wordings.

None of them is the four-step form of triage, and none uses a reference category as a label.
The point is that the model learns to gather what a text is about when its turn comes.
"""

import random
from collections.abc import Callable, Mapping
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
    "reply": (
        "Draft an answer.",
        "Write a short reply to this message.",
        "What would you answer?",
        "Draft a response.",
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
    "reply": ("Reply", "Drafted response", "Answer", "Draft"),
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

LEADS = (
    "Analyze this email and fill in: ",
    "Analyze this incoming email step by step: ",
    "Fill in: ",
    "Give ",
    "Note for this text: ",
    "Answer with these lines: ",
    "Report ",
    "Write down ",
    "Work through it one by one: ",
)

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
class Exchange:
    user: str
    assistant: str


@dataclass(frozen=True, slots=True)
class Chat:
    system: str
    """Empty: there is no system turn."""
    exchanges: tuple[Exchange, ...]


def _upper(value: str) -> str:
    return value[0].upper() + value[1:]


def _others(grammar: Grammar, name: str, value: str) -> list[str]:
    """What the attribute is for other kinds of message."""
    return sorted({kind.attributes[name] for kind in grammar.kinds} - {value})


def attribute(message: Composed, text: str, grammar: Grammar, rng: random.Random) -> Exchange:
    """One thing that is true of the message."""
    name = rng.choice(ATTRIBUTES)
    value = message.kind.attributes[name]
    styles = (_upper(value), _upper(value), value, f"{_upper(value)}.", f"It is this: {value}")
    return Exchange(rng.choice(QUESTIONS[name]), rng.choice(styles).replace("..", "."))


def fields(message: Composed, text: str, grammar: Grammar, rng: random.Random) -> Exchange:
    """Several things, each on a line of its own, as the instruction lists them."""
    names = rng.sample(ATTRIBUTES, k=rng.randint(2, 4))
    titles = [rng.choice(FIELD_NAMES[name]) for name in names]
    mark = rng.choice((": ", ": ", " - ", " = ", " is ", ":\n", " | "))
    start = rng.choice(("", "", "- ", "* ", "{i}. ", "{i}) ", "({i}) "))
    joint = rng.choice(("\n", "\n", "\n", "; ", " / "))
    upper = rng.random() < 0.7
    lines = []
    for i, (title, name) in enumerate(zip(titles, names, strict=True), 1):
        value = message.kind.attributes[name]
        lines.append(start.format(i=i) + title + mark + (_upper(value) if upper else value))
    return Exchange(f"{rng.choice(LEADS)}{', '.join(titles)}.", joint.join(lines))


def choose(message: Composed, text: str, grammar: Grammar, rng: random.Random) -> Exchange:
    """The right one of several values."""
    name = rng.choice(("tag", "gist", "from", "field", "next", "reply"))
    right = message.kind.attributes[name]
    others = _others(grammar, name, right)
    options = [right, *rng.sample(others, k=min(len(others), rng.randint(1, 5)))]
    rng.shuffle(options)
    task = rng.choice(("Choose one: ", "Which fits best: ", "Pick the right one: ", "Classify: "))
    return Exchange(task + ", ".join(options) + ".", right)


def yes_or_no(message: Composed, text: str, grammar: Grammar, rng: random.Random) -> Exchange:
    """Whether a statement holds."""
    name, start = rng.choice(
        (
            ("gist", "Is it about "),
            ("from", "Is the sender "),
            ("field", "Is the area "),
            ("tag", "Does this tag fit: "),
        )
    )
    is_true = rng.random() < 0.5
    right = message.kind.attributes[name]
    value = right if is_true else rng.choice(_others(grammar, name, right))
    return Exchange(f"{start}{value}? Yes or no.", "Yes" if is_true else "No")


def bind(message: Composed, text: str, grammar: Grammar, rng: random.Random) -> Exchange:
    """Answer with words that the instruction ties to senders or areas just now."""
    name = rng.choice(("from", "field"))
    right = message.kind.attributes[name]
    values = [right, *rng.sample(_others(grammar, name, right), k=rng.randint(1, 3))]
    words = rng.sample(grammar.lexicon["noun"], k=len(values))
    pairs = list(zip(values, words, strict=True))
    rng.shuffle(pairs)
    task = "Answer " + ", ".join(f"{word} for {value}" for value, word in pairs) + "."
    return Exchange(task, words[0])


def extract(message: Composed, text: str, grammar: Grammar, rng: random.Random) -> Exchange:
    """Copy something that stands in the text; what the text is about where nothing does."""
    names = [name for name in EXTRACTIONS if message.found.get(name, "\0") in text]
    if not names:
        return attribute(message, text, grammar, rng)
    name = rng.choice(names)
    return Exchange(rng.choice(EXTRACTIONS[name]), message.found[name])


def first_words(message: Composed, text: str, grammar: Grammar, rng: random.Random) -> Exchange:
    """Repeat the beginning."""
    task = rng.choice(("Repeat the first words.", "How does it begin?", "Copy the beginning."))
    return Exchange(task, " ".join(text.split()[: rng.randint(3, 8)]))


def subject_line(message: Composed, text: str, grammar: Grammar, rng: random.Random) -> Exchange:
    """Repeat the subject line, where the text shows it as such."""
    if f"Subject: {message.subject}\n" not in text:
        return first_words(message, text, grammar, rng)
    task = rng.choice(("Repeat the subject.", "What is the subject line?", "Copy the subject."))
    return Exchange(task, message.subject)


def keywords(message: Composed, text: str, grammar: Grammar, rng: random.Random) -> Exchange:
    """The longest words of the text, in its order."""
    words = [word.strip(".,!?:;\"'()").lower() for word in text.split()]
    long = sorted({word for word in words if word.isalpha()}, key=lambda w: (-len(w), w))[:4]
    task = rng.choice(("Give keywords.", "List the keywords.", "Which words matter most?"))
    return Exchange(task, ", ".join(sorted(long, key=words.index)) or "None")


def write(message: Composed, text: str, grammar: Grammar, rng: random.Random) -> Exchange:
    """Write a message of a given kind: the question turned round."""
    values = message.kind.attributes
    about = rng.choice(
        (values["gist"], f"{values['gist']}, sent by {values['from']}", f"tag {values['tag']}")
    )
    task = rng.choice(("Write a message: ", "Write an email about this: ", "Draft a text: "))
    return Exchange(f"{task}{about}.", f"{message.subject}\n{message.body}")


def proceed(message: Composed, text: str, grammar: Grammar, rng: random.Random) -> Exchange:
    """Go on from the first half."""
    words = text.split(" ")
    cut = max(1, len(words) // 2)
    task = rng.choice(("Continue the text.", "What comes next?", "Finish the message."))
    return Exchange(f"{task}\n\n{' '.join(words[:cut])}", " ".join(words[cut:]) or ".")


def compare(message: Composed, text: str, grammar: Grammar, rng: random.Random) -> Exchange:
    """Which of two texts has a property."""
    name = rng.choice(("tag", "from", "field"))
    right = message.kind.attributes[name]
    other = compose(grammar, rng, max_sentences=2)
    while other.kind.attributes[name] == right:
        other = compose(grammar, rng, max_sentences=2)
    texts = [f"{m.subject} {m.sentences[0]}" for m in (message, other)]
    is_first = rng.random() < 0.5
    first, second = texts if is_first else texts[::-1]
    task = f"Which text fits: {right}? A or B."
    return Exchange(f"{task}\nA: {first}\nB: {second}", "A" if is_first else "B")


def copying(grammar: Grammar, rng: random.Random) -> Chat:
    """Something without sense, and the same again: all that helps is to copy."""
    names = list(grammar.lexicon)
    words = [grammar.expand("{" + rng.choice(names) + "}", rng) for _ in range(rng.randint(3, 9))]
    text = " ".join(words)
    task = rng.choice(("Repeat: ", "Copy this: ", "Say again: ", "Echo "))
    return Chat("", (Exchange(task + text, text),))


Task = Callable[[Composed, str, Grammar, random.Random], Exchange]

ABOUT_TEXT: Mapping[Task, float] = {
    attribute: 30,
    fields: 26,
    choose: 8,
    yes_or_no: 4,
    bind: 4,
    extract: 6,
    first_words: 2,
    subject_line: 3,
    keywords: 3,
}
"""Questions to a text that the chat shows, each with its share."""

WITHOUT_TEXT: Mapping[Task, float] = {write: 4, proceed: 2, compare: 3}
"""Exchanges that bring all they need."""

WITHOUT_TEXT_SHARE = 0.08
FOLLOW_UP_RATE = 0.4


def ask(message: Composed, grammar: Grammar, rng: random.Random) -> Chat:
    """A chat about the message: one question, or several one after the other."""
    text = lay_out(message, grammar, rng)
    system = rng.choice(SYSTEMS) if rng.random() < 0.6 else ""
    if rng.random() < WITHOUT_TEXT_SHARE:
        (task,) = rng.choices(list(WITHOUT_TEXT), list(WITHOUT_TEXT.values()))
        return Chat(system, (task(message, text, grammar, rng),))

    def question() -> Exchange:
        (task,) = rng.choices(list(ABOUT_TEXT), list(ABOUT_TEXT.values()))
        return task(message, text, grammar, rng)

    first = question()
    if rng.random() < 0.15:
        system = f"{system} {first.user}".strip()
        exchanges = [Exchange(text, first.assistant)]
    else:
        user = rng.choice(QUOTES).format(task=first.user, text=text)
        exchanges = [Exchange(user, first.assistant)]
    while rng.random() < FOLLOW_UP_RATE and len(exchanges) < 4:
        exchanges.append(question())
    return Chat(system, tuple(exchanges))
