"""How good the answers are: accuracy, or the mean absolute error where they are quantities."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any, Final

from serving.batch.rows import is_number, number_in

#: Members of an answer that hold what it says.
_SAYING: Final = ("label", "class", "prediction")


@dataclass
class Scores:
    """Answers compared with labels, counted as they come.

    Attributes:
        compared: answers that were.
        correct: of them, those that are equal to their label.
        numbers: of them, those that are numbers as their label is.
        error: sum of the differences of these.
        quantities: of these, those that have a fraction, or whose label has one.
        unlike: answers that have no one value to compare.
    """

    compared: int = 0
    correct: int = 0
    numbers: int = 0
    error: float = 0.0
    quantities: int = 0
    unlike: int = 0

    @classmethod
    def restored(cls, state: Any) -> Scores:
        """Return what `asdict` has made of one.

        Raises:
            ValueError: it has not.
        """
        names = {field.name for field in fields(cls)}
        if not isinstance(state, dict) or state.keys() != names:
            raise ValueError("no scores")
        if not all(isinstance(value, (int, float)) for value in state.values()):
            raise ValueError("no scores")
        return cls(**state)

    def take(self, label: Any, answer: Any) -> None:
        """Compare an answer with its label."""
        value = value_of(answer)
        if isinstance(label, (dict, list)):  # an answer that was captured
            label = value_of(label)
        if value is None or label is None:
            self.unlike += 1
            return
        self.compared += 1
        said, wanted = _number(value), _number(label)
        # Numbers that are farther apart than any float have no error to count: they are unlike, as texts are.
        if said is None or wanted is None or not is_number(difference := abs(said - wanted)):
            self.correct += str(value).strip() == str(label).strip()
            return
        self.numbers += 1
        self.correct += said == wanted
        self.error += difference
        self.quantities += not (float(said).is_integer() and float(wanted).is_integer())

    @property
    def state(self) -> dict[str, Any]:
        """All of it, ready for JSON."""
        return asdict(self)

    @property
    def result(self) -> dict[str, Any]:
        """Return what it comes to: ``accuracy``, or ``meanAbsoluteError`` where all are numbers, and not all whole."""
        found: dict[str, Any] = {"compared": self.compared, "notComparable": self.unlike}
        if self.compared and self.quantities and self.numbers == self.compared and is_number(self.error):
            found["meanAbsoluteError"] = self.error / self.compared
        elif self.compared:
            found |= {"accuracy": self.correct / self.compared, "correct": self.correct}
        return found


def value_of(answer: Any) -> Any:
    """Return the one value that an answer says; None if there is no such.

    Of a list of scores it is the place of the largest, of an object of scores its name. An object may say it in
    ``label``, ``class`` or ``prediction``; a list of such objects begins with the best.
    """
    if isinstance(answer, list) and answer:
        if len(answer) == 1 or isinstance(answer[0], dict):
            return value_of(answer[0])
        return max(range(len(answer)), key=answer.__getitem__) if all(map(is_number, answer)) else None
    if isinstance(answer, dict) and answer:
        if said := next((name for name in _SAYING if name in answer), None):
            return value_of(answer[said])
        return max(answer, key=answer.__getitem__) if len(answer) > 1 and all(map(is_number, answer.values())) else None
    return answer if isinstance(answer, (str, int, float)) else None


def _number(value: Any) -> int | float | None:
    if is_number(value):
        return value  # type: ignore[no-any-return]
    return number_in(value.strip()) if isinstance(value, str) else None
