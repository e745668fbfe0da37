"""What a calendar invitation says, in a few lines. It is shown and never answered."""

from __future__ import annotations

import re

from mailroom.mail.plain import one_line

SHOWN = {
    "SUMMARY": "What",
    "DTSTART": "Begins",
    "DTEND": "Ends",
    "LOCATION": "Where",
    "ORGANIZER": "Organizer",
    "DESCRIPTION": "Details",
}
"""Property of RFC 5545 -> our word for it, in the order shown."""
FOLD = re.compile(r"\n[ \t]")
LINE = re.compile(r"([A-Za-z-]+)((?:;[^:\n\"]*(?:\"[^\"\n]*\"[^:\n\"]*)*)?):(.*)")
TIME = re.compile(r"(\d{4})(\d\d)(\d\d)(?:T(\d\d)(\d\d)\d\d(Z?))?")
ZONE = re.compile(r";TZID=\"?([^;:\"]+)", re.IGNORECASE)
NAME = re.compile(r";CN=\"?([^;:\"]+)", re.IGNORECASE)


def calendar_to_text(source: str, method: str = "") -> str:
    """The first event of an iCalendar text (`\\n` line ends), a property to a line."""
    found: dict[str, str] = {}
    is_event = False
    for line in FOLD.sub("", source).split("\n"):
        match = LINE.fullmatch(line.strip())
        if match is None:
            continue
        name, parameters, value = match[1].upper(), match[2][:500], match[3]
        if name == "METHOD":
            method = method or value
        elif name == "BEGIN":
            is_event = value.upper() == "VEVENT"
        elif name == "END" and value.upper() == "VEVENT":
            break
        elif is_event and name in SHOWN:
            found.setdefault(name, one_line(_value(name, parameters, value), 500))
    kind = one_line(method, 40).lower() or "event"
    lines = [f"{word}: {found[name]}" for name, word in SHOWN.items() if found.get(name)]
    return "\n".join([f"[calendar: {kind}]", *lines])


def _value(name: str, parameters: str, value: str) -> str:
    if time := TIME.fullmatch(value):
        year, month, day, hour, minute, utc = time.groups()
        zone = ZONE.search(parameters)
        clock = f" {hour}:{minute}" if hour else ""
        return f"{year}-{month}-{day}{clock} {'UTC' if utc else zone[1] if zone else ''}"
    if name == "ORGANIZER":
        address = re.sub("(?i)^mailto:", "", value)
        person = NAME.search(parameters)
        return f"{person[1]} <{address}>" if person and person[1] != address else address
    return re.sub(r"\\([nN])", "\n", value).replace("\\,", ",").replace("\\;", ";")
