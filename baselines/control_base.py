"""Control: the base model, untouched. It spends nothing; every other row is read against it."""

from typing import Any, ClassVar

from repro.method import BudgetSpent, Lab, Method, Role


class Base(Method):
    title: ClassVar[str] = "Base model"
    role: ClassVar[Role] = Role.BASE

    def round(self, lab: Lab, state: Any) -> None:
        raise BudgetSpent  # there is nothing to do: end the run at once, whatever its budget
